package delivery

import (
	"testing"

	"gururmm/wire"
)

var allPhases = []Phase{Pending, Claimed, Acked, "completed", "failed", "cancelled", "expired", "interrupted", "undeliverable"}

var allEvents = []Event{Claim, Release, Exhaust, Expire, Ack, Refuse, TooLate, Cancel, Retire, NoResult, Complete, Fail, Stop, Break, Lapse}

// The whole table, written out once more by hand: a change must be made twice.
func TestEveryMove(t *testing.T) {
	const no = Phase("")
	want := map[Event][3]Phase{ // from pending, claimed, acked
		Claim:    {Claimed, no, no},
		Release:  {no, Pending, no},
		Exhaust:  {"undeliverable", no, no},
		Expire:   {"expired", no, no},
		Ack:      {Acked, Acked, no},
		Refuse:   {"undeliverable", "undeliverable", no},
		TooLate:  {"expired", "expired", no},
		Cancel:   {"cancelled", Claimed, Acked},
		Retire:   {"cancelled", "interrupted", "interrupted"},
		NoResult: {no, no, "interrupted"},
		Complete: {"completed", "completed", "completed"},
		Fail:     {"failed", "failed", "failed"},
		Stop:     {"cancelled", "cancelled", "cancelled"},
		Break:    {"interrupted", "interrupted", "interrupted"},
		Lapse:    {"expired", "expired", "expired"},
	}
	for _, e := range allEvents {
		for i, p := range []Phase{Pending, Claimed, Acked} {
			got, ok := Next(p, e)
			if got != want[e][i] || ok != (want[e][i] != no) {
				t.Errorf("%s from %s leads to %q (%v), want %q", e, p, got, ok, want[e][i])
			}
		}
	}
}

func TestNothingFollowsAnEnd(t *testing.T) {
	for _, p := range allPhases {
		for _, e := range allEvents {
			next, ok := Next(p, e)
			if p.State().Terminal() && ok {
				t.Errorf("%s moves on to %s by %s", p, next, e)
			}
			if ok && next.State() == "" {
				t.Errorf("%s from %s leads nowhere", e, p)
			}
		}
	}
}

// What the agent has acknowledged is never offered again.
func TestAcknowledgedIsNeverTakenBack(t *testing.T) {
	for _, e := range allEvents {
		if next, ok := Next(Acked, e); ok && next != Acked && !next.State().Terminal() {
			t.Errorf("%s takes an acknowledged command back to %s", e, next)
		}
	}
}

func TestPhaseOfWhatIsStored(t *testing.T) {
	for _, p := range allPhases {
		if got := phaseOf(p.State(), p == Acked); got != p {
			t.Errorf("%s is read back as %s", p, got)
		}
	}
	for _, s := range []wire.State{wire.StateCompleted, wire.StateFailed, wire.StateCancelled, wire.StateInterrupted, wire.StateExpired} {
		next, ok := Next(Acked, resultEvents[s])
		if !ok || next.State() != s {
			t.Errorf("a result that says %s makes %s", s, next)
		}
	}
}

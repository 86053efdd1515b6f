package delivery

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gururmm/server/store"
	"gururmm/wire"
)

var livePhases = []Phase{Pending, Returned, Claimed, Recalled, Acked, Stopping}

var allPhases = append(slices.Clone(livePhases), Completed, Failed, Cancelled, Expired, Interrupted, Undeliverable)

var allEvents = []Event{Claim, Release, Exhaust, Expire, Ack, Refuse, TooLate, Cancel, Retire, NoResult, Complete, Fail, Stop, Break, Lapse}

// The whole table, written out once more by hand: a change must be made twice.
func TestEveryMove(t *testing.T) {
	const no = Phase("")
	want := map[Event][6]Phase{ // from pending, returned, claimed, recalled, acked, stopping
		Claim:    {"claimed", "claimed", no, no, no, no},
		Release:  {no, no, "returned", "cancelled", no, no},
		Exhaust:  {no, "undeliverable", "undeliverable", "cancelled", no, no},
		Expire:   {"expired", "expired", no, no, no, no},
		Ack:      {"acked", "acked", "acked", "stopping", "acked", "stopping"},
		Refuse:   {"undeliverable", "undeliverable", "undeliverable", "undeliverable", no, no},
		TooLate:  {"expired", "expired", "expired", "expired", no, no},
		Cancel:   {"cancelled", "cancelled", "recalled", "recalled", "stopping", "stopping"},
		Retire:   {"cancelled", "interrupted", "interrupted", "interrupted", "interrupted", "interrupted"},
		NoResult: {no, no, no, no, "interrupted", "interrupted"},
		Complete: {no, no, no, no, "completed", "completed"},
		Fail:     {no, no, no, no, "failed", "failed"},
		Stop:     {no, no, no, no, "cancelled", "cancelled"},
		Break:    {no, no, no, no, "interrupted", "interrupted"},
		Lapse:    {no, no, no, no, "expired", "expired"},
	}
	for _, e := range allEvents {
		for i, p := range livePhases {
			got, ok := Next(p, e)
			if got.To != want[e][i] || ok != (want[e][i] != no) {
				t.Errorf("%s from %s leads to %q (%v), want %q", e, p, got.To, ok, want[e][i])
			}
		}
	}
}

// Each effect goes with the moves that need it, and with no other.
func TestEffectsFitTheirMoves(t *testing.T) {
	for _, p := range allPhases {
		for _, e := range allEvents {
			rule, ok := Next(p, e)
			if !ok {
				continue
			}
			to, over := rule.To, p.State().Terminal()
			for _, x := range []struct {
				do   Effects
				name string
				want bool
			}{
				{Count, "Count", e == Claim},
				{Again, "Again", p.out() && to.waits()},
				{StampAck, "StampAck", !p.taken() && to.taken()},
				{StampCancel, "StampCancel", e == Cancel && to != p},
				{CallOff, "CallOff", to.calledOff() && to != p || p == Cancelled && e == Ack},
				{Slot, "Slot", p.taken() && to.State().Terminal() && e != NoResult && e != Retire},
				{Note, "Note", over},
				{End, "End", !over && to.State().Terminal()},
			} {
				if rule.Do.Has(x.do) != x.want {
					t.Errorf("%s from %s to %s: %s is %v, want %v", e, p, to, x.name, !x.want, x.want)
				}
			}
		}
	}
}

func TestNothingFollowsAnEnd(t *testing.T) {
	for _, p := range allPhases {
		for _, e := range allEvents {
			rule, ok := Next(p, e)
			if p.State().Terminal() && ok && (rule.To != p || rule.Do&^(Note|CallOff) != 0) {
				t.Errorf("%s moves on to %s by %s, or is stored anew", p, rule.To, e)
			}
			if ok && !slices.Contains(allPhases, rule.To) {
				t.Errorf("%s from %s leads nowhere: %q", e, p, rule.To)
			}
		}
	}
}

// What the agent has acknowledged is never offered again, and what an operator
// called off is not either.
func TestAcknowledgedOrCalledOffIsNeverTakenBack(t *testing.T) {
	for _, p := range []Phase{Recalled, Acked, Stopping} {
		for _, e := range allEvents {
			if rule, _ := Next(p, e); rule.To.waits() || rule.To == Claimed || p == Stopping && rule.To == Acked {
				t.Errorf("%s takes a command that is %s back to %s", e, p, rule.To)
			}
		}
	}
}

// A cancel means something wherever a command can be: it ends it, or it is on the
// way to the agent, or it has ended.
func TestCancelIsDefinedInEveryPhase(t *testing.T) {
	for _, p := range allPhases {
		rule, ok := Next(p, Cancel)
		switch {
		case p.State().Terminal() && ok:
			t.Errorf("a cancel changes what is %s", p)
		case p.waits() && rule.To != Cancelled, (p.out() || p.taken()) && !rule.To.calledOff():
			t.Errorf("a cancel of what is %s makes it %q", p, rule.To)
		}
	}
}

// A phase is stored whole: what is applied is read back as where the rule leads,
// whatever came before.
func TestAnyWayThroughTheTableIsStoredWholeAndEndsOnce(t *testing.T) {
	seen := map[Phase]bool{}
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		now := time.Unix(1e9, 0)
		c := store.Command{}
		c.State = wire.StatePending
		p, acks, ends := Pending, 0, 0
		for range 30 {
			e, _ := pick(rnd, allEvents)
			rule, ok := Next(p, e)
			if !ok || p.State().Terminal() {
				continue
			}
			now = now.Add(time.Second)
			before := c
			c = rule.apply(c, told{claim: &claim{attempt: c.Attempts + 1}, by: "ops", reason: string(e)}, now)
			if got := phaseOf(c); got != rule.To {
				t.Fatalf("seed %d: %s from %s is stored as %s, want %s", seed, e, p, got, rule.To)
			}
			if want := before.Attempts; c.Attempts != want && (e != Claim || c.Attempts != want+1) {
				t.Fatalf("seed %d: %d attempts after %s, %d before", seed, c.Attempts, e, want)
			}
			if rule.Do.Has(StampAck) {
				acks++
			}
			if rule.Do.Has(End) {
				ends++
			}
			if acks > 1 || ends > 1 || (ends == 1) != (c.EndedAt != nil) || (acks == 1) != (c.AckedAt != nil) {
				t.Fatalf("seed %d: after %s: %d acks, %d ends, stored as %+v", seed, e, acks, ends, c)
			}
			p = rule.To
			seen[p] = true
		}
	}
	for _, p := range allPhases[1:] {
		if !seen[p] {
			t.Errorf("no way led to %s", p)
		}
	}
}

func TestAResultMakesTheStateThatItReports(t *testing.T) {
	for _, p := range []Phase{Acked, Stopping} {
		for _, s := range []wire.State{wire.StateCompleted, wire.StateFailed, wire.StateCancelled, wire.StateInterrupted, wire.StateExpired} {
			if rule, ok := Next(p, resultEvents[s]); !ok || rule.To.State() != s {
				t.Errorf("a result that says %s makes %s", s, rule.To)
			}
		}
	}
}

package rollout

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

var epoch = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

const version = "v1.2.3"

func plan(t *testing.T, p operator.RolloutPlan) operator.RolloutPlan {
	t.Helper()
	p, err := Complete(p)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// member is one that waits and is there, changed by how.
func member(ring int, how ...func(*Member)) Member {
	m := Member{RolloutAgent: operator.RolloutAgent{Agent: wire.NewID(), AgentName: "host", Ring: ring, State: operator.RollWaiting},
		Fact: Fact{Presence: Present, Version: "v1.0.0", VerifiedSince: epoch.Add(-time.Hour)}}
	for _, f := range how {
		f(&m)
	}
	return m
}

func away(m *Member) { m.Presence, m.VerifiedSince = Away, time.Time{} }

func removed(m *Member) { m.Removed = true }

func heard(ago time.Duration) func(*Member) {
	return func(m *Member) { m.Heard = epoch.Add(-ago) }
}

// ordered since so long, with an order changed by how.
func ordered(ago time.Duration, how ...func(*operator.Directive)) func(*Member) {
	return func(m *Member) {
		m.State, m.Directive, m.OrderedAt = operator.RollOrdered, "d", at(-ago)
		m.Order = &operator.Directive{ID: "d", State: operator.DirectiveWaiting, CreatedAt: epoch.Add(-ago), ExpiresAt: epoch.Add(time.Hour)}
		for _, f := range how {
			f(m.Order)
		}
	}
}

func at(d time.Duration) *time.Time { t := epoch.Add(d); return &t }

func delivered(d *operator.Directive) {
	d.State, d.DeliveredAt = operator.DirectiveDelivered, &d.CreatedAt
}
func accepted(d *operator.Directive) {
	d.DeliveredAt = &d.CreatedAt
	d.State, d.AcceptedAt = string(wire.DirectiveAccepted), &d.CreatedAt
}

func told(state wire.DirectiveState, ago time.Duration) func(*operator.Directive) {
	return func(d *operator.Directive) {
		accepted(d)
		d.State, d.EndedAt, d.Code, d.Detail = string(state), at(-ago), wire.CodeUnsupported, "as told"
	}
}

// refused with a code, so long ago.
func refused(code wire.Code, ago time.Duration) func(*operator.Directive) {
	return func(d *operator.Directive) {
		told(wire.DirectiveFailed, ago)(d)
		d.Code = code
	}
}

func expired(d *operator.Directive) { d.State = operator.DirectiveExpired }

// tried: it has put off so many orders before.
func tried(n int) func(*Member) { return func(m *Member) { m.Attempts = n } }

// later: it put its order off, until then.
func later(wait time.Duration) func(*Member) {
	return func(m *Member) { m.Attempts, m.NotBefore, m.Detail = 1, at(wait), "busy: now" }
}

// ended: its part ended so long ago.
func ended(state string, ago time.Duration) func(*Member) {
	return func(m *Member) { m.State, m.EndedAt, m.Detail = state, at(-ago), "before" }
}

// holds: it has a verified link with a version since so long.
func holds(version string, ago time.Duration) func(*Member) {
	return func(m *Member) { m.Presence, m.Version, m.VerifiedSince = Present, version, epoch.Add(-ago) }
}

func TestWhatBecomesOfAnEndpoint(t *testing.T) {
	for _, c := range []struct {
		name   string
		m      Member
		state  string
		detail string // part of it
	}{
		{"it waits", member(0), operator.RollWaiting, ""},
		{"it runs it already", member(0, holds(version, time.Second)), operator.RollSkipped, "already"},
		{"it runs a newer one", member(0, holds("v1.3.0", time.Second)), operator.RollSkipped, "v1.3.0"},
		{"its order was never stored", member(0, ordered(time.Minute), func(m *Member) { m.Order = nil }), operator.RollWaiting, ""},
		{"it does not come, yet", member(0, ordered(fetchWithin-time.Second)), operator.RollOrdered, ""},
		{"it is there and does not come", member(0, ordered(fetchWithin)), operator.RollUntried, "second door is shut"},
		{"it went away before it came", member(0, ordered(fetchWithin), away), operator.RollOrdered, ""}, // withdrawn
		{"it was handed the order", member(0, ordered(fetchWithin, delivered)), operator.RollOrdered, ""},
		{"it was handed the order and is silent", member(0, ordered(fetchWithin+goneWithin, delivered)), operator.RollUntried, "did not answer"},
		{"it was handed the order and went away", member(0, ordered(fetchWithin+goneWithin, delivered), away), operator.RollOrdered, ""},
		{"the order expired while it was away", member(0, ordered(orderLife, delivered, expired), away), operator.RollWaiting, "expired before"},
		{"its order was taken back, and that not noted", member(0, ordered(time.Minute, func(d *operator.Directive) {
			d.State, d.EndedAt, d.Detail = string(wire.DirectiveFailed), at(0), "withdrawn"
		})), operator.RollWaiting, ""},
		{"it was removed while it waited", member(0, away, removed), operator.RollSkipped, "removed"},
		{"it was removed, which ended its order", member(0, ordered(time.Minute, refused("", 0)), removed), operator.RollSkipped, "removed"},
		{"it failed before it was removed", member(0, ended(operator.RollFailed, time.Minute), removed), operator.RollFailed, "before"},
		{"it is busy", member(0, ordered(time.Minute, refused(wire.CodeBusy, 0))), operator.RollWaiting, "busy: as told"},
		{"its disk is full", member(0, ordered(time.Minute, refused(wire.CodeJournal, 0))), operator.RollWaiting, "journal: as told"},
		{"the order came too late", member(0, ordered(time.Minute, refused(wire.CodeExpired, 0))), operator.RollWaiting, "expired: as told"},
		{"it is busy, once too often", member(0, tried(maxTries-1), ordered(time.Minute, refused(wire.CodeBusy, 0))), operator.RollUntried, "busy: as told (ordered 6 times)"},
		{"its trial failed after it was busy", member(0, tried(maxTries-1), ordered(time.Minute, refused("", 0))), operator.RollFailed, "as told"},
		{"it is of another platform", member(0, ordered(time.Minute, refused(wire.CodeUnsupported, 0))), operator.RollFailed, "unsupported: as told"},
		{"it does not trust the signature", member(0, ordered(time.Minute, refused(wire.CodeBadSignature, 0))), operator.RollFailed, "bad_signature: as told"},
		{"the server could not be reached", member(0, ordered(time.Hour, refused(wire.CodeUnreachable, 0))), operator.RollWaiting, "unreachable: as told"},
		{"a restart cut it off", member(0, ordered(time.Hour, refused(wire.CodeInterrupted, 0))), operator.RollWaiting, "interrupted: as told"},
		{"it had no memory for a trial", member(0, ordered(time.Hour, refused(wire.CodeStarved, 0))), operator.RollWaiting, "starved: as told"},
		{"it refuses by a code of another day", member(0, ordered(time.Minute, refused("odd", 0))), operator.RollFailed, "odd: as told"},
		{"it took it up", member(0, ordered(answerWithin-time.Second, accepted)), operator.RollRunning, ""},
		{"it took it up and tells nothing", member(0, ordered(answerWithin, accepted)), operator.RollFailed, "told no outcome"},
		{"it took it up and is off for a while", member(0, ordered(goneWithin, accepted), away, heard(goneWithin-time.Second)), operator.RollRunning, ""},
		{"it took it up and is never heard again", member(0, ordered(goneWithin, accepted), away, heard(goneWithin)), operator.RollFailed, "nothing was heard"},
		{"it says done", member(0, ordered(time.Minute, told(wire.DirectiveDone, time.Second))), operator.RollDone, "as told"},
		{"it says failed", member(0, ordered(time.Minute, told(wire.DirectiveFailed, time.Second))), operator.RollFailed, "unsupported: as told"},
		{"it says failed though it holds a link with it", member(0, ordered(time.Hour, told(wire.DirectiveFailed, time.Second)), holds(version, time.Minute)), operator.RollFailed, "as told"},
		{"the new program is on trial", member(0, ordered(20*time.Minute, accepted), holds(version, time.Minute)), operator.RollRunning, ""},
		{"the new program has stayed", member(0, ordered(20*time.Minute, accepted), holds(version, defaultGrace+trialSlack)), operator.RollDone, "verified link"},
		{"it stayed, and the link is of before the order", member(0, ordered(time.Minute), holds(version, time.Hour)), operator.RollOrdered, ""},
		{"its order has expired", member(0, ordered(time.Minute, accepted, func(d *operator.Directive) { d.State = operator.DirectiveExpired })), operator.RollFailed, "never told"},
		{"done, and it stays so", member(0, ended(operator.RollDone, time.Minute), holds(version, time.Second)), operator.RollDone, "before"},
		{"done, and its link is still the old one", member(0, ended(operator.RollDone, time.Minute), holds("v1.0.0", time.Hour)), operator.RollDone, "before"},
		{"done, then it went back", member(0, ended(operator.RollDone, time.Minute), holds("v1.0.0", time.Second)), operator.RollFailed, "went back to v1.0.0"},
		{"done, then something newer came", member(0, ended(operator.RollDone, time.Minute), holds("v1.3.0", time.Second)), operator.RollDone, "before"},
		{"failed, and done is told late", member(0, ended(operator.RollFailed, time.Minute), func(m *Member) {
			ordered(time.Hour, told(wire.DirectiveDone, time.Second))(m)
			m.State = operator.RollFailed
		}), operator.RollDone, "late"},
		{"failed, and it runs it after all", member(0, ended(operator.RollFailed, time.Hour), holds(version, 30*time.Minute)), operator.RollDone, "after all"},
		{"not tried, and taken up late", member(0, ordered(time.Hour, accepted), ended(operator.RollUntried, time.Minute)), operator.RollRunning, ""},
		{"not tried, and failed late", member(0, ordered(time.Hour, told(wire.DirectiveFailed, time.Second)), ended(operator.RollUntried, time.Minute)), operator.RollFailed, "told late: unsupported"},
		{"not tried, and done late", member(0, ordered(time.Hour, told(wire.DirectiveDone, time.Second)), ended(operator.RollUntried, time.Minute)), operator.RollDone, "told late"},
		{"not tried, and busy late", member(0, ordered(time.Hour, refused(wire.CodeBusy, time.Second)), ended(operator.RollUntried, time.Minute)), operator.RollUntried, "before"},
		{"not tried, and it runs it after all", member(0, ended(operator.RollUntried, time.Hour), holds(version, 30*time.Minute)), operator.RollDone, "after all"},
		{"failed, and it tried it before", member(0, ended(operator.RollFailed, time.Minute), holds(version, 30*time.Minute)), operator.RollFailed, "before"},
	} {
		r := store.Rollout{Version: version, State: operator.RolloutActive, Plan: plan(t, operator.RolloutPlan{})}
		got := settle(epoch, r, c.m)
		if got.State != c.state || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %s %q, want %s %q", c.name, got.State, got.Detail, c.state, c.detail)
		}
		if over := got.State == operator.RollDone || got.State == operator.RollFailed || got.State == operator.RollSkipped || got.State == operator.RollUntried; over != (got.EndedAt != nil) {
			t.Errorf("%s: %s ended at %v", c.name, got.State, got.EndedAt)
		}
		if off := got.State == operator.RollWaiting && got.Detail != ""; off != (got.NotBefore != nil) || off && (got.Directive != "" || got.Attempts != c.m.Attempts+1) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestWhatARolloutDoesNext(t *testing.T) {
	done, failed := ended(operator.RollDone, time.Minute), ended(operator.RollFailed, time.Minute)
	skipped, untried := ended(operator.RollSkipped, time.Hour), ended(operator.RollUntried, time.Minute)
	soaked := func(r *store.Rollout) { r.SoakSince = at(-defaultSoak) }
	last := func(r *store.Rollout) { r.Ring = 1 }
	for _, c := range []struct {
		name     string
		change   []func(*store.Rollout)
		members  []Member
		state    string
		ring     int
		order    int
		withdraw int
		reason   string
		says     string
	}{
		{name: "begins with the first ring", members: []Member{member(0), member(1), member(1)}, order: 1, says: "0 of 1 done"},
		{name: "orders nobody who is away", members: []Member{member(0), member(0, away)}, order: 1},
		{name: "nobody is there", members: []Member{member(0, away), member(1)}, says: "none of its endpoints is there"},
		{name: "not known whether one is there", members: []Member{member(0, done), member(0, func(m *Member) { m.Presence = Unknown }), member(1)}},
		{name: "waits for the one under way", members: []Member{member(0, done), member(0, ordered(time.Minute, accepted)), member(1)}, says: "1 of 2 done, 1 under way"},
		{name: "watches the ring", members: []Member{member(0, done), member(1)}, says: "watched for another 10m"},
		{name: "one away holds up no ring", change: []func(*store.Rollout){soaked}, members: []Member{member(0, done), member(0, away), member(1)}, ring: 1, order: 1},
		{name: "one that comes back is ordered", change: []func(*store.Rollout){last}, members: []Member{member(0), member(1, done)}, ring: 1, order: 1},
		{name: "a ring that needs nothing is passed", members: []Member{member(0, skipped), member(1)}, ring: 1, order: 1},
		{name: "an empty ring is passed", members: []Member{member(1)}, ring: 1, order: 1},
		{name: "an empty last ring is not watched", change: []func(*store.Rollout){soaked}, members: []Member{member(0, done)}, state: operator.RolloutDone, ring: 1, says: "done"},
		{name: "rings that need nothing are not watched", members: []Member{member(0, skipped), member(1, skipped)}, state: operator.RolloutDone, ring: 1, says: "done"},
		{name: "done, but not all", change: []func(*store.Rollout){last, soaked}, members: []Member{member(1, done), member(1, untried), member(0, skipped)}, state: operator.RolloutDone, ring: 1, says: "done; 1 could not be tried"},
		{name: "one failure is too many", members: []Member{member(0, failed), member(0, done), member(1)}, state: operator.RolloutStopped, reason: "ring 1: 1 of 2 failed, 0 allowed: host: before"},
		{name: "so many are allowed", change: []func(*store.Rollout){soaked, func(r *store.Rollout) { r.Plan.MaxFailures = "1" }},
			members: []Member{member(0, failed), member(0, done), member(1)}, ring: 1, order: 1},
		{name: "one that put it off holds up its ring", change: []func(*store.Rollout){soaked}, members: []Member{member(0, done), member(0, later(time.Second)), member(1)}, says: "1 of 2 done, 0 under way, 1 waiting, of them 1 put off"},
		{name: "one that put it off is ordered again", members: []Member{member(0, done), member(0, later(0))}, order: 1},
		{name: "one that could not be tried is no failure", change: []func(*store.Rollout){soaked}, members: []Member{member(0, done), member(0, untried), member(1)}, ring: 1, order: 1},
		{name: "none could be tried", members: []Member{member(0, untried), member(1)}, state: operator.RolloutStopped, reason: "none of its endpoints (1) could be tried: host: before"},
		{name: "one failed, the others could not be tried", change: []func(*store.Rollout){func(r *store.Rollout) { r.Plan.MaxFailures = "50%" }},
			members: []Member{member(0, failed), member(0, untried), member(0, untried)}, state: operator.RolloutStopped, reason: "1 of 1 failed, 0 allowed"},
		{name: "one that left with its order holds up no ring", change: []func(*store.Rollout){soaked}, members: []Member{member(0, done), member(0, ordered(time.Hour, delivered), away), member(1)}, ring: 1, order: 1},
		{name: "too few of those that are there", change: []func(*store.Rollout){soaked, func(r *store.Rollout) { r.Plan.MaxFailures = "25%" }},
			members: []Member{member(0, failed), member(0, done), member(0, away), member(0, away), member(1)}, says: "1 done, 1 failed: too few of those that are there; it waits for those that are away (2)"},
		{name: "allowed, but none runs it", change: []func(*store.Rollout){func(r *store.Rollout) { r.Plan.MaxFailures = "50%" }},
			members: []Member{member(0, failed), member(1)}, state: operator.RolloutStopped, reason: "1 of 1 failed"},
		{name: "none runs it", change: []func(*store.Rollout){func(r *store.Rollout) { r.Plan.MaxFailures = "3" }},
			members: []Member{member(0, failed), member(1)}, state: operator.RolloutStopped, reason: "none of its endpoints (1) runs it"},
		{name: "a late failure of an earlier ring", change: []func(*store.Rollout){last}, members: []Member{member(0, failed), member(0, done), member(1)},
			state: operator.RolloutStopped, ring: 1, reason: "ring 1: 1 of 2"},
		{name: "resumed, nobody runs it", change: []func(*store.Rollout){soaked, func(r *store.Rollout) { r.ResumedAt, r.Plan.MaxFailures = at(-time.Second), "100%" }},
			members: []Member{member(0, failed), member(1)}, state: operator.RolloutStopped, reason: "none of its endpoints (1) runs it"},
		{name: "stopped, it orders nobody, and takes back", change: []func(*store.Rollout){func(r *store.Rollout) { r.State, r.Reason = operator.RolloutStopped, "by me" }},
			members: []Member{member(0), member(0, ordered(time.Minute)), member(0, ordered(time.Minute, delivered))}, state: operator.RolloutStopped, withdraw: 1, reason: "by me", says: "stopped: by me"},
		{name: "takes back from who went away", members: []Member{member(0, ordered(time.Minute), away)}, withdraw: 1},
		{name: "the last ring is watched too", change: []func(*store.Rollout){last}, members: []Member{member(1, done)}, ring: 1, says: "watched"},
		{name: "done", change: []func(*store.Rollout){last, soaked}, members: []Member{member(0, skipped), member(1, done)}, state: operator.RolloutDone, ring: 1, says: "done"},
		{name: "not done while one is away", change: []func(*store.Rollout){last, soaked}, members: []Member{member(1, done), member(0, away)}, ring: 1, says: "those that are away (1)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := store.Rollout{Version: version, State: operator.RolloutActive, Plan: plan(t, operator.RolloutPlan{Rings: []float64{10, 100}})}
			for _, f := range c.change {
				f(&r)
			}
			if c.state == "" {
				c.state = operator.RolloutActive
			}
			d := Decide(epoch, r, c.members)
			if d.Rollout.State != c.state || d.Rollout.Ring != c.ring || len(d.Order) != c.order || len(d.Withdraw) != c.withdraw || !strings.Contains(d.Rollout.Reason, c.reason) {
				t.Errorf("%s, ring %d, orders %d, withdraws %d, reason %q", d.Rollout.State, d.Rollout.Ring, len(d.Order), len(d.Withdraw), d.Rollout.Reason)
			}
			if said := say(epoch, d.Rollout, c.members); !strings.Contains(said, c.says) {
				t.Errorf("it says %q", said)
			}
			if (d.Rollout.State == operator.RolloutActive) != (d.Rollout.EndedAt == nil) && r.State == operator.RolloutActive {
				t.Errorf("%s ended at %v", d.Rollout.State, d.Rollout.EndedAt)
			}
		})
	}
}

func TestPlansThatCanNotBeMeantAreRefused(t *testing.T) {
	for _, p := range []operator.RolloutPlan{
		{Rings: []float64{0}}, {Rings: []float64{10, 10}}, {Rings: []float64{50, 10}}, {Rings: []float64{101}}, {Rings: make([]float64, 21)},
		{MaxFailures: "many"}, {MaxFailures: "-1"}, {MaxFailures: "101%"}, {MaxFailures: "NaN%"}, {SoakMS: -2}, {Parallel: -1}, {GraceMS: -1}, {GraceMS: 1}, {GraceMS: 999}, {GraceMS: 1 << 60},
	} {
		if _, err := Complete(p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for says, rings := range map[string][]float64{
		"ring 1 is 0%: want shares above 0%": {0, 100}, "ring 2 is 101%: want shares above 0% and up to 100%": {1, 101},
		"ring 2 is 5%, not more than the 10% before it": {10, 5}, "ring 3 is 10%, not more": {1, 10, 10},
	} {
		if _, err := Complete(operator.RolloutPlan{Rings: rings}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %s", rings, err, says)
		}
	}
	for limit, want := range map[string]int{"0": 0, "3": 3, "5%": 1, "0%": 0, "100%": 39, "2.5%": 0, "10%": 3} {
		if got, err := allowed(limit, 39); err != nil || got != want {
			t.Errorf("%s of 39: %d, %v", limit, got, err)
		}
	}
}

func TestRingsAreStableAndTakeWhoIsThereFirst(t *testing.T) {
	var all []Member
	for i := range 200 {
		m := member(0)
		if i%2 == 0 {
			away(&m)
		}
		all = append(all, m)
	}
	rings := func(id string) map[string]int {
		out := map[string]int{}
		for _, m := range Assign(id, []float64{1, 10, 90}, all) {
			out[m.Agent] = m.Ring
			if m.Ring < 2 && m.Presence == Away {
				t.Errorf("ring %d has one that is away", m.Ring+1)
			}
		}
		return out
	}
	one := rings("a")
	slices.Reverse(all)
	sizes := map[int]int{}
	for agent, ring := range rings("a") {
		if sizes[ring]++; one[agent] != ring {
			t.Error("another ring the second time")
		}
	}
	if sizes[0] != 2 || sizes[1] != 18 || sizes[2] != 160 {
		t.Errorf("sizes %v", sizes)
	}
	moved := 0
	for agent, ring := range rings("b") {
		if one[agent] != ring {
			moved++
		}
	}
	if moved == 0 {
		t.Error("each rollout has the same canaries")
	}
	if few := Assign("a", []float64{1, 10, 100}, all[:3]); len(few) != 3 || few[0].Ring != 0 || few[1].Ring != 2 {
		t.Errorf("of three: %+v", few)
	}
}

// endpoint is one of a simulated fleet.
type endpoint struct {
	m       Member
	fate    string // good, refuses, silent, deaf, busy for some orders, full for ever
	flaps   bool   // goes away and comes back
	orders  int
	taken   int // orders withdrawn
	refused int // orders put off
	runs    bool
	untilIn time.Time // away until then
}

// fleet runs a rollout against endpoints of all kinds in virtual time, and holds
// what must be true at each step.
type fleet struct {
	t   *testing.T
	rnd *rand.Rand
	now time.Time
	r   store.Rollout
	all []*endpoint
}

func (f *fleet) facts() []Member {
	out := make([]Member, len(f.all))
	for i, e := range f.all {
		e.m.Fact = Fact{Presence: Present, Version: "v1.0.0", VerifiedSince: epoch, Order: e.m.Order}
		if f.now.Before(e.untilIn) {
			e.m.Presence, e.m.VerifiedSince = Away, time.Time{}
		}
		out[i] = e.m
	}
	return out
}

// act lets time pass for each endpoint.
func (f *fleet) act() {
	for _, e := range f.all {
		if e.flaps && f.now.After(e.untilIn) && f.rnd.IntN(40) == 0 && f.now.Sub(epoch) < 20*time.Hour {
			e.untilIn = f.now.Add(time.Duration(f.rnd.IntN(7200)) * time.Second)
		}
		o := e.m.Order
		if o == nil || o.EndedAt != nil || f.now.Before(e.untilIn) {
			continue
		}
		next, now := *o, f.now
		switch {
		case o.AcceptedAt == nil && e.fate != "deaf":
			next.State, next.DeliveredAt, next.AcceptedAt = string(wire.DirectiveAccepted), &now, &now
		case o.AcceptedAt != nil && f.rnd.IntN(3) == 0 && e.fate != "silent":
			next.EndedAt, next.State = &now, string(wire.DirectiveDone)
			if e.fate == "refuses" {
				next.State, next.Detail = string(wire.DirectiveFailed), "it does"
			}
			if e.fate == "full" || e.fate == "busy" && e.refused < 3 {
				next.State, next.Code, next.Detail = string(wire.DirectiveFailed), wire.CodeBusy, "now"
				e.refused++
			} else {
				e.runs = e.fate == "good" || e.fate == "busy"
			}
		}
		e.m.Order = &next
	}
}

func (f *fleet) find(agent string) *endpoint {
	i := slices.IndexFunc(f.all, func(e *endpoint) bool { return e.m.Agent == agent })
	return f.all[i]
}

// step takes one decision, holds it against the rules, and carries it out.
func (f *fleet) step() {
	f.t.Helper()
	before := f.r
	facts := f.facts()
	d := Decide(f.now, f.r, facts)
	for _, a := range d.Changed {
		f.find(a.Agent).m.RolloutAgent = a
	}
	f.r = d.Rollout
	after := f.facts()
	if f.r.Ring != before.Ring {
		for ring := before.Ring; ring < f.r.Ring; ring++ {
			if c := count(ring, after); c.ordered+c.running > 0 || c.done == 0 && !c.idle() {
				f.t.Fatalf("went on from ring %d: %+v", ring+1, c)
			}
		}
	}
	for ring := range f.r.Ring + 1 {
		c := count(ring, after)
		limit, _ := allowed(f.r.Plan.MaxFailures, c.wanted-c.skipped-c.untried)
		if f.r.State != operator.RolloutStopped && c.failed > limit {
			f.t.Fatalf("goes on with %d failures in ring %d, %d allowed", c.failed, ring+1, limit)
		}
	}
	for _, id := range d.Withdraw {
		e := f.find(id)
		if e.m.Order.State != operator.DirectiveWaiting {
			f.t.Fatalf("takes back an order that is %s", e.m.Order.State)
		}
		e.taken++
		if e.m.State == operator.RollUntried {
			e.m.Order = nil
			continue
		}
		e.m.State, e.m.Directive, e.m.OrderedAt, e.m.Order = operator.RollWaiting, "", nil, nil
	}
	for _, id := range d.Order {
		e := f.find(id)
		if e.m.Ring > f.r.Ring || e.m.Presence != Present || e.m.State != operator.RollWaiting || f.r.State != operator.RolloutActive {
			f.t.Fatalf("orders %+v in ring %d of a rollout that is %s", e.m, f.r.Ring+1, f.r.State)
		}
		if e.orders++; e.orders > e.taken+e.refused+1 || e.orders-e.taken > maxTries {
			f.t.Fatalf("orders one %d times", e.orders)
		}
		if e.m.NotBefore != nil && f.now.Before(*e.m.NotBefore) {
			f.t.Fatalf("orders one that put it off until %v", e.m.NotBefore)
		}
		now := f.now
		e.m.State, e.m.Directive, e.m.OrderedAt, e.m.NotBefore = operator.RollOrdered, wire.NewID(), &now, nil
		e.m.Order = &operator.Directive{ID: e.m.Directive, State: operator.DirectiveWaiting, CreatedAt: now, ExpiresAt: now.Add(orderLife)}
	}
	under := 0
	for _, e := range f.all {
		if e.m.State == operator.RollOrdered || e.m.State == operator.RollRunning {
			under++
		}
		if e.m.State == operator.RollDone && !e.runs {
			f.t.Fatalf("done without running it: %+v", e.m)
		}
	}
	if under > f.r.Plan.Parallel {
		f.t.Fatalf("%d at once, %d allowed", under, f.r.Plan.Parallel)
	}
}

func TestNoFleetBreaksTheRules(t *testing.T) {
	ends := map[string]int{}
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &fleet{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), now: epoch}
			f.r = store.Rollout{ID: fmt.Sprint(seed), Version: version, State: operator.RolloutActive, CreatedAt: epoch, Plan: plan(t, operator.RolloutPlan{
				Rings: []float64{5, 30, 100}, MaxFailures: []string{"0", "5%", "20%", "2"}[f.rnd.IntN(4)], Parallel: 1 + f.rnd.IntN(12),
			})}
			bad := f.rnd.IntN(3) // percent weight of those that fail
			var members []Member
			for i := range 1 + f.rnd.IntN(60) {
				m := member(0)
				m.Agent = fmt.Sprint(i) // the same fleet each time
				members = append(members, m)
			}
			for _, m := range Assign(f.r.ID, f.r.Plan.Rings, members) {
				e := &endpoint{m: m, fate: "good", flaps: f.rnd.IntN(3) == 0}
				if f.rnd.IntN(20) < bad {
					e.fate = []string{"refuses", "silent", "deaf"}[f.rnd.IntN(3)]
				}
				if f.rnd.IntN(10) == 0 {
					e.fate = []string{"busy", "full"}[f.rnd.IntN(2)]
				}
				f.all = append(f.all, e)
			}
			for f.r.State == operator.RolloutActive && f.now.Sub(epoch) < 48*time.Hour {
				f.act()
				f.step()
				f.now = f.now.Add(time.Duration(1+f.rnd.IntN(20)) * time.Second)
			}
			if f.r.State == operator.RolloutActive {
				t.Errorf("never ended: %s; %+v", say(f.now, f.r, f.facts()), f.r)
			}
			ends[f.r.State]++
			good := !slices.ContainsFunc(f.all, func(e *endpoint) bool { return e.fate != "good" })
			if good && f.r.State == operator.RolloutStopped && !slices.ContainsFunc(f.all, func(e *endpoint) bool { return e.flaps }) {
				t.Errorf("stopped though all is well: %s", f.r.Reason)
			}
		})
	}
	if ends[operator.RolloutDone] < 20 || ends[operator.RolloutStopped] < 20 {
		t.Errorf("the fleets are too much alike: %v", ends)
	}
	t.Logf("ended: %v", ends)
}

package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/release"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// fetchWithin: an endpoint that is there beacons each 15 min, and fetches then.
	fetchWithin = 20 * time.Minute
	// answerWithin: an endpoint gives itself two hours to download, on a slow link;
	// then come its trial, its hand-over and its way back.
	answerWithin = 2*time.Hour + 15*time.Minute
	// goneWithin: one that has taken it up and is not heard of for so long has not
	// come back by itself; its trial and each way back take minutes.
	goneWithin = 20 * time.Minute
	// trialSlack: a new version that holds a verified link may still be on trial, or
	// be watched after its hand-over; so much beyond its grace, it is not.
	trialSlack   = 7 * time.Minute
	defaultGrace = wire.DefaultGrace
	// ordersAtOnce bounds the orders of one step: they are spread, not sent in one burst.
	ordersAtOnce = 10
	// named bounds the failures that a reason names.
	named = 3
)

// Presence tells whether an endpoint is there.
type Presence uint8

// Unknown is that of an endpoint not heard of since a restart of the server just now.
const (
	Unknown Presence = iota
	Away
	Present
)

// Fact is what is known of an endpoint at one moment.
type Fact struct {
	Presence Presence
	// Version that its link told, and since when that link is verified; zero: it has none now.
	Version       string
	VerifiedSince time.Time
	// Heard is when it was last heard of, or since when it could have been.
	Heard time.Time
	// Order is its directive as it stands; nil: none is stored.
	Order *operator.Directive
}

// runs reports whether it holds a verified link with a version.
func (f Fact) runs(version string) bool { return f.Version == version && !f.VerifiedSince.IsZero() }

// Member is an endpoint's part and the facts on it.
type Member struct {
	operator.RolloutAgent
	Fact
}

// Decision is what follows from the facts.
type Decision struct {
	Rollout store.Rollout
	// Changed are the parts that have another state now.
	Changed []operator.RolloutAgent
	// Order are the endpoints to be ordered now, Withdraw those whose order is to be
	// taken back if it was not fetched yet; by id.
	Order, Withdraw []string
}

// Decide says what a rollout does next: which endpoints have ended and how, whether
// too many failed, whether the ring is through, and whom to order.
func Decide(now time.Time, r store.Rollout, members []Member) Decision {
	d := Decision{Rollout: r}
	now = now.UTC().Truncate(time.Microsecond)
	members = slices.Clone(members)
	for i, m := range members {
		next := settle(now, r, m)
		if next != m.RolloutAgent {
			d.Changed = append(d.Changed, next)
			members[i].RolloutAgent = next
		}
		if next.State == operator.RollOrdered && unfetched(m.Order) && (m.Presence == Away || r.State != operator.RolloutActive) {
			d.Withdraw = append(d.Withdraw, m.Agent)
		}
	}
	if r.State != operator.RolloutActive {
		return d
	}
	if reason := tooMany(r, members); reason != "" {
		d.Rollout.State, d.Rollout.Reason, d.Rollout.EndedAt = operator.RolloutStopped, reason, &now
		return d
	}
	d.Rollout = advance(now, r, members)
	if d.Rollout.State == operator.RolloutActive {
		d.Order = pick(d.Rollout, members)
	}
	return d
}

func unfetched(o *operator.Directive) bool { return o != nil && o.State == operator.DirectiveWaiting }

// settle gives a member's part as its facts make it.
func settle(now time.Time, r store.Rollout, m Member) operator.RolloutAgent {
	a := m.RolloutAgent
	end := func(state string, at time.Time, detail string) operator.RolloutAgent {
		a.State, a.EndedAt, a.Detail = state, &at, detail
		return a
	}
	switch a.State {
	case operator.RollWaiting:
		if m.runs(r.Version) {
			return end(operator.RollSkipped, now, "runs it already")
		}
		if newer(m.Version, r) {
			return end(operator.RollSkipped, now, "runs "+m.Version)
		}
	case operator.RollDone:
		if back := m.Version; r.State == operator.RolloutActive && !m.VerifiedSince.IsZero() && m.VerifiedSince.After(*a.EndedAt) && release.Compare(back, r.Version) < 0 {
			return end(operator.RollFailed, now, "went back to "+cmp.Or(back, "a version it does not tell"))
		}
	case operator.RollFailed:
		switch o := m.Order; {
		case o != nil && o.EndedAt != nil && o.State == string(wire.DirectiveDone) && o.EndedAt.After(*a.EndedAt):
			return end(operator.RollDone, *o.EndedAt, "told late: "+cmp.Or(o.Detail, "done"))
		case m.runs(r.Version) && m.VerifiedSince.After(*a.EndedAt) && now.Sub(m.VerifiedSince) >= trial(r):
			return end(operator.RollDone, now, "runs it after all; at first: "+a.Detail)
		}
	case operator.RollOrdered, operator.RollRunning:
		return underway(now, r, m, end)
	}
	return a
}

// newer reports whether an endpoint with that version would refuse the rollout's as a downgrade.
func newer(version string, r store.Rollout) bool {
	return !r.Plan.AllowDowngrade && version != "" && release.Compare(version, r.Version) > 0
}

// underway settles one that was ordered and has not ended.
func underway(now time.Time, r store.Rollout, m Member, end func(state string, at time.Time, detail string) operator.RolloutAgent) operator.RolloutAgent {
	a, o := m.RolloutAgent, m.Order
	if o == nil { // the server ended between the plan and the order
		a.State, a.Directive, a.OrderedAt = operator.RollWaiting, "", nil
		return a
	}
	since := o.CreatedAt
	if o.AcceptedAt != nil {
		a.State, since = operator.RollRunning, *o.AcceptedAt
	}
	late := now.Sub(since)
	switch {
	case o.EndedAt != nil && o.State == string(wire.DirectiveDone):
		return end(operator.RollDone, *o.EndedAt, o.Detail)
	case o.EndedAt != nil:
		return end(operator.RollFailed, *o.EndedAt, strings.TrimPrefix(string(o.Code)+": "+cmp.Or(o.Detail, "no reason given"), ": "))
	case m.runs(r.Version) && m.VerifiedSince.After(o.CreatedAt) && now.Sub(m.VerifiedSince) >= trial(r):
		return end(operator.RollDone, now, "told by its verified link")
	case o.State == operator.DirectiveExpired:
		return end(operator.RollFailed, now, "never told an outcome")
	case o.AcceptedAt != nil && late >= goneWithin && m.Presence == Away && now.Sub(m.Heard) >= goneWithin:
		return end(operator.RollFailed, now, fmt.Sprintf("took it up, and nothing was heard of it for %v", goneWithin))
	case o.AcceptedAt != nil && late >= answerWithin:
		return end(operator.RollFailed, now, fmt.Sprintf("took it up and told no outcome for %v", answerWithin))
	case o.AcceptedAt == nil && o.DeliveredAt != nil && late >= fetchWithin+goneWithin:
		return end(operator.RollFailed, now, fmt.Sprintf("was handed the order and did not answer for %v", fetchWithin+goneWithin))
	case unfetched(o) && late >= fetchWithin && m.Presence == Present:
		return end(operator.RollFailed, now, fmt.Sprintf("is there and did not come for the order for %v: its second door is shut", fetchWithin))
	}
	return a
}

// trial is how long a verified link with the version proves that it stays.
func trial(r store.Rollout) time.Duration {
	return cmp.Or(time.Duration(r.Plan.GraceMS)*time.Millisecond, defaultGrace) + trialSlack
}

// tooMany says why the rollout must stop; empty: it need not.
func tooMany(r store.Rollout, members []Member) string {
	for ring := range r.Ring + 1 {
		var failed []Member
		wanted, done, open := 0, 0, 0
		for _, m := range members {
			if m.Ring != ring || m.State == operator.RollSkipped {
				continue
			}
			wanted++
			switch {
			case m.State == operator.RollFailed && counts(r, m):
				failed = append(failed, m)
			case m.State == operator.RollFailed: // forgiven by an operator
			case m.State == operator.RollDone:
				done++
			default:
				open++
			}
		}
		limit, err := allowed(r.Plan.MaxFailures, wanted)
		switch {
		case err != nil:
			return err.Error()
		case len(failed) > limit:
			return fmt.Sprintf("ring %d: %d of %d failed, %d allowed: %s", ring+1, len(failed), wanted, limit, reasons(failed))
		case len(failed) > 0 && done == 0 && open == 0:
			return fmt.Sprintf("ring %d: none of its %d endpoints runs it: %s", ring+1, wanted, reasons(failed))
		}
	}
	return ""
}

// counts reports whether a failure is of after the last time an operator let it go on.
func counts(r store.Rollout, m Member) bool {
	return r.ResumedAt == nil || m.EndedAt == nil || m.EndedAt.After(*r.ResumedAt)
}

// reasons names the first failures.
func reasons(failed []Member) string {
	var parts []string
	for _, m := range failed[:min(named, len(failed))] {
		parts = append(parts, m.AgentName+": "+m.Detail)
	}
	if more := len(failed) - named; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}

// census counts a ring.
type census struct{ wanted, waiting, away, ordered, running, done, failed, skipped int }

func count(ring int, members []Member) (c census) {
	for _, m := range members {
		if m.Ring != ring {
			continue
		}
		c.wanted++
		switch m.State {
		case operator.RollWaiting:
			if c.waiting++; m.Presence == Away {
				c.away++
			}
		case operator.RollOrdered:
			c.ordered++
		case operator.RollRunning:
			c.running++
		case operator.RollDone:
			c.done++
		case operator.RollFailed:
			c.failed++
		case operator.RollSkipped:
			c.skipped++
		}
	}
	return c
}

// idle: nobody of the ring needs it.
func (c census) idle() bool { return c.wanted == c.skipped }

// through: nobody is under way, and somebody runs it, or nobody needs it.
func (c census) through() bool {
	return c.ordered+c.running == 0 && c.waiting == c.away && (c.done > 0 || c.idle() || c.failed > 0 && c.waiting == 0)
}

// advance moves on to the next ring, once this one is through and was watched.
func advance(now time.Time, r store.Rollout, members []Member) store.Rollout {
	for {
		c := count(r.Ring, members)
		if !c.through() {
			return r
		}
		if r.SoakSince == nil {
			r.SoakSince = &now
		}
		if soak := time.Duration(r.Plan.SoakMS) * time.Millisecond; soak > 0 && !c.idle() && now.Sub(*r.SoakSince) < soak {
			return r
		}
		if r.Ring == len(r.Plan.Rings)-1 {
			open := slices.ContainsFunc(members, func(m Member) bool {
				return m.State == operator.RollWaiting || m.State == operator.RollOrdered || m.State == operator.RollRunning
			})
			if !open {
				r.State, r.EndedAt = operator.RolloutDone, &now
			}
			return r
		}
		r.Ring, r.SoakSince = r.Ring+1, nil
	}
}

// pick chooses whom to order now.
func pick(r store.Rollout, members []Member) (ids []string) {
	free := r.Plan.Parallel
	for _, m := range members {
		if m.State == operator.RollOrdered || m.State == operator.RollRunning {
			free--
		}
	}
	for ring := range r.Ring + 1 {
		for _, m := range members {
			if len(ids) >= min(free, ordersAtOnce) {
				return ids
			}
			if m.Ring == ring && m.State == operator.RollWaiting && m.Presence == Present {
				ids = append(ids, m.Agent)
			}
		}
	}
	return ids
}

// say puts in a sentence what a rollout is at.
func say(now time.Time, r store.Rollout, members []Member) string {
	switch r.State {
	case operator.RolloutStopped:
		return "stopped: " + r.Reason
	case operator.RolloutDone:
		return "done"
	}
	c := count(r.Ring, members)
	where := fmt.Sprintf("ring %d of %d: ", r.Ring+1, len(r.Plan.Rings))
	switch {
	case !c.through() && c.away > 0 && c.away == c.wanted-c.skipped:
		return where + "none of its endpoints is there; it waits for one"
	case !c.through():
		return where + fmt.Sprintf("%d of %d done, %d under way, %d waiting", c.done+c.skipped, c.wanted, c.ordered+c.running, c.waiting)
	case r.Ring == len(r.Plan.Rings)-1 && left(members) > 0:
		return fmt.Sprintf("all rings are through; %d endpoints are away and are ordered when they come back", left(members))
	case r.SoakSince != nil:
		left := r.SoakSince.Add(time.Duration(r.Plan.SoakMS) * time.Millisecond).Sub(now)
		return where + fmt.Sprintf("through; watched for another %v", max(0, left).Round(time.Second))
	}
	return where + "through"
}

func left(members []Member) (n int) {
	for _, m := range members {
		if m.State == operator.RollWaiting {
			n++
		}
	}
	return n
}

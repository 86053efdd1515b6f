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
	// maxTries bounds the orders that an endpoint puts off. With the waits between
	// them, an endpoint that is busy has well over two hours: as long as a download
	// of an order before may take.
	maxTries = 6
	// retryMin is the wait after the first, each further one is four times as long, up to retryMax.
	retryMin, retryMax = time.Minute, time.Hour
)

// passing are the refusals, and the causes of a failure, that say nothing of the build.
// Another time they may not be given.
var passing = []wire.Code{
	wire.CodeBusy, wire.CodeJournal, wire.CodeDraining, wire.CodeExpired, wire.CodeQuarantined, wire.CodeWrongAgent,
	wire.CodeUnreachable, wire.CodeInterrupted, wire.CodeStarved,
}

// Presence tells whether an endpoint is there.
type Presence uint8

// Unknown is that of an endpoint not heard of since a restart of the server just now.
const (
	Unknown Presence = iota
	Away
	Present
)

// String is as operators see it.
func (p Presence) String() string {
	return [...]string{operator.RollPresenceUnknown, operator.RollAway, operator.RollPresent}[p]
}

// rank orders who is there before whom nobody has heard of yet, and who is away last.
func (p Presence) rank() int { return [...]int{Unknown: 1, Away: 2, Present: 0}[p] }

// Fact is what is known of an endpoint at one moment.
type Fact struct {
	Presence Presence
	// Removed: an operator took its identity from it.
	Removed bool
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
		gaveUp := next.State == operator.RollUntried && m.State == operator.RollOrdered
		left := next.State == operator.RollOrdered && (m.Presence == Away || r.State != operator.RolloutActive)
		if unfetched(m.Order) && (gaveUp || left) {
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
		d.Order = pick(now, d.Rollout, members)
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
	if open := a.State != operator.RollDone && a.State != operator.RollFailed && a.State != operator.RollSkipped; open && m.Removed {
		return end(operator.RollSkipped, now, "was removed by an operator")
	}
	switch a.State {
	case operator.RollWaiting:
		a.NotBefore = nil
		if m.runs(r.Version) {
			return end(operator.RollSkipped, now, "runs it already")
		}
		if newer(m.Version, r) {
			return end(operator.RollSkipped, now, "runs "+m.Version)
		}
		a.NotBefore = m.NotBefore
	case operator.RollDone:
		if back := m.Version; r.State == operator.RolloutActive && !m.VerifiedSince.IsZero() && m.VerifiedSince.After(*a.EndedAt) && release.Compare(back, r.Version) < 0 {
			return end(operator.RollFailed, now, "went back to "+cmp.Or(back, "a version it does not tell"))
		}
	case operator.RollFailed, operator.RollUntried:
		late := m.Order != nil && m.Order.EndedAt != nil && m.Order.EndedAt.After(*a.EndedAt)
		switch o := m.Order; {
		case late && o.State == string(wire.DirectiveDone):
			return end(operator.RollDone, *o.EndedAt, "told late: "+cmp.Or(o.Detail, "done"))
		case a.State == operator.RollUntried && late && blamed(o):
			return end(operator.RollFailed, *o.EndedAt, "told late: "+saidWhy(o))
		case a.State == operator.RollUntried && o != nil && o.EndedAt == nil && o.State == string(wire.DirectiveAccepted):
			a.State, a.EndedAt, a.Detail = operator.RollRunning, nil, ""
			return a
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
	case o.EndedAt != nil && o.DeliveredAt == nil: // withdrawn, and the server ended before it was noted
		a.State, a.Directive, a.OrderedAt = operator.RollWaiting, "", nil
		return a
	case o.EndedAt != nil && o.State == string(wire.DirectiveDone):
		return end(operator.RollDone, *o.EndedAt, o.Detail)
	case o.EndedAt != nil && blamed(o):
		return end(operator.RollFailed, *o.EndedAt, saidWhy(o))
	case o.EndedAt != nil:
		return putOff(*o.EndedAt, a, saidWhy(o))
	case m.runs(r.Version) && m.VerifiedSince.After(o.CreatedAt) && now.Sub(m.VerifiedSince) >= trial(r):
		return end(operator.RollDone, now, "told by its verified link")
	case o.State == operator.DirectiveExpired && o.AcceptedAt == nil:
		return putOff(now, a, "the order expired before it was answered")
	case o.State == operator.DirectiveExpired:
		return end(operator.RollFailed, now, "never told an outcome")
	case o.AcceptedAt != nil && late >= goneWithin && m.Presence == Away && now.Sub(m.Heard) >= goneWithin:
		return end(operator.RollFailed, now, fmt.Sprintf("took it up, and nothing was heard of it for %v", goneWithin))
	case o.AcceptedAt != nil && late >= answerWithin:
		return end(operator.RollFailed, now, fmt.Sprintf("took it up and told no outcome for %v", answerWithin))
	case o.AcceptedAt == nil && o.DeliveredAt != nil && late >= fetchWithin+goneWithin && m.Presence == Present:
		return end(operator.RollUntried, now, fmt.Sprintf("was handed the order and did not answer for %v", fetchWithin+goneWithin))
	case unfetched(o) && late >= fetchWithin && m.Presence == Present:
		return end(operator.RollUntried, now, fmt.Sprintf("is there and did not come for the order for %v: its second door is shut", fetchWithin))
	}
	return a
}

// blamed reports whether an order that ended without success says something of the
// build: its trial failed, or it does not fit the endpoint.
func blamed(o *operator.Directive) bool {
	return o.State == string(wire.DirectiveFailed) && !slices.Contains(passing, o.Code)
}

// saidWhy is what an endpoint gave as its reason.
func saidWhy(o *operator.Directive) string {
	return strings.TrimPrefix(string(o.Code)+": "+cmp.Or(o.Detail, "no reason given"), ": ")
}

// putOff has an endpoint wait for another try, unless it had enough of them.
func putOff(at time.Time, a operator.RolloutAgent, why string) operator.RolloutAgent {
	a.Attempts++
	a.Detail = why
	if a.Attempts >= maxTries {
		a.State, a.EndedAt = operator.RollUntried, &at
		a.Detail += fmt.Sprintf(" (ordered %d times)", a.Attempts)
		return a
	}
	wait := min(retryMin<<(2*(a.Attempts-1)), retryMax)
	again := at.Add(wait)
	a.State, a.Directive, a.OrderedAt, a.NotBefore = operator.RollWaiting, "", nil, &again
	return a
}

// trial is how long a verified link with the version proves that it stays.
func trial(r store.Rollout) time.Duration {
	return cmp.Or(time.Duration(r.Plan.GraceMS)*time.Millisecond, defaultGrace) + trialSlack
}

// tooMany says why the rollout must stop; empty: it need not.
func tooMany(r store.Rollout, members []Member) string {
	for ring := range r.Ring + 1 {
		var failed, untried []Member
		for _, m := range members {
			switch {
			case m.Ring != ring:
			case m.State == operator.RollFailed:
				failed = append(failed, m)
			case m.State == operator.RollUntried:
				untried = append(untried, m)
			}
		}
		c := count(ring, members)
		limit, err := allowed(r.Plan.MaxFailures, c.tried())
		switch {
		case err != nil:
			return err.Error()
		case len(failed) > limit:
			return fmt.Sprintf("ring %d: %d of %d failed, %d allowed: %s", ring+1, len(failed), c.tried(), limit, reasons(failed))
		case c.done > 0 || c.waiting+c.ordered+c.running > 0 || c.idle():
		case len(failed) > 0:
			return fmt.Sprintf("ring %d: none of its endpoints (%d) runs it: %s", ring+1, c.wanted-c.skipped, reasons(append(failed, untried...)))
		default:
			return fmt.Sprintf("ring %d: none of its endpoints (%d) could be tried: %s", ring+1, c.wanted-c.skipped, reasons(untried))
		}
	}
	return ""
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

// census counts a ring. away are of those waiting, gone of those ordered that left
// before they answered, later of those waiting that put their order off.
type census struct{ wanted, waiting, away, later, ordered, gone, running, done, failed, untried, skipped int }

func count(ring int, members []Member) (c census) {
	for _, m := range members {
		if m.Ring != ring {
			continue
		}
		c.wanted++
		switch m.State {
		case operator.RollWaiting:
			c.waiting++
			switch {
			case m.Presence == Away:
				c.away++
			case m.NotBefore != nil:
				c.later++
			}
		case operator.RollOrdered:
			if c.ordered++; m.Presence == Away {
				c.gone++
			}
		case operator.RollRunning:
			c.running++
		case operator.RollDone:
			c.done++
		case operator.RollFailed:
			c.failed++
		case operator.RollUntried:
			c.untried++
		case operator.RollSkipped:
			c.skipped++
		}
	}
	return c
}

// idle: nobody of the ring needs it.
func (c census) idle() bool { return c.wanted == c.skipped }

// tried are those that the limit of failures is a share of.
func (c census) tried() int { return c.wanted - c.skipped - c.untried }

// settled: nobody who is there has an outcome to come.
func (c census) settled() bool { return c.waiting == c.away && c.ordered == c.gone && c.running == 0 }

// wants is how many must run it for the ring to be through: those that are able to,
// less the failures that are allowed of so many, and one at least.
func (c census) wants(limit string) int {
	able := c.tried() - c.away - c.gone
	fail, err := allowed(limit, able)
	if err != nil {
		fail = 0 // the plan was checked
	}
	return max(1, able-fail)
}

// through: nobody needs it, or enough run it and nobody who is there is under way.
func (c census) through(limit string) bool {
	return c.idle() || c.settled() && c.done >= c.wants(limit)
}

// advance moves on to the next ring, once this one is through and was watched.
func advance(now time.Time, r store.Rollout, members []Member) store.Rollout {
	for {
		c := count(r.Ring, members)
		if !c.through(r.Plan.MaxFailures) {
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
func pick(now time.Time, r store.Rollout, members []Member) (ids []string) {
	free := r.Plan.Parallel
	for _, m := range members {
		if m.State == operator.RollOrdered && m.Presence != Away || m.State == operator.RollRunning {
			free--
		}
	}
	for ring := range r.Ring + 1 {
		for _, m := range members {
			if len(ids) >= min(free, ordersAtOnce) {
				return ids
			}
			due := m.NotBefore == nil || !now.Before(*m.NotBefore)
			if m.Ring == ring && m.State == operator.RollWaiting && m.Presence == Present && due {
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
		return "done" + undone(members)
	}
	c := count(r.Ring, members)
	where := fmt.Sprintf("ring %d of %d: ", r.Ring+1, len(r.Plan.Rings))
	switch {
	case c.through(r.Plan.MaxFailures):
	case c.settled() && c.done == 0 && c.failed == 0:
		return where + "none of its endpoints is there; it waits for one"
	case c.settled():
		return where + fmt.Sprintf("%d done, %d failed: too few of those that are there; it waits for those that are away (%d)", c.done, c.failed, c.away+c.gone)
	default:
		said := fmt.Sprintf("%d of %d done, %d under way, %d waiting", c.done, c.wanted-c.skipped, c.ordered+c.running, c.waiting)
		if c.later > 0 {
			said += fmt.Sprintf(", of them %d put off", c.later)
		}
		return where + said
	}
	watched := time.Duration(r.Plan.SoakMS) * time.Millisecond
	switch {
	case r.SoakSince != nil && !c.idle() && now.Sub(*r.SoakSince) < watched:
		return where + fmt.Sprintf("through; watched for another %v", r.SoakSince.Add(watched).Sub(now).Round(time.Second))
	case r.Ring == len(r.Plan.Rings)-1 && left(members) > 0:
		return fmt.Sprintf("all rings are through; it waits for those that are away (%d)", left(members))
	case c.idle():
		return where + "no endpoint of it needs this version"
	}
	return where + "through"
}

// undone says of a rollout that is done what it did not do.
func undone(members []Member) (said string) {
	n := map[string]int{}
	for _, m := range members {
		n[m.State]++
	}
	if n[operator.RollFailed] > 0 {
		said += fmt.Sprintf("; %d failed", n[operator.RollFailed])
	}
	if n[operator.RollUntried] > 0 {
		said += fmt.Sprintf("; %d could not be tried", n[operator.RollUntried])
	}
	return said
}

// left are those that have an outcome to come.
func left(members []Member) (n int) {
	for _, m := range members {
		if m.State == operator.RollWaiting || m.State == operator.RollOrdered || m.State == operator.RollRunning {
			n++
		}
	}
	return n
}

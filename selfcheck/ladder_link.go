package selfcheck

import (
	"fmt"
	"slices"
	"time"
)

// The link's part of the ladder.

func (t *turn) climbLink() {
	c := &t.link
	well := t.linkWell()
	t.track(well)
	if c.step != nil {
		t.settle(well)
	}
	if c.door != nil {
		t.knock()
	}
	switch {
	case well && t.s.Link.ID != c.bad:
		if c.delivering {
			t.release()
		}
	case t.remedy == remedyLink:
		t.force()
	case t.remedy == remedyDoor, t.down():
		t.enter(t.v.Sentence)
	}
	if c.delivering {
		t.retry()
	}
}

// track follows since when the link has been down, or verified and well.
func (t *turn) track(well bool) {
	c := &t.link
	if t.s.Link.Phase == PhaseVerified {
		c.downSince = time.Time{}
	} else if t.s.Link.Asked != "" { // it is wanted, only later; the whole fleet may be waiting so
		c.downSince = t.now.Add(ms(t.p.VerifyMS) - downGrace)
	} else if c.downSince.IsZero() {
		c.downSince = t.now
	}
	switch {
	case !well:
		c.verifiedSince = time.Time{}
	case c.verified != t.s.Link.ID || c.verifiedSince.IsZero():
		c.verified, c.verifiedSince = t.s.Link.ID, t.now
	}
	if well && c.held != "" {
		c.held = ""
	}
}

// down reports whether there has been no verified link for longer than a link needs.
func (t *turn) down() bool {
	if t.v.Code == CodeAgentRemoved { // it is let in nowhere: no other way is better
		return false
	}
	since := t.link.downSince
	return !since.IsZero() && t.due(since.Add(downGrace))
}

// settle finds out what came of the step under way.
func (t *turn) settle(well bool) {
	if w := t.link.step; t.linkOutcome(w, well) {
		t.climbed(w) // one that helped, too, until it has held: a fault that comes back soon was not cured
		t.link.step = nil
	}
}

// linkOutcome finds out whether the fresh link that w is for came, and was verified.
func (t *turn) linkOutcome(w *waiting, well bool) (over bool) {
	fresh := t.s.Link.ID != 0 && t.s.Link.ID != w.link
	waited := t.now.Sub(w.since)
	switch {
	case fresh && well:
		t.helped(w, fmt.Sprintf("link %s verified after %s", t.s.Link.ID, span(waited)))
	case fresh && t.remedy == remedyLink:
		t.noBetter(w, "on the new link: "+t.v.Sentence)
	case waited >= ms(t.p.VerifyMS):
		t.noBetter(w, "no verified link within "+span(waited))
	default:
		t.in(ms(t.p.VerifyMS) - waited)
		return false
	}
	return true
}

// knock finds out whether the second door answers since it is needed.
func (t *turn) knock() {
	if _, answers := t.doorOutcome(t.link.door); answers {
		t.link.door = nil
	}
}

// doorOutcome finds out whether the second door has answered since w. One that fails may
// answer yet.
func (t *turn) doorOutcome(w *waiting) (known, answers bool) {
	oob := &t.s.OOB
	waited := t.now.Sub(w.since)
	switch {
	case oob.LastOK != nil && *oob.LastOK < waited:
		t.helped(w, "the second door answers")
		return true, true
	case oob.Failures >= doorLimit:
		t.noBetter(w, "the second door fails: "+orNone(oob.Failure.String()))
		return true, false
	}
	return false, false
}

// climbed notes which rung has been tried.
func (t *turn) climbed(w *waiting) {
	switch w.kind {
	case StepReconnect:
		t.link.rung = max(t.link.rung, rungReconnected)
	case StepAlternative:
		t.link.rung = max(t.link.rung, rungAlternative)
	}
}

// force answers a proof against the link in place.
func (t *turn) force() {
	c := &t.link
	c.bad = t.s.Link.ID
	if c.step != nil || c.delivering {
		return // its outcome first; in OOB delivery retry sees to the link
	}
	kind, expected := StepKind(""), ""
	switch {
	case t.p.HoldRecovery:
		t.enter(t.v.Sentence + " Recovery is held back by the server.")
		return
	case t.spreadOut():
		t.enter(t.v.Sentence + " Many agents say so: the server spreads their recovery.")
		return
	case c.rung == rungGround:
		kind, expected = StepReconnect, "a link that is verified within "+span(ms(t.p.VerifyMS))
	case c.rung == rungReconnected && t.s.Link.Alternatives > 0:
		kind, expected = StepAlternative, "a link by another endpoint or IP family, verified within "+span(ms(t.p.VerifyMS))
	}
	if kind == "" || t.spent() {
		reason := t.v.Sentence
		if kind == "" {
			reason += " A fresh link did not help."
		} else {
			reason += " The reconnects of this hour are spent."
		}
		if !t.enter(reason) {
			t.again(kind == "")
		}
		return
	}
	t.reconnect(kind, t.v.Sentence, expected)
}

// spent reports whether the verdict's reconnects of this hour are used up.
func (t *turn) spent() bool {
	return len(t.link.spent[t.v.Code]) >= t.p.ReconnectsPerHour
}

func (t *turn) reconnect(kind StepKind, reason, expected string) {
	c := &t.link
	if kind != StepRetryLink { // a retry is bounded by its back-off, not by the budget
		c.spent[t.v.Code] = append(c.spent[t.v.Code], t.now)
	}
	t.await(kind)
	t.take(kind, reason, expected)
}

func (t *turn) await(kind StepKind) {
	t.link.step = t.waiting(kind)
	t.in(ms(t.p.VerifyMS))
}

// again is for an endpoint without a second door: after the back-off, from the
// first rung, within the budget.
func (t *turn) again(exhausted bool) {
	c := &t.link
	if t.spent() {
		free := frees(c.spent[t.v.Code], t.p.ReconnectsPerHour)
		t.hold(&c.held, t.v.Sentence+" The reconnects of this hour are spent, and there is no second door.", free)
		return
	}
	if exhausted && c.retryAt.IsZero() {
		t.backOff()
	}
	if t.due(c.retryAt) {
		c.retryAt, c.rung = time.Time{}, rungGround
		t.reconnect(StepReconnect, t.v.Sentence+" There is no second door; the back-off is over.", "a link that is verified within "+span(ms(t.p.VerifyMS)))
	}
}

// backOff sets the time before which nothing is forced again, and doubles it for
// the next time.
func (t *turn) backOff() {
	c := &t.link
	c.retryAt = t.now.Add(t.backoff(ms(t.p.RetryLinkMS), c.level))
	c.level = min(c.level+1, maxLevel)
}

// enter turns OOB delivery on; false: there is no second door.
func (t *turn) enter(reason string) bool {
	c := &t.link
	if !t.s.OOB.Configured {
		return false
	}
	if !c.delivering {
		c.delivering = true
		t.backOff()
		c.door = t.waiting(StepOOB)
		t.take(StepOOB, reason, "commands and results go by the second door")
	}
	return true
}

func (t *turn) release() {
	c := &t.link
	c.delivering, c.bad, c.door = false, 0, nil
	t.take(StepRelease, fmt.Sprintf("Link %s is verified: text and probes of all sizes went both ways.", t.s.Link.ID), "commands go by the link again")
}

// retry orders one fresh link each time the back-off is over, while there is one
// in place that is not trusted. Where none is in place, the link's own back-off dials.
func (t *turn) retry() {
	c := &t.link
	if t.p.HoldRecovery || c.step != nil || !t.stuck() {
		return
	}
	if c.retryAt.IsZero() {
		t.backOff()
	}
	if !t.due(c.retryAt) || t.spreadOut() {
		return
	}
	t.backOff()
	t.reconnect(StepRetryLink, "The back-off is over: one fresh link is tried while commands go by the second door.",
		"a link that carries probes of all sizes both ways within "+span(ms(t.p.VerifyMS)))
}

// stuck reports whether the link in place will not become trusted by itself: it
// was proven bad, or is verified and under suspicion, or silent.
func (t *turn) stuck() bool {
	id := t.s.Link.ID
	switch t.s.Link.Phase {
	case PhaseAuth, PhaseConfiguring, PhaseProbing:
		// Under way: its own deadline ends it, unless it is proven bad.
		return id != 0 && id == t.link.bad
	case PhaseVerified:
		return true
	}
	return false
}

// NextStep tells what the ladder waits for, for people: the next step and in how
// long; ok is false if none is planned.
func (l *Ladder) NextStep(now time.Time) (kind StepKind, in time.Duration, ok bool) {
	switch {
	case l.link.step == nil && l.link.delivering && l.spreadAt.After(later(l.link.retryAt, now)):
		return StepRetryLink, l.spreadAt.Sub(now), true
	case l.link.step == nil && l.link.delivering && l.link.retryAt.After(now):
		return StepRetryLink, l.link.retryAt.Sub(now), true
	case l.link.step == nil && l.link.rung != rungGround && l.link.verifiedSince.IsZero() && l.link.retryAt.After(now):
		return StepReconnect, l.link.retryAt.Sub(now), true
	case l.worker.step == nil && l.worker.retryAt.After(now):
		return StepRestartWorker, l.worker.retryAt.Sub(now), true
	}
	return "", 0, false
}

// Order is a step that somebody else ordered: a directive, an operator.
type Order struct {
	Kind   StepKind
	Reason string
	// Alone: the server lets no link in, so none is waited for. It is judged by nothing.
	Alone bool
}

// Ordered notes that o was carried out at now, with s as last judged, so that status
// and beacons tell of it; the turns that follow find out what came of it, by the rules
// that hold for the ladder's own steps: a link within the policy's VerifyMS, a worker and
// text both ways within 30 s. Budgets are not touched. It gives the record as it stands
// in [Ladder.Recent].
func (l *Ladder) Ordered(o Order, code Code, s Snapshot, now time.Time) StepRecord {
	r := StepRecord{At: now, Kind: o.Kind, Verdict: code, Reason: o.Reason, Expected: "it is done as ordered"}
	for slices.ContainsFunc(l.recent, func(other StepRecord) bool { return other.At.Equal(r.At) }) {
		r.At = r.At.Add(time.Nanosecond) // its time is its name
	}
	if !o.Alone && o.Kind.judged() {
		switch o.Kind {
		case StepReconnect, StepAlternative:
			r.Expected = "a new link, verified within " + span(ms(l.p.VerifyMS))
		case StepRestartWorker:
			r.Expected = "a fresh worker, and a verified link, within " + span(workerGrace)
		case StepRestartService:
			r.Expected = "the service manager starts the agent afresh, and a verified link"
		case StepOOB:
			r.Expected = "the second door answers"
		}
		if len(l.ordered) == recentSteps {
			l.ordered = slices.Delete(l.ordered, 0, 1)
		}
		l.ordered = append(l.ordered, &waiting{kind: r.Kind, code: code, link: s.Link.ID, pid: s.Worker.PID, at: r.At, after: now, since: now})
	}
	l.record(r)
	return r
}

// judged reports whether what came of an ordered step of that kind can be seen.
func (k StepKind) judged() bool {
	switch k {
	case StepReconnect, StepAlternative, StepRestartWorker, StepRestartService, StepOOB:
		return true
	}
	return false
}

// settleOrdered finds out what came of the ordered steps under way.
func (t *turn) settleOrdered() {
	well := t.linkKnown() && t.linkWell()
	t.ordered = slices.DeleteFunc(t.ordered, func(w *waiting) (over bool) {
		switch w.kind {
		case StepRestartWorker, StepRestartService:
			over, _ = t.workerOutcome(w)
		case StepOOB:
			over, _ = t.doorOutcome(w)
		default:
			over = t.linkOutcome(w, well)
		}
		return over
	})
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

package guardian

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"gururmm/agent/history"
	"gururmm/internal/moment"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// History keeps events; [history.Log] is the real one. Both may wait for the disk.
type History interface {
	Add(e history.Event) error // an error says that e is not kept
	Close() error
}

const (
	// maxNotes bounds the events that wait for the disk.
	maxNotes = 512
	// clockStep is the least step of the wall clock that is an event: what time
	// services do all day is none.
	clockStep = 2 * time.Second
	// clockFinding is the least step that stands beside the verdict, for clockShown:
	// what it upsets (certificates, expiries, other programs' timers) shows soon.
	clockFinding = time.Minute
	clockShown   = time.Hour
	// sleepNote is the least sleep that is an event.
	sleepNote = 5 * time.Second
)

// historyState is what the loop knows of the history, and what waits to be written.
type historyState struct {
	verdict selfcheck.Code    // last noted
	steps   map[string]string // outcomes noted, by event id
	doorUp  *bool             // last noted; nil: not known
	broken  error             // why the last write failed
	again   time.Time         // when what waits is tried again; zero: at the next event
	turned  time.Time         // last turn, wall and monotonic
	slept   time.Duration     // as of then
	step    time.Duration     // of the wall clock, the last large one; 0: none
	stepped time.Time         // when; its monotonic reading counts
	mu      sync.Mutex        // of what follows: the loop adds, the keeper takes
	pending []history.Event
	dropped int
	asked   bool // the keeper will look
}

// note keeps e, by the keeper; it returns at once.
func (g *Guardian) note(e history.Event) {
	if g.cfg.History == nil {
		return
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	h := &g.history
	h.mu.Lock()
	if len(h.pending) < maxNotes {
		h.pending = append(h.pending, e)
	} else {
		h.dropped++
	}
	h.mu.Unlock()
	if h.again.IsZero() {
		g.askNotes()
	}
}

// askNotes has the keeper write what waits, unless it will anyway.
func (g *Guardian) askNotes() {
	h := &g.history
	h.mu.Lock()
	asked := h.asked
	h.asked = true
	h.mu.Unlock()
	if asked || g.keep(job{what: jobHistory, do: g.writeNotes}) {
		return
	}
	h.mu.Lock()
	h.asked = false
	h.mu.Unlock()
	h.again = time.Now().Add(saveEvery)
}

// notesDue tries again what could not be written.
func (g *Guardian) notesDue(now time.Time) {
	if h := &g.history; !h.again.IsZero() && !now.Before(h.again) {
		h.again = time.Time{}
		g.askNotes()
	}
}

// writeNotes writes what waits, in the keeper's goroutine (at the end, behind it). What
// can't be written goes on waiting; what there was no room for is told in its place.
func (g *Guardian) writeNotes() error {
	h := &g.history
	h.mu.Lock()
	events, dropped := h.pending, h.dropped
	h.pending, h.dropped, h.asked = nil, 0, false
	h.mu.Unlock()
	for i, e := range events {
		if err := g.cfg.History.Add(e); err != nil {
			h.waitOn(events[i:], dropped)
			return err
		}
	}
	if dropped == 0 {
		return nil
	}
	err := g.cfg.History.Add(history.Event{At: time.Now(), Kind: history.KindGuardian, Code: "unkept",
		Sentence: fmt.Sprintf("Events are missing here, %d of them: the disk did not keep up.", dropped)})
	if err != nil {
		h.waitOn(nil, dropped)
	}
	return err
}

// waitOn puts events that could not be written back before those that came since.
func (h *historyState) waitOn(events []history.Event, dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = slices.Concat(events, h.pending)
	over := max(0, len(h.pending)-maxNotes)
	h.pending = h.pending[:len(h.pending)-over]
	h.dropped += dropped + over
}

// noteVerdict notes a verdict that has settled. Well is well, busy or idle.
func (g *Guardian) noteVerdict(v selfcheck.Verdict) {
	code := v.Code
	if v.Severity == selfcheck.SeverityWell {
		code = selfcheck.CodeOK
	}
	if v.Suspected || v.Severity == selfcheck.SeverityUnknown || code == g.history.verdict {
		return
	}
	g.history.verdict = code
	g.note(history.Event{
		Kind: history.KindVerdict, Code: string(code), Severity: v.Severity,
		Title: v.Title, Sentence: v.Sentence, Evidence: v.Evidence, Detail: v.Action,
	})
}

// noteSteps notes the steps of the ladder that are new, and outcomes that have
// become known. silently: they are of the last run, which has noted them.
func (g *Guardian) noteSteps(silently bool) {
	if g.cfg.History == nil {
		return
	}
	known := g.history.steps
	fresh := make(map[string]string, len(known))
	for _, s := range g.ladder.Recent() {
		id := history.StepID(s)
		was, old := known[id]
		fresh[id] = s.Outcome
		if silently {
			continue
		}
		if !old {
			g.note(history.Event{
				ID: id, At: s.At, Kind: history.KindStep, Code: string(s.Kind), Step: s.Kind, Verdict: s.Verdict,
				Sentence: s.Reason, Detail: "expected: " + s.Expected,
			})
		}
		if s.Outcome != was {
			g.note(history.Event{Kind: history.KindOutcome, Of: id, Code: string(s.Kind), Outcome: s.Outcome})
		}
	}
	g.history.steps = fresh
}

// noteDoor notes that the second door answers again, or no more.
func (g *Guardian) noteDoor(up bool, sentence string) {
	h := &g.history
	if h.doorUp != nil && *h.doorUp == up {
		return
	}
	h.doorUp = &up
	code := "up"
	if !up {
		code = "down"
	}
	g.note(history.Event{Kind: history.KindDoor, Code: code, Sentence: sentence})
}

// directiveID names the event of a directive, so that its outcome finds it.
func directiveID(id string) string { return "d" + id }

// noteDirective notes that d is carried out from here on.
func (g *Guardian) noteDirective(d wire.Directive) {
	g.note(history.Event{ID: directiveID(d.ID), Kind: history.KindDirective, Code: string(d.Kind), Sentence: d.Reason})
}

// noteRefused notes a directive that is not carried out. Of one that was not
// admitted nothing is known to be true.
func (g *Guardian) noteRefused(d wire.Directive, admitted bool, why *errRefused) {
	if admitted {
		g.note(history.Event{Kind: history.KindOutcome, Of: directiveID(d.ID), Outcome: "refused: " + why.Error()})
		return
	}
	g.note(history.Event{Kind: history.KindDirective, Code: "refused", Sentence: why.detail, Detail: string(why.code) + " " + string(d.Kind)})
}

// noteResult notes what came of a directive.
func (g *Guardian) noteResult(d wire.Directive, state wire.DirectiveState, detail string) {
	if state == wire.DirectiveAccepted {
		return // its end follows
	}
	outcome := string(state)
	if detail != "" {
		outcome += ": " + detail
	}
	g.note(history.Event{Kind: history.KindOutcome, Of: directiveID(d.ID), Code: string(d.Kind), Outcome: outcome})
}

// notePolicy notes that p is put in force, if it is another one.
func (g *Guardian) notePolicy(p wire.Policy, source string) {
	if reflect.DeepEqual(p, g.policy) {
		return
	}
	said := fmt.Sprintf("Policy %d is in force instead of %d.", p.Version, g.policy.Version)
	switch was := g.policy; {
	case p.HoldRecovery && !was.HoldRecovery:
		said += " The server holds recovery: no forced reconnects and restarts."
	case was.HoldRecovery && !p.HoldRecovery:
		said += " Recovery is not held any more."
	case p.SpreadRecoveryMS > 0 && was.SpreadRecoveryMS == 0:
		said += fmt.Sprintf(" The server spreads recovery: forced steps wait up to %v.", time.Duration(p.SpreadRecoveryMS)*time.Millisecond)
	case p.SpreadRecoveryMS == 0 && was.SpreadRecoveryMS > 0:
		said += " Recovery is not spread any more."
	}
	g.note(history.Event{Kind: history.KindPolicy, Code: source, Sentence: said})
}

// noteClock notes that the machine slept or its clock was set, since the last turn. It
// gives how long it slept.
func (g *Guardian) noteClock(now time.Time) (slept time.Duration) {
	h := &g.history
	last, lastSlept := h.turned, h.slept
	h.turned, h.slept = now, g.cfg.Asleep.Total()
	if last.IsZero() {
		return 0
	}
	slept = h.slept - lastSlept
	// Without its monotonic reading a time is what the wall clock showed.
	g.clockMoved(now, now.Round(0).Sub(last.Round(0))-now.Sub(last), slept)
	return slept
}

// clockMoved takes in by how much the wall clock went on beyond the monotonic one, and
// how long this machine slept meanwhile.
func (g *Guardian) clockMoved(now time.Time, jump, slept time.Duration) {
	h := &g.history
	if slept >= sleepNote {
		g.note(history.Event{Kind: history.KindClock, Code: "suspended",
			Sentence: fmt.Sprintf("This machine did not run for %v.", slept.Round(time.Second))})
	}
	if step := jump - g.cfg.Asleep.Missed(slept); step.Abs() >= clockStep {
		if step.Abs() >= clockFinding {
			h.step, h.stepped = step, now
		}
		g.note(history.Event{Kind: history.KindClock, Code: "stepped",
			Sentence: fmt.Sprintf("This machine's clock was set %s.", stepBy(step, 100*time.Millisecond))})
	}
}

// stepBy says by how much a clock was set, and which way.
func stepBy(step, unit time.Duration) string {
	if step < 0 {
		return fmt.Sprintf("back by %v", step.Abs().Round(unit))
	}
	return fmt.Sprintf("ahead by %v", step.Round(unit))
}

// clockFindings tells of a large step of the clock for a while: no fault, and what
// explains many.
func (g *Guardian) clockFindings(now time.Time) []selfcheck.Finding {
	h := &g.history
	age := now.Sub(h.stepped)
	if h.step == 0 || age >= clockShown {
		return nil
	}
	return []selfcheck.Finding{{Code: selfcheck.FindClockStep, Sentence: fmt.Sprintf(
		"This machine's clock was set %s, %s ago. The agent's own timers do not go by it.", stepBy(h.step, time.Second), moment.Span(age))}}
}

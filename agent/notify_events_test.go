package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/selfcheck"
)

// turnOf is a turn of the guardian's loop whose verdict is of one severity.
func turnOf(code selfcheck.Code, severity selfcheck.Severity, suspected bool) guardian.Turn {
	return guardian.Turn{Mode: local.ModeGuarding, Verdict: selfcheck.Verdict{Code: code, Severity: severity, Suspected: suspected, Sentence: "It is " + string(code) + "."}}
}

// Only the turns of fortune are told: what breaks, what breaks in another way, and what is
// mended; no suspicion, and nothing twice.
func TestEventsAreTheTurnsOfFortune(t *testing.T) {
	well := turnOf(selfcheck.CodeOK, selfcheck.SeverityWell, false)
	lost := turnOf(selfcheck.CodeLinkTextLost, selfcheck.SeverityError, false)
	suspected := turnOf(selfcheck.CodeLinkTextLost, selfcheck.SeverityError, true)
	other := turnOf(selfcheck.CodeLinkSilent, selfcheck.SeverityError, false)
	warning := turnOf(selfcheck.CodeLinkTextDelayed, selfcheck.SeverityWarning, false)
	type told struct {
		id   uint32
		bad  bool
		text string // is contained
	}
	started, stopped := told{id: eventStarted, text: "started."}, told{id: eventStopped, text: "Stopped."}
	broken, mended := told{eventBroken, true, "It is link.text.lost."}, told{id: eventMended, text: "guarding, ok: It is ok."}
	for _, c := range []struct {
		name  string
		turns []guardian.Turn
		err   error
		want  []told
	}{
		{"nothing happens", []guardian.Turn{{}, well, warning, well}, nil, []told{started, stopped}},
		{"it breaks and is mended", []guardian.Turn{well, lost, lost, well, well}, nil, []told{started, broken, mended, stopped}},
		{"a suspicion is no event", []guardian.Turn{suspected, well}, nil, []told{started, stopped}},
		{"a warning mends nothing", []guardian.Turn{lost, warning, lost, well}, nil, []told{started, broken, mended, stopped}},
		{"it breaks in another way", []guardian.Turn{lost, other, well, lost}, nil, []told{started, broken, {eventBroken, true, "It is link.silent."}, mended, broken, stopped}},
		{"it ends with an error", []guardian.Turn{well}, errors.New("the disk is gone"), []told{started, {eventFailed, true, "Ended: the disk is gone"}}},
	} {
		var said []event
		shut := 0
		teller := newEventTeller(func(e event) { said = append(said, e) }, func() { shut++ })
		for _, turn := range c.turns {
			teller.turn(turn)
		}
		teller.end(c.err)
		if !slices.EqualFunc(said, c.want, func(e event, w told) bool { return e.id == w.id && e.bad == w.bad && strings.Contains(e.text, w.text) }) || shut != 1 {
			t.Errorf("%s: told %+v, want %+v; closed %d times", c.name, said, c.want, shut)
		}
	}
}

// An event log that hangs holds up neither the guardian's loop nor its end.
func TestAnEventLogThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		var said []event
		shut := make(chan struct{})
		teller := newEventTeller(func(e event) { <-answer; said = append(said, e) }, func() { close(shut) })
		began := time.Now()
		for range 2 * maxEvents { // each turn is one to tell
			teller.turn(turnOf(selfcheck.CodeLinkTextLost, selfcheck.SeverityError, false))
			teller.turn(turnOf(selfcheck.CodeOK, selfcheck.SeverityWell, false))
		}
		if took := time.Since(began); took != 0 || teller.queue.Len() > maxEvents {
			t.Errorf("the turns took %v; %d events wait", took, teller.queue.Len())
		}
		teller.end(nil)
		if took := time.Since(began); took != lastEvent {
			t.Errorf("the end took %v, want %v", took, lastEvent)
		}
		close(answer) // what waits is told all the same, and the log closed behind it
		<-shut
		// A full queue, and what the log had in hand: up to as many again.
		if len(said) < maxEvents || len(said) > 2*maxEvents || said[0].id != eventStarted {
			t.Errorf("%d events are told, the first %+v", len(said), said[0])
		}
	})
}

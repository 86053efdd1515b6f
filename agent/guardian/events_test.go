package guardian_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/history"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// remember gives b a history and a way to read it.
func (b *bench) remember() func() []history.Event {
	dir := filepath.Dir(b.cfg.StateFile)
	log, err := history.Open(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { log.Close() })
	b.cfg.History = log
	return func() []history.Event {
		b.t.Helper()
		synctest.Wait()
		list, err := history.Read(dir, history.Filter{})
		if err != nil {
			b.t.Fatal(err)
		}
		return list.Events
	}
}

// told gives the events as "kind code".
func told(events []history.Event) (out []string) {
	for _, e := range events {
		out = append(out, string(e.Kind)+" "+e.Code)
	}
	return out
}

func find(t *testing.T, events []history.Event, kind history.Kind, code string) history.Event {
	t.Helper()
	for _, e := range events {
		if e.Kind == kind && e.Code == code {
			return e
		}
	}
	t.Fatalf("no %s %s in %q", kind, code, told(events))
	return history.Event{}
}

func TestWhatHappensIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		b.run()
		pass(time.Minute)
		want := []string{"guardian started", "worker started", "door up", "verdict ok"}
		if got := told(events()); len(got) != len(want) || !slices.Contains(got, "verdict ok") || !slices.Contains(got, "door up") {
			t.Fatalf("after a good start: %q, want %q in some order", got, want)
		}

		b.child().be(deaf(10 * time.Second))
		pass(3 * time.Second)
		lost := find(t, events(), history.KindVerdict, string(selfcheck.CodeLinkTextLost))
		if len(lost.Evidence) == 0 || lost.Sentence == "" || lost.Severity != selfcheck.SeverityError {
			t.Fatalf("the verdict is kept as %+v", lost)
		}
		step := find(t, events(), history.KindStep, string(selfcheck.StepReconnect))
		if step.Verdict != selfcheck.CodeLinkTextLost || step.Outcome != "" {
			t.Fatalf("the step is kept as %+v", step)
		}
		s := well()
		s.Link.ID, s.Link.Ledger.Local.Link, s.Link.Ledger.Peer.Link = 8, 8, 8
		s.Link.VerifiedAge, s.Link.PhaseAge = new(time.Second), new(time.Second)
		b.child().be(s)
		pass(2 * time.Minute)
		step = find(t, events(), history.KindStep, string(selfcheck.StepReconnect))
		if !strings.HasPrefix(step.Outcome, "helped") {
			t.Fatalf("what came of the step: %q", step.Outcome)
		}

		// Across a restart nothing is told twice.
		b.end()
		b.run()
		pass(time.Minute)
		all := events()
		if n := count(all, history.KindStep, string(selfcheck.StepReconnect)); n != 1 {
			t.Errorf("one step is told %d times: %q", n, told(all))
		}
		if n := count(all, history.KindGuardian, "stops"); n != 1 {
			t.Errorf("one stop is told %d times", n)
		}
		find(t, all, history.KindWorker, "ended")
		b.end()
	})
}

func count(events []history.Event, kind history.Kind, code string) (n int) {
	for _, e := range events {
		if e.Kind == kind && e.Code == code {
			n++
		}
	}
	return n
}

func TestADeadWorkerAndAClosedDoorAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		b.run()
		pass(2 * time.Second)
		b.child().exit(errors.New("exit status 2"))
		b.door.set(func() {
			b.door.down = &oob.DoorError{Door: "https://door.test", Phase: "connection", Type: "tcp.refused", Err: errors.New("connection refused")}
		})
		pass(20 * time.Minute)
		died := find(t, events(), history.KindWorker, "died")
		if died.Detail != "exit status 2" {
			t.Errorf("how it died: %q", died.Detail)
		}
		if down := find(t, events(), history.KindDoor, "down"); !strings.Contains(down.Sentence, "refused") {
			t.Errorf("the door: %q", down.Sentence)
		}
		b.door.set(func() { b.door.down = nil })
		pass(20 * time.Minute)
		if n := count(events(), history.KindDoor, "up"); n != 2 {
			t.Errorf("the door is told to be up %d times, want 2", n)
		}
		b.end()
	})
}

func TestDirectivesAndWhatCameOfThemAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		b.run()
		pass(2 * time.Second)
		later := time.Now().Add(5 * time.Hour) // the next beacon when all is well is far
		policy := wire.DefaultPolicy()
		policy.Version = 9
		b.send(
			b.directive(wire.Directive{ExpiresAt: later, Kind: wire.DirectiveReconnect, Reason: "told to"}),
			b.directive(wire.Directive{ExpiresAt: later, Kind: wire.DirectiveUseEndpoint, Endpoint: "nowhere"}),
			b.directive(wire.Directive{ExpiresAt: later, Kind: wire.DirectiveSetPolicy, Policy: &policy}),
			b.directive(wire.Directive{ExpiresAt: later, Kind: wire.DirectiveReconnect, Agent: "another"}),
		)
		b.links(8)
		pass(3 * time.Second)
		all := events()
		if e := find(t, all, history.KindDirective, string(wire.DirectiveReconnect)); !strings.HasPrefix(e.Outcome, "done: link") || e.Sentence != "told to" {
			t.Errorf("reconnect is kept as %+v", e)
		}
		if e := find(t, all, history.KindDirective, string(wire.DirectiveUseEndpoint)); !strings.HasPrefix(e.Outcome, "refused: ") {
			t.Errorf("use_endpoint is kept as %+v", e)
		}
		if e := find(t, all, history.KindDirective, "refused"); !strings.Contains(e.Sentence, "another agent") {
			t.Errorf("another agent's is kept as %+v", e)
		}
		if e := find(t, all, history.KindPolicy, "directive"); !strings.Contains(e.Sentence, "9") {
			t.Errorf("the policy is kept as %+v", e)
		}
		if e := find(t, all, history.KindStep, string(selfcheck.StepReconnect)); !strings.HasPrefix(e.Outcome, "helped: ") {
			t.Errorf("the step is kept as %+v", e)
		}
		b.end()
	})
}

// faulty is a history on a disk that may be full, or hang.
type faulty struct {
	mu     sync.Mutex
	full   bool
	closed bool
	events []history.Event
	add    chan struct{} // nil: it does not hang
	close  chan struct{}
}

func (f *faulty) Add(e history.Event) error {
	if f.add != nil {
		<-f.add
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return errors.New("no space left on device")
	}
	f.events = append(f.events, e)
	return nil
}

func (f *faulty) Close() error {
	if f.close != nil {
		<-f.close
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *faulty) fill(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

func (f *faulty) kept() []history.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// What happens while the disk is full is told once it has room, and that without
// another event.
func TestAHistoryThatCantBeWrittenIsAFindingAndWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		h := &faulty{full: true}
		b.cfg.History = h
		ask := b.status()
		b.run()
		pass(time.Minute)
		s := ask()
		if s.Verdict.Severity != selfcheck.SeverityWell {
			t.Errorf("verdict %s", s.Verdict.Code)
		}
		if len(s.Findings) != 1 || !strings.Contains(s.Findings[0].Sentence, "no space left") {
			t.Errorf("findings %+v", s.Findings)
		}
		h.fill(false)
		pass(30 * time.Second)
		if s := ask(); len(s.Findings) != 0 {
			t.Errorf("findings %+v", s.Findings)
		}
		got := told(h.kept())
		if len(got) != 4 || got[0] != "guardian started" || !slices.Contains(got, "verdict ok") {
			t.Errorf("kept %q", got)
		}
		if err := b.end(); err != nil {
			t.Error(err)
		}
		if !h.closed {
			t.Error("the history is not closed")
		}
	})
}

// A disk that hangs is left behind at a stop, wherever it hangs.
func TestAHistoryThatHangsHoldsUpNoStop(t *testing.T) {
	for _, where := range []string{"add", "close"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			h, hang := &faulty{}, make(chan struct{})
			if where == "add" {
				h.add = hang
			} else {
				h.close = hang
			}
			b.cfg.History = h
			b.run()
			pass(10 * time.Second)
			began := time.Now()
			if err := b.end(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > guardian.StopWithin {
				t.Errorf("a stop took %v with a disk that hangs in %s, want at most %v", took, where, guardian.StopWithin)
			}
			close(hang)
			synctest.Wait()
		})
	}
}

package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"

	"gururmm/agent/guardian"
)

// played is a handler with a service manager that notes all it is told.
type played struct {
	*handler
	requests chan svc.ChangeRequest
	events   chan guardian.Event
	ended    chan struct{} // Execute has returned

	mu   sync.Mutex // of what follows
	told []svc.Status
	at   []time.Time // of told
	code *int        // the process ended with it
}

// play has a handler run run, as Windows does, in a bubble of its own. left is closed
// at the test's end.
func play(t *testing.T, run func(ctx context.Context, left <-chan struct{}) error, do func(p *played)) {
	synctest.Test(t, func(t *testing.T) {
		status, left := make(chan svc.Status), make(chan struct{})
		p := &played{requests: make(chan svc.ChangeRequest), events: make(chan guardian.Event, maxPending), ended: make(chan struct{})}
		guard := func(ctx context.Context) error { return run(ctx, left) }
		p.handler = &handler{ctx: t.Context(), run: guard, events: p.events, exit: func(code int) {
			p.mu.Lock()
			p.code = &code
			p.mu.Unlock()
			<-left // a process that has ended does no more
		}}
		var wg sync.WaitGroup
		wg.Go(func() {
			for s := range status {
				p.mu.Lock()
				p.told, p.at = append(p.told, s), append(p.at, time.Now())
				p.mu.Unlock()
			}
		})
		wg.Go(func() {
			defer close(p.ended)
			defer close(status)
			if specific, code := p.Execute(nil, p.requests, status); specific || code != 0 {
				t.Errorf("a stop ends with code %d", code)
			}
		})
		synctest.Wait()
		do(p)
		close(left)
		wg.Wait()
	})
}

// ask sends a request, which must be taken at once.
func (p *played) ask(t *testing.T, r svc.ChangeRequest) {
	t.Helper()
	select {
	case p.requests <- r:
		synctest.Wait()
	case <-time.After(time.Second):
		t.Fatalf("request %d is not taken: Windows takes the service for hung", r.Cmd)
	}
}

func (p *played) statuses() ([]svc.Status, []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told), slices.Clone(p.at)
}

// pendings holds that Windows was told of a stop under way, from began to the end, and
// each time before the last hint ran out.
func (p *played) pendings(t *testing.T, began, ended time.Time) {
	t.Helper()
	told, at := p.statuses()
	if len(told) < 3 || told[0].State != svc.StartPending || told[1].State != svc.Running || told[1].Accepts != accepts {
		t.Fatalf("told %v: want it starting, then running and taking all requests", told)
	}
	last, checkpoint := began, uint32(0)
	for i, s := range told[2:] {
		if s.State != svc.StopPending || s.CheckPoint <= checkpoint || at[i+2].Sub(last) > hint {
			t.Fatalf("told %+v %v after the one before: want a stop, one checkpoint further, within %v", s, at[i+2].Sub(last), hint)
		}
		last, checkpoint = at[i+2], s.CheckPoint
	}
	if ended.Sub(last) > hint {
		t.Errorf("nothing was told in the last %v", ended.Sub(last))
	}
}

var stops = map[string]svc.Cmd{"stop": svc.Stop, "shutdown": svc.Shutdown, "preshutdown": svc.PreShutdown}

func TestServiceDrainsAtAStop(t *testing.T) {
	const drain = 4 * time.Second
	why := errors.New("its own error")
	for name, cmd := range stops {
		t.Run(name, func(t *testing.T) {
			run := func(ctx context.Context, _ <-chan struct{}) error {
				<-ctx.Done()
				time.Sleep(drain)
				return why
			}
			play(t, run, func(p *played) {
				began := time.Now()
				p.ask(t, svc.ChangeRequest{Cmd: cmd})
				p.ask(t, svc.ChangeRequest{Cmd: svc.Shutdown}) // comes after the others
				<-p.ended
				if took := time.Since(began); took != drain {
					t.Errorf("ended after %v, want with the guardian, after %v", took, drain)
				}
				p.pendings(t, began, time.Now())
				if !errors.Is(p.err, why) || p.code != nil {
					t.Errorf("error %v, exit %v: want the guardian's, and no exit", p.err, p.code)
				}
			})
		})
	}
}

func TestServiceStopsThoughItsGuardianHangs(t *testing.T) {
	for name, cmd := range stops {
		t.Run(name, func(t *testing.T) {
			hangs := func(_ context.Context, left <-chan struct{}) error { <-left; return nil }
			play(t, hangs, func(p *played) {
				began := time.Now()
				p.ask(t, svc.ChangeRequest{Cmd: cmd})
				<-p.ended
				if took := time.Since(began); took < guardian.StopWithin || took >= controlWait {
					t.Errorf("ended after %v: a guardian may take %v, and a shutdown waits for %v", took, guardian.StopWithin, controlWait)
				}
				p.pendings(t, began, time.Now())
				// Ordered to stop, it ends stopped: no crash that Windows mends.
				if !errors.Is(p.err, errLeft) || p.code != nil {
					t.Errorf("error %v, exit %v: want %v, and no exit", p.err, p.code, errLeft)
				}
			})
		})
	}
}

func TestServiceThatEndsByItselfIsACrashToWindows(t *testing.T) {
	const well = time.Minute
	fails := func(context.Context, <-chan struct{}) error { time.Sleep(well); return guardian.ErrRestartService }
	play(t, fails, func(p *played) {
		time.Sleep(well + time.Second)
		told, _ := p.statuses()
		p.mu.Lock()
		code := p.code
		p.mu.Unlock()
		if code == nil || *code != 1 {
			t.Errorf("exit %v, want code 1", code)
		}
		if len(told) != 2 || told[1].State != svc.Running {
			t.Errorf("told %v: with a word of a stop Windows does not start it again", told)
		}
		p.ask(t, svc.ChangeRequest{Cmd: svc.Stop}) // ends the test
		<-p.ended
	})
}

func TestServiceTellsWhatBefellTheMachine(t *testing.T) {
	play(t, untilDone, func(p *played) {
		for _, c := range []struct {
			cmd  svc.Cmd
			kind uint32
			want guardian.Event // "": none
		}{
			{svc.PowerEvent, powerSuspend, guardian.EventSuspend},
			{svc.PowerEvent, powerResumeAutomatic, guardian.EventResume},
			{svc.PowerEvent, 0x7, ""}, // PBT_APMRESUMESUSPEND: somebody is there besides
			{svc.PowerEvent, 0xA, ""}, // PBT_APMPOWERSTATUSCHANGE
			{svc.SessionChange, sessionLogon, guardian.EventSession},
			{svc.SessionChange, sessionLogoff, guardian.EventSession},
			{svc.SessionChange, 0x7, ""}, // WTS_SESSION_LOCK
			{svc.ParamChange, powerSuspend, ""},
		} {
			p.ask(t, svc.ChangeRequest{Cmd: c.cmd, EventType: c.kind})
			var got guardian.Event
			select {
			case got = <-p.events:
			default:
			}
			if got != c.want {
				t.Errorf("request %d, event %#x: the guardian is told %q, want %q", c.cmd, c.kind, got, c.want)
			}
		}
		p.ask(t, svc.ChangeRequest{Cmd: svc.Stop})
		<-p.ended
	})
}

// A loop that hangs takes no events. Windows is answered all the same: else it would
// take the whole service for hung, and a machine could not be suspended.
func TestServiceAnswersThoughNobodyTakesItsEvents(t *testing.T) {
	play(t, untilDone, func(p *played) {
		for range 3 * maxPending {
			p.ask(t, svc.ChangeRequest{Cmd: svc.PowerEvent, EventType: powerSuspend})
		}
		now := svc.Status{State: svc.Running, Accepts: accepts}
		p.ask(t, svc.ChangeRequest{Cmd: svc.Interrogate, CurrentStatus: now})
		told, at := p.statuses()
		if last := len(told) - 1; last != 2 || told[last] != now || time.Since(at[last]) > 0 {
			t.Errorf("told %v, want at last and at once: %v", told, now)
		}
		if len(p.events) != maxPending {
			t.Errorf("%d events wait, want %d", len(p.events), maxPending)
		}
		p.ask(t, svc.ChangeRequest{Cmd: svc.Stop})
		<-p.ended
	})
}

func untilDone(ctx context.Context, _ <-chan struct{}) error {
	<-ctx.Done()
	return nil
}

// Only who may have been started by the service manager asks it: the launcher, or a
// program by hand.
func TestProgramOfALauncherDoesNotAskTheServiceManager(t *testing.T) {
	for name, tt := range map[string]struct {
		installed string
		asks      bool
	}{
		"first": {"", true}, "of a launcher": {`v1.0.0 C:\agent.exe`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envInstalled, tt.installed)
			asked, ran := false, false
			err := new(Setup).runService(t.Context(), func(context.Context) error { ran = true; return nil }, func(string, svc.Handler) error {
				asked = true
				return windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT
			})
			if err != nil || !ran || asked != tt.asks {
				t.Errorf("asked: %v, ran: %v: %v", asked, ran, err)
			}
		})
	}
}

// What is judged on every platform has Windows' own numbers.
func TestNumbersOfTheServiceManager(t *testing.T) {
	if scmRunning != svc.Running || scmStarting != svc.StartPending || scmAutomatic != mgr.StartAutomatic {
		t.Error("these are not those of <winsvc.h>")
	}
	for state, want := range map[svc.State]string{svc.Stopped: "stopped", svc.StopPending: "stopping", svc.ContinuePending: "continuing", svc.PausePending: "pausing", svc.Paused: "paused"} {
		if got := scmStates[uint32(state)]; got != want {
			t.Errorf("state %d is %q, want %q", state, got, want)
		}
	}
}

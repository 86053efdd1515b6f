package guardian_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// orders counts the orders that fit.
func orders(c *child, fit func(pipe.Order) bool) int {
	n := 0
	for _, o := range c.got() {
		if fit(o) {
			n++
		}
	}
	return n
}

func TestBeaconsOnChangeOfVerdictAndOnSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(time.Minute)
		if got := b.door.causes(); !slices.Equal(got, []string{"start"}) {
			t.Fatalf("a minute after a good start: beacons %q, want the one of the start", got)
		}
		pass(17 * time.Minute)
		if got := b.door.causes(); !slices.Equal(got, []string{"start", "schedule"}) {
			t.Fatalf("well for 18 minutes: beacons %q, want one on schedule", got)
		}

		b.child().be(deaf(10 * time.Second))
		pass(3 * time.Second)
		if r := b.door.last(); r.Cause != "verdict" || r.Verdict.Code != selfcheck.CodeLinkTextLost {
			t.Fatalf("after the loss: beacon %s with %s, want verdict link.text.lost", r.Cause, r.Verdict.Code)
		}
		n := len(b.door.causes())
		pass(2 * time.Minute)
		if got := b.door.causes()[n:]; len(got) < 3 || len(got) > 6 {
			t.Fatalf("ill for two minutes: beacons %q, want about four", got)
		}

		s := well()
		s.Link.ID, s.Link.Ledger.Local.Link, s.Link.Ledger.Peer.Link = 8, 8, 8
		b.child().be(s)
		pass(3 * time.Second)
		if r := b.door.last(); r.Cause != "verdict" || r.Verdict.Severity != selfcheck.SeverityWell {
			t.Fatalf("after recovery: beacon %s with %s, want verdict ok", r.Cause, r.Verdict.Code)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		if r := b.door.last(); r.Cause != "stop" {
			t.Fatalf("last beacon %s, want stop", r.Cause)
		}
	})
}

func TestReportsWaitInTheSpoolUntilADoorAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.door.down = &oob.DoorError{Door: "https://door.test", Phase: "connection", Type: "tcp.refused", Err: errors.New("connection refused")}
		b.start = deaf(10 * time.Second)
		b.run()
		pass(2 * time.Minute)
		waiting := b.spool.Len()
		if waiting < 4 {
			t.Fatalf("%d reports wait after two minutes of trouble, want at least 4", waiting)
		}
		b.door.set(func() { b.door.down = nil })
		pass(time.Minute)
		if b.spool.Len() != 0 {
			t.Fatalf("%d reports still wait, the door answers", b.spool.Len())
		}
		for i, r := range b.door.reports[1:] {
			if r.At.Before(b.door.reports[i].At) {
				t.Fatal("reports did not arrive oldest first")
			}
		}
		b.end()
	})
}

func TestOutOfBandDeliveryIsEnteredServedAndLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(2 * time.Second)
		b.child().be(deaf(10 * time.Second))
		pass(30 * time.Second)
		c := b.child()
		if orders(c, func(o pipe.Order) bool { return o.Reconnect != nil }) == 0 {
			t.Fatal("a proven loss was not answered by a reconnect")
		}
		if orders(c, func(o pipe.Order) bool { return o.OOB != nil && *o.OOB }) != 1 {
			t.Fatal("the worker was not told once that its link is not trusted")
		}
		delivering := 0
		for _, p := range b.door.polled() {
			if p.Deliver && p.WaitMS == b.cfg.Policy.PollMS {
				delivering++
			}
		}
		if delivering == 0 {
			t.Fatal("nobody polls for commands")
		}

		command := wire.Envelope{Type: wire.TypeCommand, Payload: []byte(`{"id":"c1"}`)}
		b.send(command)
		if orders(c, func(o pipe.Order) bool { return len(o.Deliver) == 1 && o.Deliver[0].Type == wire.TypeCommand }) != 1 {
			t.Fatal("the command did not reach the worker")
		}
		ack, err := wire.Seal(wire.TypeCommandAck, wire.CommandAck{ID: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		c.say(pipe.Fact{Upstream: []wire.Envelope{ack}})
		pass(100 * time.Millisecond)
		if len(b.door.up) != 1 || b.door.up[0].Type != wire.TypeCommandAck {
			t.Fatalf("upstream %+v, want the ack, while the long poll hangs", b.door.up)
		}

		s := well()
		s.Link.ID, s.Link.Ledger.Local.Link, s.Link.Ledger.Peer.Link = 9, 9, 9
		c.be(s)
		pass(3 * time.Minute)
		if orders(c, func(o pipe.Order) bool { return o.OOB != nil && !*o.OOB }) != 1 {
			t.Fatal("the worker was not told that its link is trusted again")
		}
		n := len(b.door.polled())
		pass(10 * time.Minute)
		if len(b.door.polled()) > n {
			t.Fatal("polling went on after the release")
		}
		b.end()
	})
}

func TestFrozenWorkerIsJudgedHungAndStatusAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := b.status()
		b.run()
		pass(2 * time.Second)
		first := b.child()
		close(first.frozen)
		// More orders than its pipe or the queue would take: nothing may wait for it.
		b.door.set(func() {
			for range 2000 {
				b.door.next = append(b.door.next, wire.Envelope{Type: wire.TypeCommand, Payload: bytes.Repeat([]byte("1"), 9000)})
			}
		})
		pass(selfcheck.ReportMissed + time.Second)
		if st := ask(); st.Verdict.Code != selfcheck.CodeAgentHung || !st.Verdict.Suspected || st.Snapshot.Worker.PID != first.pid ||
			!strings.Contains(st.Verdict.Sentence, fmt.Sprintf("has not reported for %d.", int(selfcheck.ReportMissed.Seconds())+1)) {
			t.Fatalf("status after a report was missed: %s (suspected %v) of worker %d: %s", st.Verdict.Code, st.Verdict.Suspected, st.Snapshot.Worker.PID, st.Verdict.Sentence)
		}
		pass(2 * time.Second) // it was asked
		if got := b.spawned(); got != 2 {
			t.Fatalf("%d workers were started, want a second one at once", got)
		}
		if !errors.Is(first.err, errKilled) {
			t.Fatalf("the frozen worker ended by %v, want killed", first.err)
		}
		pass(2 * time.Second)
		st := ask()
		if st.Verdict.Severity != selfcheck.SeverityWell || len(st.Steps) == 0 || st.Steps[0].Kind != selfcheck.StepRestartWorker {
			t.Fatalf("after the restart: %s, steps %+v", st.Verdict.Code, st.Steps)
		}
		if st.Snapshot.Worker.Exits != 0 {
			t.Fatal("an ordered end was counted as a crash")
		}
		b.end()
	})
}

// A worker that reports and writes garbage beside it is borne a while, then ended; one
// that writes nothing else is silent, as far as facts go.
func TestAWorkerThatWritesGarbageIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		reports bool
		lines   int // a second
		within  time.Duration
	}{
		"beside its reports": {true, 300, 6 * time.Second},
		"and nothing else":   {false, 5, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				ask := b.status()
				b.run()
				pass(2 * time.Second)
				mad := b.child()
				mad.silent.Store(!c.reports)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for i := 0; ; i++ {
						select {
						case <-mad.gone:
							return
						case <-time.After(time.Second / time.Duration(c.lines)):
						}
						line := []string{"\x00\xff\xfe\n", "[1,2]\n", "{\"snapshot\":7}\n", "{\"worker\n"}[i%4]
						if _, err := io.WriteString(mad.out, line); err != nil {
							return
						}
					}
				}()
				pass(time.Second)
				if st := ask(); c.reports && st.Verdict.Severity != selfcheck.SeverityWell {
					t.Errorf("a few lines of garbage: %s", st.Verdict.Code)
				}
				pass(c.within)
				<-ended
				if got := b.spawned(); got != 2 {
					t.Fatalf("%d workers after %v of garbage, want a second one", got, c.within)
				}
				pass(5 * time.Second)
				if st := ask(); st.Verdict.Severity != selfcheck.SeverityWell || st.Snapshot.Worker.PID == mad.pid {
					t.Errorf("afterwards: %s of worker %d", st.Verdict.Code, st.Snapshot.Worker.PID)
				}
				b.end()
			})
		})
	}
}

// Reports that come on time hide no loop that stands still: it is started afresh, and
// where the fresh one stands too, the worker is.
func TestReportsHideNoLoopThatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := b.status()
		b.run()
		pass(2 * time.Second)
		first := b.child()
		began := time.Now()
		stuck := make(chan struct{})
		go func() {
			defer close(stuck)
			for {
				s := well()
				s.Loops = map[string]selfcheck.LoopFacts{"reader": {}, "dispatcher": {Pending: new(time.Since(began))}}
				first.be(s)
				select {
				case <-first.gone:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}()
		afresh := func() int {
			return orders(first, func(o pipe.Order) bool { return o.RestartStage == "dispatcher" })
		}
		pass(8 * time.Second)
		if st := ask(); st.Verdict.Code != selfcheck.CodeAgentStalled+".dispatcher" || afresh() != 1 || b.spawned() != 1 {
			t.Fatalf("%s, %d restarts of the loop, %d workers; want one restart of the loop", st.Verdict.Code, afresh(), b.spawned())
		}
		first.say(pipe.Fact{Stage: &pipe.StageFact{Stage: "dispatcher", Restarted: true}})
		pass(8 * time.Second)
		<-stuck
		if b.spawned() != 2 || afresh() != 1 || !errors.Is(first.err, errKilled) {
			t.Fatalf("%d workers, %d restarts of the loop, the first ended by %v; want the worker started afresh", b.spawned(), afresh(), first.err)
		}
		b.end()
	})
}

// The sentence and the table below it are of one moment.
func TestStatusIsJudgedAsOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := b.status()
		b.run()
		pass(2*time.Second + 700*time.Millisecond)
		s := ask()
		want := fmt.Sprintf("the last text came %.1f s ago", s.Snapshot.Link.In.TextAge.Seconds())
		if !strings.Contains(s.Verdict.Sentence, want) {
			t.Errorf("%q beside a table that says: %s", s.Verdict.Sentence, want)
		}
		b.end()
	})
}

func TestCrashLoopIsSpreadJudgedAndNeverGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		boom := errors.New("exit status 2")
		b.dies = func(int) error { return boom }
		b.run()
		pass(10 * time.Minute)
		n := b.spawned()
		if n < 10 || n > 60 {
			t.Fatalf("%d starts in ten minutes, want them spread up to a minute", n)
		}
		if r := b.door.last(); r.Verdict.Code != selfcheck.CodeAgentCrashloop {
			t.Fatalf("beaconed %s, want agent.crashloop", r.Verdict.Code)
		}
		polls := 0
		for _, p := range b.door.polled() {
			if p.Deliver {
				t.Fatal("commands were asked for without a worker")
			}
			polls++
		}
		if polls == 0 {
			t.Fatal("the second door was not asked for directives")
		}
		pass(time.Hour)
		if b.spawned() <= n {
			t.Fatal("the worker was given up")
		}
		b.mu.Lock()
		b.dies = nil
		b.mu.Unlock()
		pass(3 * time.Minute)
		if b.child().err != nil {
			t.Fatal("the worker that can live does not run")
		}
		b.end()
	})
}

func TestServiceIsRestartedOnlyUnderAServiceManager(t *testing.T) {
	for _, service := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.cfg.Service = service
			b.run()
			pass(2 * time.Second)
			b.door.set(func() {
				b.door.next = []wire.Envelope{b.directive(wire.Directive{Kind: wire.DirectiveRestartService, ExpiresAt: time.Now().Add(time.Hour)})}
			})
			pass(18 * time.Minute)
			if !service {
				if b.spawned() != 2 {
					t.Fatalf("%d workers, want a fresh one in place of the service", b.spawned())
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err := <-b.done; !errors.Is(err, guardian.ErrRestartService) {
				t.Fatalf("Run gave %v, want ErrRestartService", err)
			}
			if !strings.Contains(string(b.stateFile()["directives"]), "-") {
				t.Fatal("the directive is not remembered: its replay would restart for ever")
			}
		})
	}
}

// A guardian without file descriptors has neither a worker, nor a door, nor a socket:
// only another process helps, where somebody starts one.
func TestAGuardianOutOfDescriptorsIsStartedAfresh(t *testing.T) {
	for _, tt := range []struct {
		why     error
		service bool
		fresh   bool
	}{{syscall.EMFILE, true, true}, {syscall.EMFILE, false, false}, {syscall.ENFILE, true, false}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.cfg.Service = tt.service
			var tries atomic.Int64
			b.cfg.Spawn = func(context.Context) (guardian.Child, error) {
				tries.Add(1)
				return guardian.Child{}, fmt.Errorf("start worker: pipe2: %w", tt.why)
			}
			b.run()
			pass(10 * time.Minute)
			select {
			case err := <-b.done:
				if !tt.fresh || !errors.Is(err, guardian.ErrRestartService) || tries.Load() < 3 {
					t.Errorf("%+v: ended after %d starts with %v", tt, tries.Load(), err)
				}
			default:
				if tt.fresh {
					t.Errorf("%+v: it goes on after %d starts", tt, tries.Load())
				}
				b.end()
			}
		})
	}
}

func TestLadderStateSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start = deaf(10 * time.Second)
		ask := b.status()
		b.run()
		pass(time.Minute)
		before := ask()
		if before.Budgets.Reconnects >= b.cfg.Policy.ReconnectsPerHour {
			t.Fatalf("budget %+v: nothing was spent", before.Budgets)
		}
		if !before.Snapshot.OOB.Delivering {
			t.Fatal("not delivering out of band after a minute of deafness")
		}
		b.end()

		ask = b.status()
		b.run()
		pass(5 * time.Second)
		after := ask()
		if after.Budgets.Reconnects > before.Budgets.Reconnects {
			t.Fatalf("budget %d after the restart, %d before: a restart must not refill it", after.Budgets.Reconnects, before.Budgets.Reconnects)
		}
		b.end()
	})
}

func TestUnusableStateIsSetAsideAndSaid(t *testing.T) {
	setAsideAndSaid(t, func(path string) error { return os.WriteFile(path, []byte(`{"ladder":`), 0o600) })
}

func setAsideAndSaid(t *testing.T, put func(path string) error) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if err := put(b.cfg.StateFile); err != nil {
			t.Fatal(err)
		}
		ask := b.status()
		b.run()
		pass(2 * time.Second)
		st := ask()
		if len(st.Findings) == 0 || st.Findings[0].Code != selfcheck.FindQuarantined {
			t.Fatalf("findings %+v, want state.quarantined", st.Findings)
		}
		b.end()
		kept, err := os.ReadDir(filepath.Dir(b.cfg.StateFile))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range kept {
			if strings.Contains(f.Name(), ".corrupt-") {
				return
			}
		}
		t.Fatal("the unusable file was not kept")
	})
}

func TestRejectedEndpointLeavesTheServerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		asked := 0
		b.cfg.Door = &refusing{door: b.door, asked: &asked}
		ask := b.status()
		b.start = deaf(10 * time.Second)
		b.run()
		pass(10 * time.Minute)
		if asked > 6 {
			t.Fatalf("asked %d times in ten minutes after a 401", asked)
		}
		if st := ask(); !strings.Contains(st.Next.What, "does not accept") {
			t.Fatalf("next step %q does not say that the server refuses us", st.Next.What)
		}
		b.end()
	})
}

func TestClockOffsetIsToldToTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.door.offset = new(90 * time.Minute)
		b.run()
		pass(2 * time.Second)
		if orders(b.child(), func(o pipe.Order) bool { return o.OffsetNS != nil && *o.OffsetNS == (90*time.Minute).Nanoseconds() }) != 1 {
			t.Fatal("the worker was not told the server's clock once")
		}
		if at := b.door.last().At; time.Until(at) < 89*time.Minute {
			t.Fatalf("beacon at %v: not corrected to the server's clock", at)
		}
		b.end()
	})
}

func TestEachTurnIsToldByTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var turns []guardian.Turn // the loop's until it ended
		b.cfg.Notify = func(turn guardian.Turn) { turns = append(turns, turn) }
		b.run()
		pass(time.Minute)
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		for i := len(turns) - 1; i >= 0; i-- {
			if gap := last.Sub(turns[i].At); gap > guardian.MaxTurn {
				t.Errorf("%v between two turns, want at most %v", gap, guardian.MaxTurn)
			}
			last = turns[i].At
		}
		end := turns[len(turns)-1]
		if mid := turns[len(turns)/2]; mid.Mode != local.ModeGuarding || mid.Verdict.Severity != selfcheck.SeverityWell {
			t.Errorf("told %s with %q, want guarding and well", mid.Mode, mid.Verdict.Code)
		}
		if end.Mode != local.ModeStopping {
			t.Errorf("told %s at the end, want stopping", end.Mode)
		}
	})
}

// A worker that could not report because the machine slept is not blamed for it.
// The silence of a worker counts from the moment at which the machine went on; one that is
// silent from then on as well hangs all the same.
func TestResumeExcusesTheSilenceBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := make(chan guardian.Event)
		b.cfg.Events = events
		b.run()
		pass(time.Minute)
		close(b.child().frozen)
		pass(selfcheck.ReportMissed)
		events <- guardian.EventResume
		pass(selfcheck.ReportMissed)
		if b.spawned() != 1 {
			t.Error("the worker was ended for what it could not report in a sleep")
		}
		pass(selfcheck.ReportMissed)
		if b.spawned() != 2 {
			t.Errorf("%d workers: one that hangs after a resume is let be", b.spawned())
		}
		b.end()
	})
}

// Workers that hang one like the other: once their restarts are spent the service is ended
// uncleanly, by the ladder itself and remembered for the next guardian.
func TestWorkersThatAllHangEndTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Service = true
		b.run()
		for b.spawned() <= b.cfg.Policy.RestartsPerHour {
			n := b.spawned()
			pass(2 * time.Second)
			close(b.child().frozen)
			for limit := time.Now().Add(time.Hour); b.spawned() == n; pass(time.Second) {
				if time.Now().After(limit) {
					t.Fatalf("hung worker %d was not replaced within an hour", n)
				}
			}
		}
		pass(2 * time.Second)
		close(b.child().frozen)
		select {
		case err := <-b.done:
			if !errors.Is(err, guardian.ErrRestartService) {
				t.Fatalf("Run gave %v, want ErrRestartService", err)
			}
		case <-time.After(time.Hour):
			t.Fatal("the service was not ended within an hour")
		}
		if ladder := string(b.stateFile()["ladder"]); !strings.Contains(ladder, string(selfcheck.StepRestartService)) {
			t.Errorf("the next guardian is not told of the step: %s", ladder)
		}
	})
}

func TestResumePingsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := make(chan guardian.Event)
		b.cfg.Events = events
		b.run()
		pass(time.Minute)
		c := b.child()
		pings := func() int { return orders(c, func(o pipe.Order) bool { return o.Ping }) }
		before := pings()
		events <- guardian.EventSuspend
		events <- guardian.EventResume
		events <- guardian.EventSession
		pass(time.Second)
		if got := pings() - before; got != 2 {
			t.Errorf("%d pings after a resume and a logon, want one each", got)
		}
		if b.spawned() != 1 {
			t.Error("the worker was started again")
		}
		b.end()
	})
}

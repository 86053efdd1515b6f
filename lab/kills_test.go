//go:build unix

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// sleeper orders a command that runs until gate exists, and tells its shell's
// process and that of a child in a session of its own.
type sleeper struct {
	*order
	pids string // file
	gate string // file
}

func (s *scene) sleeper() sleeper {
	s.t.Helper()
	sl := sleeper{pids: filepath.Join(s.Dir, fmt.Sprintf("pids-%d", len(s.orders)))}
	sl.gate = sl.pids + "-gate"
	sl.order = s.submit(fmt.Sprintf(
		`sleep 600 & echo $$ $! > '%[1]s.new' && mv '%[1]s.new' '%[1]s'
while [ ! -e '%[2]s' ]; do sleep 0.1; done
kill $!`, sl.pids, sl.gate))
	s.eventually("the command to run", func() (bool, error) {
		_, err := os.Stat(sl.pids)
		return err == nil, err
	})
	return sl
}

func (s *scene) open(sl sleeper) {
	s.t.Helper()
	if err := os.WriteFile(sl.gate, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// gone waits until no process of the command lives.
func (s *scene) gone(sl sleeper) {
	s.t.Helper()
	raw, err := os.ReadFile(sl.pids)
	if err != nil {
		s.t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(raw)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			s.t.Fatal(err)
		}
		s.eventually("the end of the command's process "+word, func() (bool, error) {
			return !alive(pid), fmt.Errorf("%d lives", pid)
		})
	}
}

// alive tells whether pid runs; a zombie does not.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// interrupted waits until the server knows that the command was cut off, once begun.
func (s *scene) interrupted(sl sleeper) {
	s.t.Helper()
	if c := s.ended(sl.order); c.State != wire.StateInterrupted || c.Reason == "" {
		s.t.Errorf("command is %s (%q), want interrupted and why", c.State, c.Reason)
	}
	s.once(sl.order)
}

func TestWorkerKilled(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next := s.submit("")
	s.interrupted(running)
	s.gone(running)
	s.completed(next)
	s.verified()
	s.allOnce()
}

func TestGuardianKilled(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	worker, err := s.agent.WorkerPID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.agent.Guardian().KillAlone()
	s.eventually("the worker to end without its guardian", func() (bool, error) {
		return !alive(worker), fmt.Errorf("process %d lives", worker)
	})
	s.gone(running)
	next := s.submit("")
	if err := s.agent.Start(); err != nil { // as a service manager would
		t.Fatal(err)
	}
	s.interrupted(running)
	s.completed(next)
	s.verified()
	s.allOnce()
}

// TestServerKilled: what runs goes on, what was accepted is kept, and the
// result comes once the server is back.
func TestServerKilled(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	accepted := s.submit("")
	s.Server().KillAlone()
	s.open(running)
	s.eventually("the command to end while there is no server", func() (bool, error) {
		return !alive(s.shellOf(running)), nil
	})
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.completed(running.order)
	s.completed(accepted)
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
}

func (s *scene) shellOf(sl sleeper) int {
	s.t.Helper()
	raw, err := os.ReadFile(sl.pids)
	if err != nil {
		s.t.Fatal(err)
	}
	word, _, _ := strings.Cut(string(raw), " ")
	pid, err := strconv.Atoi(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// TestServerRestartsInOrder: a drain loses nothing and is no fault.
func TestServerRestartsInOrder(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	if err := s.Server().Stop(); err != nil {
		t.Errorf("the server did not end well: %v", err)
	}
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.open(running)
	s.completed(running.order)
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
}

// TestAgentStopsInOrder: SIGTERM ends the whole tree; a running command is
// reported once the agent is back.
func TestAgentStopsInOrder(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	worker, err := s.agent.WorkerPID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.agent.Guardian().Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.agent.Guardian().Done():
	case <-time.After(patience):
		t.Fatal("the agent did not end")
	}
	if err := s.agent.Guardian().Err(); err != nil {
		t.Errorf("the agent did not end well: %v", err)
	}
	if alive(worker) {
		t.Errorf("the worker outlived its guardian")
	}
	s.gone(running)
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	s.interrupted(running)
	s.completed(s.submit(""))
	s.allOnce()
}

// seenFact gives what the report's verdict says of one fact; it must contain part.
func (s *scene) seenFact(b operator.Beacon, fact, part string) string {
	s.t.Helper()
	var r oob.Report
	if err := json.Unmarshal(b.Report, &r); err != nil {
		s.t.Fatal(err)
	}
	for _, e := range r.Verdict.Evidence {
		if e.Fact == fact {
			if !strings.Contains(e.Seen, part) {
				s.t.Errorf("%s: %s is %q, want %q in it", b.Verdict, fact, e.Seen, part)
			}
			return e.Seen
		}
	}
	s.t.Errorf("%s: no evidence %s in %+v", b.Verdict, fact, r.Verdict.Evidence)
	return ""
}

// quick asks for the status now, and logs how long the answers took.
func (s *scene) quick() {
	s.t.Helper()
	var took []time.Duration
	for range 20 {
		began := time.Now()
		s.status()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	s.t.Logf("status of a frozen worker: %v in the median, %v at worst (with the race detector)", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > time.Second { // aimed at: 50 ms on a machine at rest
		s.t.Errorf("the guardian took %v to answer", took[len(took)/2])
	}
}

// TestWorkerFrozen: a stopped process can't answer; its guardian answers for it and starts another.
func TestWorkerFrozen(t *testing.T) {
	s := newScene(t)
	s.completed(s.submit(""))
	since := time.Now()
	frozen, err := s.agent.SignalWorker(t.Context(), syscall.SIGSTOP)
	if err != nil {
		t.Fatal(err)
	}
	if st := s.status(); st.Worker.PID != frozen {
		t.Errorf("status tells of worker %d, frozen is %d", st.Worker.PID, frozen)
	}
	s.quick()
	waiting := s.submit("")
	report := s.beacon(since, selfcheck.CodeAgentHung)
	if runtime.GOOS == "linux" { // elsewhere nothing tells of another process
		s.seenFact(report, "worker.kernel_state", "stopped")
		if n := s.seenFact(report, "worker.unread", "bytes"); strings.HasPrefix(n, "0 ") {
			t.Error("the kernel holds nothing for a worker that does not read a command")
		}
	}
	s.completed(waiting)
	s.eventually("another worker", func() (bool, error) {
		pid, err := s.agent.WorkerPID(t.Context())
		return err == nil && pid != frozen, err
	})
	if alive(frozen) {
		t.Errorf("the frozen worker %d still lives", frozen)
	}
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
}

// TestCancelReachesTheTree: also while the link is deaf.
func TestCancelReachesTheTree(t *testing.T) {
	for _, path := range []string{"whole", "broken"} {
		t.Run(path, func(t *testing.T) {
			s := newScene(t)
			running := s.sleeper()
			if path == "broken" {
				s.order("down drop-text")
			}
			if _, err := s.Client().Cancel(t.Context(), running.id); err != nil {
				t.Fatal(err)
			}
			if c := s.ended(running.order); c.State != wire.StateCancelled {
				t.Errorf("command is %s: %s", c.State, c.Reason)
			}
			s.gone(running)
			s.allOnce()
		})
	}
}

// TestClonedMachine: two machines with one identity both stay visible, commands
// wait for neither of them by guess, and go on when one is left.
func TestClonedMachine(t *testing.T) {
	s := newScene(t)
	clone, err := s.agent.Clone("clone")
	if err != nil {
		t.Fatal(err)
	}
	clone.Env = []string{"GURURMM_BOOT_ID=11111111-2222-3333-4444-555555555555", "GURURMM_FINGERPRINT=" + strings.Repeat("ab", 32)}
	if err := clone.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("both machines to be seen", func() (bool, error) {
		a, err := s.Client().Agent(t.Context(), s.agent.ID)
		if err != nil {
			return false, err
		}
		return len(a.Links) == 2 && a.Verdict == string(selfcheck.CodeRouteDuplicate),
			fmt.Errorf("%d links, presence %s, verdict %q", len(a.Links), a.Presence, a.Verdict)
	})
	waiting := s.submit("")
	s.eventually("to be told why the command waits", func() (bool, error) {
		trace, err := s.Client().Trace(t.Context(), waiting.id)
		return err == nil && trace.Command.State == wire.StatePending && trace.Stopped != "", err
	})
	if waiting.lines() != 0 {
		t.Error("the command went to one of two by guess")
	}
	clone.Guardian().Kill()
	s.completed(waiting)
	s.verified()
	s.allOnce()
}

// TestStalls breaks one loop inside a program at a time, by its seam.
func TestStalls(t *testing.T) {
	for _, c := range []struct {
		label   string
		verdict selfcheck.Code
		adapt   func(*harness.Options)
		shown   bool // the verdict is told of for a minute after
	}{
		{label: "worker.dispatcher", verdict: selfcheck.CodeAgentStalled + ".dispatcher"},
		{label: "worker.reader", verdict: selfcheck.CodeAgentStalled + ".reader"},
		{label: "worker.writer", verdict: selfcheck.CodeAgentStalled + ".writer"},
		{label: "worker.executor", verdict: selfcheck.CodeAgentStalled + ".executor"},
		{label: "worker.deadlock", verdict: selfcheck.CodeAgentHung},
		{label: "server.writer", verdict: selfcheck.CodeRouteUnwritten},
		// A text that comes may be what was owed: only a link without heartbeats for a while is proven stale.
		{label: "delivery.skip", verdict: selfcheck.CodeRouteStale, adapt: func(o *harness.Options) { o.Policy.HeartbeatMS, o.Policy.MetricsMS = 30_000, 30_000 }},
		{label: "hub.garble", verdict: selfcheck.CodeAgentDecode, shown: true},
	} {
		t.Run(c.label, func(t *testing.T) {
			s := newScene(t, c.adapt)
			s.completed(s.submit(""))
			since := time.Now()
			s.fault(c.label, true)
			during := []*order{s.submit(""), s.submit("")}
			s.beacon(since, c.verdict)
			s.fault(c.label, false)
			for _, o := range during {
				s.completed(o)
			}
			if !c.shown {
				s.verified()
			}
			s.completed(s.submit(""))
			s.allOnce()
		})
	}
}

// TestWrongClock: an endpoint a day off works by both doors, and says so.
func TestWrongClock(t *testing.T) {
	for _, offset := range []time.Duration{-26 * time.Hour, 26 * time.Hour} {
		t.Run(offset.String(), func(t *testing.T) {
			s := newScene(t, func(o *harness.Options) { o.AgentEnv = append(o.AgentEnv, "GURURMM_CLOCK_OFFSET="+offset.String()) })
			s.completed(s.submit(""))
			s.finding(selfcheck.FindClockSkew)
			s.eventually("the server to know the endpoint's clock", func() (bool, error) {
				a, err := s.Client().Agent(t.Context(), s.agent.ID)
				if err != nil || a.ClockSkew == nil {
					return false, err
				}
				off := time.Duration(*a.ClockSkew)*time.Millisecond + offset
				return off.Abs() < time.Minute, fmt.Errorf("skew of %d ms told", *a.ClockSkew)
			})
			s.order("down drop-text")
			rescued := s.submit("")
			if c := s.completed(rescued); c.Channel != wire.ChannelOOB {
				t.Errorf("the command came by %s", c.Channel)
			}
			s.timely(rescued)
			s.order("clear")
			s.verified()
			s.completed(s.submit(""))
			s.allOnce()
		})
	}
}

// timely checks that all stages, of both ends, are told in the server's time.
func (s *scene) timely(o *order) {
	s.t.Helper()
	trace, err := s.Client().Trace(s.t.Context(), o.id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range trace.Entries {
		if time.Since(e.At).Abs() > 2*patience {
			s.t.Errorf("stage %s of %s is told as %s", e.Stage, e.End, e.At)
		}
	}
}

// TestServerAbsentAtStart: an agent that finds nobody keeps trying and says why.
func TestServerAbsentAtStart(t *testing.T) {
	s := newScene(t)
	s.Server().KillAlone()
	s.agent.Guardian().Kill()
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the status to say why", func() (bool, error) {
		st, err := s.agent.Status(t.Context())
		if err != nil {
			return false, err
		}
		v := st.Verdict
		return v.Code == selfcheck.CodeLinkHandshake && st.Snapshot.Link.Failure != nil && st.Snapshot.Link.Failure.Type != "",
			fmt.Errorf("verdict %s, failure %+v", v.Code, st.Snapshot.Link.Failure)
	})
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
}

//go:build unix

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/agent/local"
	"gururmm/internal/fault"
	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// What an endpoint owes whoever waits at it, from the moment a part of its worker
// stands still: to be told, and to be served again, on a path that is well.
const (
	judgedWithin = 10 * time.Second
	servedWithin = 20 * time.Second
)

// hang is one way for a worker to stand still.
type hang struct {
	name    string
	verdict selfcheck.Code
	first   selfcheck.StepKind // on the ladder
	stack   string             // of what stands, to be in the evidence; "": nothing could tell
	unread  string             // the fact that tells what the kernel holds for it; "": none need
	strike  func(s *scene) time.Time
	adapt   func(*harness.Options)
	over    func(s *scene) // once it is judged, where a new worker would be struck too
}

func hangs() []hang {
	stalled := func(loop string, first selfcheck.StepKind, stack string) hang {
		return hang{name: loop, verdict: selfcheck.CodeAgentStalled + "." + selfcheck.Code(loop), first: first, stack: stack,
			strike: func(s *scene) time.Time { return s.strike("worker." + loop) }}
	}
	stage, worker := selfcheck.StepRestartStage, selfcheck.StepRestartWorker
	reader := stalled("reader", stage, "link.(*Session).read")
	reader.unread = "link.tcp.unread"
	// As by default, the link outlives the grace of its reader: the kernel is asked about it.
	reader.adapt = func(o *harness.Options) { o.Policy.DeadMS = wire.DefaultPolicy().DeadMS }
	return []hang{
		{name: "frozen", verdict: selfcheck.CodeAgentHung, first: worker, unread: "worker.unread", strike: func(s *scene) time.Time {
			if _, err := s.agent.SignalWorker(s.t.Context(), syscall.SIGSTOP); err != nil {
				s.t.Fatal(err)
			}
			return time.Now()
		}},
		{name: "deadlock", verdict: selfcheck.CodeAgentHung, first: worker,
			strike: func(s *scene) time.Time { s.fault("worker.deadlock", true); return time.Now() },
			over:   func(s *scene) { s.fault("worker.deadlock", false) }},
		{name: "facts", verdict: selfcheck.CodeAgentHung, first: worker,
			strike: func(s *scene) time.Time { return s.strike("worker.facts") }},
		{name: "reporter", verdict: selfcheck.CodeAgentHung, first: worker, stack: "worker.(*worker).report",
			strike: func(s *scene) time.Time { return s.strike("worker.reporter") }},
		reader,
		stalled("writer", stage, "session.(*Conn).write"),
		stalled("dispatcher", stage, "worker.(*worker).dispatch"),
		stalled("executor", stage, "task.(*Executor).loop"),
		stalled("metrics", stage, "worker.(*worker).measure"),
		stalled("orders", worker, ""), // the loop that would be asked for the stacks
		stalled("monitor", worker, "worker.(*worker).monitor"),
	}
}

// strike makes one goroutine hang for good where label is, and gives the moment.
func (s *scene) strike(label string) time.Time {
	s.t.Helper()
	path := filepath.Join(s.Faults(), label)
	if err := os.WriteFile(path, []byte(fault.Once), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("a goroutine to hang at "+label, func() (bool, error) {
		if label == "worker.orders" { // it reads only what it is sent
			_, _ = local.NewClient(local.SocketPath(s.agent.Dir, false)).Frames(s.t.Context())
		}
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist), fmt.Errorf("nothing came by")
	})
	return time.Now()
}

// TestHangs: whatever stands still in a worker is judged, named with proof, and
// started afresh, no higher up than it takes; commands go on, each once.
func TestHangs(t *testing.T) {
	for _, h := range hangs() {
		t.Run(h.name, func(t *testing.T) {
			s := newScene(t, h.adapt)
			s.completed(s.submit(""))
			running := s.sleeper()
			since := time.Now()
			struck := h.strike(s)
			during := s.submit("")

			step := s.step(since, func(r selfcheck.StepRecord) bool { return r.Verdict == h.verdict })
			if step.Kind != h.first {
				t.Errorf("the first step is %s, want %s: %s", step.Kind, h.first, step.Reason)
			}
			judged := step.At.Sub(struck)
			if h.over != nil {
				h.over(s)
			}
			helped := s.step(since, func(r selfcheck.StepRecord) bool {
				return strings.HasPrefix(string(r.Kind), "restart_") && strings.HasPrefix(r.Outcome, "helped: ")
			})
			served := time.Since(struck)
			t.Logf("%-10s judged after %5.1f s, text both ways again after %5.1f s, by %s",
				h.name, judged.Seconds(), served.Seconds(), helped.Kind)
			if judged > judgedWithin || served > servedWithin {
				t.Errorf("want it judged within %v and served again within %v", judgedWithin, servedWithin)
			}

			s.verified()
			s.completed(during)
			s.completed(s.submit(""))
			s.open(running)
			if helped.Kind == selfcheck.StepRestartStage {
				s.completed(running.order) // a fresh loop costs no job
			} else {
				s.interrupted(running)
			}
			s.evidence(since, h)
			s.allOnce()
		})
	}
}

// step waits for a step taken after since that fits.
func (s *scene) step(since time.Time, fits func(selfcheck.StepRecord) bool) (found selfcheck.StepRecord) {
	s.t.Helper()
	s.eventually("a step of the ladder", func() (bool, error) {
		st, err := s.agent.Status(s.t.Context())
		if err != nil {
			return false, err
		}
		for _, found = range st.Steps {
			if found.At.After(since) && fits(found) {
				return true, nil
			}
		}
		return false, fmt.Errorf("verdict %s, steps %+v", st.Verdict.Code, st.Steps)
	})
	return found
}

// evidence checks what the server was told, and what is kept on the endpoint.
func (s *scene) evidence(since time.Time, h hang) {
	s.t.Helper()
	b := s.beacon(since, h.verdict)
	var r oob.Report
	if err := json.Unmarshal(b.Report, &r); err != nil {
		s.t.Fatal(err)
	}
	told, unread := "", uint64(0)
	for _, e := range r.Verdict.Evidence {
		switch {
		case e.Fact == "stack":
			told = e.Seen
		case h.unread != "" && e.Fact == h.unread:
			if _, err := fmt.Sscanf(e.Seen, "%d byte", &unread); err != nil {
				s.t.Errorf("%s: %q: %v", e.Fact, e.Seen, err)
			}
		}
	}
	if h.unread != "" && runtime.GOOS == "linux" {
		s.t.Logf("the kernel holds %d bytes that it did not read: %s", unread, r.Verdict.Sentence)
		if unread == 0 || !strings.Contains(r.Verdict.Sentence, "that it did not read") {
			s.t.Errorf("the verdict does not tell what the kernel holds: %q, %+v", r.Verdict.Sentence, r.Verdict.Evidence)
		}
	}
	if !strings.Contains(told, h.stack) {
		s.t.Errorf("the evidence %+v does not show where %s stands", r.Verdict.Evidence, h.stack)
	}
	files, err := filepath.Glob(filepath.Join(s.agent.Dir, "stacks", "worker-*.txt"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no stacks are kept (%v)", err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			s.t.Fatal(err)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || !strings.Contains(string(raw), "\ngoroutine ") || !strings.Contains(string(raw), h.stack) {
			s.t.Errorf("%s (%v) does not hold the stacks: %.200s", filepath.Base(file), info.Mode(), raw)
		}
	}
}

// TestCrashLoop: a worker that can't live is held back and told of; orders to the
// guardian are obeyed meanwhile, and commands wait at the server.
func TestCrashLoop(t *testing.T) {
	s := newScene(t)
	s.completed(s.submit(""))
	since := time.Now()
	s.fault("worker.crash", true)
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waiting := s.submit("")
	hold := s.step(since, func(r selfcheck.StepRecord) bool {
		return r.Kind == selfcheck.StepHold && r.Verdict == selfcheck.CodeAgentCrashloop
	})
	if !strings.Contains(hold.Expected, "second door") || !strings.Contains(hold.Reason, "worker.crash is switched on") {
		t.Errorf("held because %q, expecting %q", hold.Reason, hold.Expected)
	}
	s.beacon(since, selfcheck.CodeAgentCrashloop)
	trace, err := s.Client().Trace(t.Context(), waiting.id)
	if err != nil || trace.Command.State.Terminal() || trace.Stopped == "" {
		t.Errorf("the command that waits is %s, %q (%v)", trace.Command.State, trace.Stopped, err)
	}
	if next := s.status().Next; next.What == "" || next.In == nil {
		t.Errorf("what follows: %+v", next)
	}
	d, err := s.Client().Direct(t.Context(), s.agent.ID, operator.NewDirective{Kind: wire.DirectiveRestartWorker, Reason: "try it again"})
	if err != nil {
		t.Fatal(err)
	}
	state := func(wanted wire.DirectiveState) {
		s.eventually("the directive to be "+string(wanted), func() (bool, error) {
			now, err := s.Client().Directive(t.Context(), d.ID)
			return err == nil && string(now.State) == string(wanted), fmt.Errorf("it is %s: %s (%v)", now.State, now.Detail, err)
		})
	}
	state(wire.DirectiveAccepted) // the worker is started, and dies once more
	s.fault("worker.crash", false)
	s.completed(waiting)
	s.eventually("the end of the hold to be told", func() (bool, error) {
		for _, r := range s.status().Steps {
			if r.At.Equal(hold.At) && strings.HasPrefix(r.Outcome, "helped: ") {
				return true, nil
			}
		}
		return false, nil
	})
	s.allOnce()
}

// TestJobsThatCling: through two slots, jobs that do what they can to stay, and
// after each of them a command that runs. Not only the first after a start does.
func TestJobsThatCling(t *testing.T) {
	s := newScene(t, func(o *harness.Options) { o.Policy.MaxJobs = 2 })
	s.completed(s.submit(""))
	for _, script := range []string{
		`trap '' TERM INT; while :; do sleep 0.2; done`,
		`setsid sh -c 'trap "" TERM; while :; do sleep 0.2; done' & wait`,
		`yes`,
		`while :; do read line || sleep 0.05; done`,
		`(setsid sh -c 'sleep 30' &); exit 0`,
	} {
		began := time.Now()
		c, err := s.Client().Submit(t.Context(), s.agent.ID, operator.NewCommand{
			Script: script, TimeoutMS: 1000, ExpiresInMS: (5 * patience).Milliseconds(),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.eventually("the end of "+script, func() (bool, error) {
			now, err := s.Client().Command(t.Context(), c.ID)
			return err == nil && now.State.Terminal(), fmt.Errorf("it is %s (%v)", now.State, err)
		})
		t.Logf("its slot was free after %4.1f s: %s", time.Since(began).Seconds(), script)
		s.completed(s.submit(""))
		s.completed(s.submit(""))
	}
	if jobs := s.status().Snapshot.Jobs; jobs.Running != 0 {
		t.Errorf("%d of %d slots are taken", jobs.Running, jobs.Limit)
	}
	s.allOnce()
}

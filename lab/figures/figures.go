// Package figures measures what an endpoint costs and how soon it is served again,
// with real processes on this machine.
//
// Rules that hold here:
//   - each figure comes from a run, and stands beside the requirement it must keep;
//   - cost is measured with programs as released, idle, on a link that is verified;
//   - a figure that can't be measured here fails the run: it is never left out.
package figures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"gururmm/agent/local"
	"gururmm/lab/demo"
	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// patience bounds each wait for a fact.
	patience = 2 * time.Minute
	// settle is how long a fresh agent is left alone before it is weighed: it gives
	// memory back in steps, ever more rarely (internal/footprint), the fourth after two minutes.
	settle = 130 * time.Second
	// askEvery is how often the status is asked for while the worker is frozen: also
	// while its stacks are taken and its process tree is ended.
	askEvery = 25 * time.Millisecond

	// Requirements.
	judgedWithin   = 10 * time.Second
	servedWithin   = 20 * time.Second
	askedWithin    = 50 * time.Millisecond
	rolledWithin   = 60 * time.Second
	examinedWithin = 60 * time.Second
	mostCPU        = 20 * time.Millisecond // of one core in a minute, both processes
	mostRSS        = 22 << 20
)

// Options of Run. Bin and Faults are needed.
type Options struct {
	Bin    harness.Binaries // as released
	Faults harness.Binaries // with the seams for faults
	Dir    string           // for state and logs; short
	Idle   time.Duration    // how long the idle endpoint is watched
	Out    io.Writer        // what is being done; nil: nothing is said
}

// Report is what was measured.
type Report struct {
	OK      bool          `json:"ok"`
	Figures []demo.Figure `json:"figures"`
}

type run struct {
	o      Options
	report Report
}

// Run measures all.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	r := &run{o: o}
	for _, part := range []struct {
		name    string
		measure func(context.Context, string) error
	}{
		{"an idle endpoint", r.idle}, {"a frozen worker", r.frozen}, {"a deadlocked worker", r.deadlocked},
		{"an update that is dead on arrival", r.dead}, {"a visit of the doctor", r.doctor},
	} {
		fmt.Fprintf(o.Out, "measuring %s …\n", part.name)
		if err := part.measure(ctx, filepath.Join(o.Dir, fmt.Sprint(len(r.report.Figures)))); err != nil {
			return r.report, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	r.report.OK = !slices.ContainsFunc(r.report.Figures, func(f demo.Figure) bool { return !f.Held })
	return r.report, nil
}

func (r *run) figure(name string, value float64, unit string, limit float64) {
	r.report.Figures = append(r.report.Figures, demo.Figure{
		Figure: name, Value: value, Unit: unit, Limit: limit, Held: limit == 0 || value <= limit,
	})
}

func (r *run) took(name string, d, limit time.Duration) {
	r.figure(name, float64(d.Microseconds())/1000, "ms", float64(limit.Milliseconds()))
}

// endpoint gives a stack with one verified agent, and ends it after do.
func (r *run) endpoint(ctx context.Context, dir string, bin harness.Binaries, env []string, do func(*harness.Stack, *harness.Agent) error) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s, err := harness.Start(ctx, harness.Options{Bin: bin, Dir: dir, ServerEnv: env})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a, err := s.Enroll(ctx, "agent")
	if err != nil {
		return err
	}
	if err := a.Start(); err != nil {
		return err
	}
	if _, err := verified(ctx, s, a, nil); err != nil {
		return err
	}
	return do(s, a)
}

// verified waits until both ends say so, and also what more asks; it gives the moment.
func verified(ctx context.Context, s *harness.Stack, a *harness.Agent, more func(local.Status) bool) (at time.Time, err error) {
	err = harness.Poll(ctx, patience, func() (bool, error) {
		seen, err := s.Client().Agent(ctx, a.ID)
		if err != nil {
			return false, err
		}
		st, err := a.Status(ctx)
		at = time.Now()
		return err == nil && seen.Presence == "verified" && st.Snapshot.Link.Phase == selfcheck.PhaseVerified && (more == nil || more(st)),
			errors.Join(err, fmt.Errorf("the server says %s, the agent %s", seen.Presence, st.Verdict.Code))
	})
	return at, err
}

// idle weighs an endpoint that has nothing to do, beside the floor.
func (r *run) idle(ctx context.Context, dir string) error {
	return r.endpoint(ctx, dir, r.o.Bin, nil, func(_ *harness.Stack, a *harness.Agent) error {
		return floor(ctx, func(bare []int) error {
			if err := harness.Pause(ctx, settle); err != nil {
				return err
			}
			worker, err := a.WorkerPID(ctx)
			if err != nil {
				return err
			}
			pids := []int{a.Guardian().PID(), worker}
			minute, err := spent(ctx, r.o.Idle, pids, bare)
			if err != nil {
				return err
			}
			r.took("CPU of guardian and worker together, idle, in a minute", minute[0], mostCPU)
			r.took("CPU of the floor in the same minute: two bare processes that send and read a report of 14 bytes", minute[1], 0)
			if minute[1] > 0 {
				r.figure("idle CPU as a multiple of that floor", float64(minute[0])/float64(minute[1]), "x", 0)
			}
			rss, pss, err := harness.Memory(pids...)
			if err != nil {
				return err
			}
			r.figure("RSS of guardian and worker together, idle", float64(rss), "bytes", mostRSS)
			r.figure("PSS of guardian and worker together, idle", float64(pss), "bytes", 0)
			return nil
		})
	})
}

// frozen stops the worker as a whole.
func (r *run) frozen(ctx context.Context, dir string) error {
	return r.endpoint(ctx, dir, r.o.Bin, nil, func(s *harness.Stack, a *harness.Agent) error {
		pid, err := a.SignalWorker(ctx, syscall.SIGSTOP)
		if err != nil {
			return err
		}
		struck := time.Now()
		asking, enough := context.WithCancel(ctx)
		var asked sync.WaitGroup
		defer asked.Wait()
		defer enough()
		var each []time.Duration
		var failed error
		asked.Go(func() { each, failed = asks(asking, a) })
		err = r.hung(ctx, s, a, "frozen worker", pid, struck, nil)
		enough()
		asked.Wait()
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		slices.Sort(each)
		r.took(fmt.Sprintf("status while the worker is frozen, judged and replaced, median of %d", len(each)), each[len(each)/2], 0)
		r.took(fmt.Sprintf("status while the worker is frozen, judged and replaced, slowest of %d", len(each)), each[len(each)-1], askedWithin)
		return nil
	})
}

// asks asks for the status until ctx ends, at least once, and tells how long each answer took.
func asks(ctx context.Context, a *harness.Agent) (each []time.Duration, err error) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		// Not by ctx: the answer under way counts too.
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		_, err := a.Status(one)
		cancel()
		if err != nil {
			return each, fmt.Errorf("status while the worker is frozen: %w", err)
		}
		each = append(each, time.Since(began))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return each, nil
		}
	}
}

// deadlocked stops every loop of the worker at once.
func (r *run) deadlocked(ctx context.Context, dir string) error {
	return r.endpoint(ctx, dir, r.o.Faults, nil, func(s *harness.Stack, a *harness.Agent) error {
		pid, err := a.WorkerPID(ctx)
		if err != nil {
			return err
		}
		const label = "worker.deadlock"
		if err := s.Fault(label, true); err != nil {
			return err
		}
		return r.hung(ctx, s, a, "deadlocked worker", pid, time.Now(), func() error { return s.Fault(label, false) })
	})
}

// hung waits until worker pid, struck at that time, is judged and another serves.
func (r *run) hung(ctx context.Context, s *harness.Stack, a *harness.Agent, what string, pid int, struck time.Time, over func() error) error {
	var judged time.Time
	err := harness.Poll(ctx, patience, func() (bool, error) {
		st, err := a.Status(ctx)
		for _, step := range st.Steps {
			if step.Verdict == selfcheck.CodeAgentHung && step.At.After(struck) {
				judged = step.At
			}
		}
		return !judged.IsZero(), errors.Join(err, fmt.Errorf("it is %s", st.Verdict.Code))
	})
	if err != nil {
		return err
	}
	if over != nil {
		if err := over(); err != nil {
			return err
		}
	}
	served, err := verified(ctx, s, a, func(st local.Status) bool { return st.Worker.PID != pid })
	if err != nil {
		return err
	}
	r.took(what+": judged after", judged.Sub(struck), judgedWithin)
	r.took(what+": verified again after", served.Sub(struck), servedWithin)
	return nil
}

// dead rolls out a program that ends at once.
func (r *run) dead(ctx context.Context, dir string) error {
	const version, program = "v99.0.0", "/bin/false"
	key, private, err := release.NewKey()
	if err != nil {
		return err
	}
	open := func() (*os.File, error) { return os.Open(program) }
	f, err := open()
	if err != nil {
		return err
	}
	build, err := release.Sign(private, f, version, runtime.GOOS, runtime.GOARCH)
	f.Close()
	if err != nil {
		return err
	}
	return r.endpoint(ctx, dir, r.o.Bin, []string{"GURURMM_RELEASE_KEY=" + key.String()}, func(s *harness.Stack, a *harness.Agent) error {
		return r.rolled(ctx, s, a, build, open)
	})
}

func (r *run) rolled(ctx context.Context, s *harness.Stack, a *harness.Agent, build wire.Build, open func() (*os.File, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.Client().Publish(ctx, build, f); err != nil {
		return err
	}
	began := time.Now()
	roll, err := s.Client().Roll(ctx, operator.NewRollout{Version: build.Version, Agents: []string{a.ID},
		RolloutPlan: operator.RolloutPlan{Rings: []float64{100}, SoakMS: -1}})
	if err != nil {
		return err
	}
	err = harness.Poll(ctx, patience, func() (bool, error) {
		now, err := s.Client().Rollout(ctx, roll.ID)
		if err != nil {
			return false, err
		}
		return len(now.Failures) > 0, errors.New(now.Now)
	})
	if err != nil {
		return err
	}
	served, err := verified(ctx, s, a, func(st local.Status) bool {
		return st.Update.Step == local.UpdateNone && st.Version != build.Version
	})
	if err != nil {
		return err
	}
	r.took("dead update: ordered, tried, rolled back and verified again after", served.Sub(began), rolledWithin)
	return nil
}

// doctor examines a healthy endpoint.
func (r *run) doctor(ctx context.Context, dir string) error {
	return r.endpoint(ctx, dir, r.o.Bin, nil, func(_ *harness.Stack, a *harness.Agent) error {
		began := time.Now()
		out, err := exec.CommandContext(ctx, r.o.Bin.Agent, "doctor", "--state-dir", a.Dir, "--json").Output()
		exit, failed := errors.AsType[*exec.ExitError](err)
		if err != nil && (!failed || exit.ExitCode() > 1) { // 1: it found something, on this machine
			return fmt.Errorf("%w: %.300s", err, out)
		}
		r.took("a doctor's visit, all probes", time.Since(began), examinedWithin)
		return nil
	})
}

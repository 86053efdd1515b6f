package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Options of a demo.
type Options struct {
	Bin    harness.Binaries
	Dir    string    // for state and logs; short, it holds sockets
	Out    io.Writer // of the timeline; nil: none
	Colour bool
}

// Limits of the figures.
const (
	limitProofMS   = 1500
	limitRescueMS  = 5000
	limitClimbedMS = 500
	limitRSS       = 22 << 20
	limitBinary    = 10 << 20
)

const (
	// stepWait bounds each wait: several times what the limits allow, so that a miss is measured, not guessed.
	stepWait = 30 * time.Second
	// settle is what the agent gets to become idle before it is weighed: it gives
	// memory back 3 s and 12 s after its start, then ever more rarely.
	settle = 10 * time.Second
)

// policy is the default one, but that a link is retried soon: a show of half a
// minute has no time for the minutes that spare a real server.
func policy() wire.Policy { return wire.Policy{Version: 1, RetryLinkMS: 2000} }

// show is one run of the demo.
type show struct {
	watcher
	opts   Options
	report Report
	marks  string // file that each command adds a line to
	orders int
}

// Run shows all and gives the report. The error is of what kept the show from going on.
func Run(ctx context.Context, o Options) (report Report, err error) {
	s := &show{opts: o, marks: filepath.Join(o.Dir, "ran")}
	s.timeline = &timeline{out: o.Out, colour: o.Colour, began: time.Now()}
	s.beacons, s.at = map[string]bool{}, map[string]time.Time{}
	defer func() {
		s.report.Steps = s.sorted()
		s.report.finish()
		if err != nil {
			s.report.OK, s.report.Summary = false, "The demo could not go on: "+err.Error()
		}
		report = s.report
	}()
	if err := s.curtain(ctx); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.stack.Close()) }()
	for _, act := range []func(context.Context) error{s.verified, s.healthy, s.deaf, s.climbed, s.mended, s.weigh} {
		if err := act(ctx); err != nil {
			return report, err
		}
	}
	s.once()
	return report, nil
}

// curtain starts everything.
func (s *show) curtain(ctx context.Context) error {
	began := time.Now()
	stack, err := harness.Start(ctx, harness.Options{Bin: s.opts.Bin, Dir: s.opts.Dir, Policy: policy()})
	if err != nil {
		return err
	}
	s.stack = stack
	s.tell(time.Now(), "server", "started", "process %d answers after %.0f ms; a box on the path stands before it", stack.Server().PID(), ms(time.Since(began)))
	if s.agent, err = stack.Enroll(ctx, "agent"); err != nil {
		return errors.Join(err, stack.Close())
	}
	s.tell(time.Now(), "agent", "enrolled", "has made its key pair and is enrolled")
	if err := s.agent.Start(); err != nil {
		return errors.Join(err, stack.Close())
	}
	s.tell(time.Now(), "agent", "started", "guardian process %d starts its worker", s.agent.Guardian().PID())
	return nil
}

func (s *show) verified(ctx context.Context) error {
	return s.until(ctx, "a verified link", stepWait, func() (bool, error) {
		a, err := s.stack.Client().Agent(ctx, s.agent.ID)
		if err != nil {
			return false, err
		}
		st, err := s.agent.Status(ctx)
		if err != nil {
			return false, err
		}
		ok := a.Presence == "verified" && st.Snapshot.Link.Phase == selfcheck.PhaseVerified && !st.Snapshot.OOB.Delivering
		return ok, fmt.Errorf("the server says %s, the agent %s (%s)", a.Presence, st.Snapshot.Link.Phase, st.Verdict.Code)
	})
}

// order submits a command and waits for its end. took is from before the
// request to the time at which the result was on the server's disk.
func (s *show) order(ctx context.Context, script string) (trace operator.Trace, took time.Duration, err error) {
	s.orders++
	began := time.Now()
	c, err := s.stack.Client().Submit(ctx, s.agent.ID, operator.NewCommand{
		Script: fmt.Sprintf("echo %d >> '%s'; %s", s.orders, s.marks, script),
	})
	if err != nil {
		return trace, 0, err
	}
	s.tell(began, "operator", "exec", "exec -- %s", script)
	err = s.until(ctx, "the command's end", stepWait, func() (bool, error) {
		c, err := s.stack.Client().Command(ctx, c.ID)
		if err != nil {
			return false, err
		}
		return c.State.Terminal(), fmt.Errorf("it is %s", c.State)
	})
	if err != nil {
		return trace, 0, err
	}
	if trace, err = s.stack.Client().Trace(ctx, c.ID); err != nil {
		return trace, 0, err
	}
	stored, ok := stage(trace, wire.StageResultStored)
	if !ok {
		return trace, 0, fmt.Errorf("command %s: %s", trace.Command.State, trace.Stopped)
	}
	took = stored.At.Sub(began)
	out, err := s.stack.Client().Output(ctx, c.ID, wire.Stdout)
	if err != nil {
		return trace, took, err
	}
	s.tell(stored.At, "operator", "result", "%s after %.0f ms by %s: %s",
		trace.Command.State, ms(took), door(trace.Command.Channel), strings.TrimSpace(string(out)))
	return trace, took, nil
}

func door(c wire.Channel) string {
	if c == wire.ChannelOOB {
		return "the second door"
	}
	return "the link"
}

// stage finds the first entry of a stage.
func stage(t operator.Trace, st wire.Stage) (operator.TraceEntry, bool) {
	i := slices.IndexFunc(t.Entries, func(e operator.TraceEntry) bool { return e.Stage == st })
	if i < 0 {
		return operator.TraceEntry{}, false
	}
	return t.Entries[i], true
}

func completed(t operator.Trace, by wire.Channel) bool {
	return t.Command.State == wire.StateCompleted && t.Command.Channel == by
}

// healthy runs a command on the whole path.
func (s *show) healthy(ctx context.Context) error {
	trace, took, err := s.order(ctx, "echo the path is whole on $(uname -s)")
	if err != nil {
		return err
	}
	s.report.claim(completed(trace, wire.ChannelLink), "a command runs by the link", trace.Stopped)
	s.report.figure(figureHealthy, ms(took), "ms", 0)
	return nil
}

// deaf breaks server → agent text and runs a command all the same.
func (s *show) deaf(ctx context.Context) error {
	if err := s.stack.Proxy.Set(proxy.Down, proxy.Fault{Kind: proxy.DropText}); err != nil {
		return err
	}
	broken := time.Now()
	s.tell(broken, "path", "broken", "swallows every text from server to agent; pings pass")
	trace, took, err := s.order(ctx, "echo arrived anyway")
	if err != nil {
		return err
	}
	s.report.Rescued = trace
	s.report.claim(completed(trace, wire.ChannelOOB), "the command finishes by the second door", trace.Stopped)
	s.report.figure(figureRescue, ms(took), "ms", limitRescueMS)
	s.report.claim(s.stack.Proxy.Counts(proxy.Down).Struck[proxy.DropText] > 0, "texts were really lost on the way",
		fmt.Sprintf("%d swallowed", s.stack.Proxy.Counts(proxy.Down).Struck[proxy.DropText]))
	return s.judge(ctx, broken, trace)
}

// judge waits for the whole evidence of the rescue and claims what it shows.
func (s *show) judge(ctx context.Context, broken time.Time, trace operator.Trace) error {
	var proven time.Time
	err := s.until(ctx, "the recorded proof", stepWait, func() (bool, error) {
		for _, r := range s.reports {
			if r.At.After(broken) && r.Verdict.Code == selfcheck.CodeLinkTextLost && !r.Verdict.Suspected {
				proven = r.At
				return true, nil
			}
		}
		return false, errors.New("no beacon with link.text.lost")
	})
	if err != nil {
		return err
	}
	written, ok := stage(trace, wire.StageWritten)
	s.report.claim(ok, "the first command was written to the link before it was lost", written.Note)
	s.report.figure(figureProof, ms(proven.Sub(written.At)), "ms", limitProofMS)
	s.report.claim(true, "the proof was recorded at the server by beacon", string(selfcheck.CodeLinkTextLost))

	reconnect, forced := s.step(broken, selfcheck.StepReconnect)
	s.report.claim(forced, "the agent forced a reconnect", reconnect.Reason)
	second, still := s.step(broken, selfcheck.StepOOB)
	s.report.claim(still && forced && second.At.After(reconnect.At) && second.Verdict == selfcheck.CodeLinkTextLost,
		"the new link was deaf too, so the second door was opened", second.Reason)
	return nil
}

func (s *show) step(since time.Time, kind selfcheck.StepKind) (selfcheck.StepRecord, bool) {
	i := slices.IndexFunc(s.steps, func(r selfcheck.StepRecord) bool { return r.Kind == kind && r.At.After(since) })
	if i < 0 {
		return selfcheck.StepRecord{}, false
	}
	return s.steps[i], true
}

// climbed runs one more command while the second door is open.
func (s *show) climbed(ctx context.Context) error {
	trace, took, err := s.order(ctx, "echo the second door is open")
	if err != nil {
		return err
	}
	s.report.claim(completed(trace, wire.ChannelOOB), "the next command goes by the second door at once", trace.Stopped)
	s.report.figure(figureClimbed, ms(took), "ms", limitClimbedMS)
	return nil
}

// mended lets text pass again and runs a command by the link.
func (s *show) mended(ctx context.Context) error {
	if err := s.stack.Proxy.Clear(proxy.Down); err != nil {
		return err
	}
	mended := time.Now()
	s.tell(mended, "path", "mended", "lets text pass again")
	if err := s.verified(ctx); err != nil {
		return err
	}
	s.report.figure(figureMended, ms(time.Since(mended)), "ms", 0)
	trace, _, err := s.order(ctx, "echo by the link again")
	if err != nil {
		return err
	}
	s.report.claim(completed(trace, wire.ChannelLink), "the link is verified again and carries commands", trace.Stopped)
	return nil
}

// weigh measures the idle agent.
func (s *show) weigh(ctx context.Context) error {
	info, err := os.Stat(s.opts.Bin.Agent)
	if err != nil {
		return err
	}
	s.report.figure(figureBinary, float64(info.Size()), "bytes", limitBinary)
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	worker, err := s.agent.WorkerPID(ctx)
	if err != nil {
		return err
	}
	rss, pss, err := harness.Memory(s.agent.Guardian().PID(), worker)
	if errors.Is(err, os.ErrNotExist) {
		s.say("memory is measured on Linux only")
		return nil
	}
	if err != nil {
		return err
	}
	s.report.figure(figureRSS, float64(rss), "bytes", limitRSS)
	s.report.figure(figurePSS, float64(pss), "bytes", 0)
	return nil
}

// once counts the marks that the commands left.
func (s *show) once() {
	raw, err := os.ReadFile(s.marks)
	var want strings.Builder
	for n := range s.orders {
		fmt.Fprintln(&want, n+1)
	}
	s.report.claim(err == nil && string(raw) == want.String(), "each command ran exactly once, in order",
		fmt.Sprintf("%d ordered, marks %q", s.orders, raw))
}

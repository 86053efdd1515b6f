package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/agent/local"
	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// patience bounds each wait for a fact. A fact that comes takes a tenth of
// it, on two cores shared by several stacks of race-detector builds.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	turns.measure()
	// The stacks take turns: the number of cores does not bound them, and whoever goes first is there.
	if err := flag.Set("test.parallel", "200"); err != nil {
		panic(err)
	}
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

var (
	binaryDir string
	// binaries are built once, with the race detector (but for SQLite, see Makefile) and
	// the seams for faults.
	binaries = sync.OnceValues(func() (harness.Binaries, error) {
		var err error
		if binaryDir, err = os.MkdirTemp("", "gururmm-bin"); err != nil {
			return harness.Binaries{}, err
		}
		return harness.Build(context.Background(), binaryDir, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", "-tags=faults")
	})
)

// testPolicy is short in all that is an interval, and the default in all that is a grace.
func testPolicy() wire.Policy {
	return wire.Policy{
		Version: 1, HeartbeatMS: 2000, MetricsMS: 5000, PingMS: 1000, DeadMS: 4000, VerifyMS: 5000,
		BeaconIllMS: 2000, PollMS: 5000, BackoffMinMS: 100, BackoffMaxMS: 1000, StableMS: 1000, RetryLinkMS: 1000,
		ReconnectsPerHour: 30, RestartsPerHour: 30,
	}
}

// scene is a stack with one agent and the commands given to it.
type scene struct {
	*harness.Stack
	t     *testing.T
	agent *harness.Agent
	began time.Time

	mu     sync.Mutex
	orders []*order
}

// room runs the test beside others once its turn has come, and gives it the programs and
// a directory of its own.
func room(t *testing.T) (bin harness.Binaries, dir string) {
	t.Helper()
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	turns.take(t)
	if dir, err = os.MkdirTemp("", "gl"); err != nil { // T.TempDir is too long for a unix socket's name
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	return bin, dir
}

// newScene gives the test a stack whose agent is verified.
func newScene(t *testing.T, adapt ...func(*harness.Options)) *scene {
	t.Helper()
	bin, dir := room(t)
	s := newStage(t, bin, dir, adapt...)
	s.arrive()
	return s
}

// newStage gives the test a stack without an agent, in its room.
func newStage(t *testing.T, bin harness.Binaries, dir string, adapt ...func(*harness.Options)) *scene {
	t.Helper()
	o := harness.Options{Bin: bin, Dir: dir, Policy: testPolicy()}
	for _, f := range adapt {
		if f != nil {
			f(&o)
		}
	}
	stack, err := harness.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Stack: stack, t: t, began: time.Now()}
	t.Cleanup(s.close)
	return s
}

// arrive enrolls the scene's agent, starts it and waits until it is verified.
func (s *scene) arrive() {
	s.t.Helper()
	var err error
	if s.agent, err = s.Enroll(s.t.Context(), "agent"); err != nil {
		s.t.Fatal(err)
	}
	if err := s.agent.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.verified()
}

// close ends the stack and keeps what tells why a test failed.
func (s *scene) close() {
	if s.t.Failed() {
		s.explain()
	}
	if err := s.Close(); err != nil {
		s.t.Errorf("end the stack: %v", err)
	}
	for _, log := range s.Logs() {
		if raw, err := os.ReadFile(log); err == nil && strings.Contains(string(raw), "WARNING: DATA RACE") {
			s.t.Errorf("data race in %s", filepath.Base(log))
			s.keep(log, raw)
		}
	}
}

func (s *scene) keep(name string, raw []byte) {
	path := filepath.Join(s.t.ArtifactDir(), filepath.Base(name))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		s.t.Error(err)
	}
}

// explain prints what each part says of itself.
func (s *scene) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), patience/6)
	defer cancel()
	if s.agent != nil {
		if st, err := s.agent.Status(ctx); err != nil {
			s.t.Logf("status: %v", err)
		} else if raw, err := json.Marshal(st); err == nil {
			s.t.Logf("status: %.6000s", raw)
		}
		for _, b := range s.beacons() {
			s.t.Logf("beacon %s %s: %s", b.ReceivedAt.Format("15:04:05.000"), b.Verdict, b.Sentence)
		}
	}
	s.mu.Lock()
	orders := slices.Clone(s.orders)
	s.mu.Unlock()
	for _, o := range orders {
		trace, err := s.Client().Trace(ctx, o.id)
		if err != nil {
			s.t.Logf("trace %s: %v", o.id, err)
			continue
		}
		s.t.Logf("command %s is %s (%s): %s", o.id, trace.Command.State, trace.Command.Reason, trace.Stopped)
		for _, e := range trace.Entries {
			s.t.Logf("  %s %-14s %s attempt %d %s %s %s", e.At.Format("15:04:05.000"), e.Stage, e.End, e.Attempt, e.Channel, e.Link, e.Note)
		}
	}
	events := s.Proxy.Events()
	for _, e := range events[max(0, len(events)-40):] {
		s.t.Logf("proxy: %s", e)
	}
	for _, log := range s.Logs() {
		if raw, err := os.ReadFile(log); err == nil {
			s.keep(log, raw)
		}
		s.t.Logf("%s:\n%s", filepath.Base(log), harness.Tail(log, 80))
	}
}

// eventually waits until ask says true.
func (s *scene) eventually(what string, ask func() (bool, error)) {
	s.t.Helper()
	if err := harness.Poll(s.t.Context(), patience, ask); err != nil {
		s.t.Fatalf("wait for %s: %v", what, err)
	}
}

// verified waits until both ends say that texts go both ways, with a link of
// which the agent says the same.
func (s *scene) verified() operator.Agent {
	s.t.Helper()
	var a operator.Agent
	s.eventually("a verified link", func() (ok bool, err error) {
		if a, err = s.Client().Agent(s.t.Context(), s.agent.ID); err != nil {
			return false, err
		}
		if a.Presence != "verified" {
			return false, fmt.Errorf("the server says %s (%s)", a.Presence, a.Sentence)
		}
		st, err := s.agent.Status(s.t.Context())
		if err != nil {
			return false, err
		}
		return st.Snapshot.Link.Phase == selfcheck.PhaseVerified && !st.Snapshot.OOB.Delivering,
			fmt.Errorf("the agent says %s (%s)", st.Snapshot.Link.Phase, st.Verdict.Code)
	})
	return a
}

// status of the agent; it must answer.
func (s *scene) status() local.Status {
	s.t.Helper()
	st, err := s.agent.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *scene) beacons() []operator.Beacon {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := s.Client().Beacons(ctx, s.agent.ID, 0)
	if err != nil {
		s.t.Errorf("beacons: %v", err)
	}
	return b
}

// beacon waits for a proven verdict at the server, recorded after since, one of codes.
func (s *scene) beacon(since time.Time, codes ...selfcheck.Code) operator.Beacon {
	s.t.Helper()
	var found operator.Beacon
	s.eventually(fmt.Sprintf("a beacon with %v", codes), func() (bool, error) {
		var seen []string
		for _, b := range s.beacons() {
			var r oob.Report
			if err := json.Unmarshal(b.Report, &r); err != nil {
				return false, harness.Final(err)
			}
			if b.ReceivedAt.Before(since) {
				continue
			}
			seen = append(seen, b.Verdict)
			if slices.Contains(codes, selfcheck.Code(b.Verdict)) && !r.Verdict.Suspected {
				found = b
				return true, nil
			}
		}
		return false, fmt.Errorf("recorded are %v", seen)
	})
	if found.View == nil {
		s.t.Errorf("beacon %s has no view of the server's beside it", found.Verdict)
	}
	if found.Sentence == "" {
		s.t.Errorf("beacon %s says nothing to people", found.Verdict)
	}
	return found
}

// break puts faults in force, given as "down drop-text".
func (s *scene) order(lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		if _, err := s.Proxy.Order(line); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *scene) fault(label string, on bool) {
	s.t.Helper()
	if err := s.Fault(label, on); err != nil {
		s.t.Fatal(err)
	}
}

// order is a command that leaves a mark each time it runs.
type order struct {
	id   string
	file string
	want string
}

// submit orders a command: it adds a line to a file of its own, runs more, and
// prints a word of its own.
func (s *scene) submit(more string) *order {
	s.t.Helper()
	s.mu.Lock()
	n := len(s.orders)
	s.mu.Unlock()
	o := &order{file: filepath.Join(s.Dir, fmt.Sprintf("ran-%d", n)), want: fmt.Sprintf("output of order %d\n", n)}
	c, err := s.Client().Submit(s.t.Context(), s.agent.ID, operator.NewCommand{
		Script:    fmt.Sprintf("echo x >> '%s'\n%s\necho 'output of order %d'", o.file, more, n),
		TimeoutMS: (2 * patience).Milliseconds(), ExpiresInMS: (5 * patience).Milliseconds(),
	})
	if err != nil {
		s.t.Fatalf("submit: %v", err)
	}
	o.id = c.ID
	s.mu.Lock()
	s.orders = append(s.orders, o)
	s.mu.Unlock()
	return o
}

// lines counts how often the command ran.
func (o *order) lines() int {
	raw, err := os.ReadFile(o.file)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	return strings.Count(string(raw), "\n")
}

// ended waits for the end of a command, whatever it is.
func (s *scene) ended(o *order) operator.Command {
	s.t.Helper()
	var c operator.Command
	s.eventually("the end of command "+o.id, func() (ok bool, err error) {
		c, err = s.Client().Command(s.t.Context(), o.id)
		if err == nil && !c.State.Terminal() {
			err = fmt.Errorf("it is %s, attempt %d by %q", c.State, c.Attempts, c.Channel)
		}
		return err == nil, err
	})
	return c
}

// completed waits until a command has run, and checks that it ran once and what it printed.
func (s *scene) completed(o *order) operator.Command {
	s.t.Helper()
	c := s.ended(o)
	if c.State != wire.StateCompleted {
		s.t.Errorf("command %s is %s: %s", o.id, c.State, c.Reason)
	}
	out, err := s.Client().Output(s.t.Context(), o.id, wire.Stdout)
	if err != nil {
		s.t.Errorf("output: %v", err)
	}
	if !strings.HasSuffix(string(out), o.want) {
		s.t.Errorf("command %s printed %.200q, want %q at the end", o.id, out, o.want)
	}
	s.once(o)
	return c
}

func (s *scene) once(o *order) {
	s.t.Helper()
	if n := o.lines(); n != 1 {
		s.t.Errorf("command %s ran %d times", o.id, n)
	}
}

// allOnce checks at the end that nothing ran again behind a test's back.
func (s *scene) allOnce() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.orders {
		s.once(o)
	}
}

// linkID is the only link the server has of the agent.
func (s *scene) linkID(a operator.Agent) wire.LinkID {
	s.t.Helper()
	if len(a.Links) != 1 {
		s.t.Fatalf("the server has %d links of the agent, want 1: %+v", len(a.Links), a.Links)
	}
	return a.Links[0].Link
}

// struck fails the test if the box on the path does nothing. Pings, of which some damages are
// made, go each second.
func (s *scene) struck(dirs ...proxy.Direction) {
	s.t.Helper()
	for _, dir := range dirs {
		s.eventually("the box to strike "+string(dir)+": else the test proves nothing", func() (bool, error) {
			return len(s.Proxy.Counts(dir).Struck) > 0, nil
		})
	}
}

//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/agent/versions"
	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

var (
	chaosSeed  = flag.Uint64("chaos.seed", 0, "seed of the random kills; 0: drawn, and logged")
	chaosKills = flag.Int("chaos.kills", 200, "how many processes are killed")
)

const (
	chaosAgents = 5
	// chaosPause is the longest pause between two kills.
	chaosPause = 400 * time.Millisecond
	// chaosCalm is the same for the first kills after a version was rolled out, which
	// spare the first agents: an update takes seconds, and some shall get through.
	chaosCalm, chaosCalmKills, chaosSpared = 1500 * time.Millisecond, 10, 2
	// chaosManager is what a service manager waits before it starts a program again.
	chaosManager = 100 * time.Millisecond
	// chaosPatience bounds the wait for the end of all commands: an attempt lost in the
	// middle waits for its lease, a result for its repeat.
	chaosPatience = 4 * time.Minute
	// chaosExpiry is how long a command may take to begin.
	chaosExpiry = 3 * time.Minute
)

// plainBinaries are as released: chaos needs no seams, and the race detector's time.
var plainBinaries = sync.OnceValues(func() (harness.Binaries, error) {
	if _, err := binaries(); err != nil { // makes the directory
		return harness.Binaries{}, err
	}
	dir := filepath.Join(binaryDir, "plain")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return harness.Binaries{}, err
	}
	return harness.Build(context.Background(), dir)
})

// chaosUpdates are rolled out in this order while processes are killed, the second one
// dead on arrival; chaosLast once nothing is killed any more.
var chaosUpdates = []string{"v1.1.0", "v2.0.1"}

const chaosLast = "v1.2.0"

// chaosPrograms are built and signed once.
var chaosPrograms = sync.OnceValues(func() (*programs, error) {
	if _, err := plainBinaries(); err != nil {
		return nil, err
	}
	key, private, err := release.NewKey()
	if err != nil {
		return nil, err
	}
	p := &programs{key: key, dir: filepath.Join(binaryDir, "chaos"), files: map[string]string{}, build: map[string]wire.Build{}}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	source := filepath.Join(p.dir, "bad.go")
	if err := os.WriteFile(source, []byte(bad), 0o600); err != nil {
		return nil, err
	}
	for _, v := range append(slices.Clone(chaosUpdates), chaosLast) {
		p.files[v] = filepath.Join(p.dir, v)
		args := []string{"-ldflags=-X gururmm/internal/version.Version=" + v, "gururmm/cmd/gururmm-agent"}
		if strings.HasPrefix(v, "v2.") {
			args = []string{source}
		}
		if err := goBuild(p.files[v], args...); err != nil {
			return nil, err
		}
		f, err := os.Open(p.files[v])
		if err != nil {
			return nil, err
		}
		p.build[v], err = release.Sign(private, f, v, runtime.GOOS, runtime.GOARCH)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return p, nil
})

// chaos is a system under random kills.
type chaos struct {
	*harness.Stack
	t   *testing.T
	rng *rand.Rand // of the kills alone

	programs *programs
	spared   int // of the agents, the first so many

	mu     sync.Mutex
	agents []*kept
	marks  map[string]string // command by the key it was ordered with
	killed map[string]int
	midway map[string]int // of those killed, within an update
}

// kept is an agent that its service manager starts again whenever it ends.
type kept struct {
	*harness.Agent
	mu   sync.Mutex // held while the process is exchanged
	died int        // guardians of it that were killed; by the killer alone
}

func (c *chaos) fatal(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestChaos kills guardians, workers and the server at random moments, some of them in
// the middle of an update, while commands flow: each command ends once and runs at most
// once, nothing that is on a disk is lost or damaged, and the next update takes over.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again: go test ./lab -run TestChaos -chaos.seed=%d", seed)
	turns.take(t)
	bin, err := plainBinaries()
	if err != nil {
		t.Fatal(err)
	}
	programs, err := chaosPrograms()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gc")
	if err != nil {
		t.Fatal(err)
	}
	policy := testPolicy()
	policy.ReconnectsPerHour, policy.RestartsPerHour = 1000, 1000
	stack, err := harness.Start(t.Context(), harness.Options{Bin: bin, Dir: dir, Policy: policy,
		ServerEnv: []string{"GURURMM_RELEASE_KEY=" + programs.key.String()}})
	if err != nil {
		t.Fatal(err)
	}
	c := &chaos{Stack: stack, t: t, programs: programs, rng: rand.New(rand.NewPCG(seed, 0)), marks: map[string]string{}, killed: map[string]int{}, midway: map[string]int{}}
	closed := false
	defer func() {
		if !closed {
			c.Close()
		}
		if t.Failed() {
			for _, log := range c.Logs() {
				if raw, err := os.ReadFile(log); err == nil {
					os.WriteFile(filepath.Join(t.ArtifactDir(), filepath.Base(log)), raw, 0o600)
				}
				t.Logf("%s:\n%s", filepath.Base(log), harness.Tail(log, 40))
			}
		}
		os.RemoveAll(dir)
	}()
	for i := range chaosAgents {
		a, err := c.Enroll(t.Context(), "a"+strconv.Itoa(i))
		c.fatal(err)
		c.fatal(a.Start())
		c.agents = append(c.agents, &kept{Agent: a})
	}

	managing, stop := context.WithCancel(t.Context())
	defer stop()
	var managers, orders sync.WaitGroup
	defer managers.Wait()
	defer stop()
	for _, a := range c.agents {
		managers.Go(func() { c.manage(managing, a) })
	}
	ordering, enough := context.WithCancel(t.Context())
	defer orders.Wait()
	defer enough()
	for i, a := range c.agents {
		rng := rand.New(rand.NewPCG(seed, uint64(i+1)))
		orders.Go(func() { c.order(ordering, a, rng) })
	}
	began := time.Now()
	rolled := -chaosCalmKills
	for n := range *chaosKills {
		if every := *chaosKills / (len(chaosUpdates) + 1); every > 0 && n > 0 && n%every == 0 && n/every <= len(chaosUpdates) {
			c.roll(chaosUpdates[n/every-1])
			rolled = n
			c.killUpdate() // chance alone may miss them all
			continue
		}
		pause := chaosPause
		c.spared = 0
		if n < rolled+chaosCalmKills {
			pause, c.spared = chaosCalm, chaosSpared
		}
		time.Sleep(time.Duration(c.rng.Int64N(int64(pause))))
		c.kill()
	}
	enough()
	orders.Wait()
	t.Logf("%d processes killed in %v: %v; within an update: %v; %d commands were ordered",
		*chaosKills, time.Since(began).Round(time.Second), c.killed, c.midway, len(c.marks))

	drained := time.Now()
	c.ended()
	t.Logf("all commands had ended %v after the last kill", time.Since(drained).Round(100*time.Millisecond))
	c.well("")
	c.roll(chaosLast)
	c.well(chaosLast)
	stop()
	managers.Wait()
	for _, a := range c.agents {
		if err := a.Guardian().Stop(); err != nil {
			t.Errorf("%s did not end well: %v", a.Name, err)
		}
	}
	if err := c.Server().Stop(); err != nil {
		t.Errorf("the server did not end well: %v", err)
	}
	c.alone(dir)
	c.whole(dir)
	closed = true
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// manage starts a again when it has ended, as a service manager does.
func (c *chaos) manage(ctx context.Context, a *kept) {
	for {
		select {
		case <-a.Guardian().Done():
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(chaosManager):
		case <-ctx.Done():
		}
		a.mu.Lock()
		err := a.Start()
		a.mu.Unlock()
		if err != nil {
			c.t.Errorf("start %s: %v", a.Name, err)
			return
		}
	}
}

// kill ends one process with SIGKILL, chosen by chance among those that run.
func (c *chaos) kill() {
	for {
		a := c.agents[c.spared+c.rng.IntN(len(c.agents)-c.spared)]
		n := c.rng.IntN(10)
		if n < 1 { // a server's restart stops everything for a while: not too often
			c.Server().KillAlone()
			c.killed["server"]++
			c.fatal(c.StartServer(c.t.Context()))
			return
		}
		if c.strike(a, n < 5, false) {
			return
		}
	}
}

// killUpdate waits until an agent is in the middle of an update, and kills one of its
// processes there.
func (c *chaos) killUpdate() {
	c.t.Helper()
	guardian := c.rng.IntN(2) == 0
	// One that is dead on arrival is given up within a quarter of a second: what looks at a file
	// looks often.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		for _, a := range c.agents[chaosSpared:] {
			if c.strike(a, guardian, true) {
				return
			}
		}
	}
	c.t.Fatalf("no agent has begun an update within %v: %s", patience, c.rollouts())
}

// rollouts tells how they stand.
func (c *chaos) rollouts() string {
	list, err := c.Client().Rollouts(c.t.Context())
	said := []string{fmt.Sprint(err)}
	for _, r := range list {
		one, err := c.Client().Rollout(c.t.Context(), r.ID)
		said = append(said, fmt.Sprintf("%+v (%v)", one, err))
	}
	return strings.Join(said, "\n")
}

// strike kills a's guardian or a worker of it, one of an update on trial too, unless
// there is none. Midway: only if an update is under way.
func (c *chaos) strike(a *kept, guardian, midway bool) bool {
	a.mu.Lock() // its manager waits: the update stands where it was cut off
	defer a.mu.Unlock()
	phase := c.update(a)
	if midway && phase == versions.PhaseNone {
		return false
	}
	victim := "worker"
	var pids []int
	if !guardian {
		pids = a.Workers()
		guardian = midway && len(pids) == 0 // a program that is dead on arrival has hardly a worker
	}
	if guardian {
		victim = "guardian"
		select {
		case <-a.Guardian().Done(): // its manager has not come to it yet
			return false
		default:
		}
		a.Guardian().KillAlone()
		a.died++
		phase = c.update(a)
	} else if len(pids) == 0 || syscall.Kill(pids[c.rng.IntN(len(pids))], syscall.SIGKILL) != nil {
		return false
	}
	c.killed[victim]++
	if phase != versions.PhaseNone {
		c.midway[victim+" in "+string(phase)]++
	}
	return true
}

// update tells where an update of a stands, by its file: nobody need answer.
func (c *chaos) update(a *kept) versions.Phase {
	c.t.Helper()
	st, err := c.programsOf(a).Look()
	c.fatal(err)
	return st.Phase
}

func (c *chaos) programsOf(a *kept) *versions.Store {
	return versions.New(filepath.Join(a.Dir, "versions"))
}

// roll publishes a version and rolls it out to all agents at once, between two kills:
// the server runs. What the rollout before would still order is left.
func (c *chaos) roll(version string) {
	c.t.Helper()
	var ids []string
	for _, a := range c.agents {
		ids = append(ids, a.ID)
	}
	f, err := os.Open(c.programs.files[version])
	c.fatal(err)
	defer f.Close()
	c.fatal(c.Client().Publish(c.t.Context(), c.programs.build[version], f))
	before, err := c.Client().Rollouts(c.t.Context())
	c.fatal(err)
	for _, r := range before {
		if r.State != operator.RolloutActive {
			continue
		}
		if _, err := c.Client().StopRollout(c.t.Context(), r.ID); err != nil {
			c.t.Logf("stop the rollout of %s: %v", r.Version, err) // it has just ended, or the next one is refused
		}
	}
	_, err = c.Client().Roll(c.t.Context(), operator.NewRollout{Version: version, Agents: ids,
		RolloutPlan: operator.RolloutPlan{Rings: []float64{100}, SoakMS: -1, GraceMS: 1000, MaxFailures: "100%"}})
	if err != nil {
		c.t.Fatalf("roll out %s: %v", version, err)
	}
}

// order gives commands to a until ctx ends, whatever becomes of the server meanwhile.
func (c *chaos) order(ctx context.Context, a *kept, rng *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s-%d", a.Name, n)
		order := operator.NewCommand{
			// A line each time it begins; what comes after may be cut off.
			Script:         fmt.Sprintf("echo %s >> '%s'\nsleep %.2f\necho done", key, c.mark(key), rng.Float64()/4),
			IdempotencyKey: key, TimeoutMS: 60_000, ExpiresInMS: chaosExpiry.Milliseconds(),
		}
		err := harness.Poll(c.t.Context(), patience, func() (bool, error) {
			cmd, err := c.Client().Submit(c.t.Context(), a.ID, order)
			if err != nil {
				return false, err
			}
			c.mu.Lock()
			c.marks[key] = cmd.ID
			c.mu.Unlock()
			return true, nil
		})
		if err != nil {
			c.t.Errorf("order %s: %v", key, err)
			return
		}
		select {
		case <-time.After(time.Duration(rng.Int64N(int64(400 * time.Millisecond)))):
		case <-ctx.Done():
		}
	}
}

func (c *chaos) mark(key string) string { return filepath.Join(c.Dir, "ran-"+key) }

// ended waits until each command has ended, and checks how often it ran.
func (c *chaos) ended() {
	c.t.Helper()
	states := map[wire.State]int{}
	deadline := time.Now().Add(chaosPatience)
	for key, id := range c.marks {
		var cmd operator.Command
		err := harness.Poll(c.t.Context(), max(time.Second, time.Until(deadline)), func() (ok bool, err error) {
			if cmd, err = c.Client().Command(c.t.Context(), id); err == nil && !cmd.State.Terminal() {
				err = fmt.Errorf("it is %s, attempt %d by %q", cmd.State, cmd.Attempts, cmd.Channel)
			}
			return err == nil, err
		})
		if err != nil {
			c.t.Errorf("command %s (%s) does not end: %v", key, id, err)
			c.explain(id)
			continue
		}
		states[cmd.State]++
		raw, err := os.ReadFile(c.mark(key))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.t.Error(err)
		}
		n := bytes.Count(raw, []byte("\n"))
		switch {
		case n > 1:
			c.t.Errorf("command %s (%s), %s, ran %d times", key, id, cmd.State, n)
			c.explain(id)
		case cmd.State == wire.StateCompleted && n != 1:
			c.t.Errorf("command %s (%s) is completed and ran %d times", key, id, n)
			c.explain(id)
		case cmd.State == wire.StateFailed:
			c.t.Errorf("command %s (%s) failed: %s", key, id, cmd.Reason)
			c.explain(id)
		case cmd.State != wire.StateCompleted && cmd.Reason == "":
			c.t.Errorf("command %s (%s) is %s, and nobody says why", key, id, cmd.State)
		}
	}
	c.t.Logf("commands by state: %v", states)
	if states[wire.StateCompleted] == 0 {
		c.t.Error("no command was completed")
	}
}

func (c *chaos) explain(id string) {
	trace, err := c.Client().Trace(c.t.Context(), id)
	if err != nil {
		c.t.Log(err)
		return
	}
	c.t.Logf("%s: %s", trace.Command.State, trace.Stopped)
	for _, e := range trace.Entries {
		c.t.Logf("  %s %-14s %s attempt %d %s %s %s", e.At.Format("15:04:05.000"), e.Stage, e.End, e.Attempt, e.Channel, e.Link, e.Note)
	}
}

// well waits until each agent is verified again, by one whole program; of this version,
// unless it is "".
func (c *chaos) well(version string) {
	c.t.Helper()
	versions := map[string]string{}
	defer func() {
		c.t.Logf("versions: %v", versions)
		rollouts, err := c.Client().Rollouts(c.t.Context())
		if err != nil {
			c.t.Error(err)
		}
		for _, r := range rollouts {
			c.t.Logf("rollout of %s: %s", r.Version, r.Now)
		}
	}()
	for _, a := range c.agents {
		err := harness.Poll(c.t.Context(), patience, func() (bool, error) {
			v, err := c.Client().Agent(c.t.Context(), a.ID)
			if err != nil {
				return false, err
			}
			st, err := a.Status(c.t.Context())
			if err != nil {
				return false, err
			}
			if j := st.Snapshot.Jobs; j.Quarantined != "" || j.Journal != "" {
				return false, harness.Final(fmt.Errorf("its journal: %s %s", j.Quarantined, j.Journal))
			}
			versions[a.Name] = st.Version
			// That links ended often within ten minutes is true, and may be said.
			link := len(v.Links) == 1 && v.Links[0].State == "verified" && st.Snapshot.Link.Phase == selfcheck.PhaseVerified
			return link && st.Update.Step == local.UpdateNone && st.Version == st.Snapshot.Worker.Version && !strings.HasPrefix(st.Version, "v2.") &&
					(version == "" || st.Version == version),
				fmt.Errorf("%s: %s; the agent %s says %s, update %s, worker %s", v.Presence, v.Sentence, st.Version, st.Verdict.Code, st.Update.Step, st.Snapshot.Worker.Version)
		})
		if err != nil {
			c.t.Errorf("%s is not well again: %v", a.Name, err)
		}
	}
}

// alone checks that no process of the stack is left.
func (c *chaos) alone(dir string) {
	c.t.Helper()
	left := func() (found []string) {
		all, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			c.t.Fatal(err)
		}
		for _, p := range all {
			if filepath.Base(p) == strconv.Itoa(os.Getpid()) {
				continue
			}
			for _, file := range []string{"cmdline", "environ"} {
				raw, err := os.ReadFile(filepath.Join(p, file))
				if err == nil && bytes.Contains(raw, []byte(dir)) {
					found = append(found, filepath.Base(p)+" "+string(bytes.ReplaceAll(raw[:min(len(raw), 200)], []byte{0}, []byte(" "))))
					break
				}
			}
		}
		return found
	}
	// A killed process takes a moment to be gone.
	if err := harness.Poll(c.t.Context(), patience/6, func() (bool, error) {
		found := left()
		return len(found) == 0, fmt.Errorf("%s", strings.Join(found, "; "))
	}); err != nil {
		c.t.Errorf("processes are left behind: %v", err)
	}
}

// whole checks what is on the disk once nothing runs any more.
func (c *chaos) whole(dir string) {
	c.t.Helper()
	temporary := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".corrupt-") {
			c.t.Errorf("a file was damaged: %s", path)
		}
		if err == nil && strings.Contains(d.Name(), ".tmp-") {
			temporary++
		}
		return err
	})
	c.fatal(err)
	// Those of the last kill may lie there until the next start.
	if temporary > 2*chaosAgents {
		c.t.Errorf("%d temporary files were left behind", temporary)
	}
	for _, a := range c.agents {
		var id struct{ Agent string }
		raw, err := os.ReadFile(filepath.Join(a.Dir, "identity.json"))
		if err := errFirst(err, json.Unmarshal(raw, &id)); err != nil || id.Agent != a.ID {
			c.t.Errorf("identity of %s: %q, %v", a.Name, id.Agent, err)
		}
		raw, err = os.ReadFile(filepath.Join(a.Dir, "guardian.json"))
		if err != nil || !json.Valid(raw) {
			c.t.Errorf("guardian's state of %s: %v, %.100q", a.Name, err, raw)
		}
		c.readable(a)
		reports, err := filepath.Glob(filepath.Join(a.Dir, "spool", "*.json.gz"))
		c.fatal(err)
		for _, report := range reports {
			raw, err := os.ReadFile(report)
			if err == nil {
				_, err = oob.DecodeReport(raw)
			}
			if err != nil {
				c.t.Errorf("report %s: %v", report, err)
			}
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "server", "gururmm.db"))
	c.fatal(err)
	defer db.Close()
	for _, q := range []string{"PRAGMA integrity_check", "SELECT 'ok' WHERE NOT EXISTS (SELECT * FROM pragma_foreign_key_check)"} {
		var word string
		if err := db.QueryRow(q).Scan(&word); err != nil || word != "ok" {
			c.t.Errorf("%s: %q, %v", q, word, err)
		}
	}
	// A result is stored once.
	rows, err := db.Query(`SELECT id, (length(trace) - length(replace(trace, '"s":"result_stored"', ''))) / length('"s":"result_stored"') AS n FROM commands WHERE n > 1`)
	c.fatal(err)
	defer rows.Close()
	for rows.Next() {
		var id string
		var n int
		c.fatal(rows.Scan(&id, &n))
		c.t.Errorf("the result of %s was stored %d times", id, n)
	}
	c.fatal(rows.Err())
	var all int
	c.fatal(db.QueryRow("SELECT count(*) FROM commands").Scan(&all))
	if all != len(c.marks) {
		c.t.Errorf("%d commands were ordered, %d are stored", len(c.marks), all)
	}
	if n := c.killed["server"] + c.killed["guardian"] + c.killed["worker"]; n != *chaosKills {
		c.t.Errorf("killed %v, want %d", c.killed, *chaosKills)
	}
	if len(c.midway) == 0 && *chaosKills > len(chaosUpdates) {
		c.t.Error("nothing was killed within an update: the test proves nothing of one")
	}
}

// readable checks the state of a that is no part of its identity.
func (c *chaos) readable(a *kept) {
	c.t.Helper()
	dir, _, err := state.Look(a.Dir)
	c.fatal(err)
	if _, stored, err := dir.Policy(); err != nil || !stored { // it verifies the server's signature
		c.t.Errorf("policy of %s: stored %t, %v", a.Name, stored, err)
	}
	store := c.programsOf(a)
	switch st, err := store.Look(); {
	case err != nil || st.Phase != versions.PhaseNone || st.Current.Version() != chaosLast:
		c.t.Errorf("program of %s: %q, phase %q, %v", a.Name, st.Current.Version(), st.Phase, err)
	default:
		if err := store.Verify([]release.Key{c.programs.key}, *st.Current); err != nil {
			c.t.Errorf("program of %s: %v", a.Name, err)
		}
	}
	// Each guardian that was killed may have left half a line, which costs itself only.
	events, err := history.Read(a.Dir, history.Filter{})
	if err != nil || len(events.Events) == 0 || events.Garbled > a.died {
		c.t.Errorf("history of %s: %d events, %d lines garbled by %d kills, %v", a.Name, len(events.Events), events.Garbled, a.died, err)
	}
}

//go:build unix

package task

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/wire"
)

func TestRunsACommand(t *testing.T) {
	e, u := openAt(t, filepath.Join(t.TempDir(), "task"))
	stages := wire.StageTimes{wire.StageRead: time.Now()}
	c := command("c1", "echo out; echo err >&2; exit 3")
	if out := e.Accept(c, false, stages); out != (Outcome{}) {
		t.Fatalf("accept: %+v", out)
	}
	if stages[wire.StageJournaled].IsZero() {
		t.Error("stages[journaled] is not set")
	}
	if got := e.Running(); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("running before Start: %v", got)
	}
	e.Start("c1")
	r := u.result(t, "c1")
	if r.State != wire.StateFailed || r.ExitCode == nil || *r.ExitCode != 3 || r.Reason == "" {
		t.Errorf("result: %+v", r)
	}
	if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.StdoutBytes != 4 || r.StderrBytes != 4 || r.Orphans {
		t.Errorf("output: %q %q", r.Stdout, r.Stderr)
	}
	for _, s := range []wire.Stage{wire.StageRead, wire.StageJournaled, wire.StageAcked, wire.StageStarted, wire.StageFinished, wire.StageResultWritten} {
		if r.Stages[s].IsZero() {
			t.Errorf("stage %s has no time", s)
		}
	}
	out := e.Accept(c, false, nil)
	if !out.Known || out.Running || out.Result == nil || out.Result.State != wire.StateFailed || string(out.Result.Stdout) != "out\n" {
		t.Errorf("repeat of an ended command: %+v", out)
	}
	if f := e.Facts(); f.Unacked != 1 || f.Running != 0 || f.Limit != 8 || f.Journal != "" {
		t.Errorf("facts: %+v", f)
	}
	e.ResultAck(wire.ResultAck{ID: "c1", Stored: true})
	eventually(t, "the result to be forgotten", func() bool { return e.Facts().Unacked == 0 })
	eventually(t, "its output to be removed", func() bool { return len(list(t, e.out.dir)) == 0 })
	if out := e.Accept(c, false, nil); !out.Known || out.Result == nil || out.Result.State != wire.StateFailed || *out.Result.ExitCode != 3 {
		t.Errorf("repeat of a stored command: %+v", out)
	}
	if started, finished := e.Counters(); started != 1 || finished != 1 {
		t.Errorf("counters: %d started, %d finished", started, finished)
	}
	info, err := os.Stat(e.opts.Dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info.Mode(), err)
	}
	if left := list(t, e.runDir); len(left) != 0 {
		t.Errorf("scripts left: %v", left)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Only the first command after a start runs: seen in the wild. Fifty through two slots must all run.
func TestManyCommandsThroughFewSlots(t *testing.T) {
	e, u := openAt(t, t.TempDir(), func(o *Options) { o.MaxJobs = 2 })
	count := filepath.Join(t.TempDir(), "count")
	busy := 0
	for i := range 50 {
		c := command(fmt.Sprintf("c%d", i), "echo x >>'"+count+"'")
		for {
			out := e.Accept(c, false, nil)
			if out == (Outcome{}) {
				break
			}
			if out.Refused != wire.CodeBusy || out.Detail == "" {
				t.Fatalf("%s: %+v", c.ID, out)
			}
			busy++
			u.until(t, "a slot", func() bool { return len(e.Running()) < 2 })
		}
		e.Start(c.ID)
	}
	for i := range 50 {
		if r := u.result(t, fmt.Sprintf("c%d", i)); r.State != wire.StateCompleted {
			t.Errorf("c%d: %+v", i, r)
		}
	}
	if raw, _ := os.ReadFile(count); bytes.Count(raw, []byte("x")) != 50 {
		t.Errorf("ran %d times, want 50", bytes.Count(raw, []byte("x")))
	}
	if busy == 0 {
		t.Error("nothing was refused as busy")
	}
}

func TestRefusals(t *testing.T) {
	e, _ := openAt(t, t.TempDir(), func(o *Options) { o.MaxJobs = 1 })
	expired := command("c1", "true")
	expired.ExpiresAt = time.Now().Add(-time.Second)
	large := command("c2", strings.Repeat("x", wire.MaxScript+1))
	shell := command("c3", "true")
	shell.Shell = "fish"
	for _, tc := range []struct {
		c    wire.Command
		want wire.Code
	}{
		{expired, wire.CodeExpired}, {large, wire.CodeTooLarge}, {shell, wire.CodeUnsupported},
		{command("../c4", "true"), wire.CodeUnsupported}, {command("", "true"), wire.CodeUnsupported},
	} {
		if out := e.Accept(tc.c, false, nil); out.Refused != tc.want || out.Detail == "" {
			t.Errorf("%q: %+v, want %s", tc.c.ID, out, tc.want)
		}
	}
	order(t, e, command("c5", "sleep 100"))
	if out := e.Accept(command("c6", "true"), false, nil); out.Refused != wire.CodeBusy {
		t.Errorf("over the limit: %+v", out)
	}
	if out := e.Accept(command("c5", "true"), false, nil); !out.Known || !out.Running || out.Result != nil {
		t.Errorf("repeat of a running command: %+v", out)
	}
	e.SetMaxJobs(2)
	if out := e.Accept(command("c6", "true"), false, nil); out != (Outcome{}) {
		t.Errorf("after the limit was raised: %+v", out)
	}
	if e.Cancel("nobody") {
		t.Error("cancelled a command that is not there")
	}
}

func TestProbe(t *testing.T) {
	e, _ := openAt(t, t.TempDir(), func(o *Options) { o.MaxJobs = 1 })
	order(t, e, command("c1", "sleep 100"))
	p := command("p1", "")
	p.Pad = strings.Repeat("x", 8<<10)
	stages := wire.StageTimes{}
	if out := e.Accept(p, true, stages); out != (Outcome{}) || stages[wire.StageJournaled].IsZero() {
		t.Errorf("probe beside a full executor: %+v %v", out, stages)
	}
	if out := e.Accept(p, true, nil); !out.Known || out.Running || out.Result != nil {
		t.Errorf("repeated probe: %+v", out)
	}
	if raw, _ := os.ReadFile(e.journal.path(journalName)); !bytes.Contains(raw, []byte(`"k":"probe","id":"p1"`)) || bytes.Contains(raw, []byte("xxxx")) {
		t.Errorf("the journal should have the probe, without its pad: %.300s", raw)
	}
	for i := range keepProbes {
		e.book.addProbe(fmt.Sprintf("q%d", i))
	}
	if len(e.book.probes) != keepProbes || len(e.book.recent) != keepProbes || e.book.probes["p1"] {
		t.Errorf("%d probes are remembered", len(e.book.probes))
	}
}

func TestConcurrentRepeatsRunOnce(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	count := filepath.Join(t.TempDir(), "count")
	c := command("c1", "echo x >>'"+count+"'")
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 20 {
		wg.Go(func() {
			out := e.Accept(c, false, wire.StageTimes{})
			e.Start(c.ID)
			mu.Lock()
			defer mu.Unlock()
			if out == (Outcome{}) {
				fresh++
			} else if !out.Known {
				t.Errorf("%+v", out)
			}
		})
	}
	wg.Wait()
	u.result(t, "c1")
	if raw, _ := os.ReadFile(count); string(raw) != "x\n" || fresh != 1 {
		t.Errorf("ran %q, accepted %d times", raw, fresh)
	}
}

func TestCancelAndTimeout(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	c := command("c1", "echo began; sleep 100")
	order(t, e, c)
	u.until(t, "output while it runs", func() bool { return len(u.output["c1/stdout"]) > 0 })
	eventually(t, "the job with its process in the facts", func() bool { // it is noted on disk first
		f := e.Facts()
		return f.Running == 1 && len(f.Jobs) == 1 && f.Jobs[0].PID != 0
	})
	if !e.Cancel("c1") {
		t.Error("cancel found no job")
	}
	if r := u.result(t, "c1"); r.State != wire.StateCancelled || r.ExitCode != nil || string(r.Stdout) != "began\n" {
		t.Errorf("cancelled: %+v", r)
	}
	if e.Cancel("c1") {
		t.Error("cancelled an ended command")
	}
	c = command("c2", "sleep 100 & wait")
	c.TimeoutMS = 100
	order(t, e, c)
	if r := u.result(t, "c2"); r.State != wire.StateFailed || r.ExitCode != nil || r.Reason != "timed out after 100ms" {
		t.Errorf("timed out: %+v", r)
	}
	if out := e.Accept(command("c3", "echo never"), false, nil); out != (Outcome{}) || !e.Cancel("c3") {
		t.Errorf("accept and cancel: %+v", out)
	}
	if r := u.result(t, "c3"); r.State != wire.StateCancelled || r.StdoutBytes != 0 {
		t.Errorf("cancelled before its start: %+v", r)
	}
	order(t, e, command("c4", "kill -KILL $$"))
	if r := u.result(t, "c4"); r.State != wire.StateFailed || r.ExitCode != nil || !strings.Contains(r.Reason, "killed") {
		t.Errorf("ended by a signal: %+v", r)
	}
}

func TestExpiresBeforeItStarts(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	e, u := openAt(t, t.TempDir(), func(o *Options) {
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	if out := e.Accept(command("c1", "echo late"), false, nil); out != (Outcome{}) {
		t.Fatalf("%+v", out)
	}
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	e.Start("c1")
	if r := u.result(t, "c1"); r.State != wire.StateExpired || r.StdoutBytes != 0 {
		t.Errorf("%+v", r)
	}
}

// A worker whose guardian was killed drains for a moment: the next one waits for it.
func TestOpenWaitsForAWorkerThatDrains(t *testing.T) {
	dir := t.TempDir()
	e, _ := openAt(t, dir)
	opened := make(chan error, 1)
	patient := e.opts
	patient.LockWait = time.Minute
	go func() {
		next, err := Open(patient)
		if err == nil {
			err = next.Close(context.Background(), 0)
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened beside the other: %v", err)
	case <-time.After(3 * lockPoll):
	}
	shut(t, e)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

func TestCloseInterruptsAndKeepsWhatHasNotStarted(t *testing.T) {
	dir := t.TempDir()
	e, u := openAt(t, dir)
	order(t, e, command("c1", "sleep 100"))
	eventually(t, "c1 to run", func() bool { s, _ := e.Counters(); return s == 1 })
	if out := e.Accept(command("c2", "echo later"), false, nil); out != (Outcome{}) {
		t.Fatalf("%+v", out)
	}
	impatient := e.opts
	impatient.LockWait = 0
	if _, err := Open(impatient); err == nil || !strings.Contains(err.Error(), ErrLocked.Error()) {
		t.Errorf("a second executor on the same directory: %v", err)
	}
	shut(t, e)
	if r := u.result(t, "c1"); r.State != wire.StateInterrupted {
		t.Errorf("%+v", r)
	}
	if out := e.Accept(command("c3", "true"), false, nil); out.Refused != wire.CodeDraining {
		t.Errorf("accept after close: %+v", out)
	}
	e2, u2 := openAt(t, dir)
	if r := u2.result(t, "c2"); r.State != wire.StateCompleted || string(r.Stdout) != "later\n" {
		t.Errorf("what had not started: %+v", r)
	}
	e2.Repeat()
	if r := u2.result(t, "c1"); r.State != wire.StateInterrupted {
		t.Errorf("repeated by the next executor: %+v", r)
	}
}

func TestCancelledJustBeforeClose(t *testing.T) {
	dir := t.TempDir()
	e, _ := openAt(t, dir)
	if out := e.Accept(command("c1", "echo never"), false, nil); out != (Outcome{}) || !e.Cancel("c1") {
		t.Fatalf("%+v", out)
	}
	shut(t, e)
	e, u := openAt(t, dir)
	e.Repeat()
	if r := u.result(t, "c1"); r.State != wire.StateCancelled {
		t.Errorf("%+v", r)
	}
}

func TestCloseGivesGrace(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	gate := filepath.Join(t.TempDir(), "gate")
	order(t, e, command("c1", "until [ -e '"+gate+"' ]; do sleep 0.02; done; echo done"))
	eventually(t, "c1 to run", func() bool { s, _ := e.Counters(); return s == 1 })
	closed := make(chan error, 1)
	go func() { closed <- e.Close(t.Context(), patience) }()
	eventually(t, "draining", func() bool { return e.Accept(command(wire.NewID(), ""), true, nil).Refused == wire.CodeDraining })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if r := u.result(t, "c1"); r.State != wire.StateCompleted || string(r.Stdout) != "done\n" {
		t.Errorf("%+v", r)
	}
}

func TestTokenIsDrained(t *testing.T) {
	e, _ := openAt(t, t.TempDir())
	for range 3 {
		select {
		case <-e.Token():
		case <-time.After(patience):
			t.Fatal("the loop drains no token")
		}
	}
}

func TestResultsRepeatUntilStored(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "true"))
	u.result(t, "c1")
	e.Repeat()
	u.nth(t, "c1", 2)
	e.mu.Lock()
	en := e.book.live["c1"]
	waits := []time.Duration{en.wait}
	for range 5 { // the clock of repeats, turned by hand
		_, _ = e.dueResults(en.due.Add(time.Millisecond))
		waits = append(waits, en.wait)
	}
	e.mu.Unlock()
	if want := []time.Duration{10e9, 20e9, 40e9, 60e9, 60e9, 60e9}; !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	e.ResultAck(wire.ResultAck{ID: "c1", Stored: true})
	eventually(t, "the result to be forgotten", func() bool { return e.Facts().Unacked == 0 })
	n := u.count("c1")
	e.Repeat()
	<-e.Token()
	if u.count("c1") != n {
		t.Error("a stored result was repeated")
	}
}

func TestRepeatsInBursts(t *testing.T) {
	e, _ := openAt(t, t.TempDir())
	e.mu.Lock()
	for i := range 3 * burst {
		en := newEntry(command(fmt.Sprintf("c%d", i), ""), time.Now(), nil)
		en.owe()
		en.due = time.Time{}
		e.book.live[en.cmd.ID] = en
	}
	ids, next := e.dueResults(time.Now())
	clear(e.book.live)
	e.mu.Unlock()
	if len(ids) != burst || next != burstPause {
		t.Errorf("%d results at once, next in %v", len(ids), next)
	}
}

package task

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gururmm/wire"
)

// disk is a file seam: a switch fills the disk, a counter counts syncs.
type disk struct {
	full  atomic.Bool
	freed func() bool // not nil: there is room again once it says so
	syncs atomic.Int64
	gate  chan struct{} // if not nil, syncs wait for it
}

func (d *disk) refuses() bool { return d.full.Load() && (d.freed == nil || !d.freed()) }

func (d *disk) open(name string, flag int) (file, error) {
	if d.refuses() {
		return nil, &os.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
	}
	f, err := openOS(name, flag)
	return seamFile{f, d}, err
}

type seamFile struct {
	file
	d *disk
}

// Write on a full disk writes half, as a real one does.
func (f seamFile) Write(p []byte) (int, error) {
	if f.d.refuses() {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return f.file.Write(p)
}

func (f seamFile) Sync() error {
	if f.d.gate != nil {
		<-f.d.gate
	}
	f.d.syncs.Add(1)
	return f.file.Sync()
}

func openWith(t *testing.T, dir string, d *disk) (*Executor, *upstream) {
	t.Helper()
	u := newUpstream()
	e, err := open(Options{Dir: dir, MaxJobs: 100, Emit: u.emit, Now: time.Now, Log: slog.New(slog.DiscardHandler)}, d.open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, e) })
	return e, u
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	e, u := openWith(t, dir, d)
	order(t, e, command("c1", "true"))
	u.result(t, "c1")
	d.full.Store(true)
	for _, id := range []string{"c2", "c2", "c3"} {
		out := e.Accept(command(id, "true"), false, nil)
		if out.Refused != wire.CodeJournal || !strings.Contains(out.Detail, "no space left") {
			t.Fatalf("%s: %+v", id, out)
		}
	}
	if f := e.Facts(); !strings.Contains(f.Journal, "no space left") || f.Running != 0 {
		t.Errorf("facts: %+v", f)
	}
	if out := e.Accept(command("c1", "true"), false, nil); !out.Known {
		t.Errorf("a known id is known whatever the disk does: %+v", out)
	}
	d.full.Store(false)
	order(t, e, command("c2", "true"))
	u.result(t, "c2")
	if f := e.Facts(); f.Journal != "" {
		t.Errorf("facts after recovery: %+v", f)
	}
	shut(t, e)
	e, _ = openAt(t, dir)
	if out := e.Accept(command("c1", "true"), false, nil); !out.Known || out.Result == nil {
		t.Errorf("%+v", out)
	}
	if f := e.Facts(); f.Quarantined != "" || f.Unacked != 2 {
		t.Errorf("facts after a restart: %+v", f)
	}
}

// A job whose "started" can't be journaled is not run, nor given up.
func TestFullDiskHoldsTheStart(t *testing.T) {
	d := &disk{}
	e, u := openWith(t, t.TempDir(), d)
	if out := e.Accept(command("c1", "echo ran"), false, nil); out != (Outcome{}) {
		t.Fatalf("%+v", out)
	}
	d.full.Store(true)
	e.Start("c1")
	eventually(t, "the journal to fail", func() bool { return e.Facts().Journal != "" })
	if started, _ := e.Counters(); started != 0 || u.count("c1") != 0 {
		t.Error("it ran without a record")
	}
	d.full.Store(false)
	if r := u.result(t, "c1"); r.State != wire.StateCompleted {
		t.Errorf("%+v", r)
	}
}

// A result that can't be journaled is kept in memory, and journaled when there is room.
func TestFullDiskKeepsTheResult(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	e, u := openWith(t, dir, d)
	gate := filepath.Join(t.TempDir(), "gate")
	order(t, e, command("c1", untilExists(gate)))
	eventually(t, "c1 to run", func() bool { f := e.Facts(); return len(f.Jobs) == 1 && f.Jobs[0].PID != 0 })
	<-e.Token()
	d.full.Store(true)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := u.result(t, "c1"); r.State != wire.StateCompleted {
		t.Fatalf("%+v", r)
	}
	d.full.Store(false)
	eventually(t, "recovery by itself", func() bool { return e.Facts().Journal == "" })
	shut(t, e)
	e, u = openAt(t, dir)
	e.Repeat()
	if r := u.result(t, "c1"); r.State != wire.StateCompleted {
		t.Errorf("%+v", r)
	}
}

func TestOpenOnAFullDisk(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	d.full.Store(true)
	e, _ := openWith(t, dir, d)
	if out := e.Accept(command("c1", "true"), false, nil); out.Refused != wire.CodeJournal {
		t.Errorf("%+v", out)
	}
	d.full.Store(false)
	if out := e.Accept(command("c1", "true"), false, nil); out != (Outcome{}) {
		t.Errorf("%+v", out)
	}
}

// What stands at the place of the directory, or of the journal, and is no such thing
// must not keep every job from running; what it knew counts as lost.
func TestWhatIsNotOursGivesWay(t *testing.T) {
	for name, put := range map[string]func(dir string) error{
		"a file for the directory": func(dir string) error { return os.WriteFile(dir, []byte("what?"), 0o600) },
		"a directory for the journal": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, journalName, "x"), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "jobs")
			if err := put(dir); err != nil {
				t.Fatal(err)
			}
			e, u := openAt(t, dir)
			doubted(t, e, u)
			if f := e.Facts(); f.Quarantined == "" || f.Journal != "" {
				t.Errorf("%+v", f)
			}
		})
	}
}

// A file system that was damaged may give a journal any length.
func TestAnEndlessJournalIsDamage(t *testing.T) {
	dir := t.TempDir()
	e, _ := openAt(t, dir)
	shut(t, e)
	if err := os.Truncate(filepath.Join(dir, journalName), readMost+1); err != nil { // a hole, no bytes
		t.Fatal(err)
	}
	e, u := openAt(t, dir)
	doubted(t, e, u)
}

// Who clears away the directories of a running agent costs nobody a job.
func TestDirectoriesThatAreGoneAreMadeAnew(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	for i, spoil := range []func(dir string) error{
		os.RemoveAll,
		func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
	} {
		if err := errors.Join(spoil(e.runDir), spoil(e.out.dir)); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("c%d", i)
		order(t, e, command(id, "echo well"))
		if r := u.result(t, id); r.State != wire.StateCompleted || strings.TrimSpace(string(r.Stdout)) != "well" {
			t.Errorf("%+v", r)
		}
	}
}

func TestGroupCommit(t *testing.T) {
	d := &disk{}
	e, _ := openWith(t, t.TempDir(), d)
	before := d.syncs.Load()
	d.gate = make(chan struct{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if out := e.Accept(command(fmt.Sprintf("p%d", i), ""), true, nil); out != (Outcome{}) {
				t.Errorf("%+v", out)
			}
		})
	}
	eventually(t, "49 to wait for the disk", func() bool {
		e.journal.mu.Lock()
		defer e.journal.mu.Unlock()
		return e.journal.batch != nil && bytes.Count(e.journal.batch.lines, []byte("\n")) == 49
	})
	close(d.gate)
	wg.Wait()
	if n := d.syncs.Load() - before; n != 2 {
		t.Errorf("%d syncs for 50 accepts, want 2", n)
	}
}

// craft makes a journal in dir, as a damaged disk would leave it.
func craft(t *testing.T, dir string, change func(lines []string) string) (raw []byte) {
	t.Helper()
	old := time.Now().Add(-time.Minute)
	code := 0
	var lines []string
	for _, r := range []record{
		{Kind: kindBorn, At: old.Add(-time.Hour)},
		{Kind: kindKnown, ID: "stored", At: old, Expires: old, State: wire.StateCompleted, Exit: &code},
		{Kind: kindEnded, ID: "owed", At: old, Result: &wire.CommandResult{ID: "owed", State: wire.StateCompleted, ExitCode: &code}},
		{Kind: kindAccepted, ID: "began", At: old, Command: &wire.Command{ID: "began", Script: "echo never", ExpiresAt: time.Now().Add(time.Hour)}},
		{Kind: kindStarted, ID: "began", At: old},
		{Kind: kindAccepted, ID: "waits", At: old, Command: &wire.Command{ID: "waits", Script: "echo now", ExpiresAt: time.Now().Add(time.Hour)}},
	} {
		line, err := appendLine(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	raw = []byte(change(lines))
	if err := os.WriteFile(filepath.Join(dir, journalName), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkAll: what craft wrote was understood. After damage what waits may have begun.
func checkAll(t *testing.T, e *Executor, u *upstream, damaged bool) {
	t.Helper()
	want := wire.StateCompleted
	if damaged {
		want = wire.StateInterrupted
		e.Repeat()
	}
	if r := u.result(t, "waits"); r.State != want || !damaged && strings.TrimSpace(string(r.Stdout)) != "now" {
		t.Errorf("waits: %+v", r)
	}
	for id, want := range map[string]wire.State{"stored": wire.StateCompleted, "owed": wire.StateCompleted, "began": wire.StateInterrupted} {
		if out := e.Accept(command(id, "echo never"), false, nil); !out.Known || out.Result == nil || out.Result.State != want {
			t.Errorf("%s: %+v", id, out)
		}
	}
}

func TestWholeJournal(t *testing.T) {
	dir := t.TempDir()
	craft(t, dir, func(l []string) string { return strings.Join(l, "") })
	e, u := openAt(t, dir)
	checkAll(t, e, u, false)
	if f := e.Facts(); f.Quarantined != "" || f.Journal != "" {
		t.Errorf("%+v", f)
	}
}

// kill -9 in the middle of a write leaves a torn last line: normal, nothing is lost.
func TestTornTail(t *testing.T) {
	for _, tail := range []string{"0", "0123abcd {\"k\":\"acc", strings.Repeat("\x00", 5000)} {
		dir := t.TempDir()
		craft(t, dir, func(l []string) string { return strings.Join(l, "") + tail })
		e, u := openAt(t, dir)
		checkAll(t, e, u, false)
		if f := e.Facts(); f.Quarantined != "" {
			t.Errorf("%q: %+v", tail[:1], f)
		}
		old := command("old", "true")
		old.IssuedAt = time.Now().Add(-time.Hour)
		if out := e.Accept(old, false, nil); out != (Outcome{}) {
			t.Errorf("%q: %+v", tail[:1], out)
		}
		shut(t, e)
	}
}

func TestDamagedJournalIsSetAsideAndSalvaged(t *testing.T) {
	flip := func(l []string, i int) string {
		l[i] = l[i][:20] + "#" + l[i][21:]
		return strings.Join(l, "")
	}
	for name, change := range map[string]func(l []string) string{
		"a line too many":    func(l []string) string { return l[0] + "garbage\n" + strings.Join(l[1:], "") },
		"a line without end": func(l []string) string { return l[0] + strings.Repeat("x", 3*maxLine) + "\n" + strings.Join(l[1:], "") },
		"zeros within": func(l []string) string {
			return l[0] + l[1] + strings.Repeat("\x00", 4096) + "\n" + strings.Join(l[2:], "")
		},
		"a bad last line":     func(l []string) string { return strings.Join(l, "") + "00000000 {}\n" },
		"a bad first line":    func(l []string) string { return flip(l, 0) },
		"its start cut off":   func(l []string) string { return strings.Join(l, "")[5:] },
		"of a newer version":  func(l []string) string { return strings.Join(l, "") + line(t, record{Kind: "later", ID: "x"}) },
		"two journals in one": func(l []string) string { return strings.Join(l, "") + l[0] },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			raw := craft(t, dir, change)
			e, u := openAt(t, dir)
			checkAll(t, e, u, true)
			doubted(t, e, u)
			aside := e.Facts().Quarantined
			if kept, err := os.ReadFile(aside); err != nil || !bytes.Equal(kept, raw) || !strings.HasPrefix(filepath.Base(aside), corruptName) {
				t.Errorf("set aside %q: %v", aside, err)
			}
			shut(t, e)
			// The doubt outlives the restart, the damage does not.
			e, u = openAt(t, dir)
			doubted(t, e, u)
			if f := e.Facts(); f.Quarantined != "" {
				t.Errorf("%+v", f)
			}
			if _, err := os.Stat(aside); err != nil {
				t.Error(err)
			}
		})
	}
}

func line(t *testing.T, r record) string {
	raw, err := appendLine(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// doubted: commands of before the damage that nobody remembers never run, those of after do.
func doubted(t *testing.T, e *Executor, u *upstream) {
	t.Helper()
	old := command(wire.NewID(), "echo never")
	old.IssuedAt = time.Now().Add(-time.Minute)
	out := e.Accept(old, false, nil)
	if !out.Known || out.Running || out.Result == nil || out.Result.State != wire.StateInterrupted || !strings.Contains(out.Result.Reason, "damaged") {
		t.Errorf("of before the damage: %+v", out)
	}
	e.Start(old.ID)
	e.Repeat()
	if r := u.result(t, old.ID); r.State != wire.StateInterrupted || r.StdoutBytes != 0 {
		t.Errorf("%+v", r)
	}
	order(t, e, command(wire.NewID(), "true"))
	probe := old
	probe.ID = wire.NewID()
	if out := e.Accept(probe, true, nil); out != (Outcome{}) {
		t.Errorf("probe: %+v", out)
	}
}

func TestEmptyOrMissingJournalIsDamage(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"empty":   func(f string) error { return os.WriteFile(f, nil, 0o600) },
		"missing": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e, u := openAt(t, dir)
			order(t, e, command("c1", "true"))
			u.result(t, "c1")
			shut(t, e)
			if err := spoil(filepath.Join(dir, journalName)); err != nil {
				t.Fatal(err)
			}
			e, u = openAt(t, dir)
			if e.Facts().Quarantined == "" {
				t.Error("nobody is told")
			}
			doubted(t, e, u)
		})
	}
}

func TestWhatIsForgotten(t *testing.T) {
	now := time.Now()
	b := newBook()
	b.born = now
	add := func(name string, n int, at, expires time.Time) {
		for i := range n {
			b.stored[fmt.Sprintf("%s-%d", name, i)] = memo{at: at.UnixMilli(), expires: expires.UnixMilli(), state: wire.StateCompleted}
		}
	}
	month := 30 * 24 * time.Hour
	add("unexpired", 10, now.Add(-2*month), now.Add(time.Hour))
	add("skewed", 10, now.Add(-2*month), now.Add(-time.Hour)) // a clock set back could make these run
	add("old", 10, now.Add(-month), now.Add(-month))
	add("week", 10, now.Add(-6*24*time.Hour), now.Add(-6*24*time.Hour))
	add("new", keepLeast, now.Add(-time.Hour), now.Add(-time.Minute))
	b.prune(now)
	lines, err := appendLines(nil, b.records())
	if err != nil {
		t.Fatal(err)
	}
	again := newBook()
	if bad, err := scan(bytes.NewReader(lines), again.take); bad != 0 || err != nil || len(again.stored) != len(b.stored) {
		t.Errorf("%d bad lines, %v, %d of %d ids", bad, err, len(again.stored), len(b.stored))
	}
	count := map[string]int{}
	for id := range b.stored {
		name, _, _ := strings.Cut(id, "-")
		count[name]++
	}
	for name, want := range map[string]int{"unexpired": 10, "skewed": 10, "old": 0, "week": 10, "new": keepLeast} {
		if count[name] != want {
			t.Errorf("%s: %d kept, want %d", name, count[name], want)
		}
	}
	add("week", keepSome, now.Add(-6*24*time.Hour), now.Add(-6*24*time.Hour))
	if b.prune(now); len(b.stored) > keepSome+20 {
		t.Errorf("%d kept, want about %d", len(b.stored), keepSome)
	}
}

func TestCompaction(t *testing.T) {
	e, _ := openAt(t, t.TempDir())
	e.journal.io.Lock()
	e.journal.next = 10_000
	e.journal.io.Unlock()
	for i := range 200 {
		if out := e.Accept(command(fmt.Sprintf("p%d", i), ""), true, nil); out != (Outcome{}) {
			t.Fatalf("%+v", out)
		}
	}
	<-e.Token()
	eventually(t, "a smaller journal", func() bool {
		info, err := os.Stat(e.journal.path(journalName))
		return err == nil && info.Size() < 10_000
	})
	if !e.Accept(command("p199", ""), true, nil).Known {
		t.Error("a probe of before is not known any more")
	}
}

func TestSecretsLeaveTheJournalWithTheScript(t *testing.T) {
	dir := t.TempDir()
	e, u := openAt(t, dir)
	order(t, e, command("c1", "echo; : hush"))
	u.result(t, "c1")
	shut(t, e)
	e, _ = openAt(t, dir)
	if raw, _ := os.ReadFile(e.journal.path(journalName)); bytes.Contains(raw, []byte("hush")) || !bytes.Contains(raw, []byte("c1")) {
		t.Errorf("journal: %s", raw)
	}
}

func TestReplayIsOrderless(t *testing.T) {
	// Damage may lose any record: whatever is left, a command that may have begun never runs.
	all := []record{
		{Kind: kindAccepted, ID: "c", Command: &wire.Command{ID: "c"}},
		{Kind: kindStarted, ID: "c"},
		{Kind: kindEnded, ID: "c", Result: &wire.CommandResult{ID: "c", State: wire.StateFailed}},
		{Kind: kindStored, ID: "c"},
		{Kind: kindKnown, ID: "c", State: wire.StateFailed},
	}
	for mask := 1; mask < 1<<len(all); mask++ {
		for _, backwards := range []bool{false, true} {
			var some []record
			for i, r := range all {
				if mask&(1<<i) != 0 {
					some = append(some, r)
				}
			}
			if backwards {
				slices.Reverse(some)
			}
			b := newBook()
			for _, r := range some {
				b.take(r)
			}
			en, live := b.live["c"]
			_, stored := b.stored["c"]
			if live == stored {
				t.Fatalf("mask %b: live %v, stored %v", mask, live, stored)
			}
			if live && en.phase == phaseAccepted && mask != 1 {
				t.Errorf("mask %b: it would run", mask)
			}
		}
	}
}

func FuzzJournal(f *testing.F) {
	for _, r := range []record{
		{Kind: kindBorn}, {Kind: kindProbe, ID: "p"}, {Kind: kindStarted, ID: "c"}, {Kind: kindStored, ID: "c"},
		{Kind: kindAccepted, ID: "c", Command: &wire.Command{ID: "c", Script: "x\n"}},
		{Kind: kindEnded, ID: "c", Result: &wire.CommandResult{ID: "c"}},
	} {
		raw, err := appendLine(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, []byte("torn"))
		f.Add([]byte("garbage\n"), raw)
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, before, after []byte) {
		// Whatever stands around it, a good line is found; and what was read can be written and read again.
		good, err := appendLine(nil, record{Kind: kindStarted, ID: "good"})
		if err != nil {
			t.Fatal(err)
		}
		if len(before) > 0 && before[len(before)-1] != '\n' {
			before = append(slices.Clone(before), '\n')
		}
		b, found := newBook(), false
		if _, err := scan(bytes.NewReader(slices.Concat(before, good, after)), func(r record) {
			found = found || r.ID == "good"
			b.take(r)
		}); err != nil || !found {
			t.Fatalf("the good line is lost: %v", err)
		}
		lines, err := appendLines(nil, b.records())
		if err != nil {
			t.Fatal(err)
		}
		again := newBook()
		if bad, err := scan(bytes.NewReader(lines), again.take); bad != 0 || err != nil {
			t.Fatalf("%d bad lines of its own: %v", bad, err)
		}
		if len(again.live) != len(b.live) || len(again.stored) != len(b.stored) {
			t.Fatalf("%d and %d ids became %d and %d", len(b.live), len(b.stored), len(again.live), len(again.stored))
		}
	})
}

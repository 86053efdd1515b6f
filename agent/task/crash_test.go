//go:build unix

package task

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/wire"
)

// crashEnv makes the test program a worker that is killed: "dir|kind|n|moment" kills it at the n-th
// write of a record of that kind.
const crashEnv = "TASK_CRASH"

func TestMain(m *testing.M) {
	if plan := os.Getenv(crashEnv); plan != "" {
		crash(plan)
	}
	os.Exit(m.Run())
}

// crashID is the command of a crashing worker, one for each directory: what is left of a
// command is found by its id, and these tests run side by side.
func crashID(dir string) string {
	return fmt.Sprintf("01900000-0000-7000-8000-%012x", crc32.ChecksumIEEE([]byte(dir)))
}

// crashScript is what it runs: it leaves a line for each time it ran, and then hangs if it
// is told to.

func crashScript(dir string) string {
	return fmt.Sprintf("echo $$ >>%[1]s/ran; if [ -e %[1]s/hang ]; then sleep 100 & wait; fi", dir)
}

// crash is the life of a worker with one command, until it is killed.
func crash(plan string) {
	p := strings.Split(plan, "|")
	dir, n := p[0], 0
	when, _ := strconv.Atoi(p[2])
	die := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	stored, ended := make(chan struct{}), make(chan struct{})
	emit := func(t wire.Type, _ string, _ any) {
		if t == wire.TypeCommandResult {
			close(ended)
		}
	}
	files := func(name string, flag int) (file, error) {
		f, err := openOS(name, flag)
		if filepath.Base(name) != journalName {
			return f, err
		}
		return &deadly{file: f, write: func(b []byte, write func([]byte)) {
			if !bytes.Contains(b, []byte(`"k":"`+p[1]+`"`)) {
				write(b)
				return
			}
			if n++; n == when {
				switch p[3] {
				case "before":
				case "torn":
					write(b[:len(b)/2])
				case "after":
					write(b)
				}
				die()
			}
			write(b)
			if p[1] == "stored" {
				close(stored)
			}
		}}, err
	}
	e, err := open(Options{Dir: filepath.Join(dir, "task"), MaxJobs: 1, Emit: emit, Now: time.Now, Log: slog.Default()}, files)
	if err != nil {
		panic(err)
	}
	out := e.Accept(crashCommand(dir), false, nil)
	fmt.Printf("accepted %v\n", out == Outcome{})
	e.Start(crashID(dir))
	<-ended
	fmt.Println("ended")
	e.ResultAck(wire.ResultAck{ID: crashID(dir), Stored: true})
	<-stored
	panic("outlived the plan " + plan)
}

func crashCommand(dir string) wire.Command {
	c := command(crashID(dir), crashScript(dir))
	c.IssuedAt = time.Unix(0, 0)
	return c
}

// deadly is a file in whose write the process may die.
type deadly struct {
	file
	write func(b []byte, write func([]byte))
}

func (d *deadly) Write(b []byte) (n int, err error) {
	n = len(b)
	d.write(b, func(part []byte) {
		if _, werr := d.file.Write(part); werr != nil {
			n, err = 0, werr
		}
	})
	return n, err
}

// A worker killed at any step of the journal: the command never runs twice, and
// what the next worker says of it is true.
func TestKilledAtEachStep(t *testing.T) {
	for _, tc := range []struct {
		kind   kind
		n      int
		moment string
		hang   bool
		acked  bool       // the server may have been told "accepted"
		ran    int        // times it has run when the worker dies
		want   wire.State // in the end
		total  int        // times it has run in the end
	}{
		{kindAccepted, 1, "before", false, false, 0, wire.StateCompleted, 1},
		{kindAccepted, 1, "torn", false, false, 0, wire.StateCompleted, 1},
		{kindAccepted, 1, "after", false, false, 0, wire.StateCompleted, 1},
		{kindStarted, 1, "before", false, true, 0, wire.StateCompleted, 1},
		{kindStarted, 1, "torn", false, true, 0, wire.StateCompleted, 1},
		{kindStarted, 1, "after", false, true, 0, wire.StateInterrupted, 0},
		{kindStarted, 2, "before", true, true, 1, wire.StateInterrupted, 1}, // the process is there
		{kindStarted, 2, "after", true, true, 1, wire.StateInterrupted, 1},
		{kindEnded, 1, "before", false, true, 1, wire.StateInterrupted, 1},
		{kindEnded, 1, "torn", false, true, 1, wire.StateInterrupted, 1},
		{kindEnded, 1, "after", false, true, 1, wire.StateCompleted, 1},
		{kindStored, 1, "before", false, true, 1, wire.StateCompleted, 1},
		{kindStored, 1, "torn", false, true, 1, wire.StateCompleted, 1},
		{kindStored, 1, "after", false, true, 1, wire.StateCompleted, 1},
	} {
		t.Run(fmt.Sprintf("%s %d %s", tc.kind, tc.n, tc.moment), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tc.hang {
				touch(t, filepath.Join(dir, "hang"))
			}
			said := killWorker(t, dir, fmt.Sprintf("%s|%s|%d|%s", dir, tc.kind, tc.n, tc.moment))
			if got := strings.Contains(said, "accepted true"); got != tc.acked {
				t.Fatalf("acknowledged: %v; it said %q", got, said)
			}
			if tc.hang { // the job may be just about to write
				eventually(t, "the job to run", func() bool { return len(runs(t, dir)) == tc.ran })
			}
			before := runs(t, dir)
			if len(before) > tc.ran || !tc.hang && len(before) != tc.ran {
				t.Fatalf("ran %d times before, want %d", len(before), tc.ran)
			}
			e, u := openAt(t, filepath.Join(dir, "task"))
			if f := e.Facts(); f.Quarantined != "" || f.Journal != "" {
				t.Errorf("a kill is no damage: %+v", f)
			}
			// The server, not knowing, offers it again.
			out := e.Accept(crashCommand(dir), false, nil)
			if out.Refused != "" || tc.acked && !out.Known {
				t.Fatalf("offered again: %+v", out)
			}
			e.Start(crashID(dir))
			if state, why := final(t, e, u, dir); state != tc.want {
				t.Errorf("ended %s (%s), want %s", state, why, tc.want)
			}
			if got := runs(t, dir); len(got) != tc.total {
				t.Errorf("ran %d times in all, want %d", len(got), tc.total)
			}
			for _, pid := range before {
				eventually(t, "what was left of it to be killed", func() bool { return hasEnded(pid) })
			}
		})
	}
}

// final is what a repeat is answered with once the command has ended, and why it did so.
func final(t *testing.T, e *Executor, u *upstream, dir string) (state wire.State, why string) {
	t.Helper()
	eventually(t, "an outcome", func() bool {
		out := e.Accept(crashCommand(dir), false, nil)
		if out.Result != nil {
			state, why = out.Result.State, out.Result.Reason
		}
		return out.Known && !out.Running
	})
	return state, why
}

// killWorker runs a worker until its plan kills it, and gives what it said.
func killWorker(t *testing.T, dir, plan string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashEnv+"="+plan)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	raw, _ := os.ReadFile(log.Name())
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("worker: %v\n%s", err, raw)
	}
	return string(raw)
}

// runs are the pids of each time the script ran.
func runs(t *testing.T, dir string) (pids []int) {
	t.Helper()
	raw, _ := os.ReadFile(filepath.Join(dir, "ran"))
	for line := range strings.Lines(string(raw)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// hasEnded: a zombie that nobody reaps has ended too.
func hasEnded(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func touch(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The records of a life, as the file has them.
func TestJournalOfALife(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "true"))
	u.result(t, "c1")
	e.ResultAck(wire.ResultAck{ID: "c1", Stored: true})
	eventually(t, "the result to be forgotten", func() bool { return e.Facts().Unacked == 0 })
	shut(t, e)
	raw, err := os.ReadFile(e.journal.path(journalName))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for line := range bytes.Lines(raw) {
		var r record
		if err := json.Unmarshal(line[9:], &r); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, string(r.Kind))
	}
	if got, want := strings.Join(kinds, " "), "born accepted started started ended stored"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

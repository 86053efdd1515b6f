//go:build unix

package task

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/wire"
)

// awkward are jobs that do what they can to stay. Each writes the processes that
// it leaves into the file $pids; stays tells that one is meant to: a service it started.
var awkward = []struct {
	name, script string
	ends         bool // by itself; else it is ended by its timeout, or a cancel
	stays        bool
}{
	{name: "ignores signals", script: `trap '' TERM INT HUP QUIT; echo $$ >>"$pids"; while :; do sleep 0.2; done`},
	{name: "stops itself", script: `echo $$ >>"$pids"; kill -STOP $$; sleep 600`},
	{name: "ignores them in a session of its own", script: `setsid sh -c 'trap "" TERM; echo $$ >>"$pids"; while :; do sleep 0.2; done' & wait`},
	{name: "forks twice and stays", script: `(setsid sh -c 'trap "" TERM; echo $$ >>"$pids"; while :; do sleep 0.2; done' &) ; echo $$ >>"$pids"; sleep 600`},
	{name: "floods", script: `echo $$ >>"$pids"; yes`},
	{name: "floods both streams and ignores signals", script: `trap '' TERM PIPE; echo $$ >>"$pids"; yes & yes >&2`},
	{name: "reads its input for ever", script: `echo $$ >>"$pids"; while :; do read line || sleep 0.05; done`},
	{name: "asks a terminal", script: `read secret </dev/tty`, ends: true},
	{name: "leaves a daemon at its pipes", script: `setsid sh -c 'echo $$ >>"$pids"; exec sleep 600' & while [ ! -s "$pids" ]; do sleep 0.02; done; exit 0`, ends: true, stays: true},
	{name: "leaves a daemon of a daemon", script: `(setsid sh -c 'echo $$ >>"$pids"; exec sleep 600' &); while [ ! -s "$pids" ]; do sleep 0.02; done; exit 3`, ends: true, stays: true},
	{name: "leaves a daemon that floods its pipes", script: `(setsid sh -c 'trap "" PIPE; echo $$ >>"$pids"; while :; do echo x; sleep 0.05; done' &); while [ ! -s "$pids" ]; do sleep 0.02; done`, ends: true, stays: true},
}

// Whatever a job does, its slot is free again: after its end, its timeout, or a
// cancel; and the next command runs.
func TestNoJobKeepsItsSlot(t *testing.T) {
	for _, way := range []string{"timeout", "cancel"} {
		for _, job := range awkward {
			if job.ends && way == "cancel" {
				continue // it ends by itself: there is nothing to cancel
			}
			t.Run(way+"/"+strings.ReplaceAll(job.name, " ", "_"), func(t *testing.T) {
				t.Parallel()
				e, u := openAt(t, t.TempDir(), func(o *Options) { o.MaxJobs = 1 })
				pids := filepath.Join(t.TempDir(), "pids")
				t.Cleanup(func() { endAll(t, pids) })
				c := command(wire.NewID(), "pids='"+pids+"'; export pids\n"+job.script)
				if way == "timeout" && !job.ends {
					c.TimeoutMS = 1000
				}
				order(t, e, c)
				if out := e.Accept(command(wire.NewID(), "true"), false, nil); !job.ends && out.Refused != wire.CodeBusy {
					t.Errorf("beside it: %+v, want busy", out)
				}
				if way == "cancel" {
					eventually(t, "the job to run", func() bool { return len(readPIDs(pids)) > 0 })
					if !e.Cancel(c.ID) {
						t.Fatal("it can't be cancelled")
					}
				}
				began := time.Now()
				r := u.result(t, c.ID)
				t.Logf("%s (%s) %v after its end was due; %d bytes kept, %d lost", r.State, r.Reason, time.Since(began).Round(time.Millisecond),
					r.StdoutBytes+r.StderrBytes, r.StdoutLost+r.StderrLost)
				switch {
				case way == "cancel" && r.State != wire.StateCancelled,
					way == "timeout" && !job.ends && (r.State != wire.StateFailed || !strings.Contains(r.Reason, "timed out")),
					job.stays && !r.Orphans:
					t.Errorf("%+v", r)
				}
				if !job.stays {
					for _, pid := range readPIDs(pids) {
						eventually(t, "the end of "+strconv.Itoa(pid), func() bool { return hasEnded(pid) })
					}
				}
				next := command(wire.NewID(), "echo next")
				order(t, e, next) // fails if it is refused
				if r := u.result(t, next.ID); r.State != wire.StateCompleted || string(r.Stdout) != "next\n" {
					t.Errorf("the next command: %+v", r)
				}
			})
		}
	}
}

func readPIDs(file string) (pids []int) {
	raw, _ := os.ReadFile(file)
	for word := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// endAll ends what a job was meant to leave.
func endAll(t *testing.T, file string) {
	for _, pid := range readPIDs(file) {
		if !hasEnded(pid) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Logf("end %d: %v", pid, err)
			}
		}
	}
}

// A loop that hangs is replaced: what waits is started, once, also when the old
// goroutine comes back after all.
func TestRestartLoop(t *testing.T) {
	e, u := openAt(t, t.TempDir(), func(o *Options) { o.MaxJobs = 4 })
	e.mu.Lock()
	old := e.turning
	e.mu.Unlock()
	if err := e.RestartLoop(time.Second); err != nil {
		t.Fatal(err)
	}
	<-old.done
	mark := filepath.Join(t.TempDir(), "mark")
	order(t, e, command("c1", "echo x >>'"+mark+"'"))
	if _, ok := e.turn(old); ok {
		t.Error("the old loop is still in charge")
	}
	u.result(t, "c1")
	if raw, _ := os.ReadFile(mark); string(raw) != "x\n" {
		t.Errorf("ran %q", raw)
	}
	<-e.Token()

	// What would hang too is said, not done.
	e.journal.io.Lock()
	if err := e.RestartLoop(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("with a hanging disk: %v", err)
	}
	e.journal.io.Unlock()
	e.mu.Lock()
	if err := e.RestartLoop(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("with its memory held: %v", err)
	}
	e.mu.Unlock()
	order(t, e, command("c2", "true"))
	u.result(t, "c2")
}

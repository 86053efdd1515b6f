//go:build unix

package task

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gururmm/wire"
)

// A job that writes without end is neither held up nor kept.
func TestFloodIsBounded(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	c := command("c1", "yes 0123456789012345678901234567890 | head -c 100000000; echo end >&2")
	c.MaxOutput = 100_000
	order(t, e, c)
	r := u.result(t, "c1")
	if r.State != wire.StateCompleted || r.StdoutBytes != 100_000 || r.StdoutLost != 99_900_000 || r.StderrBytes != 4 || r.StderrLost != 0 {
		t.Errorf("%+v", r)
	}
	if r.Reason != "99900000 bytes of its stdout were left out: over the ordered limit of 100000 bytes a stream" {
		t.Errorf("reason %q", r.Reason)
	}
	if len(r.Stdout) != 0 {
		t.Error("a large output rides in the result")
	}
	if got := u.text("c1", wire.Stdout); len(got) != 100_000 || strings.Trim(got, "0123456789\n") != "" {
		t.Errorf("%d bytes sent", len(got))
	}
	if got := u.text("c1", wire.Stderr); got != "end\n" {
		t.Errorf("stderr %q", got)
	}
	if size := e.out.size("c1", wire.Stdout); size != 100_000 {
		t.Errorf("%d bytes on disk", size)
	}
}

func TestMissingOutputIsSentAgainAlsoAfterARestart(t *testing.T) {
	const size = 3 << 20 // more than is sent live, and than one answer brings
	dir := t.TempDir()
	e, u := openAt(t, dir)
	c := command("c1", fmt.Sprintf("head -c %d /dev/urandom", size))
	c.MaxOutput = 4 << 20
	order(t, e, c)
	r := u.result(t, "c1")
	if r.StdoutBytes != size || r.StdoutLost != 0 {
		t.Fatalf("%+v", r)
	}
	if n := len(u.text("c1", wire.Stdout)); n != liveWindow {
		t.Errorf("%d bytes were sent live, want %d", n, liveWindow)
	}
	kept, err := os.ReadFile(e.out.path("c1", wire.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	e, u = openAt(t, dir)
	e.Repeat()
	u.result(t, "c1")
	for n, have := 2, int64(0); have < size; n++ {
		e.ResultAck(wire.ResultAck{ID: "c1", HaveStdout: have})
		u.nth(t, "c1", n)
		got := int64(len(u.text("c1", wire.Stdout)))
		if got <= have || got > have+resendWindow {
			t.Fatalf("after an answer with %d bytes had: %d", have, got)
		}
		have = got
	}
	if u.text("c1", wire.Stdout) != string(kept) {
		t.Error("the output sent is not what was kept")
	}
	// An answer that brings nothing new is not answered at once.
	n := u.count("c1") + 1
	e.ResultAck(wire.ResultAck{ID: "c1", HaveStdout: size - 1})
	u.nth(t, "c1", n)
	e.ResultAck(wire.ResultAck{ID: "c1", HaveStdout: size - 1})
	<-e.Token()
	<-e.Token()
	if u.count("c1") != n {
		t.Error("an answer without news was answered at once")
	}
}

func TestLostOutputFileIsSaid(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "head -c 50000 /dev/zero; echo err >&2"))
	u.result(t, "c1")
	if err := os.Truncate(e.out.path("c1", wire.Stdout), 100); err != nil {
		t.Fatal(err)
	}
	e.Repeat()
	r := u.nth(t, "c1", 2)
	if r.Reason != "49900 bytes of its stdout were kept and are gone from the endpoint's disk" {
		t.Errorf("reason %q", r.Reason)
	}
	if r.StdoutBytes != 100 || r.StdoutLost != 49_900 || r.StderrBytes != 4 || len(r.Stdout) != 100 {
		t.Errorf("%+v", r)
	}
}

// Whose limit it was is said, and by how much, beside the reason that there is anyway.
func TestTheLimitThatCutsOutputIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		ordered int64
		script  string
		reason  string
	}{
		"the default":      {wire.DefaultMaxOutput, "head -c 1048586 /dev/zero", "10 bytes of its stdout were left out: over the default limit of 1048576 bytes a stream"},
		"none ordered":     {0, "head -c 1048586 /dev/zero", "10 bytes of its stdout were left out: over the default limit of 1048576 bytes a stream"},
		"one byte":         {1, "printf ab; exit 3", "exit code 3; 1 bytes of its stdout were left out: over the ordered limit of 1 bytes a stream"},
		"both streams":     {2, "printf abc; printf abcd >&2", "1 bytes of its stdout were left out: over the ordered limit of 2 bytes a stream; 2 bytes of its stderr were left out: over the ordered limit of 2 bytes a stream"},
		"exactly as much":  {3, "printf abc", ""},
		"the agent's own":  {1 << 40, "head -c 67108874 /dev/zero", "10 bytes of its stdout were left out: over this agent's own limit of 67108864 bytes a stream (1099511627776 were ordered)"},
		"a negative order": {-1, "printf abc", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, u := openAt(t, t.TempDir())
			cmd := command("c1", c.script)
			cmd.MaxOutput = c.ordered
			order(t, e, cmd)
			if r := u.result(t, "c1"); r.Reason != c.reason {
				t.Errorf("reason %q, want %q", r.Reason, c.reason)
			}
		})
	}
}

// The output can't be written: the job runs, the loss is counted.
func TestOutputThatCantBeKept(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	if err := os.Mkdir(e.out.path("c1", wire.Stdout), 0o700); err != nil {
		t.Fatal(err)
	}
	order(t, e, command("c1", "head -c 50000 /dev/zero"))
	if r := u.result(t, "c1"); r.State != wire.StateCompleted || r.StdoutBytes != 0 || r.StdoutLost != 50_000 ||
		!strings.Contains(r.Reason, "50000 bytes of its stdout could not be kept: ") {
		t.Errorf("%+v", r)
	}
}

func TestStdinIsEmpty(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "cat; echo end; tty"))
	if r := u.result(t, "c1"); string(r.Stdout) != "end\nnot a tty\n" {
		t.Errorf("%+v %q", r, r.Stdout)
	}
}

func TestOutputComesAsItIsWritten(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "echo one; sleep 100"))
	u.until(t, "the first line", func() bool { return string(u.output["c1/stdout"]) == "one\n" })
	e.Cancel("c1")
	u.result(t, "c1")
}

// A descendant that keeps the pipe open does not keep the job open, nor is it killed.
func TestDaemonHoldsThePipe(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	id := wire.NewID() // its mark on processes: a cancel of another test's c1 is not to find these
	order(t, e, command(id, "sleep 100 & echo $!"))
	r := u.result(t, id)
	pid, err := strconv.Atoi(strings.TrimSpace(string(r.Stdout)))
	if r.State != wire.StateCompleted || err != nil || !r.Orphans {
		t.Fatalf("%+v %q", r, r.Stdout)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon was killed with the job: %v", err)
	}
}

func TestLeavesNoDescendantBehindOnCancel(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"))
	u.until(t, "the pid", func() bool { return bytes.HasSuffix(u.output["c1/stdout"], []byte("\n")) })
	pid, err := strconv.Atoi(strings.TrimSpace(u.text("c1", wire.Stdout)))
	if err != nil {
		t.Fatal(err)
	}
	e.Cancel("c1")
	if r := u.result(t, "c1"); r.State != wire.StateCancelled {
		t.Errorf("%+v", r)
	}
	eventually(t, "the descendant to be gone", func() bool { return hasEnded(pid) })
}

// What belongs to the agent stays with the agent: its files, secrets, script text.
func TestJobInheritsNothingOfTheAgent(t *testing.T) {
	t.Setenv("GURURMM_TOKEN", "hush")
	t.Setenv("OTHER_SECRET", "hush")
	e, u := openAt(t, t.TempDir())
	order(t, e, command("c1", `env; echo "args: $0 $*"; ls /proc/self/fd | wc -l; umask`))
	r := u.result(t, "c1")
	out := string(r.Stdout)
	if strings.Contains(out, "hush") || !strings.Contains(out, "GURURMM_JOB=c1\n") || !strings.Contains(out, "PATH=") {
		t.Errorf("environment:\n%s", out)
	}
	if !strings.Contains(out, "args: "+e.runDir) {
		t.Errorf("arguments:\n%s", out)
	}
	order(t, e, command("c2", "ls -l /proc/self/fd"))
	for line := range strings.Lines(string(u.result(t, "c2").Stdout)) {
		if strings.Contains(line, "socket:") || strings.Contains(line, e.opts.Dir) && !strings.Contains(line, e.runDir) {
			t.Errorf("inherited: %s", line)
		}
	}
}

func TestLongScript(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	script := "echo begin\n" + strings.Repeat("# filler\n", (wire.MaxScript-100)/9) + "echo end\n"
	order(t, e, command("c1", script))
	if r := u.result(t, "c1"); string(r.Stdout) != "begin\nend\n" {
		t.Errorf("%+v", r)
	}
}

func TestShells(t *testing.T) {
	e, u := openAt(t, t.TempDir())
	for shell, script := range map[wire.Shell]string{
		wire.ShellDefault:    "echo hi",
		wire.ShellSh:         "echo hi",
		wire.ShellBash:       "a=(hi); echo ${a[0]}",
		wire.ShellPython:     "print('hi')",
		wire.ShellPowerShell: "'hi'",
		wire.ShellCmd:        "echo hi",
	} {
		c := command("c-"+string(shell), script)
		c.Shell = shell
		order(t, e, c)
		r := u.result(t, c.ID)
		if _, err := find(interpreters[shell].programs, jobEnv(os.Environ())); err != nil && shell != "" {
			if r.State != wire.StateFailed || r.ExitCode != nil || !strings.Contains(r.Reason, "no "+interpreters[shell].programs[0]) {
				t.Errorf("%s is missing: %+v", shell, r)
			}
		} else if r.State != wire.StateCompleted || strings.TrimSpace(string(r.Stdout)) != "hi" {
			t.Errorf("%s: %+v %s", shell, r, r.Stderr)
		}
	}
}

func TestFindIgnoresRelativeDirectories(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if got, err := find([]string{"tool"}, []string{"PATH=.::bin"}); err == nil {
		t.Errorf("found %s", got)
	}
	if got, err := find([]string{"none", "tool"}, []string{"PATH=/nonexistent:" + dir}); err != nil || got != filepath.Join(dir, "tool") {
		t.Errorf("%s %v", got, err)
	}
	if env := jobEnv([]string{"LC_ALL=C", "X=1"}); getenv(env, "PATH") != defaultPath || getenv(env, "HOME") == "" || getenv(env, "X") != "" {
		t.Errorf("%v", env)
	}
	if got := workDir([]string{"HOME=/nonexistent"}); got != "/" {
		t.Errorf("work directory %s", got)
	}
}

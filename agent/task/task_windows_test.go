package task

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

func TestRunsACmdScript(t *testing.T) {
	e, u := openAt(t, filepath.Join(t.TempDir(), "task"))
	c := command("one", "echo Grüße%PATH_OF_NOBODY%\necho err 1>&2\nexit /b 7")
	c.Shell = wire.ShellCmd
	order(t, e, c)
	r := u.result(t, c.ID)
	if r.State != wire.StateFailed || r.ExitCode == nil || *r.ExitCode != 7 {
		t.Errorf("result %+v", r)
	}
	if !strings.HasSuffix(string(r.Stdout), "\r\n") || strings.TrimSpace(string(r.Stderr)) != "err" {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	if again := e.Accept(c, false, wire.StageTimes{}); !again.Known || again.Result == nil {
		t.Errorf("the same again: %+v, want known", again)
	}
}

// Its time over, a script goes with all that it started.
func TestTimeoutEndsTheTree(t *testing.T) {
	e, u := openAt(t, filepath.Join(t.TempDir(), "task"))
	c := command("long", "start /b ping -n 1000 127.0.0.1 >nul\nping -n 1000 127.0.0.1 >nul")
	c.TimeoutMS = 500
	began := time.Now()
	order(t, e, c)
	r := u.result(t, c.ID)
	if r.State != wire.StateFailed || !strings.Contains(r.Reason, "timed out") || strings.Contains(r.Reason, "outlived") {
		t.Errorf("result %+v after %v", r, time.Since(began))
	}
}

// What was accepted before an end is run after it; what had ended is known.
func TestJournalSurvivesAnEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "task")
	e, u := openAt(t, dir)
	done := command("done", "exit /b 0")
	order(t, e, done)
	u.result(t, done.ID)
	waiting := command("waiting", "exit /b 3")
	if out := e.Accept(waiting, false, wire.StageTimes{}); out.Refused != "" {
		t.Fatalf("%+v", out)
	}
	shut(t, e)

	e, u = openAt(t, dir)
	if out := e.Accept(done, false, wire.StageTimes{}); !out.Known || out.Result == nil || out.Result.State != wire.StateCompleted {
		t.Errorf("what had ended: %+v", out)
	}
	if r := u.result(t, waiting.ID); r.ExitCode == nil || *r.ExitCode != 3 {
		t.Errorf("what had not begun: %+v", r)
	}
}

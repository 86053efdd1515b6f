//go:build unix

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A service manager that hangs must not hang who asks it, nor may a child of its tool
// that goes on holding the output.
func TestCommandOfAServiceManagerThatHangs(t *testing.T) {
	hangs := filepath.Join(t.TempDir(), "systemctl")
	script := "#!/bin/sh\necho told\nsleep 60 &\necho $! >\"$0.pid\"\nwait\n"
	if err := os.WriteFile(hangs, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // else it stays for its minute
		raw, _ := os.ReadFile(hangs + ".pid")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	type answer struct {
		text string
		err  error
	}
	said := make(chan answer, 1)
	go func() {
		text, err := commandWithin(time.Second, hangs, "stop", unitName)
		said <- answer{text, err}
	}()
	select {
	case a := <-said:
		if !errors.Is(a.err, context.DeadlineExceeded) || !strings.Contains(a.err.Error(), "stop "+unitName+" did not end within 1s") {
			t.Errorf("said %q and failed with %v", a.text, a.err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still waiting")
	}
}

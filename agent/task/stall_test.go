//go:build faults && unix

package task

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A stalled loop leaves its token undrained; facts and acceptance go on.
func TestStalledLoopIsSeen(t *testing.T) {
	faults := t.TempDir()
	t.Setenv("GURURMM_FAULTS", faults)
	e, u := openAt(t, t.TempDir())
	<-e.Token()
	touch(t, filepath.Join(faults, "worker.executor"))
	order(t, e, command("c1", "true"))
	token := e.Token()
	select {
	case <-token:
		t.Error("a stalled loop drained its token")
	case <-time.After(100 * time.Millisecond):
	}
	if f := e.Facts(); f.Running != 1 || e.Token() != token {
		t.Errorf("%+v", f)
	}
	if err := os.Remove(filepath.Join(faults, "worker.executor")); err != nil {
		t.Fatal(err)
	}
	<-token
	u.result(t, "c1")
}

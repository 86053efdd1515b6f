//go:build unix

package task

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// To open a pipe that nobody writes to would hold up every worker for ever.
func TestAPipeForAJournalIsSetAside(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, journalName), 0o600); err != nil {
		t.Fatal(err)
	}
	e, u := openAt(t, dir)
	doubted(t, e, u)
	if f := e.Facts(); f.Quarantined == "" {
		t.Errorf("%+v", f)
	}
}

// The agent is root: what a link in its state directory leads to must stay as it is.
func TestTheJournalIsRewrittenThroughNoLink(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, newName)); err != nil {
		t.Fatal(err)
	}
	e, _ := openAt(t, dir)
	shut(t, e)
	if raw, err := os.ReadFile(other); err != nil || string(raw) != "not ours" {
		t.Errorf("what it leads to reads %q, %v", raw, err)
	}
}

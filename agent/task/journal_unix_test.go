//go:build unix

package task

import (
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

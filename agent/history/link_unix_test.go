//go:build unix

package history

import (
	"os"
	"path/filepath"
	"testing"
)

// The agent is root: what a link in its state directory leads to must stay as it is.
func TestALinkIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, File)); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(dir); err == nil {
		l.Close()
		t.Error("a link was taken for the history")
	}
	if raw, err := os.ReadFile(other); err != nil || string(raw) != "not ours" {
		t.Errorf("what it leads to reads %q, %v", raw, err)
	}
}

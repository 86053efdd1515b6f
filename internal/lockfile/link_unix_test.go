//go:build unix

package lockfile

import (
	"os"
	"path/filepath"
	"testing"
)

// The agent is root: what a link in its state directory leads to must stay as it is.
func TestALinkIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	other, link := filepath.Join(dir, "other"), filepath.Join(dir, "lock")
	if err := os.WriteFile(other, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	if l, err := Take(link); err == nil {
		l.Release()
		t.Error("a link was taken for a lock file")
	}
	if raw, err := os.ReadFile(other); err != nil || string(raw) != "not ours" {
		t.Errorf("what it leads to reads %q, %v", raw, err)
	}
}

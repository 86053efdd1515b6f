package diskfree

import (
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	free, total, err := Of(t.TempDir())
	if err != nil || total == 0 || free > total {
		t.Errorf("%d of %d free, %v", free, total, err)
	}
	if _, _, err := Of(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("a directory that is not there has a disk")
	}
}

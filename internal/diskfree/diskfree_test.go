package diskfree

import (
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	r, err := Of(t.TempDir())
	if err != nil || r.Total == 0 || r.Free > r.Total || r.FreeFiles > r.Files {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Of(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("a directory that is not there has a disk")
	}
}

//go:build unix

package atomicfile_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"gururmm/internal/atomicfile"
)

func TestOpenNeverWaitsForAWriter(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir} {
		if f, err := atomicfile.Open(path); !errors.Is(err, atomicfile.ErrNotFile) {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
}

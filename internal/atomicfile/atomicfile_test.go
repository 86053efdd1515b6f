package atomicfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/internal/atomicfile"
)

func TestWriteReplacesAndSetsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for i, data := range []string{"one", "", strings.Repeat("x", 1<<20)} {
		if err := atomicfile.Write(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != data {
			t.Fatalf("write %d: read %d bytes, %v; want %d", i, len(got), err, len(data))
		}
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode().Perm())
	}
	onlyFile(t, path)
}

func TestWriteFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	// A directory that is not empty can't be replaced by a file: the rename fails.
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "child"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("new"), 0o600); err == nil {
		t.Fatal("Write over a directory succeeded")
	}
	onlyFile(t, path)
	if err := atomicfile.Write(filepath.Join(dir, "absent", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write into a missing directory: %v, want not exist", err)
	}
}

func TestConcurrentWritersNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.Write(path, bytes.Repeat([]byte{'0'}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 10 {
				if err := atomicfile.Write(path, bytes.Repeat([]byte{byte('a' + w)}, 4096), 0o600); err != nil {
					t.Error(err)
				}
				got, err := read(path)
				if err != nil || len(got) != 4096 || bytes.Count(got, got[:1]) != 4096 {
					t.Errorf("a mixed file of %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	onlyFile(t, path)
}

func TestQuarantineKeepsEach(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for i := range 3 {
		body := fmt.Sprint("bad ", i)
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		to, err := atomicfile.Quarantine(path, now)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(to, path+".corrupt-20260102T020405Z") {
			t.Errorf("quarantined as %s", to)
		}
		if got, err := os.ReadFile(to); err != nil || string(got) != body {
			t.Errorf("%s holds %q, %v", to, got, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if _, err := atomicfile.Quarantine(path, now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("quarantine of nothing: %v", err)
	}
}

// onlyFile holds that no temporary file was left beside path.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Name() != filepath.Base(path) {
		t.Errorf("directory holds %v, want only %s", list, filepath.Base(path))
	}
}

// read reads path while others replace it.
func read(path string) ([]byte, error) {
	f, err := atomicfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

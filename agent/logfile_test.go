package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestLogFileRotatesAndIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.limit = 100
	line := append(bytes.Repeat([]byte("x"), 39), '\n')
	for range 40 {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != logFiles {
		t.Fatalf("%d files, want %d", len(files), logFiles)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 100 || info.Size()%40 != 0 {
			t.Errorf("%s has %d bytes: too many, or a torn line", f.Name(), info.Size())
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 { // there the directory's access list counts
			t.Errorf("%s has mode %v, want 0600", f.Name(), info.Mode())
		}
	}
}

func TestLogFileGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		l, err := OpenLogFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "agent.log"))
	if err != nil || string(raw) != "line\nline\n" {
		t.Fatalf("log holds %q, %v", raw, err)
	}
}

// A file that can't be renamed (a reader on Windows holds it open) goes on, to a bound, and
// the older ones stay; once it can, a new one is begun.
func TestALogFileThatIsHeldGoesOn(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.limit = 20
	n := 0
	write := func() error { // lines of 10 bytes
		n++
		_, err := fmt.Fprintf(l, "line %04d\n", n)
		return err
	}
	for range 5 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	held := errors.New("held by another process")
	l.rename = func(from, to string) error {
		if from == l.path {
			return held
		}
		return os.Rename(from, to)
	}
	for range 3 {
		if err := write(); err != nil {
			t.Errorf("line %d: %v", n, err)
		}
	}
	if err := write(); !errors.Is(err, held) {
		t.Errorf("beyond the bound: %v", err)
	}
	l.rename = os.Rename
	if err := write(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"agent.log":   "line 0010\n",
		"agent.log.1": "line 0005\nline 0006\nline 0007\nline 0008\n",
		"agent.log.2": "line 0003\nline 0004\n",
		"agent.log.3": "line 0001\nline 0002\n",
	} {
		if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(raw) != want {
			t.Errorf("%s holds %q, %v, want %q", name, raw, err, want)
		}
	}

	// A descriptor that is broken is replaced.
	l.f.Close()
	l.size = l.limit
	if err := write(); err != nil {
		t.Errorf("after a close that failed: %v", err)
	}
}

package agent

import (
	"bytes"
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

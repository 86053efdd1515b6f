//go:build !windows

package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gururmm/agent/state"
)

func TestOpenMakesAndMendsAPrivateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for _, mode := range []os.FileMode{0, 0o700, 0o755, 0o777, 0o500} {
		if mode != 0 {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
		}
		d, err := state.Open(dir)
		if err != nil {
			t.Fatalf("mode %o: %v", mode, err)
		}
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("mode %o became %v, %v", mode, fi.Mode(), err)
		}
		if d.Path("x") != filepath.Join(dir, "x") {
			t.Errorf("path %s", d.Path("x"))
		}
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	base := t.TempDir()
	real := filepath.Join(base, "real")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	write(t, file, nil)
	for path, want := range map[string]string{link: "a symbolic link", file: "a file"} {
		if _, err := state.Open(path); !errors.Is(err, state.ErrNotPrivate) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(filepath.Join(open, "state")); !errors.Is(err, state.ErrNotPrivate) || !strings.Contains(err.Error(), open) {
		t.Errorf("in a directory open to all: %v", err)
	}
	if os.Geteuid() == 0 { // only root can give a directory away
		if err := os.Chown(real, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := state.Open(real); !errors.Is(err, state.ErrNotPrivate) || !strings.Contains(err.Error(), "12345") {
			t.Errorf("somebody else's: %v", err)
		}
	}
}

func TestOpenLeavesADirectoryInOtherUseAsItIs(t *testing.T) {
	for name, tt := range map[string]struct {
		mode  os.FileMode
		files []string
		taken bool
	}{
		"other files":                     {0o755, []string{"notes.txt"}, true},
		"other files, open to all":        {0o777 | os.ModeSticky, []string{"notes.txt"}, true},
		"empty, but meant for many":       {0o777 | os.ModeSticky, nil, true},
		"other files, closed":             {0o700, []string{"notes.txt"}, false},
		"configuration put there first":   {0o755, []string{"agent.yaml"}, false},
		"an identity, opened by somebody": {0o755, []string{"identity.json", "spool"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range tt.files {
				write(t, filepath.Join(dir, f), nil)
			}
			if err := os.Chmod(dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := state.Open(dir)
			fi, serr := os.Stat(dir)
			if serr != nil {
				t.Fatal(serr)
			}
			got := fi.Mode() & (os.ModePerm | os.ModeSticky)
			if tt.taken && (!errors.Is(err, state.ErrNotPrivate) || !strings.Contains(err.Error(), dir+" holds other files") || got != tt.mode) {
				t.Errorf("%v, mode %v", err, got)
			}
			if !tt.taken && (err != nil || got != 0o700) {
				t.Errorf("%v, mode %v", err, got)
			}
		})
	}
}

// Anybody can put a file into a directory that is open to all.
func TestOpenIsNotFooledByAnothersIdentity(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "identity.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(dir); !errors.Is(err, state.ErrNotPrivate) {
		t.Errorf("%v", err)
	}
}

// A pipe where a file should be must not hold the agent's start for ever.
func TestPipeInPlaceOfAFile(t *testing.T) {
	d := open(t)
	for _, name := range []string{"identity.json", "policy.json", "agent.yaml"} {
		if err := syscall.Mkfifo(d.Path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var corrupt *state.CorruptError
	if _, err := d.Identity(); !errors.As(err, &corrupt) {
		t.Errorf("identity: %v", err)
	}
	var quarantined *state.QuarantinedError
	if _, _, err := d.Policy(); !errors.As(err, &quarantined) {
		t.Errorf("policy: %v", err)
	}
	if _, err := d.Config(); err == nil {
		t.Error("config was read")
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/x")
	t.Setenv("HOME", "/home/u")
	dir, err := state.DefaultDir()
	if err != nil || !filepath.IsAbs(dir) {
		t.Fatalf("%q, %v", dir, err)
	}
	if os.Geteuid() != 0 && dir != "/x/gururmm-agent" {
		t.Errorf("%q", dir)
	}
	if os.Geteuid() == 0 && (strings.HasPrefix(dir, "/x") || strings.HasPrefix(dir, "/home")) {
		t.Errorf("root's is %q", dir)
	}
}

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

// Whoever owns a directory above, or may write to it, could put another one in the
// place of the state directory.
func TestOpenRefusesAWayThatOthersHold(t *testing.T) {
	mine := os.Geteuid()
	for name, tt := range map[string]struct {
		above func(base string) (dir, named string) // named: what the error must name; "": it is accepted
		root  bool
	}{
		"open to all, two levels above": {above: func(base string) (string, string) {
			return mode(t, base, "a", 0o777) + "/b/state", base + "/a"
		}},
		"open to all and sticky, as /tmp": {above: func(base string) (string, string) {
			return mode(t, base, "a", 0o777|os.ModeSticky) + "/b/state", ""
		}},
		"a group's": {root: true, above: func(base string) (string, string) {
			dir := mode(t, base, "a", 0o775)
			owner(t, dir, mine, 4242)
			return dir + "/b/state", base + "/a"
		}},
		"an account's own group's": {above: func(base string) (string, string) {
			dir := mode(t, base, "a", 0o775)
			fi, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if gid := int(fi.Sys().(*syscall.Stat_t).Gid); gid != mine && gid != 0 { // it may have other members
				return dir + "/b/state", base + "/a"
			}
			return dir + "/b/state", ""
		}},
		"somebody else's": {root: true, above: func(base string) (string, string) {
			dir := mode(t, base, "a", 0o755)
			owner(t, dir, 12345, -1)
			return dir + "/b/state", base + "/a"
		}},
		"a link of one's own": {above: func(base string) (string, string) {
			return link(t, mode(t, base, "a", 0o755), base+"/link") + "/b/state", ""
		}},
		"a link that leads through somebody else's": {root: true, above: func(base string) (string, string) {
			dir := mode(t, base, "a", 0o755)
			inner := mode(t, dir, "inner", 0o755)
			owner(t, dir, 12345, -1)
			return link(t, inner, base+"/link") + "/state", base + "/a"
		}},
		"somebody else's link in a sticky directory": {root: true, above: func(base string) (string, string) {
			open, dir := mode(t, base, "open", 0o777|os.ModeSticky), mode(t, base, "a", 0o755)
			at := link(t, dir, open+"/link")
			if err := os.Lchown(at, 12345, -1); err != nil {
				t.Fatal(err)
			}
			return at + "/state", at
		}},
		"links in a circle": {above: func(base string) (string, string) {
			return link(t, base+"/link", base+"/link") + "/state", base + "/link"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.root && mine != 0 {
				t.Skip("only root can give a directory away")
			}
			base, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			dir, named := tt.above(base)
			_, err = state.Open(dir)
			if named == "" && err != nil {
				t.Errorf("%s: %v", dir, err)
			}
			if named != "" && (!errors.Is(err, state.ErrNotPrivate) || !strings.Contains(err.Error(), named)) {
				t.Errorf("%s: %v, want it refused because of %s", dir, err, named)
			}
			if _, err := os.Lstat(filepath.Dir(dir)); named != "" && strings.HasSuffix(dir, "/b/state") && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was made in it: %v", err)
			}
		})
	}
}

// A doctor tells of it where it has come to be so since.
func TestLookTellsOfAWayThatOthersHold(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "above", "state")
	if _, err := state.Open(dir); err != nil {
		t.Fatal(err)
	}
	if _, exposed, err := state.Look(dir); exposed != nil || err != nil {
		t.Fatalf("%v, %v", exposed, err)
	}
	mode(t, base, "above", 0o777)
	if _, exposed, err := state.Look(dir); !errors.Is(exposed, state.ErrNotPrivate) || !strings.Contains(exposed.Error(), "above") || err != nil {
		t.Errorf("%v, %v", exposed, err)
	}
}

// mode makes the directory name in base, if need be, with mode m.
func mode(t *testing.T, base, name string, m os.FileMode) string {
	t.Helper()
	dir := filepath.Join(base, name)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, m)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func owner(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, at string) string {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
	return at
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

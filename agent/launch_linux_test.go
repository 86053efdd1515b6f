package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/versions"
	"gururmm/internal/lockfile"
)

// A committed program that somebody holds open for writing can't be executed just now
// (ETXTBSY): it is tried for a moment, then the installed one guards, and nothing is
// blamed, counted or forgotten.
func TestProgramThatCantBeStartedNowIsNotBlamed(t *testing.T) {
	s, store, e := updated(t)
	lock, err := lockfile.Take(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	f, err := os.OpenFile(store.Path(e), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	synctest.Test(t, func(t *testing.T) { // the waits between the tries
		for range 2 * 3 { // more often than a program that dies is started
			p, err := s.launch(t.Context(), inherited{}, lock, slog.New(slog.DiscardHandler))
			if err != nil || p.entry != nil || !errors.Is(p.unsure, syscall.ETXTBSY) {
				t.Fatalf("entry %v, unsure %v: %v", p.entry, p.unsure, err)
			}
			if st, err := store.Look(); err != nil || !st.Current.Is(&e) || st.Starts != 0 || st.Last != nil || len(st.Failed) != 0 {
				t.Fatalf("state %+v: %v", st, err)
			}
			if _, again, err := s.reconsider(p); err != nil || !again {
				t.Errorf("looked at again: %v, %v", again, err)
			}
		}
	})
}

func TestOnlyTheMomentIsWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		errs []error
		want error
	}{
		{"a moment", []error{syscall.EAGAIN, &os.PathError{Err: syscall.ETXTBSY}, os.ErrInvalid}, os.ErrInvalid},
		{"the program's own fault", []error{syscall.ENOEXEC}, syscall.ENOEXEC},
		{"it has run", []error{&errEnded{syscall.ENOMEM}}, syscall.ENOMEM},
		{"for long", []error{syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM}, syscall.ENOMEM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, n := time.Now(), 0
				err := persist(t.Context(), func() error {
					if n++; n > len(tt.errs) {
						return nil
					}
					return tt.errs[n-1]
				})
				if took := time.Since(began); !errors.Is(err, tt.want) || n != len(tt.errs) || took > 10*time.Second {
					t.Errorf("%v after %d tries and %v", err, n, took)
				}
			})
		})
	}
}

// What kept the state from being known is over: the program that runs goes on with it, or
// a launch decides anew.
func TestStateIsLookedAtAgain(t *testing.T) {
	s, store, e := updated(t)
	folder := filepath.Dir(store.StateFile())
	gone := folder + ".away"
	unreadable := func() { // what lies below a file can't be read, by root either
		t.Helper()
		if err := errors.Join(os.Rename(folder, gone), os.WriteFile(folder, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	readable := func() {
		t.Helper()
		if err := errors.Join(os.Remove(folder), os.Rename(gone, folder)); err != nil {
			t.Fatal(err)
		}
	}
	unreadable()
	p, err := s.launch(t.Context(), inherited{}, nil, slog.New(slog.DiscardHandler))
	if err != nil || p.unsure == nil || p.entry != nil {
		t.Fatalf("entry %v, unsure %v: %v", p.entry, p.unsure, err)
	}
	if _, _, err := s.reconsider(p); err == nil {
		t.Error("it is known though it can't be read")
	}
	readable()
	if _, again, err := s.reconsider(p); err != nil || !again {
		t.Errorf("an update is named, and the installed program runs: %v, %v", again, err)
	}
	if st, err := store.Look(); err != nil || st.Starts != 0 {
		t.Errorf("a look counts as a start: %+v, %v", st, err)
	}
	s.Config.ReleaseKeys = nil // it can't be verified any more: another start would know no more
	if _, again, err := s.reconsider(p); !errors.Is(err, versions.ErrUnjudged) || again {
		t.Errorf("without keys: %v, %v", again, err)
	}
	failed := versions.State{Current: &e}.FallBack("it died", time.Now())
	if err := store.Save(failed); err != nil {
		t.Fatal(err)
	}
	st, again, err := s.reconsider(p)
	if err != nil || again || st.Last == nil || st.Last.Reason != "it died" {
		t.Errorf("the installed program is what shall run: %+v, %v, %v", st, again, err)
	}
	if err := os.WriteFile(store.StateFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, again, err := s.reconsider(p); err != nil || again || st.Current != nil {
		t.Errorf("a damaged state is set aside, as at a start: %+v, %v, %v", st, again, err)
	}
}

// Who goes back to the installed program is told first if that can't be executed.
func TestInstalledProgramIsAskedWhetherItCanRun(t *testing.T) {
	dir := t.TempDir()
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw  []byte
		mode os.FileMode
		can  bool
	}{
		"well": {raw, 0o755, true}, "not executable": {raw, 0o644, false}, "cut off": {raw[:16], 0o755, false}, "none": {[]byte("hello"), 0o755, false},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, tt.raw, tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := (program{installedPath: path}).canRun(); (err == nil) != tt.can {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (program{installedPath: dir}).canRun(); err == nil {
		t.Error("a directory can be executed")
	}
}

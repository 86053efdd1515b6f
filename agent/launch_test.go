package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gururmm/agent/versions"
	"gururmm/wire"
)

// A state that can't be read or written, or a program that can't be verified for want
// of keys: the installed program runs this once, and what is on disk stays as it is.
func TestUncertainStateIsNotActedOn(t *testing.T) {
	current := versions.State{Current: &versions.Entry{Build: wire.Build{Version: "v9.0.0", SHA256: strings.Repeat("a", 64), OS: runtime.GOOS, Arch: runtime.GOARCH}}, Starts: 1}
	for name, spoil := range map[string]func(t *testing.T, store *versions.Store){
		"no keys": func(t *testing.T, store *versions.Store) {
			if err := store.Save(current); err != nil {
				t.Fatal(err)
			}
			path := store.Path(*current.Current)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(os.Args[0])
			if err == nil {
				err = os.WriteFile(path, raw, 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"not readable": func(t *testing.T, store *versions.Store) {
			if err := unreadable(t, store.StateFile()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Prepare(Options{StateDir: filepath.Join(t.TempDir(), "state")})
			if err != nil {
				t.Fatal(err)
			}
			store := versions.New(s.Dir.Path(versionsDir))
			spoil(t, store)
			before, _ := os.ReadFile(store.StateFile())
			p, err := s.launch(t.Context(), inherited{}, nil, slog.New(slog.DiscardHandler))
			if err != nil || p.entry != nil || p.unsure == nil {
				t.Fatalf("entry %v, unsure %v, findings %v: %v", p.entry, p.unsure, p.findings, err)
			}
			if u := s.updates(p, nil, nil); u.Unsure == nil {
				t.Error("the guardian is not told")
			}
			if after, _ := os.ReadFile(store.StateFile()); string(after) != string(before) {
				t.Errorf("the state was changed to %s", after)
			}
		})
	}
}

// The installed program was to take over by order and can't be started: the program
// of this process stays the one to run, and the order has failed.
func TestProgramGoesOnWhereTheInstalledOneCantBeStarted(t *testing.T) {
	own := &versions.Entry{Build: wire.Build{Version: "v9.0.0", SHA256: strings.Repeat("a", 64)}}
	store := versions.New(filepath.Join(t.TempDir(), "versions"))
	st := versions.State{Current: own}.GoBack(versions.Order{ID: "back", Kind: wire.DirectiveRollback})
	p := program{store: store, state: st}
	p.goOn(own, os.ErrNotExist)
	got, err := store.Look()
	if err != nil || !got.Current.Is(own) || got.Phase != versions.PhaseNone || got.Last == nil || got.Last.Done || got.Last.Order.ID != "back" {
		t.Errorf("state %+v: %v", got, err)
	}
	if p.entry != own || p.unsure != nil {
		t.Errorf("runs %v, unsure %v", p.entry, p.unsure)
	}
}

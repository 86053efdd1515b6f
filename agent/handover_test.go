package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/agent/versions"
	"gururmm/internal/lockfile"
	"gururmm/release"
	"gururmm/wire"
)

const updateSum = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// updated is a setup whose state names an update: a whole, signed program, this very test.
func updated(t *testing.T) (*Setup, *versions.Store, versions.Entry) {
	t.Helper()
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Prepare(Options{StateDir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	s.Config = state.Config{ReleaseKeys: []string{pub.String()}}
	program, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	b, err := release.Sign(priv, program, "v9.0.0", runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	store, e := versions.New(s.Dir.Path(versionsDir)), versions.Entry{Build: b}
	if err := os.MkdirAll(filepath.Dir(store.Path(e)), 0o700); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(store.Path(e), raw, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(versions.State{Current: &e}); err != nil {
		t.Fatal(err)
	}
	return s, store, e
}

// A new guardian whose loop hangs, from its start or later, is proven to: the version before
// is what shall run, and the process ends for it. One that turns and comes to no decision
// only ends, long after its own limit. Neither happens to one that has said what became
// of it, that stops, or that nobody would start again.
func TestHandoverThatHangsIsLeft(t *testing.T) {
	e := &versions.Entry{Build: wire.Build{Version: "v9.0.0", SHA256: updateSum}}
	open := versions.State{Next: e, Order: &versions.Order{ID: "up", Kind: wire.DirectiveUpdate}}.Commit("v1.0.0", time.Now())
	const never = time.Duration(0)
	for _, tt := range []struct {
		name    string
		service bool
		disk    versions.State // a while later
		turns   time.Duration  // how long its loop does
		last    local.Mode     // of the last turn
		stop    time.Duration  // when the guardian has ended; 0: never
		ended   time.Duration  // never: it is not
		left    bool
	}{
		{"hangs at its start", true, open, 0, "", 0, hangAfter, true},
		{"hangs later", true, open, time.Minute, local.ModeGuarding, 0, time.Minute + hangAfter, true},
		{"turns and does not decide", true, open, 24 * time.Hour, local.ModeGuarding, 0, stuckAfter, false},
		{"stops slowly", true, open, time.Minute, local.ModeStopping, 2 * time.Minute, never, false},
		{"hangs in its stop", true, open, time.Minute, local.ModeStopping, 0, stuckAfter, false},
		{"has confirmed", true, open.Confirm("v9.0.0", time.Now()), 0, "", 0, never, false},
		{"has given back", true, open.FallBack("no link", time.Now()), 0, "", 0, never, false},
		{"has ended", true, open, 0, "", hangAfter - watchEvery, never, false},
		{"by hand", false, open, 0, "", 0, never, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := versions.New(filepath.Join(t.TempDir(), "versions"))
			if err := store.Save(tt.disk); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				began, ended := time.Now(), never
				s := &Setup{Service: tt.service, exit: func(code int) {
					if ended = time.Since(began); code == 0 {
						t.Error("it ends as if all were well: nobody starts it again")
					}
				}}
				h := s.watchHandover(program{store: store, state: open, entry: open.Current}, slog.New(slog.DiscardHandler))
				tell := h.through(silent{})
				over := time.Hour
				if tt.stop != 0 {
					over = tt.stop
				}
				for time.Since(began) < over {
					if since := time.Since(began); since+guardian.MaxTurn < tt.turns {
						tell.turn(guardian.Turn{Mode: local.ModeGuarding})
					} else if since <= tt.turns && tt.turns > 0 {
						tell.turn(guardian.Turn{Mode: tt.last})
					}
					time.Sleep(min(guardian.MaxTurn, over-time.Since(began)))
				}
				h.end()
				time.Sleep(time.Hour)
				synctest.Wait()
				if ended < tt.ended || ended > tt.ended+2*watchEvery {
					t.Errorf("ended after %v, want %v", ended, tt.ended)
				}
			})
			st, err := store.Look()
			if left := !st.Current.Is(tt.disk.Current); err != nil || left != tt.left {
				t.Fatalf("left: %v, state %+v: %v", left, st, err)
			}
			if tt.left && (st.Phase != versions.PhaseNone || !st.Last.RolledBack || st.Last.Order.ID != "up" || !strings.Contains(st.Last.Reason, "hangs: its loop stood still for 20s")) {
				t.Errorf("outcome %+v of %+v", st.Last, st)
			}
		})
	}
}

// silent is a teller that tells nobody.
type silent struct{}

func (silent) turn(guardian.Turn) {}
func (silent) end(error)          {}

// A launcher that outlives the program it started takes no detour by the service manager,
// whose delays grow: a guardian that crashes before it has confirmed is left after three
// starts, within seconds. One that crashes later ends the launcher too.
func TestLauncherGoesRoundAfterACrashBeforeTheConfirmation(t *testing.T) {
	for _, tt := range []struct {
		name  string
		phase versions.Phase
		run   func(store *versions.Store) // of each start, before it crashes
		want  int                         // starts
		err   error                       // nil: its crash
		left  bool
	}{
		{"before", versions.PhaseHandover, nil, 3, state.ErrNotEnrolled, true},
		{"once it has been left", versions.PhaseHandover, func(store *versions.Store) {
			if st, err := store.Look(); err != nil || store.Save(st.FallBack("it hangs", time.Now())) != nil {
				panic("the state can't be written")
			}
		}, 1, state.ErrNotEnrolled, true},
		{"once it has confirmed", versions.PhaseHandover, func(store *versions.Store) {
			if st, err := store.Look(); err != nil || store.Save(st.Confirm("v9.0.0", time.Now())) != nil {
				panic("the state can't be written")
			}
		}, 1, nil, false},
		{"of an update long confirmed", versions.PhaseNone, nil, 1, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, store, e := updated(t)
			st := versions.State{Current: &e, Phase: tt.phase}
			if st.Phase != versions.PhaseNone {
				st.Order = &versions.Order{ID: "up", Kind: wire.DirectiveUpdate}
			}
			if err := store.Save(st); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				starts, crash, began := 0, errors.New("exit status 2"), time.Now()
				s.becomes = func(_ context.Context, _ string, _ []string, lock *lockfile.Lock, _ *slog.Logger) error {
					starts++
					if tt.run != nil {
						tt.run(store)
					}
					return errors.Join(&errEnded{crash}, lock.Release())
				}
				err := Run(t.Context(), s, slog.New(slog.DiscardHandler), io.Discard)
				want := tt.err
				if want == nil {
					want = crash
				}
				if !errors.Is(err, want) || starts != tt.want || time.Since(began) > 10*time.Second {
					t.Errorf("%v after %d starts and %v; want %v after %d", err, starts, time.Since(began), want, tt.want)
				}
			})
			got, err := store.Look()
			if left := got.Current == nil; err != nil || left != tt.left || left && !got.Last.RolledBack {
				t.Errorf("left: %v, state %+v: %v", left, got, err)
			}
		})
	}
}

// A stop ends the launcher's wait too.
func TestLauncherThatIsStoppedStartsNothing(t *testing.T) {
	s, store, e := updated(t)
	if err := store.Save(versions.State{Current: &e, Phase: versions.PhaseHandover}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		starts := 0
		s.becomes = func(_ context.Context, _ string, _ []string, lock *lockfile.Lock, _ *slog.Logger) error {
			starts++
			time.AfterFunc(relaunchAfter/2, stop)
			return errors.Join(&errEnded{errors.New("exit status 2")}, lock.Release())
		}
		began := time.Now()
		if err := Run(ctx, s, slog.New(slog.DiscardHandler), io.Discard); err != nil || starts != 1 || time.Since(began) >= relaunchAfter {
			t.Errorf("%v after %d starts and %v", err, starts, time.Since(began))
		}
	})
}

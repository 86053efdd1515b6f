package guardian_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/agent/versions"
	"gururmm/oob"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// shelf is a release key and a program to be fetched: this very test.
type shelf struct {
	keys    []release.Key
	priv    release.PrivateKey
	program []byte
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{[]release.Key{pub}, priv, raw}
}

func (s *shelf) build(t *testing.T, version string) wire.Build {
	t.Helper()
	b, err := release.Sign(s.priv, strings.NewReader(string(s.program)), version, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// updatable lets b's guardian update itself; the worker on trial reports trial.
func (b *bench) updatable(s *shelf, trial selfcheck.Snapshot) *guardian.Updates {
	b.cfg.Presence.Version = "v1.0.0"
	b.start.Worker.Version = "v1.0.0"
	u := &guardian.Updates{
		Store: versions.New(filepath.Join(b.t.TempDir(), "versions")), Keys: s.keys, Installed: "v1.0.0",
		Fetch: func(_ context.Context, _ string, _, offset int64, w io.Writer) (int64, error) {
			n, err := w.Write(s.program[offset:])
			return int64(n), err
		},
	}
	u.Spawn = func(string) func(context.Context) (guardian.Child, error) {
		return func(context.Context) (guardian.Child, error) { return b.spawnAs(trial) }
	}
	b.cfg.Updates = u
	return u
}

// as is a worker of this version that is well.
func as(version string) selfcheck.Snapshot {
	s := well()
	s.Worker.Version = version
	return s
}

// unverified is one whose link does not come up.
func unverified(version string) selfcheck.Snapshot {
	s := as(version)
	s.Link = selfcheck.LinkFacts{Phase: selfcheck.PhaseDialing, PhaseAge: new(time.Second)}
	return s
}

func (b *bench) order(id string, build wire.Build) wire.Envelope {
	return b.directive(wire.Directive{ID: id, Kind: wire.DirectiveUpdate, Build: &build, ExpiresAt: time.Now().Add(5 * time.Hour)})
}

// call hands down messages at once: the worker says that the server calls.
func (b *bench) call(messages ...wire.Envelope) {
	b.t.Helper()
	b.door.set(func() { b.door.next = append(b.door.next, messages...) })
	b.child().say(pipe.Fact{Call: true})
	pass(2 * time.Second)
	b.door.set(func() {
		if len(b.door.next) > 0 {
			b.t.Fatal("nobody asked at the door")
		}
	})
}

// ended waits, not for ever, until the guardian ends by itself.
func (b *bench) ended() error {
	b.t.Helper()
	limit := time.NewTimer(time.Hour)
	defer limit.Stop()
	select {
	case err := <-b.done:
		return err
	case <-limit.C:
		state, detail := b.outcome("up")
		b.t.Errorf("the guardian did not end; the update is %q: %s", state, detail)
		return b.end()
	}
}

// outcome is the last word on directive id, "" before it.
func (b *bench) outcome(id string) (state wire.DirectiveState, detail string) {
	for _, r := range b.door.receipts(b.t) {
		if r.ID == id {
			state, detail = r.State, r.Detail
		}
	}
	return state, detail
}

// code is that of the last word on directive id.
func (b *bench) code(id string) (code wire.Code) {
	for _, r := range b.door.receipts(b.t) {
		if r.ID == id {
			code = r.Code
		}
	}
	return code
}

// updatesTold gives the codes of the events of kind update, and the last one's sentence.
func updatesTold(events []history.Event) (codes []string, last string) {
	for _, e := range events {
		if e.Kind == history.KindUpdate {
			codes, last = append(codes, e.Code), e.Sentence
		}
	}
	return codes, last
}

func load(t *testing.T, u *guardian.Updates) versions.State {
	t.Helper()
	st, err := u.Store.Look()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestUpdateThatPassesItsTrialTakesOver(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, as("v2.0.0"))
		events := b.remember()
		b.run()
		pass(2 * time.Second)
		old := b.child()
		b.call(b.order("up", s.build(t, "v2.0.0")))
		pass(10 * time.Second)
		drained := false
		for _, o := range old.got() {
			drained = drained || o.Drain != nil && o.Drain.GraceMS >= 30_000
		}
		if st := load(t, u); !drained || b.spawned() != 2 || st.Phase != versions.PhaseTrial {
			t.Fatalf("drained %v, %d workers, %+v", drained, b.spawned(), st)
		}
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
		st := load(t, u)
		if st.Phase != versions.PhaseHandover || st.Current.Version() != "v2.0.0" || st.Previous != nil || st.Installed != "v1.0.0" {
			t.Errorf("state %+v", st)
		}
		if state, _ := b.outcome("up"); state != wire.DirectiveAccepted {
			t.Errorf("told %q before it is confirmed", state)
		}
		if err := u.Store.Verify(u.Keys, *st.Current); err != nil {
			t.Error(err)
		}
		if got, _ := updatesTold(events()); !slices.Equal(got, []string{"ordered", "fetched", "draining", "trial", "committed", "handover"}) {
			t.Errorf("the history tells %q", got)
		}
	})
}

// A machine that sleeps, or starves the guardian, while the old worker drains for an
// update takes nothing of the time that its jobs have: two workers are one too many.
func TestADrainingWorkerIsNotGivenUpAfterAPause(t *testing.T) {
	s := newShelf(t)
	for _, pause := range []string{"a resume", "a late turn"} {
		t.Run(pause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				events := make(chan guardian.Event)
				b.cfg.Events = events
				var held atomic.Bool
				b.cfg.Gate = func() {
					if held.CompareAndSwap(true, false) {
						time.Sleep(8 * time.Second)
					}
				}
				b.run()
				pass(2 * time.Second)
				old := b.child()
				old.mu.Lock()
				old.jobs = 50 * time.Second
				old.mu.Unlock()
				b.call(b.order("up", s.build(t, "v2.0.0")))
				if orders(old, func(o pipe.Order) bool { return o.Drain != nil }) != 1 {
					t.Fatal("the old worker was not drained")
				}
				if pause == "a resume" {
					events <- guardian.EventResume
				} else {
					held.Store(true)
				}
				pass(45 * time.Second)
				if n := b.spawned(); n != 1 {
					t.Errorf("%d workers while the old one's jobs end", n)
				}
				if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
					t.Fatal(err)
				}
				if st := load(t, u); st.Phase != versions.PhaseHandover || len(st.Failed) != 0 {
					t.Errorf("state %+v", st)
				}
			})
		})
	}
}

func TestUpdateThatFailsItsTrialIsRolledBackAndTold(t *testing.T) {
	s := newShelf(t)
	mute := errors.New("exec format error")
	for _, tt := range []struct {
		name   string
		trial  selfcheck.Snapshot
		spawn  func(b *bench) (guardian.Child, error) // nil: a worker that reports trial
		memory uint64
		reason string
	}{
		{"can't be executed", as("v2.0.0"), func(*bench) (guardian.Child, error) { return guardian.Child{}, mute }, 0, "exec format error"},
		{"crashes", as("v2.0.0"), func(b *bench) (guardian.Child, error) {
			c, err := b.spawnAs(as("v2.0.0"))
			b.child().exit(errors.New("exit status 2"))
			return c, err
		}, 0, "exit status 2"},
		{"hangs", as("v2.0.0"), func(b *bench) (guardian.Child, error) {
			c, err := b.spawnAs(as("v2.0.0"))
			close(b.child().frozen)
			return c, err
		}, 0, "not reported"},
		{"never verifies", unverified("v2.0.0"), nil, 0, "not verified"},
		{"is another version", as("v1.9.0"), nil, 0, "v1.9.0"},
		{"eats memory", as("v2.0.0"), nil, 1 << 30, "1024 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, tt.trial)
				u.Memory = func(int) (uint64, error) { return tt.memory, nil }
				var began atomic.Int64
				plain := u.Spawn
				u.Spawn = func(path string) func(context.Context) (guardian.Child, error) {
					return func(ctx context.Context) (guardian.Child, error) {
						began.Store(time.Now().UnixNano())
						if tt.spawn != nil {
							return tt.spawn(b)
						}
						return plain(path)(ctx)
					}
				}
				ask, events := b.status(), b.remember()
				b.run()
				pass(2 * time.Second)
				b.call(b.order("up", s.build(t, "v2.0.0")))
				pass(90 * time.Second)
				if got, why := updatesTold(events()); !slices.Equal(got, []string{"ordered", "fetched", "draining", "trial", "rolled_back"}) || !strings.Contains(why, tt.reason) {
					t.Errorf("the history tells %q, at last %q", got, why)
				}
				state, detail := b.outcome("up")
				if state != wire.DirectiveFailed || !strings.Contains(detail, tt.reason) || !strings.Contains(detail, "rolled back") || b.code("up") != "" {
					t.Errorf("told %s: %s, code %q", state, detail, b.code("up"))
				}
				st := load(t, u)
				if st.Phase != versions.PhaseNone || st.Current != nil || len(st.Failed) != 1 || !st.Last.RolledBack || !st.Last.Told {
					t.Errorf("state %+v", st)
				}
				got := ask()
				if got.Update.BackAfter == nil || *got.Update.BackAfter > time.Minute {
					t.Errorf("the old worker is back after %v", got.Update.BackAfter)
				}
				if len(got.Findings) != 1 || got.Findings[0].Code != selfcheck.FindUpdateRolledBack || !strings.Contains(got.Findings[0].Sentence, tt.reason) {
					t.Errorf("findings %+v", got.Findings)
				}
				if r := b.door.last(); len(r.Findings) != 1 || r.Findings[0].Code != selfcheck.FindUpdateRolledBack {
					t.Errorf("the server is not told: %+v", r.Findings)
				}
				if got.Snapshot.Worker.Version != "v1.0.0" || !got.Snapshot.Worker.Running {
					t.Errorf("now runs %+v", got.Snapshot.Worker)
				}
				if tt.name != "crashes" { // below is the same for all
					if err := b.end(); err != nil {
						t.Fatal(err)
					}
					return
				}
				// The same order is answered with what is known, a new one is tried anew.
				n := b.spawned()
				b.call(b.order("up", s.build(t, "v2.0.0")))
				pass(5 * time.Second)
				if b.spawned() != n {
					t.Error("the same order was tried again")
				}
				b.call(b.order("again", s.build(t, "v2.0.0")))
				pass(90 * time.Second)
				if state, _ := b.outcome("again"); state != wire.DirectiveFailed {
					t.Errorf("a new order: %s", state)
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestNetworkIsNotTheBuildsFault(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, unverified("v2.0.0"))
		plain := u.Spawn
		u.Spawn = func(path string) func(context.Context) (guardian.Child, error) {
			b.door.set(func() { b.door.down = errors.New("no network") })
			return plain(path)
		}
		b.run()
		pass(2 * time.Second)
		b.call(b.order("up", s.build(t, "v2.0.0")))
		pass(40 * time.Second)
		b.door.set(func() { b.door.down = nil })
		pass(time.Minute)
		if state, detail := b.outcome("up"); state != wire.DirectiveFailed || !strings.Contains(detail, "no fault of the build") || b.code("up") != wire.CodeUnreachable {
			t.Errorf("told %s: %s, code %q", state, detail, b.code("up"))
		}
		if st := load(t, u); len(st.Failed) != 0 || st.Phase != versions.PhaseNone {
			t.Errorf("state %+v", st)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// A new program may be the cure for the link: the door stands for it.
func TestUpdateWithoutALinkIsTriedByTheDoor(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, unverified("v2.0.0"))
		b.start = unverified("v1.0.0")
		b.run()
		pass(2 * time.Second)
		b.call(b.order("up", s.build(t, "v2.0.0")))
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
		if st := load(t, u); st.Phase != versions.PhaseHandover || !st.Order.ByDoor {
			t.Errorf("state %+v", st)
		}
	})
}

func TestUpdatesThatAreRefused(t *testing.T) {
	s, foreign := newShelf(t), newShelf(t)
	for _, tt := range []struct {
		name   string
		change func(u *guardian.Updates, b *wire.Build)
		nack   string
		failed string
		done   bool
	}{
		{"no release key", func(u *guardian.Updates, _ *wire.Build) { u.Keys = nil }, "no release key is known", "", false},
		{"a state that can't be written", func(u *guardian.Updates, _ *wire.Build) { u.Unsure = errors.New("disk full") }, "disk full", "", false},
		{"another key", func(_ *guardian.Updates, b *wire.Build) { b.Signature = foreign.build(t, "v2.0.0").Signature }, "trusted here", "", false},
		{"another version than signed", func(_ *guardian.Updates, b *wire.Build) { b.Version = "v3.0.0" }, "signed is v2.0.0", "", false},
		{"an older one", func(_ *guardian.Updates, b *wire.Build) { *b = s.build(t, "v0.9.0") }, "downgrade", "", false},
		{"the same", func(_ *guardian.Updates, b *wire.Build) { *b = s.build(t, "v1.0.0") }, "", "", true},
		{"another program than signed", func(u *guardian.Updates, _ *wire.Build) {
			u.Fetch = func(_ context.Context, _ string, size, _ int64, w io.Writer) (int64, error) {
				n, err := w.Write(make([]byte, size))
				return int64(n), err
			}
		}, "", "not the one announced", false},
		{"a size that does not fit the disk", func(_ *guardian.Updates, b *wire.Build) { b.Size = wire.MaxBuild + 1 }, "size", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				build := s.build(t, "v2.0.0")
				tt.change(u, &build)
				b.run()
				pass(2 * time.Second)
				b.call(b.order("up", build))
				pass(30 * time.Second)
				nacks := b.door.nacks(t)
				if tt.nack != "" && (len(nacks) != 1 || !strings.Contains(nacks[0].Detail, tt.nack)) || tt.nack == "" && len(nacks) != 0 {
					t.Errorf("nacks %+v", nacks)
				}
				state, detail := b.outcome("up")
				if tt.failed != "" && (state != wire.DirectiveFailed || !strings.Contains(detail, tt.failed)) || tt.done && state != wire.DirectiveDone {
					t.Errorf("told %s: %s", state, detail)
				}
				if b.spawned() != 1 {
					t.Errorf("%d workers: something was run", b.spawned())
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A rollback stands beside the verdict until a later update is confirmed, and no longer: the
// beacon that tells of that one says it already.
func TestAConfirmedUpdateEndsWhatIsSaidOfTheLastRollback(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, as("v2.0.0"))
		u.State.Last = &versions.Outcome{Version: "v1.9.0", RolledBack: true, Reason: "it crashed", At: time.Now(), Told: true}
		ask := b.status()
		b.run()
		pass(10 * time.Second)
		if f := ask().Findings; len(f) != 1 || f[0].Code != selfcheck.FindUpdateRolledBack {
			t.Errorf("before it is confirmed: %+v", f)
		}
		pass(30 * time.Second)
		if state, _ := b.outcome("up"); state != wire.DirectiveDone {
			t.Fatalf("told %s", state)
		}
		if r := b.door.last(); len(r.Findings) != 0 {
			t.Errorf("once it is confirmed (%s): %+v", r.Cause, r.Findings)
		}
		b.end()
	})
}

// handedOver is a guardian that has just begun as v2.0.0.
func (b *bench) handedOver(s *shelf, worker selfcheck.Snapshot) *guardian.Updates {
	u := b.updatable(s, worker)
	build := s.build(b.t, "v2.0.0")
	b.cfg.Presence.Version, b.start = "v2.0.0", worker
	u.State = versions.State{}.Fetch(build, versions.Order{ID: "up", Kind: wire.DirectiveUpdate}).Trial(false).Commit("v1.0.0", time.Now())
	u.State.Starts = 1
	u.Running = u.State.Current
	return u
}

func TestNewGuardianConfirms(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, as("v2.0.0"))
		ask, events := b.status(), b.remember()
		b.run()
		pass(10 * time.Second)
		if got := ask(); got.Update.Step != local.UpdateConfirm || got.Update.Source != local.SourceUpdated {
			t.Errorf("status %+v", got.Update)
		}
		pass(30 * time.Second)
		if state, detail := b.outcome("up"); state != wire.DirectiveDone || !strings.Contains(detail, "v2.0.0") {
			t.Errorf("told %s: %s", state, detail)
		}
		if st := load(t, u); st.Phase != versions.PhaseNone || st.Starts != 0 || st.Current.Version() != "v2.0.0" || !st.Last.Told {
			t.Errorf("state %+v", st)
		}
		b.call(b.directive(wire.Directive{ID: "back", Kind: wire.DirectiveRollback, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
		if st := load(t, u); st.Current != nil || st.Phase != versions.PhaseHandover || st.Order.ID != "back" {
			t.Errorf("state after a rollback %+v", st)
		}
		if got, _ := updatesTold(events()); !slices.Equal(got, []string{"confirmed", "ordered", "handover"}) {
			t.Errorf("the history tells %q", got)
		}
	})
}

func TestNewGuardianThatDoesNotConfirmGivesBack(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, unverified("v2.0.0"))
		b.run()
		began := time.Now()
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 5*time.Minute || took > 7*time.Minute {
			t.Errorf("after %v", took)
		}
		if st := load(t, u); st.Current != nil || !st.Last.RolledBack || len(st.Failed) != 1 {
			t.Errorf("state %+v", st)
		}
	})
}

func TestOrderlyStopIsNoFailedStart(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, as("v2.0.0"))
		b.run()
		pass(5 * time.Second)
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		if st := load(t, u); st.Starts != 0 || st.Phase != versions.PhaseHandover {
			t.Errorf("state %+v", st)
		}
	})
}

// What is against a download at the moment is told apart from what is against the program.
func TestDownloadThatFailsTellsWhoseFaultItIs(t *testing.T) {
	s := newShelf(t)
	down := &oob.DoorError{Door: "https://door", Phase: "dial", Type: "refused", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name  string
		fetch func(w io.Writer) error
		code  wire.Code
		says  string
	}{
		{"the disk is full", func(io.Writer) error {
			return &os.PathError{Op: "write", Path: "/versions/v.part", Err: syscall.ENOSPC}
		}, wire.CodeJournal, syscall.ENOSPC.Error()},
		{"no door answers for too long", func(io.Writer) error { return down }, wire.CodeUnreachable, "not fetched"},
		{"the server has no such program", func(io.Writer) error { return fmt.Errorf("%w: %w", oob.ErrNoBuild, down) }, "", "does not have"},
		{"it is another program", func(w io.Writer) error {
			other := slices.Clone(s.program)
			other[0]++
			_, err := w.Write(other)
			return err
		}, "", release.ErrContent.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				u.Fetch = func(_ context.Context, _ string, _, _ int64, w io.Writer) (int64, error) { return 0, tt.fetch(w) }
				b.run()
				pass(2 * time.Second)
				b.call(b.order("up", s.build(t, "v2.0.0")))
				pass(3 * time.Hour)
				state, detail := b.outcome("up")
				if state != wire.DirectiveFailed || !strings.Contains(detail, tt.says) || b.code("up") != tt.code {
					t.Errorf("told %s: %s, code %q", state, detail, b.code("up"))
				}
				if st := load(t, u); st.Last == nil || st.Last.Code != tt.code || len(st.Failed) != 0 || b.spawned() != 1 {
					t.Errorf("state %+v, %d workers", st, b.spawned())
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A stop in the middle of a trial is remembered as what it was.
func TestStopDuringATrialIsNotTheBuildsFault(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, as("v2.0.0"))
		b.run()
		pass(2 * time.Second)
		b.call(b.order("up", s.build(t, "v2.0.0")))
		pass(5 * time.Second)
		if st := load(t, u); st.Phase != versions.PhaseTrial {
			t.Fatalf("no trial: %+v", st)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		if st := load(t, u); st.Last == nil || st.Last.Code != wire.CodeInterrupted || st.Phase != versions.PhaseNone || len(st.Failed) != 0 {
			t.Errorf("state %+v", st)
		}
	})
}

// What a killed guardian left is taken up, or told.
func TestNextStartTakesUpAnUpdate(t *testing.T) {
	s := newShelf(t)
	order := versions.Order{ID: "up", Kind: wire.DirectiveUpdate}
	build := s.build(t, "v2.0.0")
	fetching := versions.State{}.Fetch(build, order)
	t.Run("a download goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			u := b.updatable(s, as("v2.0.0"))
			u.State = fetching
			b.run()
			if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
				t.Fatal(err)
			}
			if st := load(t, u); st.Current.Version() != "v2.0.0" {
				t.Errorf("state %+v", st)
			}
		})
	})
	codes := map[string]wire.Code{
		"not for ever": wire.CodeInterrupted, "signed by another key": wire.CodeInterrupted, "stopped in its trial": wire.CodeInterrupted,
	}
	for name, st := range map[string]versions.State{
		"stopped in its trial": fetching.Trial(false).GiveUp(wire.CodeInterrupted, "the agent was stopped", time.Now()),
		"not for ever": func() versions.State {
			st := fetching
			st.Order = &versions.Order{ID: "up", Kind: wire.DirectiveUpdate, Resumed: versions.MaxResumes}
			return st
		}(),
		"a trial is over":       fetching.Trial(false),
		"an outcome not told":   fetching.Trial(false).RollBack("it crashed", time.Now()),
		"a guardian that died":  fetching.Trial(false).Commit("v1.0.0", time.Now()).FallBack("it died", time.Now()),
		"signed by another key": func() versions.State { st := fetching; e := *st.Next; e.Build.Signature = "x"; st.Next = &e; return st }(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				u.State = st
				events := b.remember()
				if st.Last != nil { // the process that died may have come to keep it
					kept := history.Event{ID: "u" + strconv.FormatInt(st.Last.At.UnixNano(), 36), Kind: history.KindUpdate, Code: "rolled_back", Sentence: st.Last.Reason}
					if err := b.cfg.History.Add(kept); err != nil {
						t.Fatal(err)
					}
				}
				b.run()
				pass(30 * time.Second)
				if state, detail := b.outcome("up"); state != wire.DirectiveFailed || detail == "" || b.code("up") != codes[name] {
					t.Errorf("told %s: %s, code %q", state, detail, b.code("up"))
				}
				if got := load(t, u); got.Phase != versions.PhaseNone || got.Current != nil || !got.Last.Told {
					t.Errorf("state %+v", got)
				}
				if b.spawned() != 1 {
					t.Errorf("%d workers", b.spawned())
				}
				if got, why := updatesTold(events()); len(got) != 1 || got[0] != "failed" && got[0] != "rolled_back" || why == "" {
					t.Errorf("the history tells %q: %s", got, why)
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A state that is not known names nothing, but that is no leave to remove or write.
func TestUncertainStateStaysUntouched(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, as("v2.0.0"))
		u.Unsure = errors.New("disk full")
		kept := u.Store.Path(versions.Entry{Build: s.build(t, "v2.0.0")})
		if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept, []byte("program"), 0o700); err != nil {
			t.Fatal(err)
		}
		b.run()
		pass(2 * time.Minute)
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("the program is gone: %v", err)
		}
		if _, err := os.Stat(u.Store.StateFile()); !os.IsNotExist(err) {
			t.Errorf("a state was written: %v", err)
		}
	})
}

func TestRollbackToAProgramThatCantRunIsRefused(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, as("v2.0.0"))
		u.CanRun = func() error { return os.ErrNotExist }
		b.run()
		pass(2 * time.Second)
		b.call(b.directive(wire.Directive{ID: "back", Kind: wire.DirectiveRollback, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		if nacks := b.door.nacks(t); len(nacks) != 1 || !strings.Contains(nacks[0].Detail, "installed program can't take over") {
			t.Errorf("nacks %+v", nacks)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// The hand-over of a rollback did not happen: what runs is not what was ordered.
func TestOnlyWhatRunsIsConfirmed(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, as("v2.0.0"))
		u.State = u.State.Confirm("v2.0.0", time.Now()).GoBack(versions.Order{ID: "back", Kind: wire.DirectiveRollback})
		b.run()
		pass(time.Minute)
		if state, detail := b.outcome("back"); state != wire.DirectiveFailed {
			t.Errorf("told %s: %s", state, detail)
		}
		if st := load(t, u); !st.Current.Is(u.Running) {
			t.Errorf("state %+v", st)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWorkerOnTrialIsNotRestartedByOrder(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.updatable(s, as("v2.0.0"))
		b.run()
		pass(2 * time.Second)
		b.call(b.order("up", s.build(t, "v2.0.0")))
		pass(5 * time.Second)
		b.call(b.directive(wire.Directive{ID: "again", Kind: wire.DirectiveRestartWorker, ExpiresAt: time.Now().Add(time.Hour)}))
		if nacks := b.door.nacks(t); len(nacks) != 1 || nacks[0].Code != wire.CodeBusy {
			t.Errorf("nacks %+v", nacks)
		}
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
	})
}

// Exchanging the worker is our own doing: no fault of the link is found, told or acted on,
// however long the old link was up, and though the new one takes a moment.
func TestExchangeOfTheWorkerIsNoFault(t *testing.T) {
	s := newShelf(t)
	for _, tt := range []struct {
		name   string
		order  func(b *bench) wire.Envelope
		trial  error // that the new program is started with
		events []string
		end    error
	}{
		{"update", func(b *bench) wire.Envelope { return b.order("up", s.build(b.t, "v2.0.0")) }, nil,
			[]string{"ordered", "fetched", "draining", "trial", "committed", "handover"}, guardian.ErrHandover},
		{"update that is rolled back", func(b *bench) wire.Envelope { return b.order("up", s.build(b.t, "v2.0.0")) }, errors.New("exec format error"),
			[]string{"ordered", "fetched", "draining", "trial", "rolled_back"}, nil},
		{"restart of the worker", func(b *bench) wire.Envelope {
			return b.directive(wire.Directive{ID: "again", Kind: wire.DirectiveRestartWorker})
		}, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, well())
				fresh := func(version string) (guardian.Child, error) { // verified within a second
					c, err := b.spawnAs(unverified(version))
					started := b.child()
					time.AfterFunc(time.Second, func() { started.be(as(version)) })
					return c, err
				}
				b.cfg.Spawn = func(context.Context) (guardian.Child, error) { return fresh("v1.0.0") }
				u.Spawn = func(string) func(context.Context) (guardian.Child, error) {
					return func(context.Context) (guardian.Child, error) {
						if tt.trial != nil {
							return guardian.Child{}, tt.trial
						}
						return fresh("v2.0.0")
					}
				}
				events := b.remember()
				b.run()
				pass(5 * time.Minute)
				b.call(tt.order(b))
				pass(10 * time.Second)
				if tt.end == nil {
					pass(time.Minute)
					if err := b.end(); err != nil {
						t.Fatal(err)
					}
				} else if err := b.ended(); !errors.Is(err, tt.end) {
					t.Fatal(err)
				}
				if b.spawned() < 2 && tt.trial == nil {
					t.Error("the worker was not exchanged")
				}
				for _, e := range events() {
					fault := e.Kind == history.KindVerdict && (e.Severity == selfcheck.SeverityError || e.Severity == selfcheck.SeverityWarning)
					if fault || e.Kind == history.KindStep && e.Step != selfcheck.StepRestartWorker {
						t.Errorf("%s %s: %s", e.Kind, e.Code, e.Sentence)
					}
				}
				if got, _ := updatesTold(events()); !slices.Equal(got, tt.events) {
					t.Errorf("the history tells %q", got)
				}
				if slices.Contains(b.door.causes(), "verdict") {
					t.Errorf("beacons for %q", b.door.causes())
				}
			})
		})
	}
}

// What can't be known or noted for now is looked at again, ever more rarely, and then
// gone on with, without a restart.
func TestUncertainStateHealsByItself(t *testing.T) {
	s := newShelf(t)
	order := versions.Order{ID: "before", Kind: wire.DirectiveUpdate}
	for _, again := range []bool{false, true} {
		t.Run("again "+strconv.FormatBool(again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				known := versions.State{}.Fetch(s.build(t, "v1.5.0"), order).Trial(false).RollBack("it crashed", time.Now())
				u.Unsure, u.Doubts = errors.New("disk on fire"), 1
				var looks []time.Time // of the keeper, and read when it rests
				u.Recheck = func() (versions.State, bool, error) {
					if looks = append(looks, time.Now()); len(looks) < 8 {
						return versions.State{}, false, errors.New("disk still on fire")
					}
					return known, again, nil
				}
				ask, events := b.status(), b.remember()
				b.run()
				pass(2 * time.Second)
				b.call(b.order("early", s.build(t, "v2.0.0")))
				if nacks := b.door.nacks(t); len(nacks) != 1 || nacks[0].Code != wire.CodeJournal || !strings.Contains(nacks[0].Detail, "on fire") {
					t.Errorf("nacks %+v", nacks)
				}
				if f := ask().Findings; len(f) != 1 || !strings.Contains(f[0].Sentence, "on fire") {
					t.Errorf("findings %+v", f)
				}
				if again {
					limit := time.AfterFunc(4*time.Hour, b.stop)
					if err := <-b.done; !errors.Is(err, guardian.ErrHandover) {
						t.Fatal(err)
					}
					limit.Stop()
					if _, err := os.Stat(u.Store.StateFile()); !os.IsNotExist(err) {
						t.Errorf("a state was written: %v", err)
					}
				} else {
					pass(4 * time.Hour)
					if f := ask().Findings; len(f) != 1 || f[0].Code != selfcheck.FindUpdateRolledBack {
						t.Errorf("findings %+v", f)
					}
					if state, detail := b.outcome("before"); state != wire.DirectiveFailed || !strings.Contains(detail, "it crashed") {
						t.Errorf("what came of the order before is told as %s: %s", state, detail)
					}
					b.call(b.order("up", s.build(t, "v2.0.0")))
					if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
						t.Fatal(err)
					}
				}
				if got, _ := updatesTold(events()); len(got) == 0 || got[0] != "known" {
					t.Errorf("the history tells %q", got)
				}
				if len(looks) != 8 {
					t.Fatalf("%d looks", len(looks))
				}
				for i := 1; i < len(looks); i++ {
					if gap := looks[i].Sub(looks[i-1]); gap < 30*time.Second || gap > time.Hour+time.Minute {
						t.Errorf("look %d came %v after the one before", i, gap)
					}
				}
				if looks[7].Sub(looks[0]) < 15*time.Minute {
					t.Errorf("looks do not become rarer: %v", looks)
				}
			})
		})
	}
}

// A program that can't be started at this moment is started a moment later; one that
// never can be is left, and the machine is named, not the build.
func TestMomentIsNotTheBuildsFault(t *testing.T) {
	s := newShelf(t)
	busy := &os.PathError{Op: "fork/exec", Path: "/program", Err: passingError}
	for _, tt := range []struct {
		name  string
		fails int64
		tries int64
	}{{"for a moment", 3, 4}, {"for long", 1 << 30, 6}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				u := b.updatable(s, as("v2.0.0"))
				events := b.remember()
				var tries atomic.Int64
				plain := u.Spawn
				u.Spawn = func(path string) func(context.Context) (guardian.Child, error) {
					return func(ctx context.Context) (guardian.Child, error) {
						if tries.Add(1) <= tt.fails {
							return guardian.Child{}, fmt.Errorf("start worker: %w", busy)
						}
						return plain(path)(ctx)
					}
				}
				b.run()
				pass(2 * time.Second)
				b.call(b.order("up", s.build(t, "v2.0.0")))
				if tt.fails < tt.tries {
					if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
						t.Fatal(err)
					}
					if got, _ := updatesTold(events()); !slices.Equal(got, []string{"ordered", "fetched", "draining", "trial", "committed", "handover"}) {
						t.Errorf("the history tells %q", got)
					}
				} else {
					pass(time.Minute)
					if state, detail := b.outcome("up"); state != wire.DirectiveFailed || !strings.Contains(detail, "no fault of the build") || !strings.Contains(detail, passingError.Error()) || b.code("up") != wire.CodeStarved {
						t.Errorf("told %s: %s, code %q", state, detail, b.code("up"))
					}
					if st := load(t, u); len(st.Failed) != 0 || st.Phase != versions.PhaseNone || !st.Last.RolledBack {
						t.Errorf("state %+v", st)
					}
					if err := b.end(); err != nil {
						t.Fatal(err)
					}
				}
				if n := tries.Load(); n != tt.tries {
					t.Errorf("started %d times, want %d", n, tt.tries)
				}
			})
		})
	}
}

// A new guardian that finds no link, and nothing to give the endpoint back to, goes on: it
// neither ends nor gives up the worker, and says what to do.
func TestNothingIsGivenBackToAProgramThatCantRun(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, unverified("v2.0.0"))
		u.CanRun = func() error { return os.ErrNotExist }
		events := b.remember()
		b.run()
		pass(7 * time.Minute)
		state, detail := b.outcome("up")
		if state != wire.DirectiveFailed || !strings.Contains(detail, "no verified link") || !strings.Contains(detail, "installed program can't take over") || !strings.Contains(detail, "install it again") {
			t.Errorf("told %s: %s", state, detail)
		}
		if st := load(t, u); !st.Current.Is(u.Running) || st.Phase != versions.PhaseNone || st.Last.RolledBack || len(st.Failed) != 0 {
			t.Errorf("state %+v", st)
		}
		if got, _ := updatesTold(events()); !slices.Equal(got, []string{"failed"}) {
			t.Errorf("the history tells %q", got)
		}
		if b.spawned() != 1 {
			t.Errorf("%d workers", b.spawned())
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// starved lets the guardian's loop run only every now and then, from when it is told on.
func (b *bench) starved() (begin func()) {
	var on atomic.Bool
	b.cfg.Gate = func() {
		if on.Load() {
			time.Sleep(30 * time.Second)
		}
	}
	return func() { on.Store(true) }
}

// Time that was lost is given back to a trial, but not for ever: a machine that is always
// late keeps its endpoint with a worker on trial for the grace and twelve minutes at most.
func TestTrialOfAStarvedMachineEnds(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.updatable(s, unverified("v2.0.0"))
		starve := b.starved()
		var began atomic.Int64
		plain := u.Spawn
		u.Spawn = func(path string) func(context.Context) (guardian.Child, error) {
			began.Store(time.Now().UnixNano())
			starve()
			return plain(path)
		}
		b.run()
		pass(2 * time.Second)
		b.call(b.order("up", s.build(t, "v2.0.0")))
		pass(12 * time.Minute)
		if st := load(t, u); st.Phase != versions.PhaseTrial {
			t.Errorf("after %v: %+v", time.Since(time.Unix(0, began.Load())), st)
		}
		pass(3 * time.Minute)
		if st := load(t, u); st.Phase != versions.PhaseNone || st.Last == nil || !strings.Contains(st.Last.Reason, "starved") || len(st.Failed) != 0 || !st.Last.RolledBack || st.Last.Code != wire.CodeStarved {
			t.Errorf("state %+v", st)
		} else if took := st.Last.At.Sub(time.Unix(0, began.Load())); took < 12*time.Minute || took > 14*time.Minute {
			t.Errorf("it ended %v after it began", took)
		}
		b.stop()
		<-b.done
	})
}

// The same for a guardian that has to confirm.
func TestConfirmationOfAStarvedMachineEnds(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		u := b.handedOver(s, unverified("v2.0.0"))
		starve := b.starved()
		b.run()
		began := time.Now()
		starve()
		if err := b.ended(); !errors.Is(err, guardian.ErrHandover) {
			t.Fatal(err)
		}
		if st := load(t, u); st.Current != nil || st.Last == nil || !st.Last.RolledBack {
			t.Errorf("state %+v", st)
		} else if took := st.Last.At.Sub(began); took < 15*time.Minute || took > 17*time.Minute {
			t.Errorf("it gave back %v after it began", took)
		}
	})
}

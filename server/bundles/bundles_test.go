package bundles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

var errKilled = errors.New("killed")

// inner is the store beneath.
type inner = store.Bundles

// mortal is a store whose process dies at the next change when armed: before the
// change is on disk, or just after.
type mortal struct {
	inner
	dies func() (before, after bool)
}

func (m *mortal) change(do func() error) error {
	before, after := m.dies()
	if before {
		return errKilled
	}
	if err := do(); err != nil || !after {
		return err
	}
	return errKilled
}

func (m *mortal) CreateBundle(ctx context.Context, b operator.Bundle, room int64) error {
	return m.change(func() error { return m.inner.CreateBundle(ctx, b, room) })
}

func (m *mortal) SaveBundle(ctx context.Context, b operator.Bundle) error {
	return m.change(func() error { return m.inner.SaveBundle(ctx, b) })
}

func (m *mortal) DeleteBundle(ctx context.Context, id string) error {
	return m.change(func() error { return m.inner.DeleteBundle(ctx, id) })
}

// rig is a shelf over a real database with the agents a, b and c.
type rig struct {
	*Shelf
	o Options
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(filepath.Join(t.TempDir(), "x.db"), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	now := time.Now()
	for i, agent := range []string{"a", "b", "c"} {
		hash := store.HashToken(agent)
		if err := st.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: agent, Site: "x", UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := st.TradeToken(t.Context(), hash, store.Agent{ID: agent, PublicKey: bytes.Repeat([]byte{byte(i)}, 32), Name: agent, EnrolledAt: now}, now); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{o: Options{Dir: filepath.Join(t.TempDir(), "bundles"), Store: st, Log: log, Free: func(string) (uint64, error) { return 1 << 40, nil }}}
	if change != nil {
		change(&r.o)
	}
	r.reopen(t)
	return r
}

func (r *rig) reopen(t *testing.T) {
	t.Helper()
	var err error
	if r.Shelf, err = New(t.Context(), r.o); err != nil {
		t.Fatal(err)
	}
}

func offer(agent string, data []byte) Offer {
	sum := sha256.Sum256(data)
	return Offer{ID: wire.NewID(), Agent: agent, SHA256: hex.EncodeToString(sum[:]), Total: int64(len(data))}
}

func random(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rand.Uint32())
	}
	return out
}

// whole sends data in one part.
func (r *rig) whole(t *testing.T, agent string, n int) Offer {
	t.Helper()
	data := random(n)
	o := offer(agent, data)
	if s, err := r.Take(t.Context(), o, 0, data); err != nil || !s.Complete {
		t.Fatalf("%+v, %v", s, err)
	}
	return o
}

func (r *rig) there(t *testing.T, o Offer) bool {
	t.Helper()
	f, _, err := r.Open(t.Context(), o.Agent, o.ID)
	if errors.Is(err, store.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return true
}

// The process dies at any change, and leaves bytes that it had not synced; what was
// called held stays, and the sender ends with exactly its bytes there.
func TestAServerKilledAtAnyChangeGoesOn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	armed, deaths := false, 0
	r := newRig(t, func(o *Options) {
		o.Store = &mortal{o.Store, func() (bool, bool) {
			if !armed || rnd.IntN(3) > 0 {
				return false, false
			}
			deaths++
			before := rnd.IntN(2) == 0
			return before, !before
		}}
	})
	for range 30 {
		data := random(1 + rnd.IntN(5000))
		o := offer("a", data)
		var told int64
		done := false
		for step := 0; step < 500 && !done; step++ {
			armed = step < 400
			to := min(int64(len(data)), told+1+rnd.Int64N(int64(len(data))/3+1))
			var s wire.BundleState
			var err error
			if told == int64(len(data)) || rnd.IntN(4) == 0 {
				s, err = r.Held(t.Context(), o)
			} else {
				s, err = r.Take(t.Context(), o, told, data[told:to])
			}
			if errors.Is(err, errKilled) {
				armed = false
				path := filepath.Join(r.o.Dir, "a", o.ID+Partial)
				if f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err == nil && rnd.IntN(2) == 0 {
					f.WriteString("bytes that were never synced")
					f.Close()
				} else if err == nil {
					f.Close()
				}
				r.reopen(t)
				// The word given before stands. That the file was renamed is found out now.
				if s, err = r.Held(t.Context(), o); err != nil || s.Held < told {
					t.Fatalf("told %d, after the death %+v, %v", told, s, err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			told, done = s.Held, s.Complete
		}
		f, b, err := r.Open(t.Context(), "a", o.ID)
		if err != nil {
			t.Fatalf("of %d bytes %d are held: %v", len(data), told, err)
		}
		got, err := os.ReadFile(f.Name())
		f.Close()
		if err != nil || !bytes.Equal(got, data) || b.SHA256 != o.SHA256 {
			t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
		}
	}
	if deaths < 10 {
		t.Errorf("it died %d times only", deaths)
	}
}

func TestAFullDiskIsSaidAndNothingIsBegun(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Free = func(string) (uint64, error) { return spare + 99, nil } })
	data := random(100)
	o := offer("a", data)
	if _, err := r.Take(t.Context(), o, 0, data); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if list, err := r.List(t.Context(), "a"); err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
	r.whole(t, "a", 99)
}

func TestRoomIsTakenFromWhoHasTheMost(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Room = 1000 })
	small := r.whole(t, "b", 100)
	first, second := r.whole(t, "a", 400), r.whole(t, "a", 400)
	r.whole(t, "c", 300)
	if !r.there(t, small) || r.there(t, first) || !r.there(t, second) {
		t.Errorf("b's %v, a's %v and %v", r.there(t, small), r.there(t, first), r.there(t, second))
	}
	data := random(1001)
	if _, err := r.Take(t.Context(), offer("c", data), 0, data); !errors.Is(err, ErrFull) {
		t.Errorf("more than all the room: %v", err)
	}
}

func TestOldPartialsAndStrangeFilesGo(t *testing.T) {
	r := newRig(t, nil)
	data := random(100)
	o, kept := offer("a", data), r.whole(t, "b", 10)
	if _, err := r.Take(t.Context(), o, 0, data[:50]); err != nil {
		t.Fatal(err)
	}
	if err := r.sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Held(t.Context(), o); err != nil || s.Held != 50 {
		t.Fatalf("young: %+v, %v", s, err)
	}
	if err := r.sweep(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Held(t.Context(), o); err != nil || s.Held != 0 || !r.there(t, kept) {
		t.Errorf("old: %+v, %v", s, err)
	}
	orphan, foreign := filepath.Join(r.o.Dir, "a", wire.NewID()+Partial), filepath.Join(r.o.Dir, "a", "README.txt")
	for _, path := range []string{orphan, foreign} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.reopen(t)
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("orphan: %v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(r.o.Dir, "b", kept.ID)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Held(t.Context(), kept); err != nil || s.Complete || s.Held != 0 {
		t.Errorf("a file that is gone: %+v, %v", s, err)
	}
}

// An agent whose line stalls keeps no other one waiting.
func TestOneAgentsSlotIsNoOtherOnes(t *testing.T) {
	r := newRig(t, nil)
	release, err := r.slots.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Held(ctx, offer("a", []byte("x"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second of the same agent: %v", err)
	}
	r.whole(t, "b", 10)
	release()
	r.whole(t, "a", 10)
	if len(r.slots.by) != 0 {
		t.Errorf("%d slots stay", len(r.slots.by))
	}
}

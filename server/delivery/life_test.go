package delivery

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// crashing is a store whose changes fail for good from the n-th on: what a process
// that is killed there leaves behind.
type crashing struct {
	store.Store
	left atomic.Int64
}

func (c *crashing) SaveCommand(ctx context.Context, cmd store.Command, stages ...store.Stage) (int64, error) {
	if c.left.Add(-1) < 0 {
		return 0, errDisk
	}
	return c.Store.SaveCommand(ctx, cmd, stages...)
}

// killAfter lets the next writes changes of a command be stored, has happen happen, and
// goes on with a new process.
func (r *rig) killAfter(writes int64, happen func()) {
	r.t.Helper()
	whole := r.st
	c := &crashing{Store: whole}
	c.left.Store(1 << 40)
	r.st = c
	r.restart()
	r.st = whole
	c.left.Store(writes)
	happen()
	synctest.Wait()
	r.restart()
}

// A claim given back and what follows from it are one change: no crash comes between.
func TestNoCrashComesBetweenALostClaimAndItsEnd(t *testing.T) {
	t.Run("cancel", func(t *testing.T) {
		for writes := range int64(5) {
			inBubble(t, func(t *testing.T, r *rig) {
				var id string
				r.killAfter(1<<40, func() {})
				id = r.submit()
				r.killAfter(writes, func() {
					l := r.up()
					if _, err := r.s.Cancel(t.Context(), id, "ops"); err != nil {
						return // it was not taken, and says so
					}
					r.down(l, "cut")
				})
				asked := r.cancelAsked(id)
				l := r.up()
				if c := r.command(id); asked != (c.State == wire.StateCancelled) || asked && len(l.sent) > 0 {
					t.Fatalf("after %d writes: asked %v, and it is %s\n%s", writes, asked, c.State, r.trace(id))
				}
			})
		}
	})
	t.Run("attempts", func(t *testing.T) {
		for writes := range int64(5) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.max = 1
				r.killAfter(1<<40, func() {})
				id := r.submit()
				r.killAfter(writes, func() { r.down(r.up(), "cut") })
				r.down(r.up(), "cut")
				if c := r.command(id); c.State != wire.StateUndeliverable || c.Attempts != 1 {
					t.Fatalf("after %d writes: %s after %d attempts of 1\n%s", writes, c.State, c.Attempts, r.trace(id))
				}
			})
		}
	})
}

func (r *rig) cancelAsked(id string) bool {
	r.t.Helper()
	c, err := r.st.Command(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return c.CancelAt != nil
}

// What had been offered may have run: to call it cancelled would be a guess.
func TestRemovalTellsWhatWasOfferedFromWhatWasNot(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		returned := r.order(operator.NewCommand{Script: "true", ExpiresInMS: time.Hour.Milliseconds()})
		r.down(l, "cut")
		r.expect(returned, wire.StatePending, 1)
		never := r.submit()
		if n, err := r.s.Retire(t.Context(), r.agent, "ops"); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if c := r.expect(returned, wire.StateInterrupted, 1); !strings.Contains(c.Reason, "not known") {
			t.Fatalf("reason is %q", c.Reason)
		}
		r.expect(never, wire.StateCancelled, 0)
	})
}

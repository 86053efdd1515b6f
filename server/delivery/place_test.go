package delivery

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// Placed again, also by a server that was started anew, a command is the same one, and its
// time does not begin anew.
func TestACommandIsPlacedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id, order := wire.NewID(), operator.NewCommand{Script: "true"}
		expires := time.Now().Add(time.Minute).UTC()
		place := func(o operator.NewCommand) (operator.Command, error) {
			return r.s.Place(t.Context(), r.agent, id, expires, o, "ops")
		}
		for range 2 {
			for range 2 {
				if c, err := place(order); err != nil || c.ID != id || !c.ExpiresAt.Equal(expires) {
					t.Fatalf("placed %+v, %v", c, err)
				}
			}
			r.owed(1)
			sleep(20 * time.Second)
			r.restart()
		}
		if _, err := place(operator.NewCommand{Script: "false"}); !errors.Is(err, ErrKeyUsed) {
			t.Errorf("another order of the same id: %v", err)
		}
		if err := r.s.Check(operator.NewCommand{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("an empty script: %v", err)
		}
		sleep(time.Minute)
		r.expect(id, wire.StateExpired, 0)
	})
}

func TestEndsAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var ended atomic.Int32
		r.stop()
		r.ended = func(string) { ended.Add(1) }
		r.start()
		l := r.up()
		ran, never := r.submit(), r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: ran})
		if n := ended.Load(); n != 0 {
			t.Errorf("%d ends before any", n)
		}
		r.send(l, wire.TypeCommandResult, completed(ran, ""))
		if _, err := r.s.Cancel(t.Context(), never, "ops"); err != nil {
			t.Fatal(err)
		}
		r.send(l, wire.TypeCommandResult, wire.CommandResult{ID: never, State: wire.StateCancelled})
		synctest.Wait()
		if n := ended.Load(); n != 2 {
			t.Errorf("told of %d ends, want 2", n)
		}
	})
}

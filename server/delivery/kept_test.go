package delivery

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// overtaken: the key was used at another node just now: the first insert meets it, and its row is not under our id.
type overtaken struct {
	store.Store
	once atomic.Bool
	got  []store.Command
}

func (o *overtaken) CreateCommand(ctx context.Context, c store.Command, first ...store.Stage) (store.Command, bool, error) {
	o.got = append(o.got, c)
	if o.once.CompareAndSwap(false, true) {
		return store.Command{}, false, store.ErrConflict
	}
	return o.Store.CreateCommand(ctx, c, first...)
}

func TestOvertakenSubmitIsTriedAgainWhole(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		o := &overtaken{Store: r.st}
		r.st = o
		all := &peers{}
		p := &peer{rig: r, all: all, id: "n1"}
		all.nodes = []*peer{p}
		r.cluster = p
		r.restart()
		c, err := r.s.Submit(t.Context(), r.agent, operator.NewCommand{Script: "true", IdempotencyKey: "k"}, "ops")
		for _, g := range o.got {
			t.Logf("tried with id=%q agent=%q script=%q", g.ID, g.Agent, g.Script)
		}
		if err != nil {
			t.Fatalf("%+v, %v", c, err)
		}
	})
}

// slow holds CreateCommand until let go, whatever ctx says: a write once begun is waited for.
type slow struct {
	store.Store
	began, let chan struct{}
}

func (s *slow) CreateCommand(ctx context.Context, c store.Command, first ...store.Stage) (store.Command, bool, error) {
	close(s.began)
	<-s.let
	return s.Store.CreateCommand(context.WithoutCancel(ctx), c, first...)
}

func TestSubmitGivenUpWhileStored(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		f := &slow{r.st, make(chan struct{}), make(chan struct{})}
		r.st = f
		r.restart()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-f.began; cancel(); close(f.let) }()
		_, err := r.s.Submit(ctx, r.agent, operator.NewCommand{Script: "true"}, "ops")
		t.Log(err)
		sleep(time.Second)
	})
}

func TestNoSpinWhileTheDatabaseIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		f := &failing{Store: r.st}
		r.st = f
		r.restart()
		l := r.up()
		r.submit()
		if len(l.sent) != 1 {
			t.Fatal(len(l.sent))
		}
		f.unheard = 1
		if _, err := r.s.Submit(t.Context(), r.agent, operator.NewCommand{Script: "true"}, "ops"); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		sleep(2 * time.Second) // never comes back if the alarm spins: virtual time stands still
	})
}

func TestLastAttemptAcknowledgedThenCrash(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.max = 1
		r.restart()
		l := r.up()
		id := r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		r.crash()
		l = r.up()
		r.send(l, wire.TypeCommandResult, completed(id, "x"))
		c := r.command(id)
		t.Log(c.State, c.Reason, r.trace(id))
		if c.State != wire.StateCompleted {
			t.Error("it ran to its end and is told to be", c.State)
		}
	})
}

func TestShortExpiryAcknowledgedThenCrash(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.order(operator.NewCommand{Script: "true", ExpiresInMS: 2000})
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		r.crash()
		sleep(3 * time.Second)
		l = r.up()
		r.send(l, wire.TypeCommandResult, completed(id, "x"))
		c := r.command(id)
		t.Log(c.State, c.Reason, r.trace(id))
		if c.State != wire.StateCompleted {
			t.Error("it ran to its end and is told to be", c.State)
		}
	})
}

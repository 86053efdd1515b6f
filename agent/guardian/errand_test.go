package guardian_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/history"
	"gururmm/agent/pipe"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// receipts gives the directive results that were handed in, as "id state".
func (d *door) receipts(t *testing.T) (all []wire.DirectiveResult) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.up {
		if m.Type != wire.TypeDirectiveResult {
			continue
		}
		r, err := wire.DecodePayload[wire.DirectiveResult](m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestErrandsAreAcceptedThenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Errands = map[wire.DirectiveKind]guardian.Errand{
			wire.DirectiveRunProbes: func(ctx context.Context, d wire.Directive) (string, json.RawMessage, error) {
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
					return "", nil, ctx.Err()
				}
				if d.Reason == "fail" {
					return "", nil, errors.New("no probe could start")
				}
				return "all well", json.RawMessage(`{"n":3}`), nil
			},
		}
		b.run()
		pass(2 * time.Second)
		long := func(id, reason string) wire.Envelope {
			return b.directive(wire.Directive{ID: id, Kind: wire.DirectiveRunProbes, Reason: reason, ExpiresAt: time.Now().Add(5 * time.Hour)})
		}
		b.send(long("one", ""), long("two", ""))
		if n := b.door.nacks(t); len(n) != 1 || n[0].ID != "two" || n[0].Code != wire.CodeBusy {
			t.Fatalf("a second of a kind: %+v, want busy", n)
		}
		pass(2 * time.Minute)
		b.send(long("three", "fail"))
		pass(2 * time.Minute)
		want := []wire.DirectiveResult{
			{ID: "one", State: wire.DirectiveAccepted}, {ID: "one", State: wire.DirectiveDone, Detail: "all well", Report: json.RawMessage(`{"n":3}`)},
			{ID: "three", State: wire.DirectiveAccepted}, {ID: "three", State: wire.DirectiveFailed, Detail: "no probe could start"},
		}
		got := b.door.receipts(t)
		if len(got) != len(want) {
			t.Fatalf("receipts %+v, want %+v", got, want)
		}
		for i, w := range want {
			if got[i].ID != w.ID || got[i].State != w.State || got[i].Detail != w.Detail || string(got[i].Report) != string(w.Report) {
				t.Errorf("receipt %d: %+v, want %+v", i, got[i], w)
			}
		}

		// One that a stop cuts off is told by the next run.
		b.send(long("four", ""))
		b.end()
		b.run()
		pass(10 * time.Second)
		got = b.door.receipts(t)
		if last := got[len(got)-1]; last.ID != "four" || last.State != wire.DirectiveFailed {
			t.Fatalf("after a restart: %+v, want four failed", last)
		}
		n := len(got)
		b.end()
		b.run()
		pass(10 * time.Second)
		if got = b.door.receipts(t); len(got) != n {
			t.Fatalf("told again: %+v", got[n:])
		}
		b.end()
	})
}

func TestAReceiptForEachDirective(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Service = true
		b.run()
		pass(2 * time.Second)
		later := time.Now().Add(5 * time.Hour)
		b.send(b.directive(wire.Directive{ID: "r", Kind: wire.DirectiveReconnect, ExpiresAt: later}))
		if got := b.door.receipts(t); len(got) != 1 || got[0].ID != "r" || got[0].State != wire.DirectiveAccepted {
			t.Fatalf("receipts %+v, want reconnect accepted: no other link is there", got)
		}
		b.links(8)
		pass(3 * time.Second)
		if got := b.door.receipts(t); len(got) != 2 || got[1].ID != "r" || got[1].State != wire.DirectiveDone || !strings.Contains(got[1].Detail, "verified") {
			t.Fatalf("receipts %+v, want reconnect done", got)
		}
		b.door.set(func() {
			b.door.next = append(b.door.next, b.directive(wire.Directive{ID: "s", Kind: wire.DirectiveRestartService, ExpiresAt: later}))
		})
		if err := <-b.done; !errors.Is(err, guardian.ErrRestartService) {
			t.Fatalf("ended with %v", err)
		}
		if got := b.door.receipts(t); len(got) != 2 {
			t.Fatalf("receipts %+v: the restart was told before it happened", got)
		}
		b.run()
		pass(10 * time.Second)
		if got := b.door.receipts(t); len(got) != 2 {
			t.Fatalf("receipts %+v: the restart was told before a link was verified", got)
		}
		b.links(9)
		pass(3 * time.Second)
		if got := b.door.receipts(t); len(got) != 3 || got[2].ID != "s" || got[2].State != wire.DirectiveDone || !strings.Contains(got[2].Detail, "text both ways") {
			t.Fatalf("receipts %+v, want the restart done", got)
		}
		b.end()
	})
}

// An order that led to no verified link is not called done, and its step says why.
func TestAnOrderedRestartIsJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		b.run()
		pass(2 * time.Second)
		later := time.Now().Add(5 * time.Hour)
		b.send(b.directive(wire.Directive{ID: "w", Kind: wire.DirectiveRestartWorker, ExpiresAt: later}))
		pass(20 * time.Second)
		if got := b.door.receipts(t); len(got) != 1 || got[0].State != wire.DirectiveAccepted {
			t.Fatalf("receipts %+v while it is not known", got)
		}
		pass(20 * time.Second)
		got := b.door.receipts(t)
		if len(got) != 2 || got[1].State != wire.DirectiveFailed || !strings.Contains(got[1].Detail, "no text went both ways") {
			t.Fatalf("receipts %+v, want failed", got)
		}
		if e := find(t, events(), history.KindStep, string(selfcheck.StepRestartWorker)); !strings.HasPrefix(e.Outcome, "no better: ") {
			t.Errorf("kept as %+v", e)
		}
		b.send(b.directive(wire.Directive{ID: "v", Kind: wire.DirectiveRestartWorker, ExpiresAt: later}))
		b.links(8)
		pass(3 * time.Second)
		if got = b.door.receipts(t); len(got) != 4 || got[3].State != wire.DirectiveDone {
			t.Fatalf("receipts %+v, want done", got)
		}
		b.end()
	})
}

// In quarantine no link is let in: an order is done when it is carried out.
func TestAnOrderInQuarantineWaitsForNoLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Quarantine = func() string { return "Quarantined: stolen." }
		b.run()
		pass(2 * time.Second)
		b.send(b.directive(wire.Directive{ID: "w", Kind: wire.DirectiveRestartWorker, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		if got := b.door.receipts(t); len(got) != 1 || got[0].State != wire.DirectiveDone {
			t.Fatalf("receipts %+v, want done", got)
		}
		b.end()
	})
}

func TestACallByTheLinkIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(2 * time.Second)
		b.door.set(func() {
			b.door.next = append(b.door.next, b.directive(wire.Directive{ID: "r", Kind: wire.DirectiveRelease}))
		})
		b.child().say(pipe.Fact{Call: true})
		pass(time.Second)
		if got := b.door.receipts(t); len(got) != 1 || got[0].ID != "r" {
			t.Fatalf("a second after the call: receipts %+v", got)
		}
		n := len(b.door.polled())
		pass(time.Minute)
		if more := len(b.door.polled()) - n; more != 0 {
			t.Fatalf("one call led to %d more polls", more)
		}
		b.end()
	})
}

// Of several machines with one identity, only the one that is named takes another.
func TestReenrollIsForTheNamedMachineAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var began atomic.Int32
		b.cfg.Errands = map[wire.DirectiveKind]guardian.Errand{
			wire.DirectiveReenroll: func(context.Context, wire.Directive) (string, json.RawMessage, error) {
				if began.Add(1) == 1 {
					return "", nil, errors.New("the token is spent")
				}
				return "it is agent x", nil, nil
			},
		}
		b.run()
		pass(2 * time.Second)
		order := func(id string, r *wire.Reenroll) wire.Envelope {
			return b.directive(wire.Directive{ID: id, Kind: wire.DirectiveReenroll, Reenroll: r, ExpiresAt: time.Now().Add(time.Hour)})
		}
		me := b.cfg.Presence
		b.send(order("nobody", nil), order("other", &wire.Reenroll{Instance: "other", Fingerprint: me.Fingerprint}),
			order("moved", &wire.Reenroll{Instance: me.Instance, Fingerprint: "other"}))
		if n := b.door.nacks(t); len(n) != 3 || n[0].Code != wire.CodeWrongAgent || n[1].Code != wire.CodeWrongAgent || n[2].Code != wire.CodeWrongAgent {
			t.Fatalf("orders for others: %+v", n)
		}
		b.send(order("spent", &wire.Reenroll{Instance: me.Instance, Fingerprint: me.Fingerprint}))
		pass(time.Minute)
		if began.Load() != 1 {
			t.Fatalf("begun %d times", began.Load())
		}
		b.send(order("good", &wire.Reenroll{Instance: me.Instance, Fingerprint: me.Fingerprint}))
		pass(time.Minute)
		if err := <-b.done; !errors.Is(err, guardian.ErrRenewed) || began.Load() != 2 {
			t.Errorf("ended with %v after %d errands", err, began.Load())
		}
	})
}

package guardian_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// refusing is a server that does not know us.
type refusing struct {
	*door
	asked *int
}

func (r *refusing) refuse() (wire.PollResponse, error) {
	r.set(func() { *r.asked++ })
	return wire.PollResponse{}, &oob.DoorError{Door: "https://door.test", Phase: "application", Type: "http.error", Status: 401, Err: oob.ErrRejected}
}

func (r *refusing) Beacon(context.Context, oob.Report) (wire.PollResponse, error) { return r.refuse() }
func (r *refusing) Poll(context.Context, wire.PollRequest) (wire.PollResponse, error) {
	return r.refuse()
}

func TestDirectivesThatAreNotOursAreRefusedAndAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(2 * time.Second)
		good := b.directive(wire.Directive{ID: "good", Kind: wire.DirectiveReconnect, ExpiresAt: time.Now().Add(5 * time.Hour)})
		_, stranger, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		forged, err := wire.Sign(stranger, wire.TypeDirective, wire.Directive{ID: "forged", Agent: agentID, Kind: wire.DirectiveReconnect, ExpiresAt: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		altered := b.directive(wire.Directive{ID: "altered", Kind: wire.DirectiveReconnect})
		altered.Payload = append(altered.Payload[:len(altered.Payload)-1:len(altered.Payload)-1], ' ', '}')
		other, err := wire.Sign(b.key, wire.TypeCommand, wire.Directive{ID: "as-command", Agent: agentID, Kind: wire.DirectiveReconnect, ExpiresAt: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		other.Type = wire.TypeDirective // a signature of one type must not serve another
		b.send(
			good, forged, altered, other,
			b.directive(wire.Directive{ID: "foreign", Agent: "somebody", Kind: wire.DirectiveReconnect, ExpiresAt: time.Now().Add(5 * time.Hour)}),
			b.directive(wire.Directive{ID: "late", Kind: wire.DirectiveReconnect, ExpiresAt: time.Now().Add(-time.Second)}),
			b.directive(wire.Directive{ID: "bundle", Kind: wire.DirectiveSendBundle, ExpiresAt: time.Now().Add(5 * time.Hour)}),
			good,
			wire.Envelope{Type: "novelty", Payload: []byte("{}")},
		)
		want := []struct {
			id   string
			code wire.Code
		}{
			{"", wire.CodeBadSignature}, {"", wire.CodeBadSignature}, {"", wire.CodeBadSignature},
			{"foreign", wire.CodeWrongAgent}, {"late", wire.CodeExpired}, {"bundle", wire.CodeUnsupported},
			{"good", wire.CodeDuplicate}, {"", wire.CodeUnsupported},
		}
		got := b.door.nacks(t)
		if len(got) != len(want) {
			t.Fatalf("nacks %+v, want %d", got, len(want))
		}
		for i, w := range want {
			if got[i].ID != w.id || got[i].Code != w.code {
				t.Errorf("nack %d: %s of %q, want %s of %q", i, got[i].Code, got[i].ID, w.code, w.id)
			}
		}
		if n := orders(b.child(), func(o pipe.Order) bool { return o.Reconnect != nil }); n != 1 {
			t.Fatalf("%d reconnects, want exactly the one that was ordered", n)
		}
		b.end()

		// A replay after a restart is one, too.
		b.run()
		pass(2 * time.Second)
		b.send(good)
		if n := orders(b.child(), func(o pipe.Order) bool { return o.Reconnect != nil }); n != 0 {
			t.Fatal("a directive ran again after a restart")
		}
		b.end()
	})
}

func TestDirectivesAreCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := b.status()
		b.run()
		pass(2 * time.Second)
		later := func(d wire.Directive) wire.Envelope {
			d.ExpiresAt = time.Now().Add(5 * time.Hour)
			return b.directive(d)
		}
		b.send(later(wire.Directive{Kind: wire.DirectiveUseEndpoint, Endpoint: "wss://other.test/v1/link", Reason: "moving"}))
		if orders(b.child(), func(o pipe.Order) bool {
			return o.Reconnect != nil && o.Reconnect.URL == "wss://other.test/v1/link"
		}) != 1 {
			t.Fatal("use_endpoint was not carried out")
		}
		if got := b.door.last().Cause; got != "request" {
			t.Fatalf("beacon after a directive: %s, want request", got)
		}

		b.send(later(wire.Directive{Kind: wire.DirectivePoll}))
		pass(time.Minute)
		st := ask()
		if !st.Snapshot.OOB.Delivering || orders(b.child(), func(o pipe.Order) bool { return o.OOB != nil && *o.OOB }) != 1 {
			t.Fatal("poll did not enter OOB delivery")
		}
		if !strings.Contains(st.Next.What, "gururmm direct AGENT release") {
			t.Errorf("forced polling: next is %q, which does not end it", st.Next.What)
		}
		b.send(later(wire.Directive{Kind: wire.DirectiveRelease}))
		pass(time.Second)
		if ask().Snapshot.OOB.Delivering {
			t.Fatal("release did not leave it")
		}

		p := wire.Policy{Version: 12, PollMS: 1000}
		b.send(later(wire.Directive{Kind: wire.DirectiveSetPolicy, Policy: &p}))
		if st = ask(); st.PolicyVersion != 12 || st.Policy.PollMS != 1000 || st.Policy.DeadMS == 0 {
			t.Fatalf("policy %+v, want the directive's, filled with defaults", st.Policy)
		}
		bad := wire.Policy{Version: 13, DeadMS: 1}
		b.send(later(wire.Directive{ID: "bad", Kind: wire.DirectiveSetPolicy, Policy: &bad}))
		if n := b.door.nacks(t); len(n) != 1 || n[0].ID != "bad" || ask().PolicyVersion != 12 {
			t.Fatalf("a policy that cuts us off: nacks %+v, version %d", n, ask().PolicyVersion)
		}

		b.send(later(wire.Directive{Kind: wire.DirectiveRestartWorker}))
		pass(time.Second)
		if b.spawned() != 2 {
			t.Fatalf("%d workers, want a fresh one", b.spawned())
		}
		if orders(b.child(), func(o pipe.Order) bool { return o.Policy != nil }) != 1 {
			t.Fatal("the fresh worker was not given the directive's policy")
		}
		b.end()

		ask = b.status()
		b.run()
		pass(2 * time.Second)
		if ask().PolicyVersion != 12 {
			t.Fatal("the directive's policy did not survive a restart")
		}
		b.end()
	})
}

// A machine that boots with its clock far ahead does not forget what it has carried
// out: its own clock says that all of it has expired, the server's says when it has.
func TestAClockAheadForgetsNoDirective(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(2 * time.Second)
		again := b.directive(wire.Directive{ID: "once", Kind: wire.DirectiveRestartWorker, ExpiresAt: time.Now().Add(time.Hour)})
		b.send(again)
		b.end()
		if n := b.spawned(); n != 2 {
			t.Fatalf("%d workers, want the one that was ordered", n)
		}
		time.Sleep(26 * time.Hour) // what passes for this machine alone
		b.door.set(func() { b.door.down = errors.New("not up yet") })
		b.run()
		pass(time.Minute)
		b.end() // its state is written
		b.door.set(func() { b.door.down, b.door.offset = nil, new(-26*time.Hour) })
		b.run()
		pass(2 * time.Second)
		b.send(again)
		if n := b.door.nacks(t); len(n) != 1 || n[0].Code != wire.CodeDuplicate {
			t.Errorf("the same directive again: %+v, want it known", n)
		}
		b.door.set(func() { b.door.offset = new(time.Duration(0)) }) // now it is the server that says so
		b.end()
		b.run()
		pass(2 * time.Second)
		b.end()
		if raw := string(b.stateFile()["directives"]); strings.Contains(raw, "once") {
			t.Errorf("what has expired by the server's clock is remembered: %s", raw)
		}
	})
}

func TestManyDirectivesDoNotShutOutTheUrgentOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		held := ""
		b.cfg.SetQuarantine = func(on bool, reason string) error { held = reason; return nil }
		b.run()
		pass(2 * time.Second)
		b.end()
		// As after days of a clock's directives, with ids as long as they may be.
		known := func(n int, until time.Time) map[string]time.Time {
			m := map[string]time.Time{}
			for i := range n {
				m[fmt.Sprintf("%064d", i)] = until
			}
			return m
		}
		remember := func(m map[string]time.Time) {
			file := b.stateFile()
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			file["directives"] = raw
			if raw, err = json.Marshal(file); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.cfg.StateFile, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		later := func(d wire.Directive) wire.Envelope {
			d.ExpiresAt = time.Now().Add(5 * time.Hour)
			return b.directive(d)
		}
		remember(known(4096-256-1, time.Now().Add(24*time.Hour)))
		b.run()
		pass(2 * time.Second)
		b.send(later(wire.Directive{ID: "last", Kind: wire.DirectivePoll}), later(wire.Directive{ID: "full", Kind: wire.DirectivePoll}),
			later(wire.Directive{ID: "urgent", Kind: wire.DirectiveQuarantine, Reason: "stolen"}))
		if n := b.door.nacks(t); len(n) != 1 || n[0].ID != "full" || n[0].Code != wire.CodeBusy {
			t.Fatalf("nacks %+v, want but that of the directive without a place", n)
		}
		if held != "stolen" {
			t.Fatal("a quarantine was shut out by other directives")
		}
		b.end()

		remember(known(4096, time.Now().Add(24*time.Hour)))
		b.run() // the longest file is read back, or all of it could be replayed
		pass(2 * time.Second)
		b.send(later(wire.Directive{ID: fmt.Sprintf("%064d", 7), Kind: wire.DirectivePoll}))
		if n := b.door.nacks(t); len(n) != 2 || n[1].Code != wire.CodeDuplicate {
			t.Fatalf("nacks %+v, want a duplicate", n)
		}
		b.end()

		remember(known(4096, time.Now().Add(-2*time.Hour)))
		b.run()
		pass(2 * time.Second)
		b.send(later(wire.Directive{ID: "after", Kind: wire.DirectivePoll}))
		if n := b.door.nacks(t); len(n) != 2 {
			t.Fatalf("nacks %+v: what has expired still takes a place", n)
		}
		b.end()
	})
}

func TestADiskThatDoesNotAnswerHoldsUpNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := b.status()
		gate := make(chan struct{})
		b.cfg.SetQuarantine = func(bool, string) error { <-gate; return nil }
		b.run()
		pass(2 * time.Second)
		quarantine := func(id string) wire.Envelope {
			return b.directive(wire.Directive{ID: id, Kind: wire.DirectiveQuarantine, ExpiresAt: time.Now().Add(5 * time.Hour)})
		}
		restart := b.directive(wire.Directive{ID: "restart", Kind: wire.DirectiveRestartService, ExpiresAt: time.Now().Add(5 * time.Hour)})
		b.send(quarantine("stuck"), restart)
		if ask().Mode != local.ModeGuarding {
			t.Fatal("the loop is not there")
		}
		if n := b.door.nacks(t); len(n) != 0 {
			t.Fatalf("refused before the disk had its time: %+v", n)
		}
		pass(15 * time.Second)
		n := b.door.nacks(t)
		if len(n) != 2 || n[0].Code != wire.CodeJournal || n[1].Code != wire.CodeJournal {
			t.Fatalf("nacks %+v, want both refused for the disk", n)
		}
		close(gate)
		pass(5 * time.Second)
		if b.spawned() != 1 {
			t.Fatal("what was refused was carried out all the same")
		}
		b.send(quarantine("well"))
		if n := b.door.nacks(t); len(n) != 2 || ask().Mode != local.ModeGuarding {
			t.Fatalf("a disk that works again: %+v", n)
		}
		b.end()
	})
}

func TestARestartOfTheServiceThatNoManagerMakesIsNotCalledDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		pass(2 * time.Second)
		b.send(b.directive(wire.Directive{ID: "r", Kind: wire.DirectiveRestartService, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		pass(5 * time.Second)
		var got []wire.DirectiveResult
		b.door.set(func() {
			for _, m := range b.door.up {
				if m.Type != wire.TypeDirectiveResult {
					continue
				}
				r, err := wire.DecodePayload[wire.DirectiveResult](m)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r)
			}
		})
		if len(got) != 1 || got[0].State != wire.DirectiveFailed || !strings.Contains(got[0].Detail, "only its worker") || b.spawned() != 2 {
			t.Fatalf("%d workers, told %+v", b.spawned(), got)
		}
		b.end()
	})
}

// cutOff is a server to which the road is cut once it has handed something down.
type cutOff struct{ *door }

func (c cutOff) cut(r wire.PollResponse, err error) (wire.PollResponse, error) {
	if len(r.Downstream) > 0 {
		c.set(func() { c.down = errors.New("no route to host") })
	}
	return r, err
}

func (c cutOff) Beacon(ctx context.Context, r oob.Report) (wire.PollResponse, error) {
	return c.cut(c.door.Beacon(ctx, r))
}

func (c cutOff) Poll(ctx context.Context, p wire.PollRequest) (wire.PollResponse, error) {
	return c.cut(c.door.Poll(ctx, p))
}

// What the next run tells of an order is what became of it, not what usually becomes of its kind.
func TestAReceiptThatDidNotArriveIsToldAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Door = cutOff{b.door}
		b.run()
		pass(2 * time.Second)
		b.send(b.directive(wire.Directive{ID: "r", Kind: wire.DirectiveRestartService, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		pass(5 * time.Second)
		b.end()
		// A service manager, at last: it did not restart anything for the order.
		b.cfg.Service, b.cfg.Door = true, b.door
		b.door.set(func() { b.door.down = nil })
		if got := b.door.receipts(t); len(got) != 0 {
			t.Fatalf("told %+v over a road that is cut", got)
		}
		b.run()
		pass(10 * time.Second)
		got := b.door.receipts(t)
		if len(got) != 1 || got[0].ID != "r" || got[0].State != wire.DirectiveFailed || !strings.Contains(got[0].Detail, "only its worker") {
			t.Fatalf("told by the next run: %+v, want failed, as it was", got)
		}
		b.end()
	})
}

// Who starts the agent by hand after an ordered restart is no service manager.
func TestARestartByHandIsNotCalledTheServiceManagers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, managed := range []bool{false, true} {
			b := newBench(t)
			b.cfg.Service = true
			b.run()
			pass(2 * time.Second)
			b.door.set(func() {
				b.door.next = append(b.door.next, b.directive(wire.Directive{ID: "s", Kind: wire.DirectiveRestartService, ExpiresAt: time.Now().Add(5 * time.Hour)}))
			})
			if err := <-b.done; !errors.Is(err, guardian.ErrRestartService) {
				t.Fatalf("ended with %v", err)
			}
			b.cfg.Service, b.cfg.Presence.Instance = managed, wire.NewID()
			b.run()
			pass(5 * time.Second)
			b.links(8)
			pass(5 * time.Second)
			got := b.door.receipts(t)
			if len(got) != 1 || got[0].ID != "s" {
				t.Fatalf("receipts %+v", got)
			}
			if managed && (got[0].State != wire.DirectiveDone || !strings.Contains(got[0].Detail, b.cfg.Presence.Instance)) {
				t.Errorf("started again by the manager: %+v", got[0])
			}
			if !managed && (got[0].State != wire.DirectiveFailed || !strings.Contains(got[0].Detail, "by hand")) {
				t.Errorf("started by hand: %+v", got[0])
			}
			b.end()
		}
	})
}

func TestAQuarantinedEndpointSaysSoAndDialsWhenItIsLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var held atomic.Bool
		b.cfg.SetQuarantine = func(on bool, _ string) error { held.Store(on); return nil }
		b.cfg.Quarantine = func() string {
			if held.Load() {
				return "Quarantined: stolen."
			}
			return ""
		}
		held.Store(true)
		b.start = well()
		b.start.Link = selfcheck.LinkFacts{Phase: selfcheck.PhaseWaiting, PhaseAge: new(time.Minute), NextDial: new(time.Minute)}
		ask := b.status()
		b.run()
		pass(time.Minute)
		if v := ask().Verdict; v.Sentence != "Quarantined: stolen." || !strings.Contains(v.Action, "--lift") {
			t.Errorf("verdict %s says %q, do %q", v.Code, v.Sentence, v.Action)
		}
		b.send(b.directive(wire.Directive{Kind: wire.DirectiveQuarantine, Lift: true, ExpiresAt: time.Now().Add(5 * time.Hour)}))
		if orders(b.child(), func(o pipe.Order) bool {
			return o.Reconnect != nil && strings.Contains(o.Reconnect.Reason, "lifted")
		}) != 1 {
			t.Error("a lifted quarantine waits for the next dial")
		}
		b.end()
	})
}

// How recovery is paced comes with the answer to a beacon, and the guardian obeys it
// itself: the worker that hangs can't pass it on. An older policy is not taken.
func TestPolicyFromABeaconIsInForceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		status := b.status()
		b.run()
		pass(2 * time.Second)
		policy := func(p wire.Policy) wire.Envelope {
			env, err := wire.Sign(b.key, wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: p})
			if err != nil {
				t.Fatal(err)
			}
			return env
		}
		b.send(policy(wire.Policy{Version: 7, SpreadRecoveryMS: 60_000}))
		if p := status().Policy; p.SpreadRecoveryMS != 60_000 {
			t.Errorf("in force: %+v", p)
		}
		if n := orders(b.child(), func(o pipe.Order) bool { return len(o.Deliver) == 1 && o.Deliver[0].Type == wire.TypeConfigUpdate }); n != 1 {
			t.Errorf("the worker was given it %d times", n)
		}
		b.send(policy(wire.Policy{Version: 6}))
		if p := status().Policy; p.SpreadRecoveryMS != 60_000 {
			t.Errorf("an older one is in force: %+v", p)
		}
		b.send(policy(wire.Policy{Version: 7}))
		if p := status().Policy; p.SpreadRecoveryMS != 0 {
			t.Errorf("it is not lifted: %+v", p)
		}
		b.end()
	})
}

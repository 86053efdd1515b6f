package worker_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/pipe"
	"gururmm/wire"
)

// Whatever is refused is refused with a code, by the door it came by, and the
// link goes on.
func TestEveryRefusalHasACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		_, foreign, _ := ed25519.GenerateKey(rand.Reader)

		signed := func(typ wire.Type, payload any) []byte { return text(t, srv.sign(typ, payload)) }
		bad := command(nil)
		byOther, _ := wire.Sign(foreign, wire.TypeCommand, bad)
		unsigned, _ := wire.Seal(wire.TypeCommand, bad)
		retyped := srv.sign(wire.TypeProbe, bad)
		retyped.Type = wire.TypeCommand
		changed := srv.sign(wire.TypeCommand, bad)
		changed.Payload = []byte(strings.Replace(string(changed.Payload), "exit 0", "exit 1", 1))

		for _, c := range []struct {
			name   string
			text   []byte
			binary bool
			code   wire.Code
			typ    wire.Type // of the answer; default nack
			id     string
		}{
			{name: "no json", text: []byte("hello"), code: wire.CodeUnparseable},
			{name: "no payload", text: []byte(`{"type":"command"}`), code: wire.CodeUnparseable},
			{name: "binary", text: []byte("x"), binary: true, code: wire.CodeUnparseable},
			{name: "too large", text: []byte(`{"type":"nack","payload":"` + strings.Repeat("x", wire.MaxMessage) + `"}`), code: wire.CodeTooLarge},
			{name: "unknown type", text: []byte(`{"type":"dance","payload":{}}`), code: wire.CodeUnsupported},
			{name: "wrong direction", text: []byte(`{"type":"auth","payload":{}}`), code: wire.CodeUnsupported},
			{name: "directive by the link", text: signed(wire.TypeDirective, wire.Directive{ID: "d", Agent: agentID, Kind: wire.DirectivePoll}), code: wire.CodeUnsupported, id: "d"},
			{name: "payload of another shape", text: []byte(`{"type":"heartbeat_ack","payload":[]}`), code: wire.CodeUnparseable},
			{name: "unsigned", text: text(t, unsigned), code: wire.CodeBadSignature, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "foreign key", text: text(t, byOther), code: wire.CodeBadSignature, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "signature of another type", text: text(t, retyped), code: wire.CodeBadSignature, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "changed on the way", text: text(t, changed), code: wire.CodeBadSignature, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "signed nonsense", text: signed(wire.TypeCommand, []int{1}), code: wire.CodeUnparseable},
			{name: "no id", text: signed(wire.TypeCommand, command(func(c *wire.Command) { c.ID = "" })), code: wire.CodeUnparseable},
			{name: "other agent", text: signed(wire.TypeCommand, command(func(c *wire.Command) { c.ID, c.Agent = bad.ID, "agent-2" })), code: wire.CodeWrongAgent, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "expired", text: signed(wire.TypeCommand, command(func(c *wire.Command) { c.ID, c.ExpiresAt = bad.ID, time.Now().Add(-time.Second) })), code: wire.CodeExpired, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "long script", text: signed(wire.TypeCommand, command(func(c *wire.Command) { c.ID, c.Script = bad.ID, strings.Repeat("#", wire.MaxScript+1) })), code: wire.CodeTooLarge, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "unknown shell", text: signed(wire.TypeCommand, command(func(c *wire.Command) { c.ID, c.Shell = bad.ID, "fish" })), code: wire.CodeUnsupported, typ: wire.TypeCommandNack, id: bad.ID},
			{name: "cancel of nothing", text: signed(wire.TypeCancelCommand, wire.CancelCommand{ID: "nope", Agent: agentID, ExpiresAt: time.Now().Add(time.Hour)}), code: wire.CodeUnsupported, id: "nope"},
			{name: "late cancel", text: signed(wire.TypeCancelCommand, wire.CancelCommand{ID: "nope", Agent: agentID, ExpiresAt: time.Now().Add(-time.Hour)}), code: wire.CodeExpired, id: "nope"},
			{name: "policy that would cut off", text: signed(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: wire.Policy{Version: 9, PingMS: 90_000, DeadMS: 60_000}}), code: wire.CodeUnsupported},
			{name: "policy with a plain endpoint", text: signed(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: wire.Policy{Version: 9, LinkURLs: []string{"ws://rmm.example/v1/link"}}}), code: wire.CodeUnsupported},
			{name: "policy for another agent", text: signed(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: "agent-2"}), code: wire.CodeWrongAgent},
			{name: "older policy", text: signed(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: wire.Policy{Version: 0}}), code: wire.CodeExpired},
		} {
			if c.typ == "" {
				c.typ = wire.TypeNack
			}
			before := len(p.of(c.typ))
			kind := websocket.TextMessage
			if c.binary {
				kind = websocket.BinaryMessage
			}
			p.raw(kind, c.text)
			r.wait("the answer to "+c.name, 10*time.Second, func() bool { return len(p.of(c.typ)) > before })
			n := decode[wire.Nack](t, p.of(c.typ)[before])
			if n.Code != c.code || n.ID != c.id || n.Seq == 0 {
				t.Errorf("%s: %+v, want code %s and id %q", c.name, n, c.code, c.id)
			}
		}
		r.wait("the counters", time.Second, func() bool {
			s := r.last()
			return s.Stages.Undecoded == 6 && s.Stages.Rejected == 17 && s.RejectedCode == wire.CodeExpired && s.RejectedAge != nil
		})
		if acks := p.of(wire.TypeConfigAck); decode[wire.ConfigAck](t, acks[len(acks)-1]).Version != 1 {
			t.Error("the ack of an older policy must tell of the one in force")
		}
		// None of it ran, nothing of the link broke, and a good one still runs.
		p.sendSigned(wire.TypeCommand, command(nil))
		r.wait("a result", time.Minute, func() bool { return len(p.of(wire.TypeCommandResult)) == 1 })
		if len(srv.links()) != 1 {
			t.Error("the link was given up")
		}
	})
}

// A nack is never answered by a nack: two ends would go on for ever.
func TestNackIsNotNacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		p.raw(websocket.TextMessage, []byte(`{"type":"nack","payload":[]}`))
		r.wait("the count", 10*time.Second, func() bool { return r.last().Stages.Undecoded == 1 })
		time.Sleep(time.Second)
		if n := p.of(wire.TypeNack); len(n) != 0 {
			t.Errorf("answered with %s", n[0].Payload)
		}
	})
}

// By the second door the very same refusals go up the pipe.
func TestRefusalsOfTheSecondDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		r.verified(1)
		bad := command(nil)
		unsigned, _ := wire.Seal(wire.TypeCommand, bad)
		r.order(pipe.Order{Deliver: []wire.Envelope{
			unsigned,
			srv.sign(wire.TypeCommand, command(func(c *wire.Command) { c.Agent = "agent-2" })),
			srv.sign(wire.TypeHeartbeat, wire.Heartbeat{}),
		}})
		r.wait("three refusals", 10*time.Second, func() bool {
			return len(r.up(wire.TypeCommandNack)) == 2 && len(r.up(wire.TypeNack)) == 1
		})
		for i, code := range []wire.Code{wire.CodeBadSignature, wire.CodeWrongAgent} {
			if n := decode[wire.Nack](t, r.up(wire.TypeCommandNack)[i]); n.Code != code {
				t.Errorf("refusal %d: %+v, want %s", i, n, code)
			}
		}
	})
}

func text(t *testing.T, env wire.Envelope) []byte {
	t.Helper()
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

package server

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func TestCommandRunsOverVerifiedLink(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	if p := n.agent(id).Presence; p != "offline" {
		t.Errorf("presence before any link: %s", p)
	}
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	a := n.agent(id)
	if a.Presence != "verified" || a.VerifiedAt == nil || a.LastSeen == nil || len(a.Links) != 1 || a.Links[0].State != "verified" {
		t.Fatalf("after verification: %+v", a)
	}
	cmd := operate[operator.Command](n, "POST", "/v1/agents/machine-f1/commands", operator.NewCommand{Script: "echo hi"})
	got := <-m.commands
	if got.ID != cmd.ID || got.Script != "echo hi" {
		t.Fatalf("the agent got %+v", got)
	}
	m.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID}, true)
	zero := 0
	m.send(wire.TypeCommandResult, wire.CommandResult{ID: cmd.ID, State: wire.StateCompleted, ExitCode: &zero, StdoutBytes: 3, Stdout: []byte("hi\n")}, true)
	await(t, "the command has completed", func() bool {
		return operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil).State == wire.StateCompleted
	})
	status, _, out := n.request("GET", n.Info().URL+"/v1/commands/"+cmd.ID+"/output/stdout", n.Info().OperatorToken, nil)
	if status != http.StatusOK || string(out) != "hi\n" {
		t.Errorf("stdout: %d %q", status, out)
	}
	status, header, events := n.request("GET", n.Info().URL+"/v1/commands/"+cmd.ID+"/events", n.Info().OperatorToken, nil)
	if status != http.StatusOK || header.Get("Content-Type") != "application/x-ndjson" || !strings.Contains(string(events), `"kind":"end"`) {
		t.Errorf("events: %d %s", status, events)
	}
	m.close()
	await(t, "the agent is offline", func() bool { return n.agent(id).Presence == "offline" })
}

func TestConnectedAloneIsNeverOnline(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	ws, _, err := n.dialLink(id, id.token(nil), new(atomic.Bool))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	await(t, "the link is registered", func() bool { return len(n.agent(id).Links) == 1 })
	if a := n.agent(id); a.Presence != "connecting" || a.VerifiedAt != nil {
		t.Errorf("an open socket shows as %s", a.Presence)
	}
	trace := func() string {
		cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", IdempotencyKey: "one"})
		return operate[operator.Trace](n, "GET", "/v1/commands/"+cmd.ID+"/trace", nil).Stopped
	}
	if said := trace(); !strings.Contains(said, "its new link is not verified yet (written 0, the agent has ") {
		t.Errorf("of a connected agent: %s", said)
	}
	ws.Close()
	await(t, "the link is gone", func() bool { return len(n.agent(id).Links) == 0 })
	if said := trace(); !strings.Contains(said, "it has no link; last heard of ") || strings.Contains(said, "offline") {
		t.Errorf("of an agent heard of just now: %s", said)
	}
	if status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1"}); status != 200 {
		t.Fatalf("poll: %d %s", status, raw)
	}
	if said := trace(); !strings.Contains(said, "last heard of 0s ago by poll") {
		t.Errorf("of an agent that polls without asking for commands: %s", said)
	}
}

func TestBadMessagesAreRefusedAndTheLinkGoesOn(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	// One write below the WebSocket: the session goes on writing its own frames.
	raw := func(kind int, data string) {
		if _, err := m.ws.NetConn().Write(frame(kind, data)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		kind int
		text string
		code wire.Code
	}{
		{"not JSON", websocket.TextMessage, "hello", wire.CodeUnparseable},
		{"binary", websocket.BinaryMessage, "\x01", wire.CodeUnparseable},
		{"no payload", websocket.TextMessage, `{"type":"heartbeat"}`, wire.CodeUnparseable},
		{"payload of another shape", websocket.TextMessage, `{"type":"heartbeat","payload":7}`, wire.CodeUnparseable},
		{"unknown type", websocket.TextMessage, `{"type":"dance","payload":{}}`, wire.CodeUnsupported},
		{"a server's message", websocket.TextMessage, `{"type":"command","payload":{}}`, wire.CodeUnsupported},
		{"auth again", websocket.TextMessage, `{"type":"auth","payload":{"instance":"x"}}`, wire.CodeUnsupported},
		{"too large", websocket.TextMessage, strings.Repeat("x", wire.MaxMessage+1), wire.CodeTooLarge},
		{"echo too large", websocket.TextMessage, `{"type":"echo","payload":{"id":"e","size":9999999}}`, wire.CodeTooLarge},
	} {
		before := n.hub.Refused(c.code)
		raw(c.kind, c.text)
		select {
		case nack := <-m.nacks:
			if nack.Code != c.code {
				t.Errorf("%s: nack %s, want %s", c.name, nack.Code, c.code)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no nack", c.name)
		}
		if n.hub.Refused(c.code) != before+1 {
			t.Errorf("%s: not counted", c.name)
		}
	}
	if n.hub.Links() != 1 {
		t.Error("the link did not go on")
	}
}

// frame is a client's whole message in one frame (RFC 6455 section 5.2), masked with a key of zeros.
func frame(kind int, data string) []byte {
	b := []byte{0x80 | byte(kind)}
	switch n := len(data); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), data...)
}

func TestNewerLinkOfSameInstanceReplacesOlderAtOnce(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	first := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	older := n.agent(id).Links[0].Generation
	n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	if code, reason := first.closedWith(10 * time.Second); code != websocket.CloseServiceRestart || !strings.Contains(reason, "replaced") {
		t.Errorf("the older link ended with %d %q", code, reason)
	}
	a := n.agent(id)
	if len(a.Links) != 1 || a.Links[0].Generation <= older || a.Presence != "verified" {
		t.Errorf("after the replacement: %+v", a)
	}
}

func TestTwoLivingMachinesGetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		first := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer first.close()
		second := n.link(id, presence("i2", "b2", "f2")).awaitVerified()
		await(t, "both are seen as duplicates", func() bool { return n.agent(id).Presence == "duplicate" })
		a := n.agent(id)
		if len(a.Links) != 2 || a.Links[0].Verdict != string(selfcheck.CodeRouteDuplicate) || a.Links[1].Verdict != string(selfcheck.CodeRouteDuplicate) {
			t.Fatalf("links: %+v", a.Links)
		}
		if len(a.Copies) != 2 || a.Copies[0].Standing != operator.CopyRival || a.Copies[1].Standing != operator.CopyRival || a.Copies[0].Hostname != "machine-f1" {
			t.Errorf("machines shown: %+v", a.Copies)
		}
		cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
		for range 3 { // signs of life do not make it go out by guess
			first.heartbeat()
			second.heartbeat()
		}
		await(t, "the heartbeats were read", func() bool {
			links := n.agent(id).Links
			return links[0].Read >= 8 && links[1].Read >= 8
		})
		if got := operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil); got.State != wire.StatePending || got.Attempts != 0 {
			t.Fatalf("delivered on a duplicate identity: %+v", got)
		}
		began := time.Now()
		second.close()
		if got := <-first.commands; got.ID != cmd.ID { // one machine is left: no guess any more
			t.Errorf("got %+v", got)
		}
		if took := time.Since(began); took < 40*time.Second { // a link that is cut is no machine that is gone
			t.Errorf("delivered %v after the other one's link ended", took)
		}
	})
}

func TestDeadOlderMachineIsEvictedAfterTenSeconds(t *testing.T) {
	for name, who := range map[string]wire.Presence{
		"of another boot":                      presence("i2", "b2", "f1"),
		"of the same boot (service restarted)": presence("i2", "b1", "f1"),
	} {
		t.Run(name, func(t *testing.T) { deadOlderMachine(t, who) })
	}
}

func deadOlderMachine(t *testing.T, who wire.Presence) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		first := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer first.close()
		older := n.agent(id).Links[0].Generation
		first.mute.Store(true)
		began := time.Now()
		second := n.link(id, who).awaitVerified()
		defer second.close()
		a := n.agent(id)
		if len(a.Links) != 2 || a.Presence == "duplicate" || a.Presence == "verified" {
			t.Fatalf("while the older one is asked: %s %+v", a.Presence, a.Links)
		}
		await(t, "the older one is evicted", func() bool { return n.hub.Links() == 1 })
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("evicted after %v", took)
		}
		a = n.agent(id)
		if len(a.Links) != 1 || a.Links[0].Generation == older || a.Presence != "verified" {
			t.Errorf("after the eviction: %s %+v", a.Presence, a.Links)
		}
	})
}

// Each link may leave texts to be handled behind; who dials anew all the time
// must not pile them up.
func TestLinksThatEndedCountWhileTheirTextsAreHandled(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	other := n.enroll("beta")
	db, err := sql.Open("sqlite", filepath.Join(n.cfg.StateDir, "gururmm.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	hold, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil { // the database is slow
		t.Fatal(err)
	}
	dial := func(id identity) *websocket.Conn {
		ws, _, err := n.dialLink(id, id.token(nil), new(atomic.Bool))
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
	auth, err := wire.Seal(wire.TypeAuth, wire.Auth{Presence: presence("i1", "b1", "f1")})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := auth.Encode()
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 20 {
		ws := dial(id)
		if err := ws.WriteMessage(websocket.TextMessage, raw); err != nil {
			t.Log(err) // refused already
		}
		ws.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, _, err := ws.ReadMessage(); websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
			refused++
		}
		ws.Close()
	}
	if refused == 0 {
		t.Error("20 links left texts behind, and none was refused")
	}
	ws := dial(other)
	ws.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, _, err := ws.ReadMessage(); websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
		t.Error("another agent is refused for it")
	}
	ws.Close()
	if _, err := hold.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	hold.Close()
	await(t, "what was left is handled", func() bool {
		ws := dial(id)
		defer ws.Close()
		ws.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := ws.ReadMessage()
		return !websocket.IsCloseError(err, websocket.CloseTryAgainLater)
	})
}

func TestDeadlinesOfALink(t *testing.T) {
	t.Run("never verified", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := start(t, true, nil)
			defer n.stop()
			id := n.enroll("alpha")
			ws, _, err := n.dialLink(id, id.token(nil), new(atomic.Bool))
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			go ws.ReadMessage() // answers pings; no auth
			n.awaitLinkEnd(20 * time.Second)
		})
	})
	t.Run("silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := start(t, true, nil)
			defer n.stop()
			m := n.link(n.enroll("alpha"), presence("i1", "b1", "f1")).awaitVerified()
			defer m.close()
			synctest.Wait()
			m.mute.Store(true)
			n.awaitLinkEnd(90 * time.Second)
		})
	})
}

// awaitLinkEnd waits until the only link is gone, which must be so after d.
func (n *node) awaitLinkEnd(d time.Duration) {
	n.t.Helper()
	await(n.t, "the link is open", func() bool { return n.hub.Links() == 1 })
	began := time.Now()
	awaitFor(n.t, 2*d, "the link has ended", func() bool { return n.hub.Links() == 0 })
	if took := time.Since(began); took < d-time.Second || took > d+time.Second {
		n.t.Errorf("the link ended after %v, want %v", took, d)
	}
}

func TestIdleLinkStaysVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		quiet := time.NewTimer(4 * time.Hour)
		beat := time.NewTicker(time.Minute)
		defer beat.Stop()
		for over := false; !over; {
			select {
			case <-beat.C:
				m.heartbeat()
			case err := <-m.ended:
				t.Fatalf("an idle link ended: %v", err)
			case <-quiet.C:
				over = true
			}
		}
		if a := n.agent(id); a.Presence != "verified" || a.Links[0].Generation != 1 {
			t.Errorf("after four hours: %s %+v", a.Presence, a.Links)
		}
	})
}

func TestStuckWriterIsEvictedAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		synctest.Wait()
		// The agent takes no more bytes: an in-memory connection has no buffer.
		m.ws.NetConn().SetReadDeadline(time.Now().Add(time.Hour))
		stuck := make(chan struct{})
		defer close(stuck)
		m.ws.SetPingHandler(func(string) error { <-stuck; return nil })
		operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
		<-m.commands
		time.Sleep(time.Second) // its acknowledgement is late: a ping asks for the ledger
		began := time.Now()
		operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: strings.Repeat("x", 100_000)})
		await(t, "the link is gone", func() bool { return n.hub.Links() == 0 })
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("evicted after %v", took)
		}
	})
}

func TestUnacknowledgedCommandShowsALinkAsDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
		<-m.commands // and says nothing
		if a := n.agent(id); a.Presence != "verified" {
			t.Errorf("within its lease: %s", a.Presence)
		}
		await(t, "its lease is over", func() bool { return n.agent(id).Presence == "degraded" })
		if a := n.agent(id); a.Sentence != "A command is unacknowledged for 5s." {
			t.Errorf("sentence %q", a.Sentence)
		}
		told := func(want string) {
			t.Helper()
			time.Sleep(6 * time.Second) // looked at
			if said, _ := n.told(id); !slices.Contains(said, want) {
				t.Errorf("%q is not told among %q", want, said)
			}
		}
		told("presence verified>degraded")
		if !n.delivery.AnyUnacknowledged() {
			t.Error("none is said to be unacknowledged")
		}
		m.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID}, true)
		await(t, "acknowledged", func() bool { return n.agent(id).Presence == "verified" })
		told("presence degraded>verified")
		if n.delivery.AnyUnacknowledged() {
			t.Error("one is said to be unacknowledged")
		}
	})
}

// A command is not acknowledged: the link is pinged at once, and where not even that is
// answered it is silent, not merely slow. It is trusted again as soon as it speaks.
func TestALinkOnWhichNothingComesIsSilentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		synctest.Wait()
		var frozen atomic.Bool
		pong := m.ws.PingHandler()
		m.ws.SetPingHandler(func(data string) error {
			if frozen.Load() {
				return nil
			}
			return pong(data)
		})
		frozen.Store(true)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", ExpiresInMS: 3_600_000})
		<-m.commands // it is read, but nothing comes back
		await(t, "the link is silent", func() bool { return n.agent(id).Presence == "silent" })
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("silent after %v", took)
		}
		if a := n.agent(id); len(a.Links) != 1 || a.Links[0].Verdict != string(selfcheck.CodeLinkSilent) {
			t.Errorf("links %+v", a.Links)
		}
		await(t, "the trace says so", func() bool {
			trace := operate[operator.Trace](n, "GET", "/v1/commands/"+cmd.ID+"/trace", nil)
			return strings.Contains(fmt.Sprint(trace.Entries), "nothing at all has come on the link")
		})
		frozen.Store(false)
		if got := <-m.commands; got.ID != cmd.ID { // with the next ping
			t.Errorf("got %+v", got)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("trusted again after %v", took)
		}
		m.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID}, true)
		await(t, "verified again", func() bool { return n.agent(id).Presence == "verified" })
	})
}

func TestLostTextIsProvenFromTheServersSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		m.close() // its place is taken by a link that loses texts
		ws, res, err := n.dialLink(id, id.token(nil), new(atomic.Bool))
		if err != nil {
			t.Fatal(err)
		}
		link, _ := wire.ParseLinkID(res.Header.Get(wire.HeaderLinkID))
		lossy := &lossyLink{machine: machine{
			t: t, id: id, ws: ws, verified: make(chan struct{}), commands: make(chan wire.Command, 4),
			nacks: make(chan wire.Nack, 4), ended: make(chan error, 1),
		}, ledger: selfcheck.NewLedgers(link)}
		go lossy.run()
		defer ws.Close()
		<-lossy.verified
		await(t, "verified", func() bool { return n.agent(id).Presence == "verified" })
		cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
		began := time.Now()
		await(t, "the loss is proven", func() bool { return n.agent(id).Links[0].Verdict == string(selfcheck.CodeLinkTextLost) })
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("proven after %v", took)
		}
		if a := n.agent(id); a.Presence != "degraded" || a.Links[0].PongAgeMS == nil {
			t.Errorf("presence %s, or its pongs are not told: %+v", a.Presence, a.Links[0])
		}
		await(t, "the claim went back", func() bool {
			return operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil).State == wire.StatePending
		})
		trace := operate[operator.Trace](n, "GET", "/v1/commands/"+cmd.ID+"/trace", nil)
		if !strings.Contains(fmt.Sprint(trace.Entries), "lost between written and read") {
			t.Errorf("trace: %+v", trace.Entries)
		}
		i := slices.IndexFunc(trace.Entries, func(e operator.TraceEntry) bool { return e.Proof != nil })
		if i < 0 {
			t.Fatal("the proof is not counted")
		}
		p := trace.Entries[i].Proof
		if p.End != "server" || p.Text <= p.Read || p.Written <= p.Read || p.Pings < 2 || p.Last.Sub(p.First) < time.Second {
			t.Errorf("the proof: %+v", p)
		}
	})
}

// lossyLink is an agent whose path swallows every command: it answers pings,
// but has never read those texts.
type lossyLink struct {
	machine
	ledger *selfcheck.Ledgers
	seq    uint64
}

func (l *lossyLink) write(t wire.Type, payload any) {
	env, err := wire.Seal(t, payload)
	if err != nil {
		l.t.Error(err)
	}
	l.seq++
	env.Seq = l.seq
	raw, _ := env.Encode()
	l.ledger.Wrote(raw)
	l.ws.WriteMessage(websocket.TextMessage, raw)
}

func (l *lossyLink) run() {
	l.ws.SetPingHandler(func(d string) error {
		l.ws.WriteControl(websocket.PongMessage, []byte(d), time.Now().Add(time.Second))
		if l.ledger.Ping([]byte(d), time.Now()) {
			out := l.ledger.Outgoing(time.Now(), 0, false, selfcheck.ViaPing)
			l.ws.WriteControl(websocket.PingMessage, out.AppendTo(nil), time.Now().Add(time.Second))
		}
		return nil
	})
	l.write(wire.TypeAuth, wire.Auth{Presence: presence("i1", "b1", "f1")})
	probes := 0
	for {
		_, text, err := l.ws.ReadMessage()
		if err != nil {
			return
		}
		env, err := wire.Decode(text)
		if err != nil || env.Type == wire.TypeCommand {
			continue // lost
		}
		l.ledger.DidRead(wire.Chain(l.ledger.ReadCRC(), text), time.Now())
		switch env.Type {
		case wire.TypeConfigUpdate:
			update, _ := wire.DecodePayload[wire.ConfigUpdate](env)
			l.write(wire.TypeConfigAck, wire.ConfigAck{Version: update.Policy.Version, Hash: hashOf(env.Payload)})
		case wire.TypeProbe:
			probe, _ := wire.DecodePayload[wire.Command](env)
			l.write(wire.TypeCommandAck, wire.CommandAck{ID: probe.ID, Pad: probe.Pad})
			if probes++; probes == len(wire.ProbeSizes) {
				close(l.verified)
			}
		}
	}
}

// Agents come back at moments of their own, as many in a second as the server takes in.
func TestDrainSpreadsTheReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		id := n.enroll("alpha")
		const links = 8 // of one identity: copies
		var all []*machine
		for i := range links {
			m := n.link(id, presence(fmt.Sprint("i", i), fmt.Sprint("b", i), fmt.Sprint("f", i)))
			await(t, "it is authenticated", func() bool { return len(n.agent(id).Links) == i+1 })
			all = append(all, m)
		}
		if err := n.hub.Drain(t.Context(), errGoingDown, func(n int) time.Duration { return time.Duration(n) * time.Second }); err != nil {
			t.Fatal(err)
		}
		var told []time.Duration
		for _, m := range all {
			_, reason := m.closedWith(time.Second)
			after, ok := wire.ParseComeBack(reason)
			if !ok {
				t.Fatalf("told %q", reason)
			}
			told = append(told, after)
		}
		slices.Sort(told)
		for i, after := range told {
			if want := time.Duration(i+1) * time.Second; after != want {
				t.Errorf("told %v, want %v at place %d", after, want, i)
			}
		}
	})
	for links, want := range map[int]time.Duration{0: returnLeast, 3: returnLeast, 1 << 30: returnMost} {
		if got := returning(links); got != want {
			t.Errorf("%d links are spread over %v, want %v", links, got, want)
		}
	}
	if got, cores := returning(10_000), runtime.GOMAXPROCS(0); got > time.Minute*2/time.Duration(cores) && cores > 1 {
		t.Errorf("10,000 links are spread over %v", got)
	}
}

func TestDrainTellsAgentsAndEnds(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	began := time.Now()
	if err := n.stop(); err != nil {
		t.Errorf("drain: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("drain took %v", took)
	}
	code, reason := m.closedWith(time.Second)
	if code != websocket.CloseServiceRestart || !strings.Contains(reason, "going down") {
		t.Errorf("the agent was told %d %q", code, reason)
	}
	if after, ok := wire.ParseComeBack(reason); !ok || after < time.Second || after > 2*time.Second {
		t.Errorf("one alone was told to come back after %v: %q", after, reason)
	}
}

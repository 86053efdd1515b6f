package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/session"
	"gururmm/wire"
)

// probe opens a probe link, and gives the HTTP status where it is refused.
func (n *node) probe(id identity) (*session.Conn, int) {
	n.t.Helper()
	ws, link, status := n.probeRaw(id)
	if ws == nil {
		return nil, status
	}
	conn := session.New(ws, session.Options{Link: link})
	n.t.Cleanup(func() { conn.Close(websocket.CloseNormalClosure, errors.New("test is over")) })
	return conn, status
}

// probeRaw upgrades it, and does nothing more.
func (n *node) probeRaw(id identity) (*websocket.Conn, wire.LinkID, int) {
	n.t.Helper()
	dialer := websocket.Dialer{
		NetDialContext: n.dial, Subprotocols: []string{wire.Subprotocol},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	ws, res, err := dialer.DialContext(n.t.Context(), id.LinkURLs[0],
		http.Header{"Authorization": {"Bearer " + id.token(nil)}, wire.HeaderProbe: {"1"}})
	if err != nil {
		if res == nil {
			n.t.Fatal(err)
		}
		return nil, 0, res.StatusCode
	}
	link, ok := wire.ParseLinkID(res.Header.Get(wire.HeaderLinkID))
	if !ok || res.Header.Get(wire.HeaderTime) == "" {
		n.t.Fatalf("the upgrade's headers lack link or time: %v", res.Header)
	}
	return ws, link, http.StatusSwitchingProtocols
}

func sendText(t *testing.T, c *session.Conn, typ wire.Type, payload any) {
	t.Helper()
	env, err := wire.Seal(typ, payload)
	if err == nil {
		err = c.Send(env, session.SendOptions{Flush: true})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readText(t *testing.T, c *session.Conn) wire.Envelope {
	t.Helper()
	m, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	env, err := wire.Decode(m.Text)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestProbeLinkLeavesTheLiveOneAlone(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	before := n.agent(id).Links

	c, _ := n.probe(id)
	sendText(t, c, wire.TypeEcho, wire.Echo{ID: "e1", Size: wire.MaxEcho, Pad: strings.Repeat("p", 1000)})
	reply, err := wire.DecodePayload[wire.EchoReply](readText(t, c))
	if err != nil || reply.ID != "e1" || reply.Got != 1000 || len(reply.Pad) != wire.MaxEcho {
		t.Errorf("echo: %s, %d of 1000 arrived, %d came back, %v", reply.ID, reply.Got, len(reply.Pad), err)
	}
	for _, typ := range []wire.Type{wire.TypeAuth, wire.TypeHeartbeat, wire.TypeCommandAck} {
		sendText(t, c, typ, struct{}{})
		nack, err := wire.DecodePayload[wire.Nack](readText(t, c))
		if err != nil || nack.Code != wire.CodeUnsupported || nack.Type != typ {
			t.Errorf("%s on a probe link: %+v, %v", typ, nack, err)
		}
	}
	// A command goes by the live link, and the ledger on the probe link owes nothing.
	cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	if got := <-m.commands; got.ID != cmd.ID {
		t.Errorf("the live link got %s, want %s", got.ID, cmd.ID)
	}
	sendText(t, c, wire.TypeEcho, wire.Echo{ID: "e2"})
	if env := readText(t, c); env.Type != wire.TypeEchoReply {
		t.Errorf("after a command the probe link carries %s", env.Type)
	}
	go c.Read() // takes the pings in
	c.Ping(true)
	await(t, "the server's ledger comes by ping", func() bool {
		peer := c.Facts(time.Now()).Ledger.Peer
		return peer != nil && peer.Read == 5 && peer.Written == 5 && peer.Owed == 0
	})

	a := n.agent(id)
	if len(a.Links) != 1 || a.Links[0].Link != before[0].Link || a.Links[0].Generation != before[0].Generation {
		t.Errorf("links %+v, before %+v", a.Links, before)
	}
	if open, total := n.hub.Probes(); open != 1 || total != 1 { // it has answered: it is registered
		t.Errorf("%d probe links open, %d in all", open, total)
	}
}

func TestProbeLinksAreBounded(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	first, _ := n.probe(id)
	n.probe(id)
	if _, status := n.probe(id); status != http.StatusTooManyRequests {
		t.Errorf("a third at once: %d", status)
	}
	if _, status := n.probe(other); status != http.StatusSwitchingProtocols {
		t.Errorf("another agent's: %d", status)
	}
	first.Close(websocket.CloseNormalClosure, errors.New("made room"))
	await(t, "there is room again", func() bool {
		_, status := n.probe(id)
		return status == http.StatusSwitchingProtocols
	})

	// A text that is too large is not even read: it would be more than it is counted for.
	fat, _, _ := n.probeRaw(n.enroll("delta"))
	defer fat.Close()
	w, err := fat.NextWriter(websocket.TextMessage)
	sent := 0
	for chunk := make([]byte, 64<<10); err == nil && sent < 16<<20; sent += len(chunk) {
		_ = fat.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, err = w.Write(chunk)
	}
	if err == nil {
		t.Errorf("a text of %d MiB was read to its end", sent>>20)
	}
	await(t, "the probe link that sends too much is ended", func() bool {
		open, _ := n.hub.Probes()
		return open == 3
	})

	// What is asked for beyond 16 MiB is not sent.
	big, _ := n.probe(n.enroll("gamma"))
	var got int
	for {
		env, err := wire.Seal(wire.TypeEcho, wire.Echo{ID: "e", Size: wire.MaxEcho})
		if err != nil {
			t.Fatal(err)
		}
		if big.Send(env, session.SendOptions{}) != nil {
			break
		}
		m, err := big.Read()
		if err != nil {
			break
		}
		got += len(m.Text)
	}
	if closed, ok := errors.AsType[*websocket.CloseError](big.Err()); !ok || !strings.Contains(closed.Text, "16 MiB") || got > 16<<20 || got < 15<<20 {
		t.Errorf("after %d bytes: %v", got, big.Err())
	}
}

func TestProbeLinkEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		c, _ := n.probe(n.enroll("alpha"))
		began := time.Now()
		_, err := c.Read()
		if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != websocket.ClosePolicyViolation {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took < 89*time.Second || took > 100*time.Second {
			t.Errorf("ended after %v", took)
		}
	})
}

func TestProbeLinkEndsWithTheServer(t *testing.T) {
	n := start(t, false, nil)
	c, _ := n.probe(n.enroll("alpha"))
	ended := make(chan error, 1)
	go func() { _, err := c.Read(); ended <- err }()
	await(t, "the probe link is open", func() bool { open, _ := n.hub.Probes(); return open == 1 })
	if err := n.stop(); err != nil {
		t.Errorf("drain: %v", err)
	}
	if closed, ok := errors.AsType[*websocket.CloseError](<-ended); !ok || closed.Code != websocket.CloseServiceRestart {
		t.Errorf("ended with %v", c.Err())
	}
}

func TestProbeOfTheSecondDoorTakesNothing(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	body := `{"instance":"i1","deliver":true}`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", n.Info().OOBURL+"/v1/oob/poll", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+id.token(nil))
	req.Header.Set(wire.HeaderProbe, "1")
	res, err := n.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if a := n.agent(id); res.StatusCode != http.StatusOK || a.LastSeen != nil && a.Presence != "offline" {
		t.Errorf("%s; presence %s", res.Status, a.Presence)
	}
	if c := operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil); c.State != wire.StatePending {
		t.Errorf("the command is %s after a probe", c.State)
	}
}

package hub

import (
	"errors"
	"fmt"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/session"
	"gururmm/wire"
)

const (
	// probeLinkLife bounds a probe link: a whole ladder of echoes on a slow path takes half of it.
	probeLinkLife = 90 * time.Second
	// probeLinkBytes bounds what goes over it, both ways together: several ladders.
	probeLinkBytes = 16 << 20
	// probeLinkQueue bounds what waits for an endpoint that asks and does not read.
	probeLinkQueue = 1 << 20
)

// Reasons why a probe link ends, as the closing frame says them.
var (
	errProbeLife  = fmt.Errorf("a probe link lives %v at most", probeLinkLife)
	errProbeBytes = fmt.Errorf("a probe link carries %d MiB at most", probeLinkBytes>>20)
)

// Probe takes over an upgraded connection that only looks at the path: pings are
// answered with ledgers and echoes with texts. It is not registered: it replaces
// no link, gets no command, and no presence comes of it. It returns at once;
// done is called when the link is gone.
func (h *Hub) Probe(ws *websocket.Conn, agent string, id wire.LinkID, addr string, done func()) {
	conn := session.New(ws, session.Options{Link: id, MaxQueue: probeLinkQueue})
	// One that is too large is not read to its end: it would cost more than it is counted for.
	ws.SetReadLimit(wire.MaxMessage)
	h.mu.Lock()
	refuse := h.draining
	if refuse == nil {
		h.probing[conn] = struct{}{}
		h.probed++
		h.readers.Go(func() {
			defer done()
			h.serveProbe(conn, agent, addr)
			h.mu.Lock()
			delete(h.probing, conn)
			h.mu.Unlock()
		})
	}
	h.mu.Unlock()
	if refuse != nil {
		conn.Close(websocket.CloseTryAgainLater, refuse)
		done()
	}
}

// Probes counts the probe links that are open, and all since the start.
func (h *Hub) Probes() (open int, total uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.probing), h.probed
}

// serveProbe is a probe link's one reader and owner.
func (h *Hub) serveProbe(conn *session.Conn, agent, addr string) {
	began := time.Now()
	over := time.AfterFunc(probeLinkLife, func() { conn.Close(websocket.ClosePolicyViolation, errProbeLife) })
	defer over.Stop()
	left, echoes := probeLinkBytes, 0
	for {
		m, err := conn.Read()
		if err != nil {
			break
		}
		reply, spent := answerProbe(m)
		if left -= spent; left < 0 {
			conn.Close(websocket.ClosePolicyViolation, errProbeBytes)
			break
		}
		if err := conn.Send(reply, session.SendOptions{Flush: true}); err != nil {
			conn.Close(websocket.CloseTryAgainLater, errFlooded)
			break
		}
		echoes++
	}
	conn.Close(websocket.CloseNormalClosure, errors.New("looked at"))
	h.log.Info("probe link ended", "agent", agent, "link", conn.Link().String(), "addr", addr, "texts", echoes,
		"bytes", probeLinkBytes-left, "open_for", time.Since(began).Round(time.Millisecond), "reason", conn.Err())
}

// answerProbe gives the answer to one text of a probe link, and the bytes both cost.
func answerProbe(m session.Message) (reply wire.Envelope, spent int) {
	refuse := func(env wire.Envelope, code wire.Code, detail string) (wire.Envelope, int) {
		nack, err := wire.Seal(wire.TypeNack, wire.Nack{Code: code, Type: wire.Type(clip(string(env.Type))), Seq: env.Seq, Detail: clip(detail)})
		if err != nil { // strings only: it can be encoded
			panic(err)
		}
		return nack, len(m.Text) + len(nack.Payload)
	}
	switch {
	case m.Binary:
		return refuse(wire.Envelope{}, wire.CodeUnparseable, "binary message; only text is spoken here")
	}
	env, err := wire.Decode(m.Text)
	if err != nil {
		return refuse(env, wire.CodeUnparseable, err.Error())
	}
	if env.Type != wire.TypeEcho {
		return refuse(env, wire.CodeUnsupported, "a probe link carries echoes only")
	}
	reply, err = echoReply(env)
	if r, ok := errors.AsType[refusal](err); ok {
		return refuse(env, r.code, r.detail)
	}
	if err != nil {
		return refuse(env, wire.CodeUnparseable, err.Error())
	}
	return reply, len(m.Text) + len(reply.Payload)
}

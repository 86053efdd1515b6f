package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/server/store"
	"gururmm/session"
	"gururmm/wire"
)

// upgrader is tuned for many quiet links: it reads from what [session.Hijacked] gives, and
// has a buffer to write from only while something is written.
var upgrader = websocket.Upgrader{
	HandshakeTimeout: session.DefaultWriteTimeout,
	WriteBufferSize:  4096, WriteBufferPool: &sync.Pool{},
	Subprotocols: []string{wire.Subprotocol},
	CheckOrigin:  sameOrigin,
}

// sameOrigin refuses a page in somebody's browser: agents send no Origin.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// maxProbes bounds the probe links of one agent at once: a doctor has one open at
// a time, and a person may start another beside one that was ordered.
const maxProbes = 2

// probes tells whether a request only looks at the path; see [wire.HeaderProbe].
func probes(r *http.Request) bool { return r.Header.Get(wire.HeaderProbe) == "1" }

// look takes a place for a probe link of agent; release gives it back, once.
func (a *API) look(agent string) (release func(), ok bool) {
	mine, ok := a.probes.take(agent, maxProbes)
	if !ok {
		return nil, false
	}
	select {
	case a.looking <- struct{}{}:
		return sync.OnceFunc(func() { <-a.looking; mine() }), true
	default:
		mine()
		return nil, false
	}
}

// link upgrades an authenticated request and hands the connection to the hub,
// whose reader runs on when this handler, with all it holds, has returned.
func (a *API) link(w http.ResponseWriter, r *http.Request, agent store.Agent) error {
	switch {
	case agent.Quarantined: // the second door goes on: that is how it is examined, and freed
		return errQuarantined
	case !websocket.IsWebSocketUpgrade(r):
		w.Header().Set("Upgrade", "websocket")
		return problem(http.StatusUpgradeRequired, wire.ProblemBadRequest, "this is a WebSocket")
	case !sameOrigin(r):
		return problem(http.StatusForbidden, wire.ProblemBadRequest, "links are for agents, not for browsers")
	case !slices.Contains(websocket.Subprotocols(r), wire.Subprotocol):
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "the subprotocol must be "+wire.Subprotocol)
	}
	probe, done := probes(r), func() {}
	if probe {
		var ok bool
		if done, ok = a.look(agent.ID); !ok {
			return errTooMany
		}
	}
	id := wire.NewLinkID()
	up := upgrader
	up.Error = func(w http.ResponseWriter, r *http.Request, status int, reason error) {
		a.fail(w, r, problem(status, wire.ProblemBadRequest, reason.Error()))
	}
	ws, err := up.Upgrade(w, r, http.Header{
		wire.HeaderLinkID: {id.String()},
		wire.HeaderTime:   {time.Now().UTC().Format(time.RFC3339Nano)},
	})
	if err != nil { // answered already
		done()
		a.log.Info("upgrade failed", "agent", agent.ID, "addr", a.clientAddr(r), "reason", err)
		return nil
	}
	if probe {
		a.o.Hub.Probe(ws, agent.ID, id, a.clientAddr(r), done)
		return nil
	}
	a.o.Hub.Accept(ws, agent.ID, caller(r), id, a.clientAddr(r), settling(keepPlace(r)))
	return nil
}

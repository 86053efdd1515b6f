package worker_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/pipe"
	"gururmm/agent/state"
	"gururmm/agent/worker"
	"gururmm/internal/memnet"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

const agentID, serverID = "agent-1", "server-1"

// server is a scripted server: it does the handshake by itself, and otherwise
// what a test tells it.
type server struct {
	t      *testing.T
	key    ed25519.PrivateKey
	policy wire.Policy
	http   http.Server
	listen *memnet.Listener

	gone  atomic.Bool // pings are not answered, as if the machine were off
	pings atomic.Int64

	mu      sync.Mutex
	refuse  func(n int) *refusal // of upgrade n, from 1; nil: upgrade
	mute    bool                 // no handshake, no answers, no pings
	deny    bool                 // heartbeats are answered "not verified"
	dials   []string             // addresses as dialed
	peers   []*peer
	wg      sync.WaitGroup
	tokens  int
	headers []string // Authorization, in order
}

type refusal struct {
	status int
	code   string
	skew   time.Duration // of Gururmm-Time
	after  string        // Retry-After
}

// peer is one link as the server holds it.
type peer struct {
	s    *server
	ws   *websocket.Conn
	conn *session.Conn

	mu   sync.Mutex
	got  []wire.Envelope
	acks int
}

func newServer(t *testing.T) *server {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, key: key, policy: wire.Policy{Version: 1}, listen: memnet.Listen("192.0.2.1:443")}
	s.http.Handler = http.HandlerFunc(s.link)
	s.wg.Go(func() { s.http.Serve(s.listen) })
	t.Cleanup(s.close)
	return s
}

func (s *server) close() {
	s.http.Close()
	s.listen.Close()
	for _, p := range s.links() {
		p.conn.Close(websocket.CloseGoingAway, errors.New("test ends"))
	}
	s.wg.Wait()
}

// dial is the agent's network.
func (s *server) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	s.mu.Lock()
	s.dials = append(s.dials, addr)
	s.mu.Unlock()
	return s.listen.Dial(ctx)
}

func (s *server) dialed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.dials...)
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *server) links() []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*peer(nil), s.peers...)
}

func (s *server) last() *peer {
	links := s.links()
	if len(links) == 0 {
		return nil
	}
	return links[len(links)-1]
}

func (s *server) link(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.tokens++
	s.headers = append(s.headers, r.Header.Get("Authorization"))
	var no *refusal
	if s.refuse != nil {
		no = s.refuse(s.tokens)
	}
	s.mu.Unlock()
	if no != nil {
		w.Header().Set(wire.HeaderTime, time.Now().Add(no.skew).Format(time.RFC3339Nano))
		if no.after != "" {
			w.Header().Set("Retry-After", no.after)
		}
		w.WriteHeader(no.status)
		json.NewEncoder(w).Encode(wire.Problem{Title: "no", Status: no.status, Code: no.code})
		return
	}
	id := wire.NewLinkID()
	up := websocket.Upgrader{Subprotocols: []string{wire.Subprotocol}}
	ws, err := up.Upgrade(w, r, http.Header{
		wire.HeaderLinkID: {id.String()}, wire.HeaderTime: {time.Now().Format(time.RFC3339Nano)},
	})
	if err != nil {
		s.t.Error(err)
		return
	}
	p := &peer{s: s, ws: ws, conn: session.New(ws, session.Options{Link: id})}
	pong := ws.PingHandler()
	ws.SetPingHandler(func(data string) error {
		s.pings.Add(1)
		if s.gone.Load() {
			return nil
		}
		return pong(data)
	})
	s.mu.Lock()
	s.peers = append(s.peers, p)
	mute := s.mute
	s.mu.Unlock()
	if !mute {
		p.conn.Ping(false)
	}
	go p.read() // until the link ends
}

func (p *peer) read() {
	for {
		m, err := p.conn.Read()
		if err != nil {
			p.conn.Close(websocket.CloseNormalClosure, err)
			return
		}
		env, err := wire.Decode(m.Text)
		if err != nil {
			p.s.t.Errorf("agent wrote %q: %v", m.Text, err)
			continue
		}
		p.mu.Lock()
		p.got = append(p.got, env)
		p.mu.Unlock()
		p.s.mu.Lock()
		mute, deny := p.s.mute, p.s.deny
		p.s.mu.Unlock()
		if !mute {
			p.answer(env, m, deny)
		}
	}
}

func (p *peer) answer(env wire.Envelope, m session.Message, deny bool) {
	switch env.Type {
	case wire.TypeAuth:
		p.send(wire.TypeAuthAck, wire.AuthAck{Link: p.conn.Link(), ServerTime: time.Now(), Capabilities: []string{wire.CapLedger}})
		p.sendSigned(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: p.s.policy})
	case wire.TypeConfigAck:
		for _, size := range wire.ProbeSizes {
			p.sendSigned(wire.TypeProbe, command(func(c *wire.Command) { c.Script, c.Pad = "", strings.Repeat("x", size) }))
		}
	case wire.TypeCommandAck:
		p.mu.Lock()
		p.acks++
		p.mu.Unlock()
	case wire.TypeHeartbeat:
		hb, _ := wire.DecodePayload[wire.Heartbeat](env)
		p.conn.PeerLedger(hb.Ledger, m, 0)
		p.mu.Lock()
		verified := p.acks >= len(wire.ProbeSizes) && !deny
		p.mu.Unlock()
		p.conn.Send(wire.Envelope{Type: wire.TypeHeartbeatAck}, session.SendOptions{Compose: func(l wire.Ledger) (wire.Envelope, error) {
			return wire.Seal(wire.TypeHeartbeatAck, wire.HeartbeatAck{
				Ledger: l, Heartbeat: m.Number, ServerTime: time.Now(), Verified: verified,
			})
		}})
	case wire.TypeCommandResult:
		r, _ := wire.DecodePayload[wire.CommandResult](env)
		p.send(wire.TypeResultAck, wire.ResultAck{ID: r.ID, Stored: true})
	}
}

func (p *peer) send(t wire.Type, payload any) {
	env, err := wire.Seal(t, payload)
	if err != nil {
		p.s.t.Error(err)
	}
	p.sendEnv(env)
}

func (p *peer) sendSigned(t wire.Type, payload any) wire.Envelope {
	env := p.s.sign(t, payload)
	p.sendEnv(env)
	return env
}

func (p *peer) sendEnv(env wire.Envelope) {
	p.conn.Send(env, session.SendOptions{Flush: true})
}

// raw writes any data frame, past the writer: the ledger does not count it.
func (p *peer) raw(kind int, b []byte) {
	frame := []byte{0x80 | byte(kind), 127}
	frame = binary.BigEndian.AppendUint64(frame, uint64(len(b)))
	if len(b) < 126 {
		frame = []byte{0x80 | byte(kind), byte(len(b))}
	} else if len(b) < 1<<16 {
		frame = []byte{0x80 | byte(kind), 126, byte(len(b) >> 8), byte(len(b))}
	}
	if _, err := p.ws.NetConn().Write(append(frame, b...)); err != nil {
		p.s.t.Error(err)
	}
}

// of gives the messages of type t that this link has brought.
func (p *peer) of(t wire.Type) []wire.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []wire.Envelope
	for _, e := range p.got {
		if e.Type == t {
			out = append(out, e)
		}
	}
	return out
}

func (s *server) sign(t wire.Type, payload any) wire.Envelope {
	env, err := wire.Sign(s.key, t, payload)
	if err != nil {
		s.t.Error(err)
	}
	return env
}

// command makes a command for the agent, valid for an hour.
func command(change func(*wire.Command)) wire.Command {
	c := wire.Command{
		ID: wire.NewID(), Agent: agentID, Script: "exit 0", TimeoutMS: 60_000, MaxOutput: 1 << 20,
		IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(&c)
	}
	return c
}

// rig is a worker with both its pipes in the test's hands.
type rig struct {
	t      *testing.T
	srv    *server
	orders *io.PipeWriter
	done   chan error
	deaf   chan struct{} // closed: facts are read no more

	stopped bool

	mu       sync.Mutex
	snapshot selfcheck.Snapshot
	reports  int
	links    []selfcheck.LinkFacts // of each report, in order
	upstream []wire.Envelope
	facts    []pipe.Fact // all others
}

// startRig runs a worker; change may alter its configuration.
func startRig(t *testing.T, srv *server, change func(*worker.Config)) *rig {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	cfg := worker.Config{
		StateDir: dir,
		Identity: state.Identity{
			Agent: agentID, Server: serverID, Key: key,
			CommandKeys: [][]byte{srv.key.Public().(ed25519.PublicKey)},
			LinkURLs:    []string{"ws://127.0.0.1:8443/v1/link"},
		},
		Presence: wire.Presence{Instance: "instance-1"}, Version: "1.0",
		Dial:    srv.dial,
		Metrics: func() wire.Metrics { return wire.Metrics{} },
		Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	orders, to := io.Pipe()
	from, facts := io.Pipe()
	r := &rig{t: t, srv: srv, orders: to, done: make(chan error, 1), deaf: make(chan struct{})}
	go func() { r.done <- worker.Run(t.Context(), cfg, orders, facts) }()
	go r.listen(from)
	t.Cleanup(func() { r.stop(nil) })
	return r
}

func (r *rig) listen(from io.Reader) {
	lines := pipe.NewReader[pipe.Fact](from)
	for {
		f, err := lines.Read()
		if err != nil {
			return
		}
		select {
		case <-r.deaf:
			return
		default:
		}
		r.mu.Lock()
		switch {
		case f.Snapshot != nil:
			r.snapshot = *f.Snapshot
			r.snapshot.Taken = time.Now()
			r.reports++
			r.links = append(r.links, f.Snapshot.Link)
		case f.Same: // as the guardian takes it
			r.snapshot = r.snapshot.Aged(time.Since(r.snapshot.Taken))
			r.reports++
		case f.Upstream != nil:
			r.upstream = append(r.upstream, f.Upstream...)
		default:
			r.facts = append(r.facts, f)
		}
		r.mu.Unlock()
	}
}

func (r *rig) order(o pipe.Order) {
	r.t.Helper()
	if err := pipe.Write(r.orders, o); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) last() selfcheck.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot
}

func (r *rig) reported() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports
}

func (r *rig) up(t wire.Type) []wire.Envelope {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []wire.Envelope
	for _, e := range r.upstream {
		if e.Type == t {
			out = append(out, e)
		}
	}
	return out
}

// wait polls in virtual time until holds, at most within.
func (r *rig) wait(what string, within time.Duration, holds func() bool) {
	r.t.Helper()
	for until := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			s := r.last()
			s.Link.Recent, s.Link.In.Frames, s.Link.Out.Frames = nil, nil, nil
			raw, _ := json.Marshal(s)
			r.t.Fatalf("not within %v: %s; last facts: %s", within, what, raw)
		}
	}
}

// verified waits until the n-th link is verified, as both ends see it.
func (r *rig) verified(n int) *peer {
	r.t.Helper()
	r.wait("a verified link", time.Minute, func() bool {
		links := r.srv.links()
		l := r.last().Link
		return len(links) >= n && l.Phase == selfcheck.PhaseVerified && l.ID == links[len(links)-1].conn.Link()
	})
	return r.srv.last()
}

// pending is how long a loop's token has been out, as the guardian reckons it; 0: it is not.
func (r *rig) pending(loop string) time.Duration {
	s := r.last()
	d := s.Loops[loop].Pending
	if d == nil {
		return 0
	}
	return *d + time.Since(s.Taken)
}

// stop closes the worker's input, as a guardian that is gone, and wants the run
// to end with want. A test's end does that anyway: nothing may be left running.
func (r *rig) stop(want error) {
	r.t.Helper()
	r.orders.Close()
	if r.stopped {
		return
	}
	r.stopped = true
	if err := <-r.done; !errors.Is(err, want) {
		r.t.Errorf("worker ended with %v, want %v", err, want)
	}
}

func decode[T any](t *testing.T, env wire.Envelope) T {
	t.Helper()
	v, err := wire.DecodePayload[T](env)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// unixText gives what a script printed, its lines ended as on Unix.
func unixText(out []byte) string { return strings.ReplaceAll(string(out), "\r\n", "\n") }

// sleeper is a script that does not end by itself.
var sleeper = map[bool]string{false: "exec sleep 1000", true: "ping -n 1000 127.0.0.1 >nul"}[runtime.GOOS == "windows"]

package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/session"
	"gururmm/wire"
)

// memory is an in-memory network, so that a whole server runs in virtual time.
type memory struct {
	mu sync.Mutex
	at map[string]chan net.Conn
}

type memoryListener struct {
	addr  memoryAddr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

type memoryAddr string

func (a memoryAddr) Network() string { return "memory" }
func (a memoryAddr) String() string  { return string(a) }

func (m *memory) Listen(_, addr string) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == nil {
		m.at = map[string]chan net.Conn{}
	}
	m.at[addr] = make(chan net.Conn)
	return &memoryListener{addr: memoryAddr(addr), conns: m.at[addr], done: make(chan struct{})}, nil
}

func (m *memory) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	m.mu.Lock()
	conns := m.at[addr]
	m.mu.Unlock()
	ours, theirs := net.Pipe()
	select {
	case conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *memoryListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memoryListener) Addr() net.Addr { return l.addr }

// node is a server under test.
type node struct {
	*Server
	t    *testing.T
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	http *http.Client
	stop func() error // ends the server and gives Run's error
}

// start runs a server; on an in-memory network if virtual.
func start(t *testing.T, virtual bool, change func(*Config)) *node {
	t.Helper()
	cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: t.TempDir()}
	cfg.Limits.Operator = -1 // tests look again and again
	n := &node{t: t, dial: new(net.Dialer).DialContext}
	if virtual {
		net := &memory{}
		cfg.ListenAddr, cfg.OOBAddr, cfg.Listen, n.dial = "main.test:443", "oob.test:443", net.Listen, net.Dial
	}
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	srv, err := New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	n.Server = srv
	transport := &http.Transport{
		DialContext:     n.dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // pins are tested where agents are
	}
	n.http = &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	var once sync.Once
	var result error
	n.stop = func() error {
		once.Do(func() {
			cancel()
			result = <-ended
			transport.CloseIdleConnections()
		})
		return result
	}
	t.Cleanup(func() { n.stop() })
	return n
}

// restarted ends the server and starts it again on the same state.
func (n *node) restarted() *node     { return n.startedAgain(true) }
func (n *node) restartedReal() *node { return n.startedAgain(false) }

func (n *node) startedAgain(virtual bool) *node {
	n.t.Helper()
	if err := n.stop(); err != nil {
		n.t.Fatal(err)
	}
	again := start(n.t, virtual, func(c *Config) { c.StateDir, c.Limits = n.cfg.StateDir, n.cfg.Limits })
	again.info.OperatorToken = n.info.OperatorToken // shown on the first start only
	return again
}

// testLog shows the server's log with a failed test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// request sends one request; header values override.
func (n *node) request(method, url, bearer string, body []byte) (int, http.Header, []byte) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := n.http.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if res.Header.Get(wire.HeaderTime) == "" {
		n.t.Errorf("%s %s: no %s", method, url, wire.HeaderTime)
	}
	if res.StatusCode >= 400 && res.Header.Get("Content-Type") != "application/problem+json" {
		n.t.Errorf("%s %s: %d is not a problem document", method, url, res.StatusCode)
	}
	return res.StatusCode, res.Header, raw
}

// operate asks as an operator and reads the answer.
func operate[T any](n *node, method, path string, body any) T {
	n.t.Helper()
	var raw []byte
	if body != nil {
		raw, _ = json.Marshal(body)
	}
	status, _, answer := n.request(method, n.Info().URL+path, n.Info().OperatorToken, raw)
	if status >= 300 {
		n.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	var out T
	if err := json.Unmarshal(answer, &out); err != nil {
		n.t.Fatal(err)
	}
	return out
}

// codeOf reads a problem document's code.
func codeOf(t *testing.T, raw []byte) string {
	t.Helper()
	var p wire.Problem
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return p.Code
}

// await waits for a fact. In virtual time waiting costs nothing.
func await(t *testing.T, what string, fact func() bool) {
	t.Helper()
	awaitFor(t, 20*time.Second, what, fact)
}

func awaitFor(t *testing.T, limit time.Duration, what string, fact func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for: %s", limit, what)
		}
	}
}

// identity is an enrolled agent's.
type identity struct {
	wire.EnrollResponse
	key ed25519.PrivateKey
}

func (n *node) enroll(hostname string) identity {
	n.t.Helper()
	token := operate[operator.EnrollToken](n, "POST", "/v1/enroll-tokens", operator.NewEnrollToken{})
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	body, _ := json.Marshal(wire.EnrollRequest{Token: token.Token, PublicKey: pub, Presence: wire.Presence{
		Platform: wire.Platform{OS: "linux", Arch: "amd64", Hostname: hostname},
	}})
	status, _, raw := n.request("POST", n.Info().URL+"/v1/enroll", "", body)
	if status != http.StatusOK {
		n.t.Fatalf("enroll: %d %s", status, raw)
	}
	id := identity{key: key}
	if err := json.Unmarshal(raw, &id.EnrollResponse); err != nil {
		n.t.Fatal(err)
	}
	return id
}

// token signs a JWT as agents do; change may spoil the claims.
func (id identity) token(change func(*jwt.RegisteredClaims)) string {
	now := time.Now()
	claims := jwt.RegisteredClaims{
		Subject: id.Agent, Audience: jwt.ClaimStrings{id.Server}, ID: wire.NewID(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
	}
	if change != nil {
		change(&claims)
	}
	raw, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(id.key)
	if err != nil {
		panic(err)
	}
	return raw
}

func (n *node) post(id identity, path string, body any) (int, []byte) {
	n.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		n.t.Fatal(err)
	}
	status, _, answer := n.request("POST", n.Info().OOBURL+path, id.token(nil), raw)
	return status, answer
}

func zip(raw []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(raw)
	z.Close()
	return b.Bytes()
}

// machine is a scripted agent with one link.
type machine struct {
	t    *testing.T
	id   identity
	who  wire.Presence
	ws   *websocket.Conn
	conn *session.Conn
	// deaf: texts are read but not answered.
	deaf atomic.Bool
	// ignored counts the probes that came meanwhile.
	ignored atomic.Int32
	// mute: nothing goes out any more, as from a machine that has lost its power.
	mute *atomic.Bool

	verified chan struct{} // closed by a heartbeat_ack that says so
	once     sync.Once
	commands chan wire.Command
	nacks    chan wire.Nack
	called   chan struct{} // one for each call
	ended    chan error
	policy   atomic.Pointer[wire.Policy] // last told
}

func presence(instance, boot, fingerprint string) wire.Presence {
	return wire.Presence{
		Instance: instance, BootID: boot, Fingerprint: fingerprint, Version: "1.0",
		Platform: wire.Platform{OS: "linux", Arch: "amd64", Hostname: "machine-" + fingerprint},
	}
}

// mutable is a connection whose outgoing bytes can be lost.
type mutable struct {
	net.Conn
	mute *atomic.Bool
}

func (c mutable) Write(p []byte) (int, error) {
	if c.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// dialLink upgrades a connection, and does nothing more.
func (n *node) dialLink(id identity, token string, mute *atomic.Bool) (*websocket.Conn, *http.Response, error) {
	dialer := websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := n.dial(ctx, network, addr)
			return mutable{c, mute}, err
		},
		Subprotocols:    []string{wire.Subprotocol},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	return dialer.DialContext(n.t.Context(), id.LinkURLs[0], http.Header{"Authorization": {"Bearer " + token}})
}

// link opens a link and answers on it as an agent does.
func (n *node) link(id identity, who wire.Presence) *machine {
	n.t.Helper()
	mute := new(atomic.Bool)
	ws, res, err := n.dialLink(id, id.token(nil), mute)
	if err != nil {
		n.t.Fatalf("link: %v", err)
	}
	link, ok := wire.ParseLinkID(res.Header.Get(wire.HeaderLinkID))
	if !ok || res.Header.Get(wire.HeaderTime) == "" {
		n.t.Fatalf("the upgrade's headers lack link or time: %v", res.Header)
	}
	m := &machine{
		t: n.t, id: id, who: who, ws: ws, mute: mute, conn: session.New(ws, session.Options{Link: link}),
		verified: make(chan struct{}), commands: make(chan wire.Command, 16), nacks: make(chan wire.Nack, 16),
		called: make(chan struct{}, 16), ended: make(chan error, 1),
	}
	go m.read()
	m.send(wire.TypeAuth, wire.Auth{Presence: who, Capabilities: []string{wire.CapLedger, wire.CapOOB, wire.CapCall}}, true)
	n.t.Cleanup(func() { m.close() })
	return m
}

func (m *machine) close() { m.conn.Close(websocket.CloseNormalClosure, errors.New("test is over")) }

func (m *machine) send(t wire.Type, payload any, flush bool) {
	env, err := wire.Seal(t, payload)
	if err == nil {
		err = m.conn.Send(env, session.SendOptions{Flush: flush})
	}
	if err != nil && !errors.Is(err, session.ErrClosed) {
		m.t.Errorf("send %s: %v", t, err)
	}
}

func (m *machine) read() {
	probes := 0
	for {
		msg, err := m.conn.Read()
		if err != nil {
			m.ended <- err
			return
		}
		env, err := wire.Decode(msg.Text)
		if err != nil {
			m.t.Errorf("server sent %q: %v", msg.Text, err)
			continue
		}
		if m.deaf.Load() {
			if env.Type == wire.TypeProbe {
				m.ignored.Add(1)
			}
			continue
		}
		switch env.Type {
		case wire.TypeConfigUpdate:
			update, _ := wire.DecodePayload[wire.ConfigUpdate](env)
			m.policy.Store(&update.Policy)
			m.send(wire.TypeConfigAck, wire.ConfigAck{Version: update.Policy.Version, Hash: hashOf(env.Payload)}, true)
		case wire.TypeProbe:
			probe, _ := wire.DecodePayload[wire.Command](env)
			m.send(wire.TypeCommandAck, wire.CommandAck{ID: probe.ID, Pad: probe.Pad}, true)
			if probes++; probes == len(wire.ProbeSizes) {
				m.heartbeat()
			}
		case wire.TypeHeartbeatAck:
			ack, _ := wire.DecodePayload[wire.HeartbeatAck](env)
			m.conn.PeerLedger(ack.Ledger, msg, ack.Heartbeat)
			if ack.Verified {
				m.once.Do(func() { close(m.verified) })
			}
		case wire.TypeCommand:
			cmd, _ := wire.DecodePayload[wire.Command](env)
			m.commands <- cmd
		case wire.TypeCall:
			m.called <- struct{}{}
		case wire.TypeNack:
			nack, _ := wire.DecodePayload[wire.Nack](env)
			m.nacks <- nack
		}
	}
}

func hashOf(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

func (m *machine) heartbeat() {
	m.conn.Send(wire.Envelope{}, session.SendOptions{Flush: true, Compose: func(l wire.Ledger) (wire.Envelope, error) {
		return wire.Seal(wire.TypeHeartbeat, wire.Heartbeat{Ledger: l})
	}})
}

func (m *machine) awaitVerified() *machine {
	m.t.Helper()
	select {
	case <-m.verified:
	case err := <-m.ended:
		m.t.Fatalf("link ended before it was verified: %v", err)
	case <-time.After(20 * time.Second):
		m.t.Fatal("not verified in 20 s")
	}
	return m
}

// closedWith waits for the link's end and gives the closing code and reason.
func (m *machine) closedWith(within time.Duration) (int, string) {
	m.t.Helper()
	select {
	case err := <-m.ended:
		if ce, ok := errors.AsType[*websocket.CloseError](err); ok {
			return ce.Code, ce.Text
		}
		return 0, err.Error()
	case <-time.After(within):
		m.t.Fatalf("the link has not ended in %v", within)
		return 0, ""
	}
}

func (n *node) agent(id identity) operator.Agent {
	n.t.Helper()
	return operate[operator.Agent](n, "GET", "/v1/agents/"+id.Agent, nil)
}

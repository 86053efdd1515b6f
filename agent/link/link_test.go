package link_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/link"
	"gururmm/internal/certtest"
	"gururmm/internal/memnet"
	"gururmm/internal/neterr"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

// clock takes down what it is told.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
	told   int
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) Observe(server, sent, received time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.told = server.Sub(received), c.told+1
}

// host upgrades whoever comes and keeps the links.
type host struct {
	t       *testing.T
	listen  *memnet.Listener
	tcp     net.Listener // over TLS: its handshakes need a connection that holds some bytes
	http    http.Server
	headers http.Header // of the answer, beside or instead of the right ones
	status  int         // instead of an upgrade
	hang    chan struct{}

	came  chan *session.Conn
	mu    sync.Mutex
	conns []*session.Conn
	wg    sync.WaitGroup
}

func newHost(t *testing.T) *host {
	h := &host{t: t, listen: memnet.Listen("127.0.0.1:443"), headers: http.Header{}, came: make(chan *session.Conn, 16)}
	h.http.Handler = h
	h.http.ErrorLog = log.New(io.Discard, "", 0)
	return h
}

// serve takes connections, over TLS if cfg is given.
func (h *host) serve(cfg *tls.Config) *host {
	var l net.Listener = h.listen
	if cfg != nil {
		var err error
		if h.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			h.t.Fatal(err)
		}
		l = tls.NewListener(h.tcp, cfg)
	}
	h.wg.Go(func() { h.http.Serve(l) })
	h.t.Cleanup(func() {
		h.http.Close()
		h.listen.Close()
		h.mu.Lock()
		for _, c := range h.conns {
			c.Close(websocket.CloseGoingAway, errors.New("test ends"))
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.hang != nil {
		<-h.hang
		return
	}
	id := wire.NewLinkID()
	answer := http.Header{
		wire.HeaderLinkID: {id.String()}, wire.HeaderTime: {time.Now().Add(time.Hour).Format(time.RFC3339Nano)},
	}
	for k, v := range h.headers {
		answer[k] = v
	}
	if h.status != 0 {
		for k, v := range answer {
			w.Header()[k] = v
		}
		w.WriteHeader(h.status)
		io.WriteString(w, `{"title":"No","code":"draining","detail":"later"}`)
		return
	}
	up := websocket.Upgrader{Subprotocols: strings.Fields(h.headers.Get("Test-Subprotocol") + " " + wire.Subprotocol)[:1]}
	ws, err := up.Upgrade(w, r, answer)
	if err != nil {
		return
	}
	c := session.New(ws, session.Options{Link: id})
	h.mu.Lock()
	h.conns = append(h.conns, c)
	h.mu.Unlock()
	h.came <- c
	go func() { // until the link ends
		for {
			if _, err := c.Read(); err != nil {
				return
			}
		}
	}()
}

// conn waits for the next link.
func (h *host) conn() *session.Conn { return <-h.came }

// connect is the agent's way to h.
func (h *host) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	if h.tcp != nil {
		return (&net.Dialer{}).DialContext(ctx, "tcp", h.tcp.Addr().String())
	}
	return h.listen.Dial(ctx)
}

// options of a session to h over plain ws, to be changed.
func (h *host) options() link.Options {
	return link.Options{
		URL:   "ws://127.0.0.1/v1/link",
		Token: func(time.Time) (string, error) { return "token", nil },
		Clock: &clock{},
		Policy: func() wire.Policy {
			return wire.Policy{PingMS: 1000, DeadMS: 5000, VerifyMS: 60_000}.WithDefaults()
		},
		Auth:    func() wire.Auth { return wire.Auth{} },
		Receive: func(*link.Session, session.Message) error { return nil },
		Dial:    h.connect,
	}
}

func dial(t *testing.T, o link.Options) *link.Session {
	t.Helper()
	s, err := link.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close(websocket.CloseNormalClosure, errors.New("test ends"))
		<-s.Gone()
	})
	return s
}

func TestCheckURL(t *testing.T) {
	for raw, want := range map[string]error{
		"wss://rmm.example/v1/link":      nil,
		"wss://[2001:db8::1]:8443/":      nil,
		"ws://127.0.0.1:8080/v1/link":    nil,
		"ws://localhost/":                nil,
		"ws://[::1]/":                    nil,
		"ws://rmm.example/":              link.ErrPlain,
		"ws://192.0.2.1/":                link.ErrPlain,
		"ws://localhost.evil.example/":   link.ErrPlain,
		"https://rmm.example/":           errAny,
		"wss://user:secret@rmm.example/": errAny,
		"wss:///v1/link":                 errAny,
		"::":                             errAny,
	} {
		err := link.CheckURL(raw)
		if want == nil && err != nil || want != nil && err == nil || want == link.ErrPlain && !errors.Is(err, want) {
			t.Errorf("CheckURL(%q) = %v, want %v", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("CheckURL(%q) shows a secret: %v", raw, err)
		}
	}
}

var errAny = errors.New("any error")

// Each address is tried, the families by turns, with a deadline of its own.
func TestAddressesAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t).serve(nil)
		o := h.options()
		o.URL = "ws://localhost:99/"
		var tried []string
		o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
		}
		o.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
			tried = append(tried, addr)
			if addr == "[::1]:99" {
				<-ctx.Done() // a black hole
				return nil, ctx.Err()
			}
			if addr == "127.0.0.1:99" {
				return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", refused)}
			}
			return h.listen.Dial(ctx)
		}
		var v4, v6 bool
		o.Resolved = func(a, b bool) { v4, v6 = a, b }
		began := time.Now()
		s := dial(t, o)
		if want := []string{"[::1]:99", "127.0.0.1:99", "[::1]:99", "127.0.0.2:99"}; !slices.Equal(tried, want) {
			t.Errorf("tried %v, want %v", tried, want)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("took %v, want two time-outs of 5 s", took)
		}
		if !v4 || !v6 || s.Remote() != "127.0.0.2:99" || link.FamilyOf(s.Remote()) != link.IPv4 {
			t.Errorf("families %v %v, remote %s", v4, v6, s.Remote())
		}

		tried, o.Family = nil, link.IPv6
		_, err := link.Dial(t.Context(), o)
		if d := link.Describe(err); d == nil || d.Type != neterr.TCPTimedOut || len(tried) != 2 {
			t.Errorf("IPv6 only: %v, %+v, tried %v", err, d, tried)
		}
	})
}

func TestPlainNameMustBeLoopback(t *testing.T) {
	h := newHost(t).serve(nil)
	o := h.options()
	o.URL = "ws://localhost/"
	o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	}
	if _, err := link.Dial(t.Context(), o); !errors.Is(err, link.ErrPlain) {
		t.Errorf("a poisoned localhost got %v", err)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	ca := certtest.NewCA(t)
	server := &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}}
	for name, c := range map[string]struct {
		change func(*host, *link.Options)
		typ    string
		status int
	}{
		"no such name": {func(h *host, o *link.Options) {
			o.URL = "wss://rmm.example/"
			o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
			}
		}, neterr.DNSNameNotResolved, 0},
		"refused": {func(h *host, o *link.Options) {
			o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, refused }
		}, neterr.TCPRefused, 0},
		"unknown authority": {func(h *host, o *link.Options) {
			o.URL, o.TLS = "wss://localhost/", &tls.Config{RootCAs: x509.NewCertPool()}
		}, neterr.TLSCertAuthority, 0},
		"drained":        {func(h *host, o *link.Options) { h.status = 503; h.headers.Set("Retry-After", "30") }, neterr.HTTPError, 503},
		"redirected":     {func(h *host, o *link.Options) { h.status = 302 }, neterr.WSUpgradeRefused, 302},
		"no link id":     {func(h *host, o *link.Options) { h.headers.Set(wire.HeaderLinkID, "x") }, neterr.WSProtocol, 0},
		"no subprotocol": {func(h *host, o *link.Options) { h.headers.Set("Test-Subprotocol", "other.v1") }, neterr.WSSubprotocol, 0},
		"no answer":      {func(h *host, o *link.Options) { h.hang = make(chan struct{}) }, neterr.WSHandshakeTimedOut, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run := synctest.Test
			if name == "unknown authority" {
				run = func(t *testing.T, f func(*testing.T)) { f(t) } // real sockets, real time
			}
			run(t, func(t *testing.T) {
				h := newHost(t)
				o := h.options()
				c.change(h, &o)
				var cfg *tls.Config
				if name == "unknown authority" {
					cfg = server
				}
				h.serve(cfg)
				if h.hang != nil {
					t.Cleanup(func() { close(h.hang) })
				}
				_, err := link.Dial(t.Context(), o)
				d := link.Describe(err)
				if d == nil || d.Type != c.typ || d.Status != c.status || d.Phase != neterr.Phase(c.typ) {
					t.Errorf("%v is described as %+v, want %s", err, d, c.typ)
				}
				if r, ok := errors.AsType[*link.Refused](err); ok && c.status == 503 {
					if r.RetryAfter != 30*time.Second || r.Problem.Code != wire.ProblemDraining || r.Unauthorized() {
						t.Errorf("refused %+v", r)
					}
				}
			})
		})
	}
}

// Over TLS the taps see the frames, not the records, and the clock is told.
func TestTapsSeeFrames(t *testing.T) {
	ca := certtest.NewCA(t)
	cfg := &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}}
	h := newHost(t).serve(cfg)
	o := h.options()
	clock := &clock{}
	got := make(chan session.Message, 10)
	o.URL, o.TLS, o.Clock = "wss://127.0.0.1/", &tls.Config{RootCAs: ca.Pool}, clock
	o.Receive = func(_ *link.Session, m session.Message) error { got <- m; return nil }
	s := dial(t, o)
	env, _ := wire.Seal(wire.TypeNack, wire.Nack{Detail: strings.Repeat("x", 9000)})
	h.conn().Send(env, session.SendOptions{Flush: true})
	if m := <-got; m.Number != 1 || len(m.Text) < 9000 {
		t.Errorf("message %d of %d bytes", m.Number, len(m.Text))
	}
	f := s.Facts(time.Now())
	for end := time.Now().Add(20 * time.Second); f.Out.Frames["text"].Count == 0 && time.Now().Before(end); f = s.Facts(time.Now()) {
		time.Sleep(time.Millisecond) // the writer counts a frame when it is out
	}
	if f.In.Frames["text"].Count != 1 || f.Out.Frames["text"].Count != 1 || f.In.Broken != "" || f.Out.Broken != "" {
		t.Errorf("taps: in %+v out %+v", f.In, f.Out)
	}
	if f.Phase != selfcheck.PhaseAuth || f.ID == 0 || len(f.Recent) == 0 || len(s.Recent(512, time.Now())) == 0 {
		t.Errorf("facts %+v", f)
	}
	if clock.told != 1 || clock.offset < 59*time.Minute {
		t.Errorf("clock told %d times, offset %v", clock.told, clock.offset)
	}
}

// A reader that hangs is named, does not keep the deadline from passing, and
// does not hold up whoever ends the link.
func TestStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t).serve(nil)
		o := h.options()
		release := make(chan struct{})
		o.Receive = func(*link.Session, session.Message) error { <-release; return nil }
		s := dial(t, o)
		env, _ := wire.Seal(wire.TypeNack, wire.Nack{})
		h.conn().Send(env, session.SendOptions{})
		time.Sleep(3 * time.Second)
		if r, w := s.Busy(time.Now()); r == nil || *r < 2*time.Second || w != nil {
			t.Errorf("reader busy %v, writer busy %v", r, w)
		}
		if s.Err() != nil {
			t.Errorf("ended too soon: %v", s.Err())
		}
		select {
		case <-s.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("the dead deadline did not pass")
		}
		if d := link.Describe(s.Err()); !errors.Is(s.Err(), link.ErrSilent) || d.Type != neterr.WSSilent {
			t.Errorf("ended with %v, %+v", s.Err(), d)
		}
		if r, _ := s.Busy(time.Now()); r == nil {
			t.Error("the hanging reader is not named any more")
		}
		close(release)
		<-s.Gone()
		if r, _ := s.Busy(time.Now()); r != nil {
			t.Errorf("gone, and busy for %v", *r)
		}
	})
}

// A peer that takes no byte is found out by the write, and said to be so.
func TestStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		o := newHost(t).options()
		o.Policy = func() wire.Policy { return wire.Policy{DeadMS: 60_000, PingMS: 30_000}.WithDefaults() }
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		go func() { // the upgrade, then nothing
			req := make([]byte, 4096)
			n, _ := far.Read(req)
			key := header(string(req[:n]), "Sec-WebSocket-Key")
			io.WriteString(far, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
				"Sec-WebSocket-Accept: "+accept(key)+"\r\nSec-WebSocket-Protocol: "+wire.Subprotocol+"\r\n"+
				wire.HeaderLinkID+": 0123456789abcdef\r\n\r\n")
		}()
		s := dial(t, o)
		time.Sleep(3 * time.Second)
		if _, w := s.Busy(time.Now()); w == nil || *w < 2*time.Second {
			t.Errorf("writer busy %v", w)
		}
		select {
		case <-s.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("the write had no deadline")
		}
		if d := link.Describe(s.Err()); d.Type != neterr.WSWriteTimedOut {
			t.Errorf("ended with %v, %+v", s.Err(), d)
		}
	})
}

func TestOverrunEndsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t).serve(nil)
		o := h.options()
		o.Receive = func(*link.Session, session.Message) error { return link.ErrOverrun }
		s := dial(t, o)
		env, _ := wire.Seal(wire.TypeNack, wire.Nack{})
		h.conn().Send(env, session.SendOptions{})
		<-s.Gone()
		if !errors.Is(s.Err(), link.ErrOverrun) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestWrongLinkInAuthAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t).serve(nil)
		s := dial(t, h.options())
		s.AuthAcked(wire.AuthAck{Link: s.ID() + 1})
		<-s.Gone()
		if !errors.Is(s.Err(), link.ErrProtocol) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestProxy(t *testing.T) {
	ca := certtest.NewCA(t)
	cfg := &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}}
	for _, c := range []struct {
		via    string
		answer func(*testing.T, net.Conn) bool
		typ    string
	}{
		{via: "http://user:secret@proxy.example:3128", answer: httpProxy("HTTP/1.1 200 OK\r\n\r\n")},
		{via: "http://user:secret@proxy.example:3128", answer: httpProxy("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"), typ: neterr.HTTPError},
		{via: "socks5://user:secret@proxy.example", answer: socksProxy(0)},
		{via: "socks5://user:secret@proxy.example", answer: socksProxy(1), typ: neterr.HTTPError},
	} {
		t.Run(c.via+" "+c.typ, func(t *testing.T) {
			h := newHost(t).serve(cfg)
			o := h.options()
			o.URL, o.TLS = "wss://localhost/", &tls.Config{RootCAs: ca.Pool}
			via, err := url.Parse(c.via)
			if err != nil {
				t.Fatal(err)
			}
			o.Proxy = http.ProxyURL(via)
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			o.Dial = func(_ context.Context, _, addr string) (net.Conn, error) {
				if !strings.HasPrefix(addr, "proxy.example:") {
					t.Errorf("dialed %s, not the proxy", addr)
				}
				near, far := net.Pipe()
				wg.Go(func() {
					defer far.Close()
					if !c.answer(t, far) {
						return
					}
					on, err := h.connect(t.Context(), "", "")
					if err != nil {
						return
					}
					wg.Go(func() { io.Copy(far, on); far.Close() })
					io.Copy(on, far)
					on.Close()
				})
				return near, nil
			}
			s, err := link.Dial(t.Context(), o)
			if c.typ != "" {
				if d := link.Describe(err); !errors.Is(err, link.ErrProxy) || d.Type != c.typ || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, described as %+v", err, d)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Close(websocket.CloseNormalClosure, errors.New("test ends"))
			<-s.Gone()
		})
	}
}

func httpProxy(answer string) func(*testing.T, net.Conn) bool {
	return func(t *testing.T, c net.Conn) bool {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		req := string(b[:n])
		if !strings.HasPrefix(req, "CONNECT ") || header(req, "Proxy-Authorization") != "Basic dXNlcjpzZWNyZXQ=" {
			t.Errorf("the proxy was asked %q", req)
		}
		io.WriteString(c, answer)
		return strings.Contains(answer, "200")
	}
}

func socksProxy(verdict byte) func(*testing.T, net.Conn) bool {
	return func(t *testing.T, c net.Conn) bool {
		b := make([]byte, 512)
		c.Read(b)
		c.Write([]byte{5, 2})
		n, _ := c.Read(b)
		if string(b[:n]) != "\x01\x04user\x06secret" {
			t.Errorf("login %q", b[:n])
		}
		c.Write([]byte{1, verdict})
		if verdict != 0 {
			return false
		}
		n, _ = c.Read(b)
		if b[3] != 3 || b[n-1] != 443&0xff || b[n-2] != 443>>8 {
			t.Errorf("request %q", b[:n])
		}
		c.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 1, 1})
		return true
	}
}

func header(head, name string) string {
	for line := range strings.Lines(head) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

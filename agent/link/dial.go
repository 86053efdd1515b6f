package link

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/endpoint"
	"gururmm/internal/neterr"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// resolveTimeout: stub resolvers ask twice with 5 s each at most; one that needs longer is down.
	resolveTimeout = 8 * time.Second
	// connectTimeout, per address: a SYN and its repeats after 1 s and 3 s.
	connectTimeout = 5 * time.Second
	// tlsTimeout: two round trips and a certificate, with a lost segment or two.
	tlsTimeout = 10 * time.Second
	// upgradeTimeout: one request that the server answers from memory.
	upgradeTimeout = 10 * time.Second
	// dialTimeout bounds an attempt in all, whatever the number of addresses.
	dialTimeout = 40 * time.Second

	// maxAddresses bounds how many addresses of one name are tried.
	maxAddresses = 8
	// maxRetryAfter bounds what a server, or a box before it, may ask us to wait.
	maxRetryAfter = 15 * time.Minute

	// readBuffer holds most texts whole; larger ones are read in pieces.
	readBuffer = 4 << 10
	// writeBuffer: a text up to this size goes as one frame, so that a probe's
	// answer tests the size of frame it is meant to, and a piece of output is not
	// cut in two. Pooled: an idle link holds none.
	writeBuffer = 64 << 10
)

// buffers is shared by all links of the process; there is one at a time.
var buffers sync.Pool

// Family restricts an attempt to one IP family.
type Family int

// The families.
const (
	AnyFamily Family = iota
	IPv4
	IPv6
)

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "any family"
}

// FamilyOf tells the family of an address "ip:port"; AnyFamily if it is none.
func FamilyOf(addr string) Family {
	ap, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return AnyFamily
	case ap.Addr().Unmap().Is4():
		return IPv4
	}
	return IPv6
}

// Clock is the endpoint's clock as corrected by what servers have told.
type Clock interface {
	Now() time.Time
	// Observe takes in the server's time, told between sent and received (local clock).
	Observe(server, sent, received time.Time)
}

// Options of a session. Fields without a default named are required.
type Options struct {
	URL    string
	Family Family
	// Token makes the upgrade's JWT, as of the corrected time.
	Token func(now time.Time) (string, error)
	TLS   *tls.Config // of wss://
	Clock Clock
	// Policy as in force; asked again whenever a deadline is judged.
	Policy func() wire.Policy
	// Auth composes the first message.
	Auth func() wire.Auth
	// Receive takes each data message, from the reader: it must not block and
	// must not handle the message. An error ends the link.
	Receive func(*Session, session.Message) error

	// Opened is told of the session before anything is read on it; it must not block. Default: nobody.
	Opened func(*Session)
	// Changed is told of another phase, from any goroutine; it must not block. Default: nobody.
	Changed func()
	// Heard is told of new evidence, from the reader; it must not block. clean: nothing was
	// ever wrong with the link's frames, and nothing is suspected. Default: Changed, each time.
	Heard func(clean bool)
	// Resolved is told which families the host has. Default: nobody.
	Resolved func(v4, v6 bool)
	// Resolve and Dial are the network; default: the resolver and dialer of
	// package net. With Dial but no Resolve, Dial is given the host's name.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy chooses the way out, as in http.Transport (with scheme https). Default: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Gate is passed at the top of each timer-driven loop. Default: open.
	Gate func()
	// ReadFault and WriteFault label the seams behind each read and before each write of a text.
	ReadFault, WriteFault string
	Log                   *slog.Logger // default: discards
}

// CheckURL says whether rawURL can be a link's endpoint; the error is
// [ErrPlain] or tells what is wrong.
func CheckURL(rawURL string) error {
	_, err := parse(rawURL)
	return err
}

func parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("link url: %w", err)
	case u.Hostname() == "" || u.User != nil:
		return nil, fmt.Errorf("link url %q: want wss://host:port/path", u.Redacted())
	case u.Scheme == "wss":
		return u, nil
	case u.Scheme != "ws":
		return nil, fmt.Errorf("link url %q: scheme is not wss", u.Redacted())
	}
	if !endpoint.Loopback(u.Hostname()) {
		return nil, fmt.Errorf("link url %q: %w", u.Redacted(), ErrPlain)
	}
	return u, nil
}

// Dial opens a session: name, address, TLS, upgrade, auth. A first refusal for
// the clock's sake is answered by one more attempt at once, the clock corrected
// meanwhile. The error may be a [*Refused]; [Describe] names any.
func Dial(ctx context.Context, o Options) (*Session, error) {
	u, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := dialOnce(ctx, u, o)
	if r, ok := errors.AsType[*Refused](err); ok && r.Problem.Code == wire.ProblemClock {
		o.Log.Warn("the server finds our clock wrong: corrected, trying again", "error", err)
		s, err = dialOnce(ctx, u, o)
	}
	return s, err
}

// heard takes the word of a session.
func (o Options) heard(e session.Evidence) { o.Heard(e.Clean) }

func (o Options) withDefaults() Options {
	if o.Opened == nil {
		o.Opened = func(*Session) {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Heard == nil {
		o.Heard = func(bool) { o.Changed() }
	}
	if o.Resolved == nil {
		o.Resolved = func(bool, bool) {}
	}
	if o.Gate == nil {
		o.Gate = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Resolve != nil:
	case o.Dial == nil:
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

func dialOnce(ctx context.Context, u *url.URL, o Options) (*Session, error) {
	conn, remote, err := o.reach(ctx, u)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "wss" {
		if conn, err = o.secure(ctx, u, conn, remote); err != nil {
			return nil, err
		}
	}
	tapped := tap(conn)
	ws, id, err := o.upgrade(ctx, u, tapped, http.Header{})
	if err != nil {
		conn.Close()
		return nil, neterr.During(neterr.StepHTTP, fmt.Errorf("upgrade at %s: %w", remote, err))
	}
	return start(ws, id, tapped, remote, o), nil
}

// secure makes the TLS connection; on an error conn is closed.
func (o Options) secure(ctx context.Context, u *url.URL, conn net.Conn, remote string) (net.Conn, error) {
	secure := session.Secure(conn, o.tlsConfig(u.Hostname()))
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, neterr.During(neterr.StepTLS, fmt.Errorf("TLS with %s: %w", remote, err))
	}
	return session.Records(secure), nil
}

func (o Options) tlsConfig(host string) *tls.Config {
	cfg := &tls.Config{}
	if o.TLS != nil {
		cfg = o.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	cfg.NextProtos = []string{"http/1.1"} // WebSocket over HTTP/2 (RFC 8441) is another protocol
	return cfg
}

// reach makes the connection, straight or by a proxy.
func (o Options) reach(ctx context.Context, u *url.URL) (conn net.Conn, remote string, err error) {
	via, err := o.way(u)
	if err != nil {
		return nil, "", err
	}
	if via != nil {
		return o.through(ctx, via, u)
	}
	addrs, err := o.addresses(ctx, u, defaultPort(u))
	if err != nil {
		return nil, "", err
	}
	return o.connect(ctx, addrs)
}

// addresses gives "host:port" pairs to try, in order.
func (o Options) addresses(ctx context.Context, u *url.URL, port string) ([]string, error) {
	host := u.Hostname()
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else if o.Resolve == nil {
		return []string{net.JoinHostPort(host, port)}, nil
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		if ips, err = o.Resolve(ctx, host); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", host, err)
		}
	}
	var v4, v6 []netip.Addr
	first := IPv6
	for i, ip := range ips {
		ip = ip.Unmap()
		if u.Scheme == "ws" && !ip.IsLoopback() {
			return nil, fmt.Errorf("%s is %s: %w", host, ip, ErrPlain)
		}
		if ip.Is4() {
			v4 = append(v4, ip)
		} else {
			v6 = append(v6, ip)
		}
		if i == 0 && ip.Is4() {
			first = IPv4
		}
	}
	o.Resolved(len(v4) > 0, len(v6) > 0)
	switch o.Family {
	case IPv4:
		v6 = nil
	case IPv6:
		v4 = nil
	}
	list := interleave(v6, v4)
	if first == IPv4 {
		list = interleave(v4, v6)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", host,
			&net.DNSError{Err: "no address of " + o.Family.String(), Name: host, IsNotFound: true})
	}
	addrs := make([]string, 0, maxAddresses)
	for _, ip := range list[:min(len(list), maxAddresses)] {
		addrs = append(addrs, net.JoinHostPort(ip.String(), port))
	}
	return addrs, nil
}

// interleave alternates the families (RFC 8305 §4), so that one that is a black
// hole costs one time-out before the other is tried.
func interleave(a, b []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(a)+len(b))
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}

// connect tries each address with a deadline of its own; the error joins all of theirs.
func (o Options) connect(ctx context.Context, addrs []string) (net.Conn, string, error) {
	var errs []error
	for _, addr := range addrs {
		once, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := o.Dial(once, "tcp", addr)
		cancel()
		if err == nil {
			return conn, addr, nil
		}
		errs = append(errs, fmt.Errorf("connect to %s: %w", addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, "", neterr.During(neterr.StepDial, errors.Join(errs...))
}

// upgrade makes the WebSocket (RFC 6455 §4) on conn, which it leaves to be closed
// by the caller; head is sent along.
func (o Options) upgrade(ctx context.Context, u *url.URL, conn net.Conn, head http.Header) (*websocket.Conn, wire.LinkID, error) {
	token, err := o.Token(o.Clock.Now())
	if err != nil {
		return nil, 0, fmt.Errorf("make token: %w", err)
	}
	ready := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	dialer := websocket.Dialer{
		NetDialContext: ready, NetDialTLSContext: ready,
		Subprotocols:     []string{wire.Subprotocol},
		HandshakeTimeout: upgradeTimeout,
		ReadBufferSize:   readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &buffers,
	}
	// The dialer obeys its time-out while it waits for the answer, but not ctx.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if token != "" { // none before enrollment: the refusal tells enough of the path
		head.Set("Authorization", "Bearer "+token)
	}
	sent := time.Now()
	ws, resp, err := dialer.DialContext(ctx, u.String(), head)
	received := time.Now()
	if resp != nil {
		if at, err := time.Parse(time.RFC3339Nano, resp.Header.Get(wire.HeaderTime)); err == nil {
			o.Clock.Observe(at, sent, received)
		}
	}
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case errors.Is(err, websocket.ErrBadHandshake) && resp.StatusCode == http.StatusSwitchingProtocols:
		return nil, 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	case errors.Is(err, websocket.ErrBadHandshake):
		return nil, 0, ReadRefused(resp, received)
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, 0, fmt.Errorf("%w: %w", errUpgradeTimeout, err)
	case err != nil:
		return nil, 0, err
	case ws.Subprotocol() != wire.Subprotocol:
		return nil, 0, errSubprotocol
	}
	id, ok := wire.ParseLinkID(resp.Header.Get(wire.HeaderLinkID))
	if !ok || id == 0 {
		return nil, 0, fmt.Errorf("%w: upgraded without a link id in %s", ErrProtocol, wire.HeaderLinkID)
	}
	return ws, id, nil
}

// ReadRefused reads an error answer, of which the dialer has kept at most 1 KiB.
func ReadRefused(resp *http.Response, now time.Time) *Refused {
	r := &Refused{Status: resp.StatusCode}
	if body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10)); err == nil {
		var p wire.Problem
		if json.Unmarshal(body, &p) == nil && p.Code != "" {
			r.Problem = p
		}
	}
	// RFC 9110 §10.2.3: seconds, or a date.
	after := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(after); err == nil && n > 0 {
		r.RetryAfter = min(time.Duration(min(n, 1<<20))*time.Second, maxRetryAfter)
	} else if at, err := http.ParseTime(after); err == nil {
		r.RetryAfter = min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return r
}

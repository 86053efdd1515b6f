package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	agentlink "gururmm/agent/link"
	"gururmm/internal/endpoint"
	"gururmm/session"
	"gururmm/wire"
)

// dialTimeout bounds an attempt in all: a server that takes in a whole fleet is slow.
const dialTimeout = 30 * time.Second

const (
	// readBuffer of a link, in bytes: most frames at rest are pings.
	readBuffer = 512
	// writeBuffer holds the answer to the largest probe in one frame; pooled.
	writeBuffer = 16 << 10
)

// loopbackURL refuses what is not a URL of this very machine, by IPv4.
func loopbackURL(raw string) error {
	if err := endpoint.Check(raw, "https", "http"); err != nil {
		return err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	_, err = loopback(u.Hostname())
	return err
}

// loopback gives the address of a host in 127.0.0.0/8. No name is resolved.
func loopback(host string) (netip.Addr, error) {
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.Is4() || !addr.IsLoopback() {
		return addr, fmt.Errorf("%q is not in 127.0.0.0/8: a fleet is rehearsed on this machine only", host)
	}
	return addr, nil
}

// address is the source address of a place in the fleet: one server port takes
// some 28,000 connections of one address, and enrollments are limited for each.
func address(place int) net.IP {
	const row = 254
	return net.IPv4(127, byte(64+place/(row*row)), byte(1+place/row%row), byte(1+place%row))
}

// from dials from the address of a place, to loopback addresses only.
func from(place int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		to, err := loopback(host)
		if err != nil {
			return nil, err
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: address(place)}}
		return d.DialContext(ctx, "tcp4", net.JoinHostPort(to.String(), port))
	}
}

// still is a connection that can be made to stand still: nothing more is read from
// it or written to it, and it stays open.
type still struct {
	net.Conn
	frozen atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (s *still) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if s.frozen.Load() {
		<-s.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *still) Write(p []byte) (int, error) {
	if s.frozen.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

func (s *still) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// link is one connection of an agent. Its fields do not change; state is the agent's.
type link struct {
	id     wire.LinkID
	conn   *session.Conn
	socket *still
}

// close ends the link, with a closing frame if it does not stand still.
func (l *link) close(code int, cause error) {
	if l.socket.frozen.Load() {
		l.socket.Close()
	}
	l.conn.Close(code, cause)
}

// dial opens a link: TLS, upgrade.
func (a *agent) dial(ctx context.Context) (*link, error) {
	token, err := a.identity.As(a.self()).Token(time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var socket *still
	reach := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := from(a.place)(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		socket = &still{Conn: conn, closed: make(chan struct{})}
		return socket, nil
	}
	dialer := websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := reach(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return session.Corked(conn), nil
		},
		NetDialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := reach(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return a.fleet.secure(ctx, conn, addr)
		},
		Subprotocols: []string{wire.Subprotocol}, HandshakeTimeout: dialTimeout,
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &a.fleet.writes,
	}
	to := cmp.Or(a.fleet.link, a.identity.LinkURLs[0])
	ws, res, err := dialer.DialContext(ctx, to, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		if res != nil && errors.Is(err, websocket.ErrBadHandshake) {
			return nil, agentlink.ReadRefused(res, time.Now())
		}
		return nil, err
	}
	id, ok := wire.ParseLinkID(res.Header.Get(wire.HeaderLinkID))
	if !ok || ws.Subprotocol() != wire.Subprotocol {
		return nil, errors.Join(fmt.Errorf("upgraded without a link id or subprotocol: what answers at %s is no server of ours", to), ws.Close())
	}
	return &link{id: id, conn: session.New(ws, session.Options{Link: id, Crew: &a.fleet.crew}), socket: socket}, nil
}

// secure makes the TLS connection to addr on conn, which an error closes.
func (f *fleet) secure(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	cfg := &tls.Config{}
	if f.opts.TLS != nil {
		cfg = f.opts.TLS.Clone()
	}
	if host, _, err := net.SplitHostPort(addr); err == nil && cfg.ServerName == "" {
		cfg.ServerName = host
	}
	secure := session.Secure(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return session.Corked(session.Records(secure)), nil
}

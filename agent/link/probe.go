package link

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/neterr"
	"gururmm/session"
	"gururmm/wire"
)

// Look is a link opened to look at the path: the server answers pings and
// echoes on it, and registers nothing; see [wire.HeaderProbe].
type Look struct {
	Conn   *session.Conn
	Remote string // address and port of the connection
	Socket net.Conn
	Took   time.Duration // of the upgrade alone
}

// Close ends the probe link.
func (l *Look) Close() { l.Conn.Close(websocket.CloseNormalClosure, errors.New("looked at")) }

// LookAt opens a probe link: of o are used URL, Family, Token, TLS, Clock, Proxy
// and the network seams. The errors are those of [Dial].
func LookAt(ctx context.Context, o Options) (*Look, error) {
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := o.lookOnce(ctx)
	if r, ok := errors.AsType[*Refused](err); ok && r.Problem.Code == wire.ProblemClock {
		l, err = o.lookOnce(ctx) // the clock is corrected meanwhile
	}
	return l, err
}

func (o Options) lookOnce(ctx context.Context) (*Look, error) {
	u, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	socket, remote, err := o.reach(ctx, u)
	if err != nil {
		return nil, err
	}
	conn := socket
	if u.Scheme == "wss" {
		if conn, err = o.secure(ctx, u, socket, remote); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	ws, id, err := o.upgrade(ctx, u, conn, http.Header{wire.HeaderProbe: {"1"}})
	if err != nil {
		conn.Close()
		return nil, neterr.During(neterr.StepHTTP, err)
	}
	return &Look{
		Conn: session.New(ws, session.Options{Link: id, Changed: o.heard}), Remote: remote,
		Socket: socket, Took: time.Since(began),
	}, nil
}

// Addresses resolves the host that is connected to, the proxy's if there is one,
// and gives "ip:port" pairs in the order in which [Dial] would try them.
func (o Options) Addresses(ctx context.Context) ([]string, error) {
	o = o.withDefaults()
	u, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	via, err := o.way(u)
	switch {
	case err != nil:
		return nil, err
	case via != nil:
		u = via
	}
	return o.addresses(ctx, u, defaultPort(u))
}

// Reach connects as [Dial] does, as far as TCP or the proxy's tunnel.
func (o Options) Reach(ctx context.Context) (conn net.Conn, remote string, err error) {
	o = o.withDefaults()
	u, err := parse(o.URL)
	if err != nil {
		return nil, "", err
	}
	return o.reach(ctx, u)
}

// Shake makes the TLS connection on conn as [Dial] does; the caller closes conn.
func (o Options) Shake(ctx context.Context, conn net.Conn) (tls.ConnectionState, error) {
	u, err := parse(o.URL)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	client := tls.Client(conn, o.tlsConfig(u.Hostname()))
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	err = client.HandshakeContext(ctx)
	return client.ConnectionState(), neterr.During(neterr.StepTLS, err)
}

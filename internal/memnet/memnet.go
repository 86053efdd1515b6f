// Package memnet is a network in memory, for tests in virtual time: a loopback
// socket does not let a synctest clock advance, these connections do.
package memnet

import (
	"context"
	"net"
	"sync"
)

// Listener accepts what its Dial makes. It is a [net.Listener].
type Listener struct {
	addr  addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

// Listen makes a listener that calls itself name, "host:port".
func Listen(name string) *Listener {
	return &Listener{addr: addr(name), conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial connects to the listener; it is refused once that is closed.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- named{far, l.addr}:
		return named{near, l.addr}, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]; open connections stay.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements [net.Listener].
func (l *Listener) Addr() net.Addr { return l.addr }

// named gives the ends addresses that parse as host and port.
type named struct {
	net.Conn
	at addr
}

func (c named) RemoteAddr() net.Addr { return c.at }
func (c named) LocalAddr() net.Addr  { return c.at }

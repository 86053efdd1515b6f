// Package idle lets a goroutine wait for a connection with next to nothing in hand: no
// buffer, and a stack as small as it was made.
//
// What reads through layers (TLS, a buffer, a protocol) waits at the bottom of them, and its
// stack stays as large as all of them need: the runtime halves it only below a quarter. With
// [Conn.Lend] the layers come back instead when there is nothing more to read, and a goroutine
// that has just been made waits in [Conn.Wait] until there is.
package idle

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Listener gives connections of ln that can be waited for; where this platform or ln has
// none, those of ln as they are.
func Listener(ln net.Listener) net.Listener { return listener{ln} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil && supported {
		if raw, err := tcp.SyscallConn(); err == nil {
			c := &Conn{TCPConn: tcp, raw: raw}
			c.look = c.looked
			return c, nil
		}
	}
	return conn, err
}

// Conn is a connection that can be waited for. It has one reader at a time.
type Conn struct {
	*net.TCPConn
	raw   syscall.RawConn
	look  func(fd uintptr) bool // made once
	until time.Time             // the read deadline that is set; zero: none

	lent    bool // a read that would wait comes back instead
	patient bool // ... after until
	ready   bool // there is something to read, or an end
	slept   bool // Wait has waited
}

// Of gives the connection at the bottom of conn, whose layers have a NetConn method; nil:
// there is none that can be waited for.
func Of(conn net.Conn) *Conn {
	for {
		if c, ok := conn.(*Conn); ok {
			return c
		}
		layer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = layer.NetConn()
	}
}

// ErrNothing is what a read says that would have waited.
var ErrNothing error = nothing{}

// nothing is temporary: crypto/tls goes on after it where it was.
type nothing struct{}

func (nothing) Error() string   { return "nothing to read now" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// Lend calls read, in which a read of this connection that would wait gives [ErrNothing]: at
// once, or, where more is expected soon, after patience or half of it. After [Conn.Wait] one
// read is made in any case. Nobody else may set a deadline for reading.
func (c *Conn) Lend(patience time.Duration, read func() error) error {
	if patience > 0 {
		if now := time.Now(); c.until.Sub(now) < patience/2 { // set rarely: it costs a lock
			c.expire(now.Add(patience))
		}
	}
	c.lent, c.patient = true, patience > 0
	defer func() { c.lent = false }()
	return read()
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// expire sets the read deadline; zero: none.
func (c *Conn) expire(at time.Time) {
	c.until = at
	c.SetReadDeadline(at) // an error: it is closed, and the next read says so
}

// Read reads as any connection does, but within [Conn.Lend].
func (c *Conn) Read(p []byte) (int, error) {
	if c.lent && !c.ready && !c.patient {
		return 0, ErrNothing
	}
	c.ready = false
	for {
		n, err := c.TCPConn.Read(p)
		if n > 0 || c.until.IsZero() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		c.expire(time.Time{}) // it was of patience only
		if c.lent {
			return 0, ErrNothing
		}
	}
}

// Wait returns when there is something to read, or the connection has ended: the next Read
// tells which.
func (c *Conn) Wait() {
	if c.ready {
		return
	}
	if !c.until.IsZero() {
		c.expire(time.Time{})
	}
	c.slept = false
	c.raw.Read(c.look) // an error: the read that follows says so
	c.ready = true
}

// looked has the runtime wait once, if there is nothing to read yet.
func (c *Conn) looked(fd uintptr) (done bool) {
	if c.slept {
		return true
	}
	c.slept = true
	return readable(fd)
}

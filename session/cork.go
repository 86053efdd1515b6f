package session

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// maxCorked bounds what is gathered before it is written, in bytes: more is worth a write by itself.
const maxCorked = 16 << 10

// Corked makes a connection whose frames a [Conn] above it gathers: a text and the ping
// behind it are one write, one segment, and over TLS one record. Give it to the WebSocket's
// library in place of conn.
func Corked(conn net.Conn) net.Conn { return &corked{Conn: conn} }

type corked struct {
	net.Conn
	in *bufio.Reader // that the library reads from; nil: one of its own

	mu     sync.Mutex
	held   *[]byte // nil: what is written goes out at once
	until  int64   // the deadline of writes, since base; 0: unknown
	closed bool
}

// base is what times of all links are kept since: 8 bytes for each in place of 24.
var base = time.Now()

// SetWriteDeadline leaves a deadline that is just a little nearer, by less than a sixteenth of
// the time that there is: moving it costs as much as a small write's own work, and who writes
// much moves it with each.
func (c *corked) SetWriteDeadline(t time.Time) error {
	until := int64(t.Sub(base))
	c.mu.Lock()
	earlier := time.Duration(until - c.until)
	near := c.until != 0 && earlier >= 0 && earlier < time.Until(t)/16
	if !near {
		c.until = until
	}
	c.mu.Unlock()
	if near {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both.
func (c *corked) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.until = 0
	c.mu.Unlock()
	return c.Conn.SetDeadline(t)
}

var corks = sync.Pool{New: func() any { return new(make([]byte, 0, 1<<10)) }}

// cork has writes gathered from now on.
func (c *corked) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil && !c.closed {
		c.held = corks.Get().(*[]byte)
	}
}

// size is how much is gathered, in bytes.
func (c *corked) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return 0
	}
	return len(*c.held)
}

// uncork writes what was gathered, and then what others have written meanwhile: all leaves in
// the order in which it was written.
func (c *corked) uncork() error {
	for {
		c.mu.Lock()
		held := c.held
		if held == nil || len(*held) == 0 {
			c.held = nil
			c.mu.Unlock()
			return c.write(held)
		}
		c.held = corks.Get().(*[]byte)
		c.mu.Unlock()
		if err := c.write(held); err != nil {
			c.mu.Lock()
			c.held = nil // nothing comes after what is lost
			c.mu.Unlock()
			return err
		}
	}
}

// write writes held, outside of the lock: a peer that takes nothing keeps only its writer waiting.
func (c *corked) write(held *[]byte) (err error) {
	if held == nil {
		return nil
	}
	if len(*held) > 0 {
		_, err = c.Conn.Write(*held)
	}
	if cap(*held) <= maxCorked {
		*held = (*held)[:0]
		corks.Put(held)
	}
	return err
}

func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.held == nil {
		c.mu.Unlock()
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	if len(*c.held) < maxCorked {
		c.mu.Unlock()
		return len(p), nil
	}
	held := c.held
	c.held = corks.Get().(*[]byte) // still corked
	c.mu.Unlock()
	return len(p), c.write(held)
}

// Close sends what is gathered first: it may be the closing frame.
func (c *corked) Close() error {
	c.mu.Lock()
	held := c.held
	c.held, c.closed = nil, true
	c.mu.Unlock()
	if held != nil && len(*held) > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(closeWait)) // an error: the write says so
		c.write(held)                                      // best effort, as any closing frame
	}
	return c.Conn.Close()
}

// NetConn is the connection below.
func (c *corked) NetConn() net.Conn { return c.Conn }

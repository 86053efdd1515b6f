package session

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/wrap"
)

// How a link ends, once, and why: by its reader, by its writer or by who closes it. What the peer
// said when it closed is worth more than an error of ours that follows from it.

const (
	// maxReason bounds the words in a closing frame, in bytes, with room for the "…".
	maxReason = 119
	// closeWait bounds the writing of the closing frame.
	closeWait = time.Second
	// lastWords bounds how long a reader has, once a write has failed, to come to what the peer
	// said before: see [Conn.broke].
	lastWords = time.Second
)

// broken is a link to which nothing can be written any more, while its reader looks for why.
type broken struct {
	err   error
	timer *time.Timer // ends the link
}

// over reports whether nothing is written any more. Call with mu held.
func (c *Conn) over() bool { return c.err != nil || c.broken != nil }

// broke ends the link after a write failed with err; only the writer calls it. A peer that closes
// takes nothing more, so a write may fail before the reader has come to the closing frame, which
// tells why and when to come back: the reader goes on to the end of what has arrived.
func (c *Conn) broke(err error) {
	failed := fmt.Errorf("write: %w", err)
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() { // the peer is gone, and nothing ends the reader
		c.fail(failed)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over() {
		c.broken = &broken{failed, time.AfterFunc(lastWords, func() { c.fail(failed) })} // then the reader is stuck
		c.stopRecheck()
	}
}

// why is the reason for the end of a link of which somebody says err: a write that failed before
// says more than a reader that met an end without a word. Call with mu held.
func (c *Conn) why(err error) error {
	silent := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || websocket.IsCloseError(err, websocket.CloseAbnormalClosure)
	if c.broken != nil && silent {
		return c.broken.err
	}
	return err
}

// fail ends the link with err; the first one stands.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.held, c.err = c.holds(time.Now()), c.why(err)
		if c.broken != nil {
			c.broken.timer.Stop()
		}
		if c.done != nil {
			close(c.done)
		}
		c.stopRecheck()
	}
	rest := c.queue
	if c.writing {
		rest = nil // the writer tells them
	} else {
		c.queue, c.queued = nil, 0
	}
	c.mu.Unlock()
	if first {
		c.ws.Close()
	}
	for _, it := range rest {
		if it.written != nil {
			it.written(0, time.Now(), ErrClosed)
		}
	}
}

// Close ends the link with a closing frame (RFC 6455 §7.4 code) and waits for
// the writer. cause is what Err then says.
func (c *Conn) Close(code int, cause error) {
	// A control frame takes 125 bytes, 2 of them for the code (RFC 6455 §5.5); §5.5.1:
	// UTF-8, or the peer takes it for a broken link.
	reason := wrap.Clip(cause.Error(), maxReason)
	// Best effort: the peer may be the very thing that is gone.
	err := c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(closeWait))
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, websocket.ErrCloseSent) {
		cause = fmt.Errorf("%w (closing frame: %v)", cause, err)
	}
	c.fail(cause)
	c.writer.Wait()
}

package session

import (
	"bufio"
	"errors"
	"net"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/idle"
)

// readBuffer of a link that rests, in bytes: most frames at rest are pings.
const readBuffer = 256 + 1 // the library takes one over that is larger than 256

// Hijacked is [Corked] for an upgrade by [websocket.Upgrader] with a ReadBufferSize of 0: the
// library reads from in, so that [Conn.Rest] can wait in its place. was is what the HTTP server
// read from; what it holds is the library's to refuse.
func Hijacked(conn net.Conn, was *bufio.Reader) (net.Conn, *bufio.Reader) {
	c := &corked{Conn: conn}
	if was.Buffered() > 0 {
		return c, was
	}
	c.in = bufio.NewReaderSize(c, readBuffer)
	return c, c.in
}

// rest is what a reader looks at before it lets the library wait. The zero value never rests.
type rest struct {
	in    *bufio.Reader
	below *idle.Conn
}

func restOf(c *corked) rest {
	if below := idle.Of(c.Conn); below != nil && c.in != nil {
		return rest{c.in, below}
	}
	return rest{}
}

// patience is how long a reader that has read a text waits where it stands: a link in use gets
// the next one soon, and a goroutine for each costs more than it saves.
const patience = time.Second

// nothing reports whether the next frame has not begun to come; text is when the last text
// came.
func (r rest) nothing(text time.Time) bool {
	if r.below == nil || r.in.Buffered() > 0 {
		return false
	}
	soon := time.Duration(0)
	if !text.IsZero() && time.Since(text) < patience {
		soon = patience
	}
	err := r.below.Lend(soon, func() error {
		_, err := r.in.Peek(1)
		return err
	})
	return errors.Is(err, idle.ErrNothing)
}

// control takes a ping or a pong that is next. The library would wait for what follows it;
// all other frames, and those that break RFC 6455 §5.5, are its own.
func (r rest) control(ping, pong func(string) error) (taken bool) {
	const (
		final, masked = 0x80, 0x80
		head          = 2 + 4 // and the mask
		maxPayload    = 125
	)
	if r.below == nil {
		return false
	}
	first, err := r.in.Peek(2)
	if err != nil {
		return false // and it meets the error again
	}
	size := int(first[1] &^ masked)
	take := ping
	switch {
	case first[1]&masked == 0 || size > maxPayload:
		return false
	case first[0] == final|websocket.PongMessage:
		take = pong
	case first[0] != final|websocket.PingMessage:
		return false
	}
	frame, err := r.in.Peek(head + size)
	if err != nil {
		return false
	}
	var payload [maxPayload]byte
	for i, b := range frame[head:] {
		payload[i] = b ^ frame[2+i%4]
	}
	r.in.Discard(head + size)    // it holds so many
	take(string(payload[:size])) // its errors are nil
	return true
}

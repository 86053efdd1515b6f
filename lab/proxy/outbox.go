package proxy

import (
	"io"
	"sync"
	"time"
)

// maxHeld bounds the bytes a box holds for one direction of one connection;
// beyond it the sender is made to wait, as TCP would.
const maxHeld = 32 << 20

// outbox is the one writer of one end of a link. What is due at once goes
// first; what is held back goes in order, each piece at its time.
type outbox struct {
	dst  io.Writer
	done <-chan struct{} // of the connection

	mu    sync.Mutex
	now   []piece
	later []piece
	held  int           // bytes
	wake  chan struct{} // the writer has something to look at
	space chan struct{} // something was taken away
	shut  bool          // write what is due now and end
}

type piece struct {
	raw  []byte
	due  time.Time // zero: now
	last bool      // the connection ends behind it
}

func newOutbox(dst io.Writer, done <-chan struct{}) *outbox {
	return &outbox{dst: dst, done: done, wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// put queues pieces together. It waits for room, and gives up when the connection ends.
func (o *outbox) put(pieces ...piece) {
	for {
		o.mu.Lock()
		if o.held < maxHeld {
			break
		}
		o.mu.Unlock()
		select {
		case <-o.space:
		case <-o.done:
			return
		}
	}
	for _, p := range pieces {
		o.held += len(p.raw)
		if p.due.IsZero() {
			o.now = append(o.now, p)
		} else {
			o.later = append(o.later, p)
		}
	}
	o.mu.Unlock()
	nudge(o.wake)
}

// behind gives the time for a text that must not overtake those held back; zero: none are.
func (o *outbox) behind() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.later); n > 0 {
		return o.later[n-1].due
	}
	return time.Time{}
}

// finish lets the writer end once what is due now is written.
func (o *outbox) finish() {
	o.mu.Lock()
	o.shut = true
	o.mu.Unlock()
	nudge(o.wake)
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// next takes the piece whose turn it is. Without one, wait says until when
// (0: until woken); end says that there will be none.
func (o *outbox) next() (p piece, ok bool, wait time.Duration, end bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.now) > 0:
		p, o.now = o.now[0], o.now[1:]
	case o.shut:
		return p, false, 0, true
	case len(o.later) == 0:
		return p, false, 0, false
	default:
		if wait = time.Until(o.later[0].due); wait > 0 {
			return p, false, wait, false
		}
		p, o.later = o.later[0], o.later[1:]
	}
	o.held -= len(p.raw)
	return p, true, 0, false
}

// run writes until the connection ends, a write fails, or finish was called.
func (o *outbox) run() {
	for {
		p, ok, wait, end := o.next()
		switch {
		case end:
			return
		case ok:
			nudge(o.space)
			if _, err := o.dst.Write(p.raw); err != nil || p.last {
				return
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-o.wake:
		case <-due:
		case <-o.done:
			return
		}
	}
}

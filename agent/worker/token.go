package worker

import (
	"sync"
	"sync/atomic"
	"time"

	"gururmm/selfcheck"
)

// token proves that a loop turns. The monitor posts it; the loop drains it
// between two pieces of work. While it is out, no other is posted.
type token struct {
	// C is what the loop selects on; it then calls drained.
	C chan struct{}

	// revoked: the loop was handed to another goroutine, with another token.
	revoked atomic.Bool

	mu  sync.Mutex
	out time.Time // posted at, not drained; zero: none
}

func newToken() *token { return &token{C: make(chan struct{}, 1)} }

func (t *token) post(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.IsZero() {
		t.out = now
		t.C <- struct{}{} // room for one: the last was drained
	}
}

func (t *token) drained() {
	t.mu.Lock()
	t.out = time.Time{}
	t.mu.Unlock()
}

// restamp forgives the time in which this machine did not run.
func (t *token) restamp(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.out.IsZero() {
		t.out = now
	}
}

// pending is how long a token has been out; nil: none is.
func (t *token) pending(now time.Time) *time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return selfcheck.Age(t.out, now)
}

// ask is a token of a loop that closes a channel when it has drained it (the executor's).
type ask struct {
	mu   sync.Mutex
	done <-chan struct{}
	out  time.Time
}

// post asks again if the last answer is in. next must not block.
func (a *ask) post(now time.Time, next func() <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.out.IsZero() || a.answered() {
		a.done, a.out = next(), now
	}
}

// answered tells whether the channel is closed. Call with mu held.
func (a *ask) answered() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

func (a *ask) restamp(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.out.IsZero() {
		a.out = now
	}
}

func (a *ask) pending(now time.Time) *time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.out.IsZero() || a.answered() {
		return nil
	}
	return selfcheck.Age(a.out, now)
}

// mark tells how long a loop that waits for input has been at one piece of it.
type mark struct {
	mu    sync.Mutex
	since time.Time // zero: it waits
}

// set notes that a piece has begun at now; the zero time: that it is done.
func (m *mark) set(now time.Time) {
	m.mu.Lock()
	m.since = now
	m.mu.Unlock()
}

func (m *mark) restamp(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.since.IsZero() {
		m.since = now
	}
}

// late is how long ago the mark was set; 0: it is not.
func (m *mark) late(now time.Time) time.Duration {
	if d := m.pending(now); d != nil {
		return *d
	}
	return 0
}

func (m *mark) pending(now time.Time) *time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return selfcheck.Age(m.since, now)
}

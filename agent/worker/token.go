package worker

import (
	"sync"
	"time"

	"gururmm/selfcheck"
)

// token proves that a loop turns. The monitor posts it; the loop drains it
// between two pieces of work. While it is out, no other is posted.
type token struct {
	// C is what the loop selects on; it then calls drained.
	C chan struct{}

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

package lab_test

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Stacks take turns. They mostly wait, so that more of them run at once than there are cores; but
// a machine that has no time for one more gets none: its graces are seconds, and what is late by
// them for want of a core is a fault that nobody put in.
const (
	// stacksAtOnce bounds them however idle the machine is.
	stacksAtOnce = 8
	// crowded: work that takes this much longer than at best has two or more others for its core.
	crowded = 2.5
	// between two turns the first stack's processes get under way, so that the next look sees them.
	between = time.Second
)

// turns gives them.
var turns = turnstile{fewest: runtime.NumCPU(), free: make(chan struct{}, stacksAtOnce)}

type turnstile struct {
	fewest int           // stacks that run whatever else the machine does
	free   chan struct{} // one of each stack that runs

	mu   sync.Mutex // of whoever is next
	best time.Duration
}

// take waits until the test may run, and gives its turn back once that has ended.
func (s *turnstile) take(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.best == 0 { // nothing runs yet
		s.best = work()
		for range 4 {
			s.best = min(s.best, work())
		}
	}
	s.free <- struct{}{}
	for len(s.free) > s.fewest && s.slower() > crowded {
		time.Sleep(between / 2)
	}
	t.Cleanup(func() { <-s.free })
	time.Sleep(between)
}

// slower is how much longer a piece of work takes now than it did at best. Call with mu held.
func (s *turnstile) slower() float64 {
	took := work()
	s.best = min(s.best, took)
	return float64(took) / float64(s.best)
}

// work takes some 20 ms of a core; it gives what it took.
func work() time.Duration {
	began := time.Now()
	var block [1 << 20]byte
	for range 12 {
		block[0] = sha256.Sum256(block[:])[0]
	}
	return time.Since(began)
}

package lab_test

import (
	"crypto/sha256"
	"runtime"
	"slices"
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
	// crowd: work that takes this much longer than at best has two or more others for its core.
	crowd = 2.5
	// gauge is the least that such work takes: longer than a task that has just woken goes before others.
	gauge = 50 * time.Millisecond
	// between two turns the first stack's processes get under way, so that the next look sees them.
	between = time.Second
)

// longest take more than a minute and a half: they go first, or all wait for them at the end.
var longest = []string{"TestChaos", "TestARolloutReachesItsRingsAndStopsAtABadVersion", "TestDiagnoseNamesWhatIsBroken", "TestNodeAwayForLongerThanItsLease", "TestCrashLoop"}

// turns gives them. NumCPU would not heed what a container is allowed.
var turns = turnstile{fewest: runtime.GOMAXPROCS(0), running: make(chan struct{}, stacksAtOnce)}

type turnstile struct {
	fewest  int           // stacks that run whatever else the machine does
	running chan struct{} // one of each stack that does

	mu     sync.Mutex // of whoever is next
	rounds int
	best   time.Duration // of so many rounds
}

// measure finds out what the machine does at best. It is called before anything runs.
func (s *turnstile) measure() {
	for s.rounds = 1; ; s.rounds *= 2 {
		if s.best = min(s.work(), s.work(), s.work()); s.best >= gauge {
			return
		}
	}
}

// take waits until the test may run, and gives its turn back once that has ended.
func (s *turnstile) take(t *testing.T) {
	if !slices.Contains(longest, t.Name()) {
		time.Sleep(2 * between)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running <- struct{}{}
	for len(s.running) > s.fewest && s.crowded() {
		time.Sleep(between)
	}
	t.Cleanup(func() { <-s.running })
	time.Sleep(between)
}

// crowded reports whether the machine has no time for one more. Call with mu held.
func (s *turnstile) crowded() bool {
	took := s.work()
	s.best = min(s.best, took)
	return float64(took) > crowd*float64(s.best)
}

// work gives what so many rounds take.
func (s *turnstile) work() time.Duration {
	began := time.Now()
	var block [1 << 20]byte
	for range s.rounds {
		block[0] = sha256.Sum256(block[:])[0]
	}
	return time.Since(began)
}

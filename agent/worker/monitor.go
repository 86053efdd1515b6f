package worker

import (
	"context"
	"runtime"
	"sync"
	"time"

	"gururmm/internal/fault"
	"gururmm/selfcheck"
)

const (
	// monitorEvery is how often tokens are posted, and the pace of the reports.
	monitorEvery = selfcheck.ReportEvery
	// seenWait bounds the monitor's wait for the reporter, which it also watches.
	seenWait = 100 * time.Millisecond
	// stoodStill: a tick that late, or a machine's own account of so much sleep,
	// means that it did not run.
	stoodStill = 10 * time.Second
	// heldUp: with no sign of the monitor nor of the reporter for so long the process
	// as a whole did not run, and how long a token has been out says nothing.
	heldUp = monitorEvery + tickSlack
)

// suspend remembers the last time this machine did not run.
type suspend struct {
	mu      sync.Mutex
	length  time.Duration
	resumed time.Time // zero: never
}

func (s *suspend) note(length time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.length, s.resumed = length, now
}

func (s *suspend) facts(now time.Time) *selfcheck.SuspendFacts {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed.IsZero() {
		return nil
	}
	return &selfcheck.SuspendFacts{Length: s.length, Age: max(now.Sub(s.resumed), 0)}
}

// monitor leaves tokens with the loops, and notices when the machine did not
// run, or the guardian does not read. It waits for none of those that it watches.
func (w *worker) monitor(ctx context.Context) {
	ticker := time.NewTicker(monitorEvery)
	defer ticker.Stop()
	last, slept := time.Now(), w.cfg.Asleep.Total()
	w.ticked.set(last)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		w.cfg.Gate()
		fault.Stall(faultMonitor)
		fault.Stall(faultDeadlock)
		now, sleptNow := time.Now(), w.cfg.Asleep.Total()
		w.ticked.set(now)
		w.ran.set(now)
		if gap := max(now.Sub(last)-monitorEvery, sleptNow-slept); gap > stoodStill {
			w.resumed(gap, now)
		}
		last, slept = now, sleptNow
		if w.stillCalm(now) {
			w.out.unchanged()
		} else {
			w.pulseReporter()
		}
		w.dispatcher.post(now)
		w.metrics.post(now)
		w.executor.post(now, w.exec.Token)
		runtime.Gosched() // a loop that turns takes its token in this wake of the process
		if w.tokensOut(now) && w.calm.Load() != nil {
			w.change() // it is told as it is from now on
		}
		if w.out.stuck(now) > guardianDeaf {
			w.end(stopRequest{grace: stopGrace, reason: "the guardian reads no more", err: ErrGuardianDeaf})
		}
	}
}

// tokensOut reports whether a loop has not given its token back.
func (w *worker) tokensOut(now time.Time) bool {
	return w.dispatcher.pending(now) != nil || w.metrics.pending(now) != nil || w.executor.pending(now) != nil || w.ordering.pending(now) != nil
}

// pulseReporter lets the reporter take its snapshot now, before the next tokens go
// out (one that has just been posted is no fact), and in the same wake of the process.
func (w *worker) pulseReporter() {
	select {
	case <-w.seen: // it was late last time
	default:
	}
	select {
	case w.pulse <- struct{}{}:
	default:
		return
	}
	late := time.NewTimer(seenWait)
	defer late.Stop()
	select {
	case <-w.seen:
	case <-late.C:
	}
}

// resumed forgives every age that grew while this machine did not run.
func (w *worker) resumed(length time.Duration, now time.Time) {
	w.log.Info("this machine did not run", "for", length)
	w.dispatcher.restamp(now)
	w.metrics.restamp(now)
	w.executor.restamp(now)
	w.ordering.restamp(now)
	w.ticked.restamp(now)
	w.out.restamp(now)
	w.suspend.note(length, now)
	w.link.wake(now)
	w.change()
}

package worker

import (
	"context"
	"os"
	"time"

	"gururmm/internal/fault"
	"gururmm/selfcheck"
)

const (
	// reportEvery is the longest a guardian waits for a sign of life.
	reportEvery = time.Second
	// reportWhole is the longest between two whole snapshots; what ages by the clock
	// the guardian ages itself.
	reportWhole = 10 * time.Second
	// reportGap is the shortest time between two reports, whatever changes.
	reportGap = 20 * time.Millisecond
)

// Names of the loops in [selfcheck.Snapshot.Loops].
const (
	loopReader     = "reader"
	loopDispatcher = "dispatcher"
	loopWriter     = "writer"
	loopExecutor   = "executor"
	loopMetrics    = "metrics"
	loopOrders     = "orders"
	loopMonitor    = "monitor"
)

// calm reports whether nothing in s could grow worse by time alone: no token
// left, no gap, no fragment. Only then may "the same" be said of it.
func calm(s *selfcheck.Snapshot) bool {
	l := s.Link.Ledger
	calm := s.Link.Phase == selfcheck.PhaseVerified && s.Link.In.PartialFrame == nil && s.Link.In.OpenFragment == nil &&
		l.Down == nil && l.Up == nil && l.Excess == nil && l.UnansweredAge == nil && l.Altered == "" && l.OwedAge == nil
	for _, loop := range s.Loops {
		calm = calm && loop.Pending == nil
	}
	return calm
}

// report sends snapshots: at once on a change, at least every reportWhole, and
// something each second.
func (w *worker) report(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	wasRewritten := false
	var whole time.Time
	var said *selfcheck.Snapshot // the last whole one
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.changes:
			if wait := reportGap - time.Since(last); wait > 0 {
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
		}
		w.cfg.Gate()
		fault.Stall(faultDeadlock)
		s := w.snapshot()
		if said != nil && calm(s) && s.Same(*said) && time.Since(whole) < reportWhole {
			w.out.unchanged()
		} else {
			w.out.report(s)
			said, whole = s, time.Now()
		}
		if now := rewritten(s.Link.Ledger); now != wasRewritten {
			wasRewritten = now
			w.beatSoon()
		}
		last = time.Now()
		timer.Reset(reportEvery)
	}
}

// snapshot gathers every fact there is.
func (w *worker) snapshot() *selfcheck.Snapshot {
	now := time.Now()
	s := &selfcheck.Snapshot{
		Worker: selfcheck.WorkerFacts{PID: os.Getpid(), Version: w.presence().Version, Running: true},
		Link:   w.link.facts(now),
		Jobs:   w.exec.Facts(),
		Clock:  selfcheck.ClockFacts{Offset: w.clock.facts()},
	}
	started, finished := w.exec.Counters()
	w.counters.fill(s, started, finished, now)
	s.Suspend = w.suspend.facts(now)
	reader, writer := w.link.busy(now)
	monitor := w.ticked.pending(now)
	if monitor != nil && *monitor < 2*monitorEvery {
		monitor = nil
	}
	s.Loops = map[string]selfcheck.LoopFacts{
		loopReader:     reader,
		loopWriter:     writer,
		loopDispatcher: {Pending: w.dispatcher.pending(now)},
		loopExecutor:   {Pending: w.executor.pending(now)},
		loopMetrics:    {Pending: w.metrics.pending(now)},
		loopOrders:     {Pending: w.ordering.pending(now)},
		loopMonitor:    {Pending: monitor},
	}
	return s
}

package worker

import (
	"context"
	"os"
	"time"

	"gururmm/agent/link"
	"gururmm/internal/fault"
	"gururmm/selfcheck"
)

const (
	// reportWhole is the longest between two whole snapshots; what ages by the clock
	// the guardian ages itself.
	reportWhole = 30 * time.Second
	// tickSlack is how late the monitor's tick may be without a word of it.
	tickSlack = 500 * time.Millisecond
	// reportGap is the shortest time between two reports, whatever changes; and what an
	// endpoint at rest waits for what a change brings with it: a ping, its pong.
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
// left, no gap, no fragment, nothing unread or sent in vain below. Only then may "the same" be said of it.
func calm(s *selfcheck.Snapshot) bool {
	l := s.Link.Ledger
	calm := s.Link.Phase == selfcheck.PhaseVerified && s.Link.TCP.Quiet() && s.Link.In.PartialFrame == nil && s.Link.In.OpenFragment == nil &&
		l.Down == nil && l.Up == nil && l.Excess == nil && l.UnansweredAge == nil && l.Altered == "" && l.OwedAge == nil
	for _, loop := range s.Loops {
		calm = calm && loop.Pending == nil
	}
	return calm
}

// calmMark is what was seen when the last report was a calm one.
type calmMark struct {
	whole             time.Time // of the whole snapshot it stands on
	session           *link.Session
	traffic           uint64
	started, finished uint64
}

// stillCalm reports whether the last report was calm and nothing has happened
// since that could have changed it: "the same" can be said without a look at every fact.
func (w *worker) stillCalm(now time.Time) bool {
	m := w.calm.Load()
	if m == nil || now.Sub(m.whole) >= reportWhole || len(w.changes) > 0 {
		return false
	}
	if w.tokensOut(now) {
		return false
	}
	reader, writer := w.link.busy(now)
	started, finished := w.exec.Counters()
	s := w.link.session()
	return reader.Pending == nil && writer.Pending == nil && started == m.started && finished == m.finished &&
		s != nil && s == m.session && s.Traffic() == m.traffic
}

// report sends snapshots: at once on a change or when the guardian asks, at least every
// reportWhole, and something at each pulse of the monitor, which alone says "the same"
// while nothing happens. It has a clock of its own only while it is not calm: one that
// is set anew at each report wakes an idle process as often again.
func (w *worker) report(ctx context.Context) {
	w.change() // the first
	uneasy := time.NewTimer(selfcheck.ReportUneasy)
	defer uneasy.Stop()
	var last time.Time
	wasRewritten := false
	var whole time.Time
	var said *selfcheck.Snapshot // the last whole one
	for {
		pulsed := false
		select {
		case <-ctx.Done():
			return
		case <-w.pulse:
			pulsed = true
		case <-uneasy.C:
		case <-w.changes:
			wait := reportGap
			if w.calm.Load() == nil {
				wait -= time.Since(last)
			}
			if wait > 0 {
				timer := time.NewTimer(wait)
				select {
				case <-ctx.Done():
					timer.Stop()
					return
				case <-timer.C:
				}
			}
		}
		w.cfg.Gate()
		w.calm.Store(nil) // while this hangs, nobody else says that all is as it was
		fault.Stall(faultReporter)
		fault.Stall(faultDeadlock)
		mark := calmMark{session: w.link.session()}
		mark.started, mark.finished = w.exec.Counters()
		if mark.session != nil {
			mark.traffic = mark.session.Traffic()
		}
		s := w.snapshot()
		if pulsed {
			select {
			case w.seen <- struct{}{}:
			default:
			}
		}
		calm := calm(s)
		if said != nil && calm && s.Same(*said) && time.Since(whole) < reportWhole {
			w.out.unchanged()
		} else {
			w.out.report(s)
			said, whole = s, time.Now()
		}
		if mark.whole = whole; calm {
			w.calm.Store(&mark)
			uneasy.Stop()
		} else {
			w.calm.Store(nil)
			uneasy.Reset(selfcheck.ReportUneasy)
		}
		if now := rewritten(s.Link.Ledger); now != wasRewritten {
			wasRewritten = now
			w.beatSoon()
		}
		last = time.Now()
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
	var monitor *time.Duration // beyond its tick
	if late := w.ticked.late(now) - monitorEvery; late >= tickSlack {
		monitor = &late
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
	if w.ran.late(now) > heldUp { // nobody ran: the monitor is about to forgive all this
		s.Loops = nil
	}
	w.ran.set(now)
	return s
}

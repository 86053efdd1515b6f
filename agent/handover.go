package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/versions"
)

const (
	// watchEvery is how often the loop of a new guardian is looked at.
	watchEvery = time.Second
	// hangAfter is how long it may stand still before it is proven to hang: four of the
	// longest turns that one takes which is well. With the end of the process, the service
	// manager's two seconds and the old program's own start, that one is back within a minute.
	hangAfter = 4 * guardian.MaxTurn
	// stuckAfter is when a new program is ended whose loop turns, and which can neither
	// confirm nor give back.
	stuckAfter = guardian.ConfirmLimit + time.Minute
	// leaveWatch bounds the wait for the watch at its end: it may hang in the disk.
	leaveWatch = 2 * time.Second
	// relaunchAfter is the wait before the launcher starts a program that has yet to
	// confirm again: as long as a service manager waits, so that chance may pass.
	relaunchAfter = 2 * time.Second
)

// handover is the watch over a guardian that has yet to confirm, by a goroutine of its own:
// a loop that hangs can't say so, and not every platform's service manager would
// notice. It counts its own looks, not the clock: while this process is stopped, or the
// machine suspended, nothing is proven.
type handover struct {
	turned   atomic.Bool // since the last look
	stopping atomic.Bool // at the last turn: what is slow now is the stop
	over     chan struct{}
	gone     chan struct{} // closed when the watch has ended
}

// watchHandover watches p, if it has yet to confirm: a loop that hangs is proof
// against the program, which is then left for the one before, without another try. One
// that turns and does not come to a decision is only ended: what it waits for, the
// network above all, may be no fault of its own, and its start was counted. Nil: there
// is nothing to watch.
func (s *Setup) watchHandover(p program, log *slog.Logger) *handover {
	if !s.Service || p.entry == nil || p.state.Phase != versions.PhaseHandover {
		return nil // nobody would start it again, or nothing is open
	}
	h := &handover{over: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		defer close(h.gone)
		h.watch(s, p, log)
	}()
	return h
}

func (h *handover) watch(s *Setup, p program, log *slog.Logger) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var all, still time.Duration
	for {
		select {
		case <-h.over:
			return
		case <-tick.C:
		}
		all, still = all+watchEvery, still+watchEvery
		if h.turned.Swap(false) {
			still = 0
		}
		hangs := still >= hangAfter && !h.stopping.Load()
		if !hangs && all < stuckAfter {
			continue
		}
		st, err := p.store.Look()
		switch {
		case err != nil:
			continue // not known: another look
		case st.Phase != versions.PhaseHandover || !st.Current.Is(p.entry):
			return // it has confirmed, or given back
		case hangs:
			reason := "as guardian it hangs: its loop stood still for " + still.String()
			log.Error("update is rolled back", "version", p.entry.Version(), "reason", reason)
			if err := p.store.Save(st.FallBack(reason, time.Now().UTC())); err != nil { // its start was counted
				log.Error("the state of an update can't be written", "error", err)
			}
		default:
			log.Error("this version has neither confirmed nor given back: it ends, to be started again", "after", all)
		}
		if s.FlushLogs != nil {
			s.FlushLogs()
		}
		s.exit(1)
		return
	}
}

// end ends the watch.
func (h *handover) end() {
	if h == nil {
		return
	}
	close(h.over)
	limit := time.NewTimer(leaveWatch)
	defer limit.Stop()
	select {
	case <-h.gone:
	case <-limit.C: // it hangs in the disk
	}
}

// watched is a teller whose turns the watch sees too.
type watched struct {
	teller
	h *handover
}

// through gives tell, seen by the watch.
func (h *handover) through(tell teller) teller {
	if h == nil {
		return tell
	}
	return watched{tell, h}
}

func (w watched) turn(t guardian.Turn) {
	w.h.turned.Store(true)
	w.h.stopping.Store(t.Mode == local.ModeStopping)
	w.teller.turn(t)
}

// relaunch reports whether the launcher goes on by itself after the program that it started
// has ended. It does if that wants another in its place, and, after a moment, if it had
// yet to confirm or has been left: such an end is no news to the service manager, whose
// patience grows with each, and how often a program is started is counted on disk.
func (p program) relaunch(ctx context.Context, ended *errEnded, log *slog.Logger) bool {
	switch st, err := p.store.Look(); {
	case errors.Is(ended, guardian.ErrHandover):
		return true
	case err != nil || p.state.Phase != versions.PhaseHandover:
		return false
	case st.Phase != versions.PhaseHandover && st.Current.Is(p.state.Current): // it has confirmed
		return false
	}
	log.Error("a version that had yet to confirm has ended", "version", p.state.Current.Version(), "how", ended)
	wait := time.NewTimer(relaunchAfter)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

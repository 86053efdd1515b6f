package worker

import (
	"context"
	"errors"
	"io"
	"time"

	"gururmm/agent/pipe"
	"gururmm/internal/fault"
	"gururmm/internal/insight"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// maxStacks bounds the stacks of all goroutines, in bytes.
	maxStacks = 1 << 20
)

// listen obeys the guardian until it is gone. It runs no handler: a stalled
// dispatcher does not keep the guardian from being heard.
func (w *worker) listen(in io.Reader) {
	lines := pipe.NewReader[pipe.Order](in)
	for {
		o, err := lines.Read()
		w.ordering.set(time.Now())
		fault.Stall(faultOrders)
		fault.Stall(faultDeadlock)
		switch {
		case errors.Is(err, pipe.ErrGarbled):
			w.log.Error("an order was not understood", "error", err)
		case err != nil:
			w.end(stopRequest{grace: stopGrace, reason: "the guardian is gone: " + err.Error()})
			w.ordering.set(time.Time{})
			return
		default:
			w.obey(o)
		}
		w.ordering.set(time.Time{})
	}
}

// obey carries out one order. It must not block.
func (w *worker) obey(o pipe.Order) {
	switch {
	case o.Reconnect != nil:
		w.link.order(*o.Reconnect)
	case o.Deliver != nil:
		w.deliver(o.Deliver)
	case o.OOB != nil:
		w.distrust(*o.OOB)
	case o.Policy != nil:
		w.errand(func() { w.ordered(*o.Policy) })
	case o.Ping:
		if s := w.link.session(); s != nil {
			if p := s.Conn().Facts(time.Now()).Ledger.PingPending; p != nil && *p >= answerGrace && s.Phase() == selfcheck.PhaseVerified && !w.beats.awaits(s) {
				w.heartbeat(s) // an answer to a ping is overdue: a text may go where no ping does
			}
			s.Conn().Ping(true)
		}
	case o.Report:
		w.change()
	case o.Frames:
		ring := []selfcheck.FrameHeader{}
		if s := w.link.session(); s != nil {
			ring = append(ring, s.Recent(selfcheck.RingSize, time.Now())...)
		}
		w.out.send(pipe.Fact{Frames: &ring})
	case o.Stacks:
		w.out.send(pipe.Fact{Stacks: insight.Stacks(maxStacks)})
	case o.TraceMS > 0:
		w.children.Go("trace", func() { w.trace(min(ms(o.TraceMS), ms(pipe.MaxTraceMS))) })
	case o.RestartStage != "":
		w.restartStage(o.RestartStage)
	case o.OffsetNS != nil:
		w.clock.set(time.Duration(*o.OffsetNS))
		w.change()
	case o.Verdict != nil:
		w.judged.Store(o.Verdict)
	case o.Drain != nil:
		grace := min(max(ms(o.Drain.GraceMS), 0), maxGrace)
		w.end(stopRequest{grace: grace, reason: o.Drain.Reason})
	default:
		w.log.Error("an empty order")
	}
}

// deliver queues what came by the second door, behind what came before by either.
func (w *worker) deliver(envs []wire.Envelope) {
	now := time.Now()
	for i := range envs {
		it := item{env: &envs[i], at: now}
		if err := w.inbox.put(it); err != nil {
			w.refuse(it, envs[i], claimedID(envs[i]), wire.CodeBusy, err.Error())
			w.change()
		}
	}
}

// distrust turns OOB delivery on or off. On: results known so far go that way at once.
func (w *worker) distrust(on bool) {
	if w.oob.Swap(on) == on {
		return
	}
	w.log.Info("out-of-band delivery", "on", on)
	if on {
		w.errand(w.exec.Repeat)
	}
	w.change()
}

// errand gives the dispatcher something to do that could wait for the disk.
func (w *worker) errand(do func()) {
	if err := w.inbox.put(item{do: do}); err != nil {
		w.log.Error("an order was dropped: the dispatcher takes nothing", "error", err)
	}
}

// ordered puts a policy in force that the guardian has verified.
func (w *worker) ordered(env wire.Envelope) {
	u, err := wire.DecodePayload[wire.ConfigUpdate](env)
	if err == nil && u.Agent != "" && u.Agent != w.cfg.Identity.Agent {
		err = errors.New("it is for another agent")
	}
	var p *policy
	if err == nil {
		p, err = newPolicy(u, env.Payload)
	}
	if err != nil {
		w.log.Error("the guardian's policy is not usable", "error", err)
		return
	}
	w.apply(p)
}

// trace records what the runtime does for d. One that fails is not answered but
// logged: the guardian waits only so long.
func (w *worker) trace(d time.Duration) {
	raw, err := insight.Trace(context.Background(), d, pipe.MaxTrace)
	if err != nil {
		w.log.Warn("runtime trace", "error", err)
	}
	if len(raw) > 0 {
		w.out.send(pipe.Fact{Trace: raw})
	}
}

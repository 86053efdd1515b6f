package guardian

import (
	"context"
	"errors"
	"os"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/selfcheck"
)

const (
	// framesWait is what the worker gets to hand over its ring.
	framesWait = 2 * time.Second
	// askWait bounds a request's wait for the loop, which never blocks: beyond it something is badly wrong.
	askWait = 5 * time.Second
)

// ask is a question to the loop, which calls do once, when this moment is judged;
// it must not block. Whoever answers later keeps q and sends then. Reply holds one
// answer; it is closed without one when the loop ends.
type ask struct {
	do    func(q ask, now time.Time)
	reply chan any
}

// askFrames asks the worker for its ring.
func (g *Guardian) askFrames(q ask, now time.Time) {
	g.framesFor = append(g.framesFor, q)
	if len(g.framesFor) > 1 {
		return // the answer under way serves all
	}
	g.framesBy = now.Add(framesWait)
	if !g.order(pipe.Order{Frames: true}) {
		g.answerFrames(nil)
	}
}

// answerFrames serves those who wait for frames; nil: the worker gave none.
func (g *Guardian) answerFrames(frames []selfcheck.FrameHeader) {
	now := time.Now()
	a := local.Frames{At: now.UTC(), Frames: frames}
	if frames == nil {
		a.Frames, a.Stale = g.picture(now).Link.Recent, true
	}
	for _, q := range g.framesFor {
		q.reply <- a
	}
	g.framesFor = nil
}

// status sums up the loop's state.
func (g *Guardian) status(now time.Time) local.Status {
	s := local.Status{
		At: now, Mode: local.ModeGuarding, Agent: g.cfg.Agent, Server: g.cfg.Server, Version: g.cfg.Presence.Version,
		Verdict: g.judgement.Verdict, Findings: g.judgement.Findings, Snapshot: g.picture(now),
		PolicySource: g.policySource(), PolicyVersion: g.policy.Version, Policy: g.policy,
		Budgets: g.ladder.Budgets(now), Steps: g.ladder.Recent(),
		LastBeacon: g.beacons.last,
		Guardian:   local.ProcessStatus{PID: os.Getpid(), Since: g.start, Instance: g.cfg.Presence.Instance},
		Worker:     local.ProcessStatus{Generation: g.worker.gen},
	}
	s.Next, s.Update = g.nextStep(s.Snapshot, now), g.updateStatus()
	if g.stopping && !g.handover {
		s.Mode = local.ModeStopping
	}
	if g.cfg.Door != nil {
		in := max(0, g.beacons.next.Sub(now))
		s.NextBeacon = &in
	}
	if l := g.worker.life; l != nil {
		s.Worker.PID, s.Worker.Since, s.OrdersDropped = l.pid, l.began, l.orders.lost.Load()
	}
	return s
}

// forcedPolling is what goes on until an operator ends it, however well the link is.
const forcedPolling = "polls on an operator's order (gururmm direct AGENT release ends it)"

// nextStep says what follows if nothing happens.
func (g *Guardian) nextStep(s selfcheck.Snapshot, now time.Time) local.NextStep {
	in := func(t time.Time) *time.Duration {
		d := max(0, t.Sub(now))
		return &d
	}
	v, d := g.judgement.Verdict, &g.door
	steps := g.ladder.Recent()
	switch {
	case g.handover:
		return local.NextStep{What: "hand over to another version"}
	case g.stopping:
		return local.NextStep{What: "stop"}
	case g.worker.life == nil:
		return local.NextStep{What: "start the worker again", In: in(g.worker.startAt)}
	case g.worker.life.killed != "":
		return local.NextStep{What: "start the worker again once the old one is gone"}
	case d.closed.After(now):
		return local.NextStep{What: "ask the server again: it does not accept this endpoint (enroll it anew?)", In: in(d.closed)}
	case v.Severity == selfcheck.SeverityWell && !g.delivering():
		return local.NextStep{What: "none needed"}
	case v.Severity == selfcheck.SeverityWell && d.forced:
		return local.NextStep{What: forcedPolling}
	case len(steps) > 0 && steps[len(steps)-1].Kind == selfcheck.StepHold && g.ladderAt.After(now):
		return local.NextStep{What: "hold: the budget is spent; look again", In: in(g.ladderAt)}
	case s.Link.NextDial != nil:
		return local.NextStep{What: "dial the link", In: s.Link.NextDial}
	case g.ladderAt.After(now):
		return local.NextStep{What: "next step of the ladder, if nothing is better", In: in(g.ladderAt)}
	case d.forced:
		return local.NextStep{What: forcedPolling}
	case g.delivering():
		return local.NextStep{What: "deliver out of band until the link is trusted again"}
	}
	return local.NextStep{What: "wait for facts"}
}

// errEnding says that the loop has ended.
var errEnding = errors.New("the guardian is about to end")

// askLoop puts one question to the loop; what is sent to the reply must be a T.
func askLoop[T any](ctx context.Context, g *Guardian, do func(q ask, now time.Time)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	q := ask{do: do, reply: make(chan any, 1)}
	select {
	case g.asks <- q:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case a, ok := <-q.reply:
		if !ok {
			return none, errEnding
		}
		return a.(T), nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// serveStatus answers on the status listener until the helpers end.
func (g *Guardian) serveStatus() {
	if g.cfg.Status == nil {
		return
	}
	local.Serve(g.helpers, &g.wg, g.cfg.Status, local.Handler(local.Answers{
		Status: func(ctx context.Context) (local.Status, error) {
			return askLoop[local.Status](ctx, g, func(q ask, now time.Time) { q.reply <- g.status(now) })
		},
		Frames: func(ctx context.Context) (local.Frames, error) { return askLoop[local.Frames](ctx, g, g.askFrames) },
		Stacks: g.stacks,
		Traces: g.traces,
		Reconnect: func(ctx context.Context, r local.ReconnectRequest) (local.Acted, error) {
			return askLoop[local.Acted](ctx, g, func(q ask, now time.Time) { q.reply <- g.reconnectHere(r, now) })
		},
		Beacon: func(ctx context.Context) (local.Acted, error) {
			return askLoop[local.Acted](ctx, g, func(q ask, now time.Time) { q.reply <- g.beaconHere() })
		},
	}))
}

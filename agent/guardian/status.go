package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"gururmm/agent/pipe"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Mode says what the answering process is about.
type Mode string

// The modes.
const (
	ModeGuarding    Mode = "guarding"
	ModeStopping    Mode = "stopping"
	ModeNotEnrolled Mode = "not_enrolled" // waits for `enroll`; all but the process facts is unknown
)

// Status is what GET /status answers. It comes from the guardian, so it comes
// whatever the worker does. All ages are as of At.
type Status struct {
	At      time.Time `json:"at"`
	Mode    Mode      `json:"mode"`
	Detail  string    `json:"detail,omitempty"` // of the mode, for people
	Agent   string    `json:"agent,omitempty"`
	Server  string    `json:"server,omitempty"`
	Version string    `json:"version"`

	Verdict  selfcheck.Verdict   `json:"verdict"`
	Findings []selfcheck.Finding `json:"findings,omitempty"`
	Snapshot selfcheck.Snapshot  `json:"snapshot"`

	// PolicySource is where the policy in force came from: default, server or directive.
	PolicySource  string                 `json:"policy_source,omitempty"`
	PolicyVersion int64                  `json:"policy_version"`
	Policy        wire.Policy            `json:"policy"`
	Budgets       selfcheck.Budgets      `json:"budgets"`
	Steps         []selfcheck.StepRecord `json:"steps,omitempty"`
	Next          NextStep               `json:"next"`
	LastBeacon    *BeaconStatus          `json:"last_beacon,omitempty"`
	NextBeacon    *time.Duration         `json:"next_beacon_ns,omitempty"` // from At; absent: no second door

	Guardian ProcessStatus `json:"guardian"`
	Worker   ProcessStatus `json:"worker"`
	// Update tells which program runs and why; nil: this agent does not update itself.
	Update *UpdateStatus `json:"update,omitempty"`
	// OrdersDropped counts orders that this worker did not read.
	OrdersDropped int64 `json:"orders_dropped,omitempty"`
}

// NextStep is what the guardian will do next if nothing happens.
type NextStep struct {
	What string         `json:"what"`
	In   *time.Duration `json:"in_ns,omitempty"`
}

// BeaconStatus tells of the last report that was sent, or tried.
type BeaconStatus struct {
	At       time.Time `json:"at"`
	ReportID string    `json:"report_id"`
	Cause    string    `json:"cause"`
	Door     string    `json:"door,omitempty"` // that answered or failed, where known
	OK       bool      `json:"ok"`
	Error    string    `json:"error,omitempty"`
}

// ProcessStatus tells of guardian or worker.
type ProcessStatus struct {
	PID   int       `json:"pid,omitempty"` // 0: not running
	Since time.Time `json:"since,omitzero"`
	// Instance is fresh for each start of the guardian, Generation counts its workers.
	Instance   string `json:"instance,omitempty"`
	Generation int    `json:"generation,omitempty"`
}

// Frames is what GET /frames answers.
type Frames struct {
	// At is what the frames' ages count back from.
	At     time.Time               `json:"at"`
	Frames []selfcheck.FrameHeader `json:"frames"`
	// Stale: the worker did not answer; these are from its last report.
	Stale bool `json:"stale,omitempty"`
}

const (
	// framesWait is what the worker gets to hand over its ring.
	framesWait = 2 * time.Second
	// askWait bounds a request's wait for the loop, which never blocks: beyond it something is badly wrong.
	askWait = 5 * time.Second
	// maxLocal bounds the local connections at once: each costs memory of the process
	// that must outlive trouble.
	maxLocal = 32
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
	a := Frames{At: now.UTC(), Frames: frames}
	if frames == nil {
		a.Frames, a.Stale = g.picture(now).Link.Recent, true
	}
	for _, q := range g.framesFor {
		q.reply <- a
	}
	g.framesFor = nil
}

// status sums up the loop's state.
func (g *Guardian) status(now time.Time) Status {
	s := Status{
		At: now, Mode: ModeGuarding, Agent: g.cfg.Agent, Server: g.cfg.Server, Version: g.cfg.Presence.Version,
		Verdict: g.judgement.Verdict, Findings: g.judgement.Findings, Snapshot: g.picture(now),
		PolicySource: g.policySource(), PolicyVersion: g.policy.Version, Policy: g.policy,
		Budgets: g.ladder.Budgets(now), Steps: g.ladder.Recent(),
		LastBeacon: g.beacons.last,
		Guardian:   ProcessStatus{PID: os.Getpid(), Since: g.start, Instance: g.cfg.Presence.Instance},
		Worker:     ProcessStatus{Generation: g.worker.gen},
	}
	s.Next, s.Update = g.nextStep(s.Snapshot, now), g.updateStatus()
	if g.stopping && !g.handover {
		s.Mode = ModeStopping
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
func (g *Guardian) nextStep(s selfcheck.Snapshot, now time.Time) NextStep {
	in := func(t time.Time) *time.Duration {
		d := max(0, t.Sub(now))
		return &d
	}
	v, d := g.judgement.Verdict, &g.door
	steps := g.ladder.Recent()
	switch {
	case g.handover:
		return NextStep{What: "hand over to another version"}
	case g.stopping:
		return NextStep{What: "stop"}
	case g.worker.life == nil:
		return NextStep{What: "start the worker again", In: in(g.worker.startAt)}
	case g.worker.life.killed != "":
		return NextStep{What: "start the worker again once the old one is gone"}
	case d.closed.After(now):
		return NextStep{What: "ask the server again: it does not accept this endpoint (enroll it anew?)", In: in(d.closed)}
	case v.Severity == selfcheck.SeverityWell && !g.delivering():
		return NextStep{What: "none needed"}
	case v.Severity == selfcheck.SeverityWell && d.forced:
		return NextStep{What: forcedPolling}
	case len(steps) > 0 && steps[len(steps)-1].Kind == selfcheck.StepHold && g.ladderAt.After(now):
		return NextStep{What: "hold: the budget is spent; look again", In: in(g.ladderAt)}
	case s.Link.NextDial != nil:
		return NextStep{What: "dial the link", In: s.Link.NextDial}
	case g.ladderAt.After(now):
		return NextStep{What: "next step of the ladder, if nothing is better", In: in(g.ladderAt)}
	case d.forced:
		return NextStep{What: forcedPolling}
	case g.delivering():
		return NextStep{What: "deliver out of band until the link is trusted again"}
	}
	return NextStep{What: "wait for facts"}
}

// Handler answers for the local status; state gives the answers, frames may be nil.
func Handler(state func(context.Context) (Status, error), frames func(context.Context) (Frames, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := state(r.Context())
		answerJSON(w, s, err)
	})
	mux.HandleFunc("GET /frames", func(w http.ResponseWriter, r *http.Request) {
		if frames == nil {
			answerJSON(w, Frames{At: time.Now().UTC(), Stale: true}, nil)
			return
		}
		f, err := frames(r.Context())
		answerJSON(w, f, err)
	})
	return mux
}

func answerJSON(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded): // the loop, which never blocks, hangs
		refuseLocal(w, http.StatusGatewayTimeout, wire.ProblemDraining, err.Error())
		return
	case err != nil:
		refuseLocal(w, http.StatusServiceUnavailable, wire.ProblemDraining, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// refuseLocal answers why there is no answer.
func refuseLocal(w http.ResponseWriter, status int, code, detail string) {
	title := "the guardian does not answer"
	if status != http.StatusServiceUnavailable {
		title = http.StatusText(status)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.NewProblem(status, title, code, detail))
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
	ServeStatus(g.helpers, &g.wg, g.cfg.Status, g.withActs(g.withInsight(Handler(
		func(ctx context.Context) (Status, error) {
			return askLoop[Status](ctx, g, func(q ask, now time.Time) { q.reply <- g.status(now) })
		},
		func(ctx context.Context) (Frames, error) { return askLoop[Frames](ctx, g, g.askFrames) },
	))))
}

// waitGroup is what ServeStatus needs of a sync.WaitGroup.
type waitGroup interface{ Go(f func()) }

// ServeStatus answers local requests with h in goroutines of wg, until ctx ends; it closes l.
func ServeStatus(ctx context.Context, wg waitGroup, l net.Listener, h http.Handler) {
	var open atomic.Int32
	server := &http.Server{
		ReadHeaderTimeout: 2 * time.Second,
		// By its state, not by a wrapped listener: who asks is read from the socket itself.
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				if open.Add(1) > maxLocal {
					c.Close() // those that are served go on
				}
			case http.StateClosed:
				open.Add(-1)
			}
		},
		Handler: h,
		// Local and small: whoever is slower than this holds a connection for nothing.
		ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnContext:    withPeer,
	}
	wg.Go(func() { server.Serve(l) })
	wg.Go(func() {
		<-ctx.Done()
		server.Close()
	})
}

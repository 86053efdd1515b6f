package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"gururmm/internal/wrap"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// takeMax bounds the commands in one answer: a few MiB at the most.
	takeMax = 8
	// maxWait bounds a long poll, whatever the agent asks for.
	maxWait = 5 * time.Minute
	// rivalWait is how long a poll of one of several machines with one identity may
	// hang: each must show that it lives.
	rivalWait = 2 * time.Second
	// maxUpstream bounds the messages in one poll.
	maxUpstream = 1024
	// maxReportID bounds a report's id in bytes.
	maxReportID = 64
)

// beacon records a report once, beside what the server sees at that moment,
// and answers with that, with directives and, if the link is not trusted, commands.
func (a *API) beacon(w http.ResponseWriter, r *http.Request, agent store.Agent) error {
	at, addr := time.Now(), a.clientAddr(r)
	release, ok := a.bodies.take(agent.ID, maxBodies)
	if !ok {
		return errTooMany
	}
	defer release()
	report, raw, err := decode[oob.Report](w, r, beaconBound)
	if err != nil {
		return err
	}
	bad := func(detail string) error {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, detail)
	}
	switch {
	case report.Schema != oob.SchemaVersion:
		return bad("schema: this server reads version 1")
	case report.ReportID == "" || len(report.ReportID) > maxReportID:
		return bad("report_id: want 1 to 64 bytes")
	case report.Agent != agent.ID:
		return bad("agent: not the one that signed the request")
	case report.Instance == "":
		return bad("instance is missing")
	}
	view := a.o.Hub.View(agent.ID, caller(r))
	added, err := a.o.Store.SaveBeacon(r.Context(), operator.Beacon{
		ReportID: report.ReportID, Agent: agent.ID, AgentName: agent.Name, ReceivedAt: at,
		Verdict: string(report.Verdict.Code), Sentence: report.Verdict.Sentence,
		Report: json.RawMessage(raw), View: &view, Addr: addr,
	})
	if err != nil {
		return err
	}
	if added {
		a.log.Info("beacon", "agent", agent.ID, "cause", clip(report.Cause), "verdict", clip(string(report.Verdict.Code)), "delivering", report.Snapshot.OOB.Delivering)
		a.o.Hub.Reported(agent.ID, report, addr, at)
	}
	a.o.Hub.Called(agent.ID, caller(r), addr, at)
	envs, done, sole, err := a.take(r, agent, report.Snapshot.OOB.Delivering)
	if err != nil {
		return err
	}
	if env, ok := a.o.Hub.Paced(agent.ID); ok && sole {
		envs = append(envs, env)
	}
	return a.hand(w, envs, done, &view)
}

// take gives what is to be handed to who calls. Where several machines hold the
// identity that is nothing (sole is false), or the order to take another one.
func (a *API) take(r *http.Request, agent store.Agent, commands bool) (envs []wire.Envelope, done delivery.Done, sole bool, err error) {
	if a.o.Hub.Removed(agent.ID) {
		return nil, nil, false, errRemoved
	}
	if who := caller(r); !a.o.Hub.Alone(agent.ID, who) {
		if why := a.o.Hub.Reenroll(agent.ID, who); why != nil {
			env, err := a.reenroll(r, agent, *why)
			if err != nil {
				return nil, nil, false, err
			}
			envs = append(envs, env)
		}
		return envs, func(time.Time, error) {}, false, nil
	}
	take := a.o.Delivery.Directives
	switch {
	case commands && agent.Quarantined:
		take = a.o.Delivery.TakeOrders
	case commands:
		take = a.takeCommands
	}
	if envs, done, err = take(r.Context(), agent.ID); err != nil || agent.Quarantined {
		return envs, done, true, err
	}
	envs, done = a.withProbe(agent.ID, envs, done)
	return envs, done, true, nil
}

// withProbe puts a probe that is to go by the second door behind what is handed out.
func (a *API) withProbe(agent string, envs []wire.Envelope, done delivery.Done) ([]wire.Envelope, delivery.Done) {
	env, handed, ok := a.o.Probes.Take(agent)
	if !ok {
		return envs, done
	}
	return append(envs, env), func(at time.Time, err error) {
		handed(at, err)
		done(at, err)
	}
}

func (a *API) takeCommands(ctx context.Context, agent string) ([]wire.Envelope, delivery.Done, error) {
	return a.o.Delivery.Take(ctx, agent, takeMax)
}

// hand writes a PollResponse, and tells delivery whether the connection took it.
func (a *API) hand(w http.ResponseWriter, envs []wire.Envelope, done delivery.Done, view *wire.ServerView) error {
	raw, err := json.Marshal(wire.PollResponse{Downstream: envs, View: view, ServerTime: time.Now().UTC()})
	if err != nil {
		done(time.Now(), err)
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	began := time.Now() // the agent may read it before write returns
	err = write(w, http.StatusOK, raw)
	done(began, err)
	if err != nil {
		a.log.Info("answer to the second door not written", "messages", len(envs), "reason", err)
	}
	return nil
}

// poll takes what the agent has to say, then hands out what waits for it, or
// waits for that.
func (a *API) poll(w http.ResponseWriter, r *http.Request, agent store.Agent) error {
	at := time.Now()
	release, ok := a.bodies.take(agent.ID, maxBodies)
	if !ok {
		return errTooMany
	}
	defer release()
	req, raw, err := decode[wire.PollRequest](w, r, pollBound)
	switch {
	case err != nil:
		return err
	case req.Instance == "" || len(req.Instance) > maxReportID:
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "instance: want 1 to 64 bytes")
	case len(req.Upstream) > maxUpstream:
		return problem(http.StatusRequestEntityTooLarge, wire.ProblemTooLarge, "at most 1024 messages in a poll")
	case req.WaitMS < 0:
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "wait_ms is negative")
	case probes(r): // a look at the path: what waits here is not for it
		return a.hand(w, nil, func(time.Time, error) {}, nil)
	}
	account := a.o.Quota.Of(agent.ID)
	if err := errors.Join(spend(account, hub.QuotaFrames, len(req.Upstream)), spend(account, hub.QuotaBytes, len(raw))); err != nil {
		return err // what is refused is repeated
	}
	who := caller(r)
	a.o.Hub.Called(agent.ID, who, a.clientAddr(r), at)
	a.o.Hub.Polled(agent.ID, req.Deliver, a.clientAddr(r), at)

	var replies []wire.Envelope
	for _, env := range req.Upstream {
		answers, err := a.upstream(r, agent.ID, at, env)
		if err != nil {
			return err
		}
		replies = append(replies, answers...)
	}
	req.Upstream = nil // it may wait for long: without what it brought
	release()
	var held heldPoll // an upload waits for nothing, and takes nobody's place
	if req.WaitMS > 0 {
		place := a.polls.hold(agent.ID, req.Instance)
		defer a.polls.release(place)
		held = *place
	}
	wake, stop := a.o.Delivery.Waiter(agent.ID)
	defer stop()
	wait := time.NewTimer(min(time.Duration(req.WaitMS)*time.Millisecond, maxWait))
	defer wait.Stop()

	for last := req.WaitMS == 0 || len(replies) > 0; ; {
		envs, done, sole, err := a.take(r, agent, req.Deliver)
		if err != nil {
			return err
		}
		if !sole && req.WaitMS > rivalWait.Milliseconds() {
			wait.Reset(rivalWait)
			req.WaitMS = rivalWait.Milliseconds()
		}
		if last || len(envs) > 0 {
			view := a.o.Hub.View(agent.ID, who)
			return a.hand(w, append(replies, envs...), done, &view)
		}
		done(time.Now(), nil)
		select {
		case <-wake:
			// With several machines about, who comes back lives: a poll that only hangs tells nothing.
			last = !a.o.Hub.Alone(agent.ID, who)
		case <-wait.C:
			last = true
		case <-held.over: // a newer poll of this instance takes over: nothing is handed out here
			return a.hand(w, nil, func(time.Time, error) {}, nil)
		case <-a.drained:
			return errDraining
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

// upstream takes one message that came by the second door.
func (a *API) upstream(r *http.Request, agent string, at time.Time, env wire.Envelope) ([]wire.Envelope, error) {
	switch env.Type {
	case wire.TypeCommandAck, wire.TypeCommandNack, wire.TypeCommandOutput, wire.TypeCommandResult:
		if a.o.Probes.Answered(agent, wire.ChannelOOB, at, env) {
			return nil, nil
		}
		replies, err := a.o.Delivery.Upstream(r.Context(), agent, wire.ChannelOOB, 0, at, env)
		switch {
		case err == nil:
		case errors.Is(err, delivery.ErrUnparseable), errors.Is(err, delivery.ErrForeign), errors.Is(err, delivery.ErrInvalid):
			a.log.Warn("message refused", "agent", agent, "type", env.Type, "reason", err)
		default: // it will be repeated, with the rest of this poll
			return nil, err
		}
		return replies, nil
	case wire.TypeDirectiveResult:
		return a.answered(r, agent, at, env)
	case wire.TypeMetrics:
		if m, err := wire.DecodePayload[wire.Metrics](env); err == nil {
			a.o.Store.SaveMetrics(agent, m)
			return nil, nil
		}
	case wire.TypeConfigAck: // of a policy that was in the answer to a beacon
		return nil, nil
	case wire.TypeNack:
		if a.o.Probes.Answered(agent, wire.ChannelOOB, at, env) {
			return nil, nil
		}
		if n, err := wire.DecodePayload[wire.Nack](env); err == nil {
			if n.Type == wire.TypeDirective && n.ID != "" {
				return a.answered(r, agent, at, env)
			}
			a.log.Warn("the agent refused a message", "agent", agent, "code", clip(string(n.Code)), "type", clip(string(n.Type)), "id", clip(n.ID))
			return nil, nil
		}
	default:
		return a.nack(env, wire.CodeUnsupported)
	}
	return a.nack(env, wire.CodeUnparseable)
}

// answered takes what became of a directive.
func (a *API) answered(r *http.Request, agent string, at time.Time, env wire.Envelope) ([]wire.Envelope, error) {
	replies, err := a.o.Delivery.Answered(r.Context(), agent, at, env)
	if errors.Is(err, delivery.ErrUnparseable) || errors.Is(err, delivery.ErrForeign) {
		a.log.Warn("answer to a directive refused", "agent", agent, "type", env.Type, "reason", err)
		return replies, nil
	}
	return nil, err // of the database: it will be repeated, with the rest of this poll
}

// clip bounds text of an endpoint for a log line or an answer.
func clip(s string) string { return wrap.Clip(s, 64) }

func (a *API) nack(env wire.Envelope, code wire.Code) ([]wire.Envelope, error) {
	t := wire.Type(clip(string(env.Type)))
	a.log.Warn("message refused", "type", t, "code", code)
	nack, err := wire.Seal(wire.TypeNack, wire.Nack{Code: code, Type: t})
	return []wire.Envelope{nack}, err
}

// polls are the long polls held, one for each instance of an agent.
type polls struct {
	mu   sync.Mutex
	held map[string]*heldPoll // by agent and instance
}

type heldPoll struct {
	key  string
	over chan struct{} // closed: a newer poll has taken its place
}

// hold takes the instance's place; an older poll that has it ends.
func (p *polls) hold(agent, instance string) *heldPoll {
	h := &heldPoll{key: agent + "/" + instance, over: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if older := p.held[h.key]; older != nil {
		close(older.over)
	}
	p.held[h.key] = h
	return h
}

// release gives the place up, if h still has it.
func (p *polls) release(h *heldPoll) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[h.key] == h {
		delete(p.held, h.key)
	}
}

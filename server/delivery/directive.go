package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// unheardAfter: a directive that was written and not answered in so long is handed
// out again: the connection may have taken bytes that never arrived. A guardian
// knows a repeat by its id.
const unheardAfter = time.Minute

const (
	// maxOnly and maxProbeName bound the probes that run_probes may name, and a name in bytes.
	maxOnly      = 64
	maxProbeName = 64
	// maxURL bounds an endpoint's URL in bytes, maxURLs those of a policy.
	maxURL  = 2 << 10
	maxURLs = 16
)

// directiveKinds are those of the closed list that an operator may give by hand,
// with what each needs. The others are refused here and now: update and reenroll
// carry what only their own routes can make.
var directiveKinds = map[wire.DirectiveKind]func(operator.NewDirective) error{
	wire.DirectiveReconnect: nil, wire.DirectiveRestartWorker: nil, wire.DirectiveRestartService: nil,
	wire.DirectivePoll: nil, wire.DirectiveRelease: nil,
	wire.DirectiveSendBundle: nil, wire.DirectiveRollback: nil, wire.DirectiveQuarantine: nil,
	wire.DirectiveUseEndpoint: func(d operator.NewDirective) error {
		if !strings.HasPrefix(d.Endpoint, "wss://") && !strings.HasPrefix(d.Endpoint, "ws://") {
			return errors.New("endpoint must be a wss:// or ws:// URL")
		}
		if len(d.Endpoint) > maxURL {
			return fmt.Errorf("endpoint: want at most %d bytes", maxURL)
		}
		return nil
	},
	wire.DirectiveSetPolicy: func(d operator.NewDirective) error {
		if d.Policy == nil {
			return errors.New("policy is missing")
		}
		if urls := d.Policy.LinkURLs; len(urls) > maxURLs || slices.ContainsFunc(urls, func(u string) bool { return len(u) > maxURL }) {
			return fmt.Errorf("policy link_urls: want at most %d URLs of up to %d bytes", maxURLs, maxURL)
		}
		if len(d.Policy.OOB) > 0 { // endpoints take them with the server's policy alone, which outlives a restart
			return errors.New("policy oob: second doors are set by the server's --oob-url or --policy")
		}
		return d.Policy.WithDefaults().Validate()
	},
	wire.DirectiveRunProbes: func(d operator.NewDirective) error {
		if len(d.Only) > maxOnly || slices.ContainsFunc(d.Only, func(s string) bool { return s == "" || len(s) > maxProbeName }) {
			return fmt.Errorf("only: want at most %d names of 1 to %d bytes", maxOnly, maxProbeName)
		}
		return nil
	},
}

// ownRoute tells by which command a kind is ordered that is not given by hand.
var ownRoute = map[wire.DirectiveKind]string{
	wire.DirectiveUpdate:   "is ordered by a rollout: gururmm update roll VERSION --agents NAME",
	wire.DirectiveReenroll: "needs a fresh token for one machine of several, and has a route of its own",
}

// Directive stores an order to an agent's guardian, and calls for it. by is the
// operator token's name.
func (s *Service) Directive(ctx context.Context, agent string, d operator.NewDirective, by string) (operator.Directive, error) {
	refused := func(format string, args ...any) (operator.Directive, error) {
		return operator.Directive{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	check, known := directiveKinds[d.Kind]
	switch {
	case ownRoute[d.Kind] != "":
		return refused("directive %s %s", d.Kind, ownRoute[d.Kind])
	case !known:
		return refused("there is no directive %q", d.Kind)
	case d.Kind != wire.DirectiveRunProbes && len(d.Only) > 0:
		return refused("%s: only is for run_probes", d.Kind)
	case d.Kind != wire.DirectiveQuarantine && d.Lift:
		return refused("%s: lift is for quarantine", d.Kind)
	}
	if check != nil {
		if err := check(d); err != nil {
			return refused("%s: %w", d.Kind, err)
		}
	}
	return s.Order(ctx, wire.Directive{
		Agent: agent, Kind: d.Kind, Endpoint: d.Endpoint, Policy: d.Policy, Only: d.Only, Lift: d.Lift, Reason: d.Reason,
	}, by)
}

// Order stores a directive of any kind, complete but for its id and expiry, if it
// has none, and calls for it. What it carries is the caller's to check.
func (s *Service) Order(ctx context.Context, d wire.Directive, by string) (operator.Directive, error) {
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	d.ID, d.Reason = cmp.Or(d.ID, wire.NewID()), cut(d.Reason)
	if d.ExpiresAt.IsZero() {
		d.ExpiresAt = now.Add(lifeOf(d.Kind))
	}
	if err := s.mayWait(ctx, d, now); err != nil {
		return operator.Directive{}, err
	}
	if err := s.st.CreateDirective(ctx, d, by, now); err != nil {
		return operator.Directive{}, err
	}
	if r := s.route(d.Agent); r != nil {
		r.post(r.call)
	}
	return s.AskDirective(ctx, d.ID)
}

// lifeOf is how long a directive is good for.
func lifeOf(kind wire.DirectiveKind) time.Duration {
	switch kind {
	case wire.DirectiveRunProbes, wire.DirectiveReconnect, wire.DirectiveSendBundle, wire.DirectivePoll, wire.DirectiveRelease:
		return directiveShort
	}
	return directiveLife
}

// mayWait refuses what would wait behind too much: an endpoint that does not come
// for its directives is not helped by more of them. Orders of the same moment may
// pass it together; what bounds an answer is handout.orders.
func (s *Service) mayWait(ctx context.Context, d wire.Directive, now time.Time) error {
	waiting, err := s.st.PendingDirectives(ctx, d.Agent, now, now)
	if err != nil {
		return err
	}
	limit := maxDirectives
	switch d.Kind {
	case wire.DirectiveQuarantine, wire.DirectiveRollback, wire.DirectiveRestartWorker, wire.DirectiveRestartService:
		limit += keptDirectives
	}
	if len(waiting) >= limit {
		return fmt.Errorf("%w: it has not come for %d directives; they expire, see: gururmm directives AGENT", ErrBusy, len(waiting))
	}
	return nil
}

// Withdraw takes back a directive that was not handed out yet; store.ErrConflict if it was.
func (s *Service) Withdraw(ctx context.Context, agent, id, why string) error {
	return s.do(ctx, agent, func() error {
		r := s.route(agent)
		if r == nil {
			return ErrStopped
		}
		if _, out := r.directives[id]; out {
			return store.ErrConflict
		}
		return s.st.WithdrawDirective(ctx, store.DirectiveAnswer{ID: id, State: wire.DirectiveFailed, At: r.now(), Detail: cut(why)})
	})
}

// call has the agent's guardian come for its directives now: a poll that waits is
// woken, and an agent that understands it is called by its link.
func (r *route) call() {
	r.wake()
	l, _ := r.door()
	if l == nil || !l.Calls() {
		return
	}
	env, err := wire.Seal(wire.TypeCall, struct{}{})
	if err != nil {
		r.s.log.Error("call could not be encoded", "error", err)
		return
	}
	// It may be lost: the next beacon brings the directive all the same.
	if err := l.Send(env, func(uint64, time.Time, error) {}); err != nil {
		r.s.log.Info("call not queued", "agent", r.agent, "reason", err)
	}
}

// AskDirective gives a directive with what has become of it, and its report.
func (s *Service) AskDirective(ctx context.Context, id string) (operator.Directive, error) {
	d, err := s.st.Directive(ctx, id)
	s.state(&d)
	return d, err
}

// ListDirectives lists those of an agent without their reports, newest first.
func (s *Service) ListDirectives(ctx context.Context, agent string, limit int) ([]operator.Directive, error) {
	all, err := s.st.Directives(ctx, agent, limit)
	for i := range all {
		s.state(&all[i])
	}
	return all, err
}

// state says what the agent has not said itself.
func (s *Service) state(d *operator.Directive) {
	switch {
	case d.EndedAt != nil:
	case !s.o.Now().Before(d.ExpiresAt):
		d.State = operator.DirectiveExpired
	case d.AcceptedAt != nil:
	case d.DeliveredAt != nil:
		d.State = operator.DirectiveDelivered
	default:
		d.State = operator.DirectiveWaiting
	}
}

// Answered takes an agent's directive_result, or its nack of a directive. Its
// effect is on disk before it returns; repeats change nothing. replies and errors
// are as those of Upstream.
func (s *Service) Answered(ctx context.Context, agent string, at time.Time, env wire.Envelope) (replies []wire.Envelope, err error) {
	var a store.DirectiveAnswer
	switch env.Type {
	case wire.TypeDirectiveResult:
		a, err = resultAnswer(env, at)
	case wire.TypeNack:
		a, err = nackAnswer(env, at)
	default:
		err = fmt.Errorf("%w: %s is no answer to a directive", ErrUnparseable, env.Type)
	}
	if err == nil {
		err = s.answer(ctx, agent, a)
	}
	switch {
	case env.Type == wire.TypeNack && (errors.Is(err, ErrForeign) || errors.Is(err, ErrUnparseable)):
		return nil, err // two ends must not refuse each other's refusals for ever
	case errors.Is(err, ErrForeign):
		return refusal(wire.CodeWrongAgent, a.ID, env, err), err
	case errors.Is(err, ErrUnparseable):
		return refusal(wire.CodeUnparseable, a.ID, env, err), err
	}
	return nil, err
}

func (s *Service) answer(ctx context.Context, agent string, a store.DirectiveAnswer) error {
	changed, err := s.st.AnswerDirective(ctx, agent, a)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrForeign, cut(a.ID))
	}
	if err != nil {
		return err
	}
	if changed {
		s.log.Info("directive answered", "agent", agent, "directive", a.ID, "state", string(a.State), "code", string(a.Code), "detail", a.Detail)
	}
	if r := s.known(agent); r != nil {
		r.post(func() { drop(&r.directives, a.ID) })
	}
	return nil
}

func resultAnswer(env wire.Envelope, at time.Time) (store.DirectiveAnswer, error) {
	v, err := wire.DecodePayload[wire.DirectiveResult](env)
	if err != nil {
		return store.DirectiveAnswer{}, fmt.Errorf("%w: %w", ErrUnparseable, err)
	}
	a := store.DirectiveAnswer{ID: v.ID, State: v.State, At: at, Detail: cut(v.Detail), Report: v.Report}
	switch {
	case v.ID == "" || len(v.ID) > 64:
		a.ID = ""
		return a, fmt.Errorf("%w: directive_result without a usable id", ErrUnparseable)
	case v.State != wire.DirectiveAccepted && v.State != wire.DirectiveDone && v.State != wire.DirectiveFailed:
		return a, fmt.Errorf("%w: a directive can't be %q", ErrUnparseable, cut(string(v.State)))
	case len(v.Code) > 64:
		return a, fmt.Errorf("%w: directive_result with a code of %d bytes", ErrUnparseable, len(v.Code))
	case len(v.Report) > wire.MaxDirectiveReport:
		return a, fmt.Errorf("%w: a report of %d bytes, at most %d are allowed", ErrUnparseable, len(v.Report), wire.MaxDirectiveReport)
	}
	if !v.At.IsZero() && v.At.Before(at) && v.At.Year() > 2000 { // the endpoint's word came late, not its deed
		a.At = v.At.UTC().Truncate(time.Microsecond)
	}
	if v.State == wire.DirectiveFailed {
		a.Code = v.Code
	}
	if string(a.Report) == "null" {
		a.Report = nil
	}
	return a, nil
}

func nackAnswer(env wire.Envelope, at time.Time) (store.DirectiveAnswer, error) {
	v, err := wire.DecodePayload[wire.Nack](env)
	if err != nil {
		return store.DirectiveAnswer{}, fmt.Errorf("%w: %w", ErrUnparseable, err)
	}
	a := store.DirectiveAnswer{ID: v.ID, State: wire.DirectiveFailed, At: at, Code: v.Code, Detail: cut(v.Detail)}
	if v.ID == "" || len(v.ID) > 64 || len(v.Code) > 64 {
		return store.DirectiveAnswer{}, fmt.Errorf("%w: nack of a directive without a usable id", ErrUnparseable)
	}
	if v.Code != wire.CodeDuplicate {
		return a, nil
	}
	// It had arrived before, and its outcome may be on its way still.
	a.State, a.Code, a.Detail = wire.DirectiveAccepted, "", "it had arrived before; the outcome is not known yet"
	return a, nil
}

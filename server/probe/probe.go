// Package probe sends inert texts of a ladder of sizes down the way of an agent's commands,
// and tells of each how far it came.
//
// Rules that hold here:
//   - nothing runs on the endpoint and nothing becomes a command: a probe is read, verified,
//     journaled and acknowledged there as a command is, and that is all;
//   - of an agent one ladder at a time, and of that one probe; each wait has a deadline;
//   - an agent is heard only on a probe that is out, by its id; nothing that it says is kept
//     but times and a bounded word;
//   - lost is said of what a ledger proves, at either end; all else is told as it was seen.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// maxRunning bounds the ladders of all agents: each holds a text of the largest size twice.
	maxRunning = 16
	// life is how long a probe is valid: longer than all waits for it.
	life = 3 * time.Minute
	// linkWait is how long a ladder waits for a link that commands may go on: after a loss the
	// agent gives its link up and makes a fresh one, with a growing back-off.
	linkWait = 30 * time.Second
	// doorWait is how long it waits for the agent to come by the second door: one that is ill
	// comes each 30 s, jittered; one that is well is called by its link.
	doorWait = 40 * time.Second
	// stepLeast, stepMost and stepTrips bound the wait for an answer: a loss is proven a second
	// or some round trips after the text was written.
	stepLeast = 15 * time.Second
	stepMost  = 45 * time.Second
	stepTrips = 16
	// slowest is, in bytes a second, the line that the largest text and its answer are waited for on.
	slowest = 16 << 10
	// settle: a verdict and the answer may come at the same moment.
	settle = time.Second
	// look is how often the link's account is looked at; tellEvery, how often who waits is told
	// that nothing has happened: a stream that says nothing is taken for broken.
	look      = 50 * time.Millisecond
	tellEvery = 5 * time.Second
	// maxLate bounds the probes whose answers may come too late and are then no one's.
	maxLate = 4 * operator.MaxProbeSizes * maxRunning
	maxWord = 200 // bytes of what an agent says
)

// Errors to branch on.
var (
	ErrRunning = errors.New("a probe of this agent is under way; wait for its end")
	ErrBusy    = errors.New("too many agents are being probed; try again in a minute")
)

// Link is a live link that commands go on.
type Link interface {
	ID() wire.LinkID
	// Send queues a text; written is called once, with its number on the link or why it was
	// not written. It never blocks.
	Send(env wire.Envelope, written func(n uint64, at time.Time, err error)) error
	// Ping asks the agent for its ledger.
	Ping()
	Standing() Standing
}

// Standing is what both ends know of a link.
type Standing struct {
	Read    uint64         // so many texts the agent has provably read, while none is missing
	RTT     time.Duration  // a guess before the first pong
	Pong    time.Time      // of the last faithful one; zero: none
	Verdict selfcheck.Code // what either end has proven of it; empty: nothing
	Ended   string         // why it ended; empty: it has not
}

// Options of a Service. All are needed.
type Options struct {
	Maker *Maker
	// Link gives the link that a command would go on now, else why there is none.
	Link func(agent string) (Link, string)
	// Barred tells why nothing is to be sent to the agent, by no way; empty: it may be.
	Barred func(agent string) string
	// Call has the agent come by the second door now, if it can be told.
	Call func(agent string)
	// Note keeps what a ladder came to.
	Note func(operator.AgentEvent)
	Log  *slog.Logger
}

// Service runs ladders.
type Service struct {
	o   Options
	out atomic.Int64 // ladders, and answers that may still come: 0 means that no ack is ours

	mu      sync.Mutex
	running map[string]*ladder // by agent
	late    []probeID          // oldest first
}

type probeID struct {
	agent, id string
	until     time.Time // it is valid
}

// ladder is one that runs; its steps are its caller's alone.
type ladder struct {
	s     *Service
	agent string
	tell  func(operator.ProbeEvent)
	p     operator.Probe

	flight *flight // guarded by the service's mu; nil: none is out
}

// flight is a probe that is out.
type flight struct {
	id, pad string
	answers chan answer    // room for one of each door; further ones are repeats
	handed  chan handed    // of one by the second door
	env     *wire.Envelope // to be handed out by it; nil: it was, or is not to be
	given   bool           // it was
}

type answer struct {
	channel wire.Channel
	at      time.Time
	whole   bool
	code    wire.Code // of a refusal; empty: it is none
	detail  string
}

type handed struct {
	at  time.Time
	err error
}

// New makes a Service.
func New(o Options) *Service { return &Service{o: o, running: map[string]*ladder{}} }

// Target is whom to probe, and who wants it.
type Target struct{ Agent, Name, By string }

// Run sends the ladder and returns when it has ended, or soon after ctx has. tell is called
// with each step and, every few seconds, with what is waited for. The errors are [ErrRunning]
// and [ErrBusy], and of what was asked for.
func (s *Service) Run(ctx context.Context, t Target, n operator.NewProbe, tell func(operator.ProbeEvent)) (operator.Probe, error) {
	if err := n.Check(); err != nil {
		return operator.Probe{}, err
	}
	l := &ladder{s: s, agent: t.Agent, tell: tell, p: operator.Probe{
		ID: wire.NewID(), Agent: t.Agent, AgentName: t.Name, By: t.By, StartedAt: time.Now().UTC(),
		Steps: []operator.ProbeStep{}, Outcomes: map[wire.Channel]string{},
	}}
	if err := s.begin(l); err != nil {
		return operator.Probe{}, err
	}
	defer s.end(l)
	sizes := slices.Clone(n.Sizes)
	if len(sizes) == 0 {
		sizes = slices.Clone(operator.ProbeSizes)
	}
	slices.Sort(sizes) // the small ones first: what is lost costs the link
	sizes = slices.Compact(sizes)
	channels := n.Channels
	if len(channels) == 0 {
		channels = []wire.Channel{wire.ChannelLink, wire.ChannelOOB}
	}
	log := s.o.Log.With("agent", t.Agent, "probe", l.p.ID, "by", t.By)
	log.Info("probing the way of commands", "channels", channels, "sizes", sizes)
	for _, ch := range []wire.Channel{wire.ChannelLink, wire.ChannelOOB} {
		if !slices.Contains(channels, ch) {
			continue
		}
		l.climb(ctx, ch, sizes)
		l.p.Outcomes[ch] = operator.Outcome(l.p.Steps, ch)
		log.Info("the way of commands was probed", "channel", ch, "outcome", l.p.Outcomes[ch], "steps", operator.Sum(l.p.Steps, ch))
		s.note(l, ch)
	}
	if ctx.Err() != nil {
		l.p.Stopped = "who asked for it has gone, or the server is going down"
	}
	l.p.EndedAt = time.Now().UTC()
	return l.p, nil
}

// note keeps what the ladder came to on a channel, where it came to something.
func (s *Service) note(l *ladder, ch wire.Channel) {
	e := operator.AgentEvent{
		Agent: l.agent, At: time.Now().UTC(), Kind: operator.EventProbe, From: string(ch), To: l.p.Outcomes[ch],
		Reason: operator.Sum(l.p.Steps, ch),
	}
	for _, step := range l.p.Steps {
		if step.Channel == ch && step.Verdict != "" && (e.Verdict == "" || step.State == operator.StepLost) {
			e.Verdict, e.Link = step.Verdict, step.Link
		}
	}
	s.o.Note(e)
}

func (s *Service) begin(l *ladder) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.running[l.agent] != nil:
		return ErrRunning
	case len(s.running) >= maxRunning:
		return ErrBusy
	}
	s.running[l.agent] = l
	s.count()
	return nil
}

func (s *Service) end(l *ladder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, l.agent)
	s.count()
}

// count keeps what tells the ways of acks whether any may be of a probe. Call with mu held.
func (s *Service) count() { s.out.Store(int64(len(s.running) + len(s.late))) }

// put has a probe be out; what it returns takes it back.
func (l *ladder) put(f *flight) (back func()) {
	s := l.s
	s.mu.Lock()
	l.flight = f
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		l.flight = nil
		s.late = append(s.late, probeID{l.agent, f.id, time.Now().Add(life)})
		s.late = s.late[max(0, len(s.late)-maxLate):]
		s.count()
	}
}

// Answered takes a command_ack, command_nack or nack of agent if it is for a probe of this package;
// if not, mine is false, and it is a command's.
func (s *Service) Answered(agent string, ch wire.Channel, at time.Time, env wire.Envelope) (mine bool) {
	if s.out.Load() == 0 || !s.awaits(agent) {
		return false
	}
	var id, pad string
	a := answer{channel: ch, at: at}
	switch env.Type {
	case wire.TypeCommandAck:
		ack, err := wire.DecodePayload[wire.CommandAck](env)
		if err != nil {
			return false
		}
		id, pad = ack.ID, ack.Pad
	case wire.TypeCommandNack:
		nack, err := wire.DecodePayload[wire.Nack](env)
		if err != nil {
			return false
		}
		id, a.code, a.detail = nack.ID, nack.Code, wrap.Clip(nack.Detail, maxWord)
		if a.code == "" {
			a.code = wire.CodeUnparseable
		}
	case wire.TypeNack: // of a guardian that hands none on, and so does not know its id
		nack, err := wire.DecodePayload[wire.Nack](env)
		if err != nil || nack.Type != wire.TypeProbe {
			return false
		}
		id, a.code, a.detail = nack.ID, wire.CodeUnsupported, wrap.Clip(nack.Detail, maxWord)
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.running[agent]
	if l == nil || l.flight == nil || l.flight.id != id && !(id == "" && env.Type == wire.TypeNack && l.flight.given) {
		return slices.ContainsFunc(s.late, func(p probeID) bool { return p.agent == agent && p.id == id })
	}
	a.whole = pad == l.flight.pad
	select {
	case l.flight.answers <- a:
	default: // a repeat
	}
	return true
}

// awaits reports whether an answer of this agent may be a probe's.
func (s *Service) awaits(agent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for now := time.Now(); len(s.late) > 0 && now.After(s.late[0].until); {
		s.late = s.late[1:]
		s.count()
	}
	return s.running[agent] != nil || slices.ContainsFunc(s.late, func(p probeID) bool { return p.agent == agent })
}

// Take gives what is to be handed to agent by the second door, at most one probe; done is to be
// called once the answer was written, or not. The agent must be alone with its identity, and
// not quarantined.
func (s *Service) Take(agent string) (env wire.Envelope, done func(at time.Time, err error), ok bool) {
	if s.out.Load() == 0 {
		return env, nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.running[agent]
	if l == nil || l.flight == nil || l.flight.env == nil {
		return env, nil, false
	}
	f := l.flight
	env, f.env, f.given = *f.env, nil, true
	return env, func(at time.Time, err error) {
		select {
		case f.handed <- handed{at, err}:
		default:
		}
	}, true
}

// climb sends the ladder by one channel.
func (l *ladder) climb(ctx context.Context, ch wire.Channel, sizes []int) {
	untried, bare := "", false
	step := func(kind string, size int) {
		st := operator.ProbeStep{Channel: ch, Kind: kind, Bytes: size, State: operator.StepUntried, Detail: untried}
		if untried == "" && ctx.Err() == nil {
			switch {
			case kind == operator.ProbePing:
				l.ping(ctx, &st)
			case ch == wire.ChannelLink:
				l.byLink(ctx, &st, size, &bare)
			default:
				l.byDoor(ctx, &st, size, &bare)
			}
			if st.Kind == "" {
				return // the same again
			}
			if st.State == operator.StepUntried {
				untried = st.Detail // the larger ones would wait as long for nothing
			}
		}
		if ctx.Err() != nil && st.State == operator.StepUntried {
			st.Detail = "the probe was ended"
		}
		l.p.Steps = append(l.p.Steps, st)
		l.tell(operator.ProbeEvent{Step: &st})
	}
	if ch == wire.ChannelLink {
		step(operator.ProbePing, wire.LedgerSize)
	}
	for _, size := range sizes {
		step(operator.ProbeText, size)
	}
}

// waiting tells, every few seconds, what is waited for.
type waiting struct {
	l     *ladder
	timer *time.Ticker
	said  time.Time
}

func (l *ladder) wait() *waiting {
	return &waiting{l: l, timer: time.NewTicker(look), said: time.Now()}
}

func (w *waiting) say(now time.Time, what string) {
	if now.Sub(w.said) >= tellEvery {
		w.said = now
		w.l.tell(operator.ProbeEvent{Waiting: what})
	}
}

// link waits for one that a command would go on.
func (l *ladder) link(ctx context.Context) (Link, string) {
	w, deadline := l.wait(), time.Now().Add(linkWait)
	defer w.timer.Stop()
	for {
		if why := l.s.o.Barred(l.agent); why != "" {
			return nil, why
		}
		link, why := l.s.o.Link(l.agent)
		if link != nil {
			return link, ""
		}
		select {
		case now := <-w.timer.C:
			if !now.Before(deadline) {
				return nil, fmt.Sprintf("no link that commands may go on for %v: %s", linkWait, why)
			}
			w.say(now, "waits for a link that commands may go on: "+why)
		case <-ctx.Done():
			return nil, "the probe was ended"
		}
	}
}

// within is how long the answer to so many bytes is waited for, which come back with it.
func within(rtt time.Duration, size int) time.Duration {
	return min(max(stepLeast, stepTrips*rtt), stepMost) + time.Duration(2*size)*time.Second/slowest
}

// ping sends a control frame with the ledger.
func (l *ladder) ping(ctx context.Context, st *operator.ProbeStep) {
	link, why := l.link(ctx)
	if link == nil {
		st.Detail = why
		return
	}
	st.Link = link.ID().String()
	began := time.Now()
	link.Ping()
	w, deadline := l.wait(), began.Add(within(link.Standing().RTT, st.Bytes))
	defer w.timer.Stop()
	for {
		now := time.Now()
		s := link.Standing()
		switch {
		case s.Pong.After(began):
			st.State, st.Written, st.ReadBy, st.RoundTripMS = operator.StepPassed, new(began.UTC()), "ledger", millis(s.RTT)
			return
		case s.Ended != "":
			st.State, st.Verdict, st.Detail = operator.StepCut, string(s.Verdict), s.Ended
			return
		case !now.Before(deadline), ctx.Err() != nil:
			st.State, st.Verdict = operator.StepSilent, string(s.Verdict)
			return
		}
		select {
		case now := <-w.timer.C:
			w.say(now, "waits for the pong")
		case <-ctx.Done():
		}
	}
}

func millis(d time.Duration) *float64 { return new(float64(d.Microseconds()) / 1000) }

// make makes a probe; bare is whether one was sent that is as small as they get, which none is twice.
func (l *ladder) make(st *operator.ProbeStep, size int, bare *bool) (*flight, wire.Envelope, bool) {
	cmd, env, weight, err := l.s.o.Maker.Make(l.agent, size, life)
	if err != nil {
		st.State, st.Detail = operator.StepUnwritten, "it could not be signed: "+err.Error()
		return nil, env, false
	}
	if cmd.Pad == "" && *bare {
		st.Kind = ""
		return nil, env, false
	}
	*bare, st.Bytes = cmd.Pad == "", weight
	return &flight{id: cmd.ID, pad: cmd.Pad, answers: make(chan answer, 2), handed: make(chan handed, 1)}, env, true
}

// byLink sends a text of size on the link.
func (l *ladder) byLink(ctx context.Context, st *operator.ProbeStep, size int, bare *bool) {
	f, env, ok := l.make(st, size, bare)
	if !ok {
		return
	}
	link, why := l.link(ctx)
	if link == nil {
		st.Detail = why
		return
	}
	defer l.put(f)()
	st.Link = link.ID().String()
	type writing struct {
		n   uint64
		at  time.Time
		err error
	}
	written, number := make(chan writing, 1), uint64(0)
	began := time.Now()
	if err := link.Send(env, func(n uint64, at time.Time, err error) {
		select {
		case written <- writing{n, at, err}:
		default:
		}
	}); err != nil {
		st.State, st.Detail = operator.StepUnwritten, err.Error()
		return
	}
	w, deadline := l.wait(), began.Add(within(link.Standing().RTT, st.Bytes))
	defer w.timer.Stop()
	wrote := func(x writing) (ok bool) {
		if x.err != nil {
			st.State, st.Detail = operator.StepUnwritten, x.err.Error()
			return false
		}
		number, st.Written = x.n, new(x.at.UTC())
		return true
	}
	for {
		select {
		case x := <-written:
			if !wrote(x) {
				return
			}
		case a := <-f.answers:
			select { // which was told first says nothing
			case x := <-written:
				if !wrote(x) {
					return
				}
			default:
			}
			st.ReadBy = "agent"
			if a.channel != wire.ChannelLink && a.code == "" {
				st.Detail = "its answer came by the second door"
				continue // one by the link may still come
			}
			l.answered(st, a, began)
			return
		case now := <-w.timer.C:
			s := link.Standing()
			if (s.Verdict != "" || s.Ended != "") && deadline.Sub(now) > settle {
				deadline = now.Add(settle)
			}
			if !now.Before(deadline) {
				ended(st, s, number)
				return
			}
			w.say(now, "waits for the answer to "+operator.Size(st.Bytes)+" by the link")
		case <-ctx.Done():
			st.State, st.Detail = operator.StepSilent, "the probe was ended before an answer came"
			return
		}
	}
}

// answered takes the agent's answer.
func (l *ladder) answered(st *operator.ProbeStep, a answer, began time.Time) {
	st.ReadBy, st.Detail = "agent", ""
	from := began
	if st.Written != nil {
		from = *st.Written
	}
	st.RoundTripMS = millis(a.at.Sub(from))
	switch {
	case a.code == wire.CodeUnsupported:
		st.State, st.Detail = operator.StepUnsupported, a.detail
	case a.code != "":
		st.State, st.Detail = operator.StepRefused, string(a.code)+": "+a.detail
	case !a.whole:
		st.State, st.Detail = operator.StepAltered, "its padding did not come back as it was sent"
	default:
		st.State = operator.StepPassed
	}
}

// ended says what is known of a text that was not answered. number is its number on the link.
func ended(st *operator.ProbeStep, s Standing, number uint64) {
	st.Verdict = string(s.Verdict)
	lost := s.Verdict == selfcheck.CodeLinkTextLost || s.Verdict == selfcheck.CodeLinkStuckFragment
	if !lost && number > 0 && s.Read >= number && st.ReadBy == "" { // counts say nothing of which one is missing
		st.ReadBy = "ledger"
	}
	if s.Ended != "" && st.Detail == "" {
		st.Detail = "the link ended: " + s.Ended
	}
	switch {
	case st.ReadBy != "":
		st.State = operator.StepUnanswered
	case lost:
		st.State = operator.StepLost
	case s.Verdict == selfcheck.CodeLinkTextAltered:
		st.State = operator.StepAltered
	case s.Verdict == selfcheck.CodeLinkUplinkLost:
		st.State = operator.StepUnanswered
	case st.Written == nil:
		st.State = operator.StepUnwritten
	case s.Ended != "":
		st.State = operator.StepCut
	default:
		st.State = operator.StepSilent
	}
}

// byDoor hands a message of size out by the second door.
func (l *ladder) byDoor(ctx context.Context, st *operator.ProbeStep, size int, bare *bool) {
	f, env, ok := l.make(st, size, bare)
	if !ok {
		return
	}
	if why := l.s.o.Barred(l.agent); why != "" {
		st.Detail = why
		return
	}
	f.env = &env
	defer l.put(f)()
	l.s.o.Call(l.agent)
	began := time.Now()
	w, deadline := l.wait(), began.Add(doorWait)
	defer w.timer.Stop()
	what := "waits for the agent to come by the second door"
	for {
		select {
		case h := <-f.handed:
			if h.err != nil {
				st.State, st.Detail = operator.StepUnwritten, "the answer to its call broke off: "+wrap.Clip(h.err.Error(), maxWord)
				return
			}
			st.Written, st.State = new(h.at.UTC()), operator.StepSilent
			deadline, what = time.Now().Add(within(stepMost/stepTrips, st.Bytes)), "waits for the answer to "+operator.Size(st.Bytes)+" by the second door"
		case a := <-f.answers:
			if a.channel == wire.ChannelOOB || a.code != "" {
				select { // which was told first says nothing
				case h := <-f.handed:
					st.Written = new(h.at.UTC())
				default:
				}
				l.answered(st, a, began)
				return
			}
		case now := <-w.timer.C:
			if !now.Before(deadline) {
				if st.State == operator.StepUntried {
					st.Detail = cmp.Or(l.s.o.Barred(l.agent), fmt.Sprintf("the agent did not come by the second door for %v", doorWait))
				}
				return
			}
			w.say(now, what)
		case <-ctx.Done():
			return
		}
	}
}

// Package delivery is a command's life: it claims, offers, re-offers and ends
// commands, over whichever door reaches the agent.
//
// Rules that hold here:
//   - the database is the truth; everything kept in memory can be lost and is
//     made again from it;
//   - nothing counts as written because a queue took it, only by the writer's word;
//   - a claim is a lease: not acknowledged, or proven lost, it goes back;
//   - a command ends once, in one state; what comes later is noted, not obeyed;
//   - the work of one agent is done in order, and never holds up another's;
//   - an expired command is never offered.
//
// The phases and what moves a command between them are one table, see [Next].
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/crew"
	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// leaseMin and leaseRTTs: a claim not acknowledged in max(leaseMin, leaseRTTs
	// round trips) goes back. An agent journals in milliseconds; a busy disk on a
	// satellite link still makes it.
	leaseMin  = 5 * time.Second
	leaseRTTs = 8
	// askAfter: an acknowledgement that has not come by then is late, and the agent's ledger is
	// asked for, which proves or clears a loss. Most come sooner, and save the asking.
	askAfter = 250 * time.Millisecond
	// unwrittenAfter: a link that has taken a message and not written it for so
	// long is stuck; the claim goes back.
	unwrittenAfter = 5 * time.Second
	// resultGrace: what an acknowledged command may take beyond its timeout before
	// it counts as interrupted; the agent repeats a result each minute at least.
	resultGrace = 10 * time.Minute
	// refusedMin and refusedMax bound the wait after an agent refused for now.
	refusedMin = 5 * time.Second
	refusedMax = time.Minute
	// cancelAgain: a cancel is sent again by the same door after so long.
	cancelAgain = 5 * time.Second
	// directiveLease: whoever took directives and never told what became of the answer is gone.
	directiveLease = 30 * time.Second
	// directiveLife: an order to a guardian that was not answered in a day is not wanted any more.
	directiveLife = 24 * time.Hour
	// directiveShort is the life of those that answer a question of this moment: the
	// endpoint must remember each until it has expired, and some are given by a clock.
	directiveShort = time.Hour
	// maxDirectives bounds an agent's directives that were not taken up yet; keptDirectives
	// more are for those that must not wait behind others.
	maxDirectives  = 64
	keptDirectives = 16
	// maxOrderBytes bounds the directives in one answer, beyond the first: one that an
	// endpoint refuses for its size would be repeated for ever.
	maxOrderBytes = 512 << 10
	// storeTimeout bounds waiting for the database in the service's own work.
	storeTimeout = 30 * time.Second
	// saveWithin: what may be stored together with what comes next waits no longer for it.
	saveWithin = 50 * time.Millisecond
	// offerLeft: with less left of its life, a command may not be offered again after a restart.
	offerLeft = time.Minute
	// reloadAfter: the database failed; its truth is taken up again after so long.
	reloadAfter = time.Second

	// pollFresh: a poll that waits counts as the second door being open only if one
	// took commands this lately; twice the usual long poll.
	pollFresh = time.Minute

	// lookAgain: why a followed command waits is looked at this often; told when it
	// is another reason, and tellAgain after the last time.
	lookAgain = time.Second
	tellAgain = 10 * time.Second

	defaultAttempts = 10
	// maxOut bounds the claims out to one agent: more would wait in its queue while their leases run.
	maxOut = 64
	// maxOwed bounds the commands waiting for one agent.
	maxOwed = 1000
	// shortScript, in bytes, is what is kept of a command's script until it is acknowledged, so
	// that it need not be read for its first offer.
	shortScript = 1 << 10
	// maxQueued bounds the requests waiting for one agent's turn.
	maxQueued = 1024
	// defaultTake and maxTakeBytes bound the commands in one poll's answer.
	defaultTake  = 16
	maxTakeBytes = wire.MaxMessage / 2
)

// Errors to branch on; store.ErrNotFound comes through as it is.
var (
	// ErrInvalid: what was asked for is not acceptable; its text says why.
	ErrInvalid = errors.New("invalid")
	// ErrForeign: an agent spoke of a command that is not its own.
	ErrForeign = errors.New("command is not this agent's")
	// ErrUnparseable: the payload does not fit its type, or exceeds its bounds.
	ErrUnparseable = errors.New("message can't be used")
	// ErrBusy: too much is waiting for this agent; try again later.
	ErrBusy = errors.New("too much is waiting for this agent")
	// ErrQuarantined: the agent takes no commands.
	ErrQuarantined = errors.New("this agent is quarantined and runs no commands until that is lifted: gururmm agents quarantine AGENT --lift")
	// ErrKeyUsed: the idempotency key belongs to another command; the text names it.
	ErrKeyUsed = errors.New("this key was used for another command")
	// ErrStopped: the service has ended.
	ErrStopped = errors.New("delivery has stopped")
)

// Options of a Service.
type Options struct {
	Now         func() time.Time // default time.Now
	Log         *slog.Logger     // default: discarded
	Sign        func(t wire.Type, payload any) (wire.Envelope, error)
	MaxAttempts int // default 10
	// Why tells what keeps an agent from having an open link, as the hub sees it:
	// a clause for people, and its kind, which stays while only numbers change.
	// Must not block, nor wait for this service. Default: what the links say of
	// themselves, and without one that the agent is offline.
	Why func(agent string) (kind, clause string)
	// Acked is told of each acknowledgement: by which door the attempt went out, and how
	// long after its claim the acknowledgement was read. Must not block. May be nil.
	Acked func(door wire.Channel, took time.Duration)
	// Ended is told of each command that has ended. Must not block, nor wait for this service.
	// May be nil.
	Ended func(command string)
	// Cluster is how this node stands to others on the same store; nil: there are none.
	Cluster Cluster
}

// Link is a live link as delivery needs it. Its methods must not block, and
// must not wait for this service.
type Link interface {
	Agent() string
	ID() wire.LinkID
	Generation() uint64
	// Deliverable tells whether commands may go on it: verified, and its ledger
	// shows no gap. why is a clause for people: "its link is not verified yet".
	Deliverable() (ok bool, why string)
	RTT() time.Duration
	// Ask tells it that a claim is not acknowledged yet: it pings at once, for the agent's
	// ledger. silent is how long an earlier ping has waited without any frame since; 0: none
	// has. It must not block.
	Ask() (silent time.Duration)
	// Calls tells whether the agent on it understands call.
	Calls() bool
	// Send queues env. written is called once, with the
	// message's number and when its writing began, or the error. If Send itself
	// fails, written is not called.
	Send(env wire.Envelope, written func(n uint64, at time.Time, err error)) error
}

// Done tells that an HTTP answer was written (err nil), begun at that time, or not.
type Done = func(at time.Time, err error)

// Service delivers commands. All methods are safe for concurrent use.
type Service struct {
	st  store.Store
	o   Options
	log *slog.Logger

	mu      sync.RWMutex
	routes  map[string]*route
	stopped bool
	crew    crew.Crew // runs the routes' turns

	// How many routes owe something, and have something unacknowledged: nearly always none, and
	// then no route need be looked for.
	owing, unacked atomic.Int64

	stop      chan struct{} // closed when the service ends
	followers sync.WaitGroup
	watchers  watchers
	late      late
}

// New makes a service on st. It works at once; Run takes up what an earlier
// process left, and must be called for the service to end.
func New(st store.Store, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = defaultAttempts
	}
	return &Service{
		st: st, o: o, log: o.Log,
		routes: map[string]*route{}, stop: make(chan struct{}),
	}
}

// Run takes up commands left by an earlier process: claims without an
// acknowledgement go back. Then it waits for ctx, and returns when everything
// the service had under way has ended.
func (s *Service) Run(ctx context.Context) error {
	var err error
	if s.o.Cluster != nil {
		s.runNode(ctx)
	} else if err = s.recover(ctx); err == nil {
		<-ctx.Done()
	}
	s.mu.Lock()
	s.stopped = true
	routes := s.routes
	s.routes = map[string]*route{}
	s.mu.Unlock()
	close(s.stop)
	for _, r := range routes {
		r.close()
	}
	s.followers.Wait()
	s.crew.Close()
	return err
}

func (s *Service) recover(ctx context.Context) error {
	agents, err := s.st.ActiveAgents(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	for _, id := range agents {
		if r := s.route(id); r != nil {
			r.post(func() {}) // each task loads first
		}
	}
	return nil
}

// route gives the agent's route, made if need be; nil once the service has ended.
func (s *Service) route(agent string) *route {
	s.mu.RLock()
	r := s.routes[agent]
	s.mu.RUnlock()
	if r != nil {
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.routes[agent]; r == nil && !s.stopped {
		r = newRoute(s, agent)
		s.routes[agent] = r
	}
	return r
}

// known gives the agent's route if there is one.
func (s *Service) known(agent string) *route {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.routes[agent]
}

// do runs fn in the agent's turn and gives its error. Where another node came before, it is
// run again with what is stored now.
func (s *Service) do(ctx context.Context, agent string, fn func() error) error {
	r := s.route(agent)
	if r == nil {
		return ErrStopped
	}
	for again := 0; ; again++ {
		if err := r.do(ctx, fn); !errors.Is(err, errOvertaken) || again == maxAgain {
			return err
		}
	}
}

// LinkUp says that l is verified (or that its gap has closed): all that waits
// for its agent is offered on it.
func (s *Service) LinkUp(l Link) {
	if r := s.route(l.Agent()); r != nil {
		r.post(func() { r.linkUp(l) })
	}
}

// LinkDown says that one link has ended, and why. Its unacknowledged claims go
// back at once; a newer link of the same agent is not touched.
func (s *Service) LinkDown(agent string, generation uint64, verdict string) {
	if r := s.known(agent); r != nil {
		r.post(func() { r.linkDown(generation, verdict) })
	}
}

// Hint says that the agent gave a sign of life (a heartbeat): what waits is
// offered again. It costs nothing while nothing waits.
func (s *Service) Hint(agent string) {
	// One at a time: an agent that floods heartbeats must not fill the route's queue.
	if r := s.known(agent); r != nil && r.anyActive() && r.hinted.CompareAndSwap(false, true) {
		r.post(func() {
			r.hinted.Store(false)
			r.epoch++
		})
	}
}

// Proof is what shows that texts to an agent were lost.
type Proof struct {
	Says   string          // for people; empty: nothing is proven
	Counts *operator.Proof // nil: it was not counted here
}

// PeerRead passes on the agent's ledger: it has read n messages of that link.
// proof, if it says anything, proves texts after the n-th lost.
func (s *Service) PeerRead(agent string, generation uint64, n uint64, proof Proof) {
	if r := s.known(agent); r != nil && r.anyActive() {
		r.post(func() { r.peerRead(generation, n, proof) })
	}
}

// Explain passes on an end's word on what is wrong with a link, or with the agent
// while it had that link: of claims that its end gave back, or gives back, that is
// the reason. lost: it proves that texts to the agent were lost. One that says nothing takes it back.
func (s *Service) Explain(agent string, link wire.LinkID, why Proof, lost bool) {
	if r := s.known(agent); r != nil {
		r.post(func() { r.explain(explanation{Proof: why, link: link, lost: lost}) })
	}
}

// Owed counts the commands held for an agent and not acknowledged. It never
// blocks on I/O. oldest is the zero time if there are none.
func (s *Service) Owed(agent string) (n int, oldest time.Time) {
	if s.owing.Load() == 0 { // each ping asks
		return 0, time.Time{}
	}
	r := s.known(agent)
	if r == nil {
		return 0, time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.owed, r.public.oldest
}

// Backlog is what is held for all agents and not acknowledged.
type Backlog struct {
	Owed   int
	Oldest time.Time // zero: there is none
	// Unacknowledged counts the agents of [Service.Unacknowledged].
	Unacknowledged int
}

// Backlog adds up all agents. It never blocks on I/O.
func (s *Service) Backlog() Backlog {
	s.mu.RLock()
	routes := slices.Collect(maps.Values(s.routes))
	s.mu.RUnlock()
	var b Backlog
	for _, r := range routes {
		r.mu.Lock()
		p := r.public
		r.mu.Unlock()
		b.Owed += p.owed
		if !p.oldest.IsZero() && (b.Oldest.IsZero() || p.oldest.Before(b.Oldest)) {
			b.Oldest = p.oldest
		}
		if !p.unacked.IsZero() {
			b.Unacknowledged++
		}
	}
	return b
}

// AnyUnacknowledged reports whether there is an agent of [Service.Unacknowledged].
func (s *Service) AnyUnacknowledged() bool { return s.unacked.Load() > 0 }

// Unacknowledged is since when a command that went out on a link still up has not
// been acknowledged, beyond its lease; zero: there is none. It never blocks on I/O.
func (s *Service) Unacknowledged(agent string) time.Time {
	r := s.known(agent)
	if r == nil {
		return time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.unacked
}

// LastResult is when a result of this agent was last stored; nil: not known.
func (s *Service) LastResult(agent string) *time.Time {
	r := s.known(agent)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.lastResult
}

// Waiter wakes a long poll when there may be something for it. Register, then
// Take, then wait; call the function when done.
func (s *Service) Waiter(agent string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	r := s.route(agent)
	if r == nil {
		close(ch)
		return ch, func() {}
	}
	r.mu.Lock()
	put(&r.waiters, ch, struct{}{})
	r.mu.Unlock()
	return ch, func() {
		r.mu.Lock()
		drop(&r.waiters, ch)
		r.mu.Unlock()
	}
}

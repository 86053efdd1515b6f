// Package fleet plays many agents to one server, in one process: the real protocol
// with little memory, and behaviour of several kinds drawn from a seed.
//
// Rules that hold here:
//   - loopback only: nothing else is dialed, whatever URLs the server names;
//   - an agent at rest is its connection and one reader; one loop visits them all
//     for what is due, and nothing it does waits;
//   - agents run nothing: a command is noted, acknowledged and answered with exit
//     code 0; what the server did about it is asked from the server;
//   - the same seed gives the same kinds at the same places and draws the same waits.
package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/state"
	"gururmm/internal/crew"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// MaxAgents bounds a fleet: each has a loopback address of its own.
	MaxAgents = 100_000
	// visitEvery is how often each agent is looked at for what is due.
	visitEvery = 100 * time.Millisecond
	// enrollsAtOnce, dialsAtOnce and callsAtOnce bound what is under way together.
	enrollsAtOnce = 16
	dialsAtOnce   = 64
	callsAtOnce   = 16
	// rampLeast and rampEach are how long a fleet may take until all are verified.
	rampLeast = 60 * time.Second
	rampEach  = 50 * time.Millisecond
	// settleFor, beside the policy's dead window, is how long commands and
	// evictions may still take once the time of the run is over.
	settleFor = 30 * time.Second
	// orderWithin and orderAgain are for how long, and how often, an order or enrollment is sent
	// that a server under restart does not take.
	orderWithin = 2 * time.Minute
	orderAgain  = 500 * time.Millisecond
	// expiryAfter is how long after the run an order would still be carried out.
	expiryAfter = time.Minute
)

// Options of a run.
type Options struct {
	Agents      int
	Server      string // https://127.0.0.1:port
	EnrollToken string // good for that many agents
	Operator    string // operator token: what the server did is asked by its API
	TLS         *tls.Config
	Mix         Mix
	Seed        uint64
	// Hold is how long the fleet is held once all have been verified.
	Hold time.Duration
	// Commands ordered of each agent while it is held.
	Commands int
	// Restart is restarted while commands flow; nil: the server is left alone.
	Restart Restarted
	// Order gives an agent a command, and its id; nil: the server is asked, once unless it is
	// restarted. An error ends the run.
	Order func(ctx context.Context, agent string, c operator.NewCommand) (id string, err error)
	// Progress is told of each step, in a sentence; nil: nobody is.
	Progress func(string)
}

// Restarted is a server that can be ended, in order, and started again.
type Restarted interface {
	Stop() error
	Start(context.Context) error // returns once it answers
	Peak() (int64, error)        // the most memory, in bytes, that it has taken since
	CPU() (time.Duration, error) // what it has used of all cores since
}

func (o Options) check() error {
	switch {
	case o.Agents < 1 || o.Agents > MaxAgents:
		return fmt.Errorf("%d agents: want 1 to %d", o.Agents, MaxAgents)
	case o.Commands < 0:
		return fmt.Errorf("%d commands: want 0 or more", o.Commands)
	case o.Hold < time.Second:
		return fmt.Errorf("a duration of %v: want at least 1s", o.Hold)
	case o.EnrollToken == "":
		return errors.New("the enrollment token is empty")
	case o.Operator == "":
		return errors.New("no operator token: what the server did is asked by its API")
	}
	return loopbackURL(o.Server)
}

// fleet is a run.
type fleet struct {
	opts   Options
	client *operator.Client
	agents []*agent // each identity's copies beside each other
	base   uint64   // bytes of memory before the first agent

	// Of a herd; see [HerdOptions].
	first    int
	link     string
	trusting bool
	stored   func(command string)

	ring   wire.Keyring // the server's keys, shared by all
	shared state.Identity

	dials   chan struct{}
	writes  sync.Pool      // buffers to write from, of links that write just now
	crew    crew.Crew      // writers of all links
	working sync.WaitGroup // dials, readers and closings

	mu      sync.Mutex
	held    time.Time // from when the kinds misbehave; zero: not yet
	runs    map[string]int
	failed  error // the last error of a dial
	failing int
	resent  int // orders that were sent again, with the same key
}

// Run plays the fleet and reports what came of it. The error is of the run itself;
// what the server did wrong is in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	client, err := operator.New(o.Server, o.Operator, o.TLS)
	if err != nil {
		return Report{}, err
	}
	client.SetDial(from(0))
	defer client.Close()
	if _, err := client.EnrollTokens(ctx); err != nil {
		return Report{}, fmt.Errorf("ask the server as an operator: %w", err)
	}
	f := &fleet{opts: o, client: client, dials: make(chan struct{}, dialsAtOnce), runs: map[string]int{}}
	f.base = memory()
	if o.Order == nil {
		f.opts.Order = f.submit
	}
	if err := f.enroll(ctx); err != nil {
		return Report{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	visits := make(chan struct{})
	go func() {
		defer close(visits)
		f.visit(ctx)
	}()
	report, err := f.play(ctx)
	cancel()
	<-visits
	f.close()
	return report, err
}

// memory is what the heap and the stacks take in bytes, after a collection.
func memory() uint64 {
	runtime.GC()
	runtime.GC() // what pools held goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// enroll makes the identities, each from an address of its own.
func (f *fleet) enroll(ctx context.Context) error {
	f.opts.Progress(fmt.Sprintf("enrolling %d agents", f.opts.Agents))
	for i, kind := range f.opts.Mix.deal(f.opts.Agents, f.opts.Seed) {
		a := newAgent(f, kind, i)
		f.agents = append(f.agents, a)
		if kind == Cloned {
			f.agents = append(f.agents, newAgent(f, kind, i))
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	each(ctx, enrollsAtOnce, f.agents, func(a *agent) {
		if a.copy {
			return
		}
		// A server remembers so many addresses at once, and asks the rest to come back.
		err := until(ctx, orderWithin, orderAgain, func() (bool, error) {
			err := a.enroll(ctx)
			if p, refused := errors.AsType[wire.Problem](err); refused && (p.Code == wire.ProblemRateLimited || p.Code == wire.ProblemBusy) {
				return false, nil
			}
			return true, err
		})
		if err != nil {
			cancel(fmt.Errorf("agent %d of %d: %w", a.number+1, f.opts.Agents, err))
		}
	})
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for i, a := range f.agents { // a copy of the machine has its key
		if a.copy {
			a.identity = f.agents[i-1].identity
		}
	}
	return nil
}

// each does something with all, so many at once, and waits; the end of ctx leaves out the rest.
func each[T any](ctx context.Context, atOnce int, all []T, do func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, v := range all {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			do(v)
		})
	}
	wg.Wait()
}

// visit looks at each agent for what is due, until ctx ends.
func (f *fleet) visit(ctx context.Context) {
	tick := time.NewTicker(visitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			held := f.heldSince()
			for _, a := range f.agents {
				a.visit(ctx, now, held)
			}
		}
	}
}

func (f *fleet) heldSince() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// play takes the fleet through its run: all verified, held under load, judged.
func (f *fleet) play(ctx context.Context) (Report, error) {
	f.opts.Progress("connecting")
	began := time.Now()
	limit := rampLeast + time.Duration(len(f.agents))*rampEach
	if err := until(ctx, limit, visitEvery, func() (bool, error) { return f.unverified() == 0, nil }); err != nil {
		return Report{}, fmt.Errorf("%d of %d were not verified: %w%s", f.unverified(), len(f.agents), err, f.lastFailure())
	}
	ramp := time.Since(began)
	perLink := f.weigh()
	f.opts.Progress(fmt.Sprintf("all verified after %.1f s; holding them for %v", ramp.Seconds(), f.opts.Hold))

	f.mu.Lock()
	f.held = time.Now()
	f.mu.Unlock()
	restarted := make(chan struct{})
	var again *Return
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		defer close(restarted)
		if f.opts.Restart == nil {
			return
		}
		var err error
		if again, err = f.restart(running); err != nil {
			stop(err)
		}
	}()
	orders, err := f.order(running)
	if err != nil {
		stop(err)
	}
	<-restarted
	if err := context.Cause(running); err != nil {
		return Report{}, err
	}
	if err := sleep(ctx, time.Until(f.heldSince().Add(f.opts.Hold))); err != nil {
		return Report{}, err
	}
	f.opts.Progress("asking the server what it did")
	report, err := f.settle(ctx, orders)
	report.Seed, report.Ramp, report.PerLink, report.Restart = f.opts.Seed, ramp, perLink, again
	if again != nil {
		again.Orders = f.reordered()
		report.Wrong = append(report.Wrong, again.wrong()...)
	}
	return report, err
}

func (f *fleet) unverified() (n int) {
	for _, a := range f.agents {
		a.mu.Lock()
		if a.verifications == 0 {
			n++
		}
		a.mu.Unlock()
	}
	return n
}

// weigh is what one link takes of this process, in bytes.
func (f *fleet) weigh() int64 {
	links := int64(0)
	for _, a := range f.agents {
		a.mu.Lock()
		if a.link != nil {
			links++
		}
		a.mu.Unlock()
	}
	if links == 0 {
		return 0
	}
	return max(0, int64(memory())-int64(f.base)) / links
}

// failure notes why a dial failed.
func (f *fleet) failure(err error) {
	f.mu.Lock()
	f.failed = err
	f.failing++
	f.mu.Unlock()
}

func (f *fleet) lastFailure() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		return ""
	}
	return fmt.Sprintf("; %d attempts failed, the last one: %v", f.failing, f.failed)
}

// ran counts that a command was run by one of the fleet: a second time, also on
// another copy of the machine, is what must never be.
func (f *fleet) ran(id string) {
	f.mu.Lock()
	f.runs[id]++
	f.mu.Unlock()
}

// order gives each agent its commands, at drawn times in the first half of the run,
// and not before those that misbehave have begun to.
func (f *fleet) order(ctx context.Context) (map[string]*agent, error) {
	type errand struct {
		at time.Time
		to *agent
	}
	began, hold := f.heldSince(), f.opts.Hold
	rng := rand.New(rand.NewPCG(f.opts.Seed, 1<<32))
	var errands []errand
	for _, a := range f.agents {
		for range f.opts.Commands {
			at := began.Add(hold/misbehaveWithin + 2*visitEvery + time.Duration(rng.Int64N(int64(hold/2))))
			if !a.copy {
				errands = append(errands, errand{at, a})
			}
		}
	}
	slices.SortFunc(errands, func(x, y errand) int { return x.at.Compare(y.at) })

	var mu sync.Mutex
	orders := map[string]*agent{}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	each(ctx, callsAtOnce, errands, func(e errand) {
		if sleep(ctx, time.Until(e.at)) != nil {
			return
		}
		left := time.Until(began.Add(hold)) + expiryAfter
		id, err := f.opts.Order(ctx, e.to.identity.Agent, operator.NewCommand{
			Script: "true", ExpiresInMS: max(left, expiryAfter).Milliseconds(), IdempotencyKey: wire.NewID(),
		})
		if err != nil {
			cancel(fmt.Errorf("order a command of agent %s: %w", e.to.identity.Agent, err))
			return
		}
		mu.Lock()
		orders[id] = e.to
		mu.Unlock()
	})
	return orders, context.Cause(ctx)
}

// submit orders a command, again while the server is restarted: with one key it is one command.
func (f *fleet) submit(ctx context.Context, agent string, n operator.NewCommand) (id string, err error) {
	err = until(ctx, orderWithin, orderAgain, func() (bool, error) {
		c, failed := f.client.Submit(ctx, agent, n)
		if failed == nil || f.opts.Restart == nil {
			id = c.ID
			return true, failed
		}
		f.mu.Lock()
		f.resent++
		f.mu.Unlock()
		return false, nil
	})
	return id, err
}

// close ends all links and waits for what works on them.
func (f *fleet) close() {
	each(context.Background(), dialsAtOnce, f.agents, func(a *agent) {
		a.mu.Lock()
		l := a.link
		a.stopped = true
		a.mu.Unlock()
		if l != nil {
			l.close(websocket.CloseGoingAway, errRunOver)
		}
	})
	f.working.Wait()
	f.crew.Close()
}

var errRunOver = errors.New("the rehearsal is over")

// until asks until ask says true; the error says after how long it gave up, or is of ask.
func until(ctx context.Context, limit, every time.Duration, ask func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("given up after %v", limit)
		}
		if err := sleep(ctx, every); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(0, d))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

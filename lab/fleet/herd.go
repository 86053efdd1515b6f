package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"gururmm/session"
	"gururmm/wire"
)

// herdDials bounds the dials of a herd under way together: how fast a storm comes
// is the server's to bear, not this end's to soften.
const herdDials = 512

// HerdOptions of [Gather].
type HerdOptions struct {
	Agents      int
	First       int    // place of the first one: herds of one server must not overlap
	Server      string // https://127.0.0.1:port, or http:// of a main listener behind a proxy
	Link        string // where links go, ws:// or wss://; empty: where the server says
	EnrollToken string // good for that many agents
	TLS         *tls.Config
	// Stored is told of each command whose result the server has stored. It must not
	// block. May be nil.
	Stored func(command string)
}

// Herd is a fleet of agents that do what they are asked and no more: the load of a
// benchmark. They check no signature of a command: in a real fleet each has a processor
// of its own for that, here they would take the server's.
type Herd struct {
	f    *fleet
	end  context.CancelFunc
	done chan struct{}
}

// Gather enrolls the agents and waits until all are verified.
func Gather(ctx context.Context, o HerdOptions) (*Herd, error) {
	if o.Agents < 1 || o.First < 0 || o.First+o.Agents > MaxAgents {
		return nil, fmt.Errorf("%d agents from place %d on: want 1 to %d in all", o.Agents, o.First, MaxAgents)
	}
	if err := loopbackURL(o.Server); err != nil {
		return nil, err
	}
	f := &fleet{
		opts: Options{
			Agents: o.Agents, Server: o.Server, EnrollToken: o.EnrollToken, TLS: o.TLS, Mix: Mix{Idle: 1},
			Hold: time.Minute, Progress: func(string) {},
		},
		first: o.First, link: o.Link, trusting: true, stored: o.Stored,
		dials: make(chan struct{}, herdDials), runs: map[string]int{},
	}
	if err := f.enroll(ctx); err != nil {
		return nil, err
	}
	visiting, end := context.WithCancel(context.WithoutCancel(ctx))
	h := &Herd{f: f, end: end, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		f.visit(visiting)
	}()
	if _, err := h.Verified(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Verified waits until all links are, and gives how long that took.
func (h *Herd) Verified(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	limit := rampLeast + time.Duration(len(h.f.agents))*rampEach
	away := func() (n int) {
		for _, a := range h.f.agents {
			a.mu.Lock()
			if !a.verified || a.link == nil {
				n++
			}
			a.mu.Unlock()
		}
		return n
	}
	if err := until(ctx, limit, visitEvery/4, func() (bool, error) { return away() == 0, nil }); err != nil {
		return 0, fmt.Errorf("%d of %d were not verified: %w%s", away(), len(h.f.agents), err, h.f.lastFailure())
	}
	return time.Since(began), nil
}

// Agents are the ids.
func (h *Herd) Agents() []string {
	ids := make([]string, len(h.f.agents))
	for i, a := range h.f.agents {
		ids[i] = a.identity.Agent
	}
	return ids
}

// Rest has the agents send nothing of themselves from now on: they answer pings, no more.
func (h *Herd) Rest() {
	for _, a := range h.f.agents {
		a.mu.Lock()
		a.resting = true
		a.mu.Unlock()
	}
}

// Cut ends all links without a word; the agents come back as their back-off has it.
func (h *Herd) Cut() {
	for _, a := range h.f.agents {
		a.mu.Lock()
		a.verified, a.failures = false, 0
		if a.link != nil {
			a.link.socket.Close()
		}
		a.mu.Unlock()
	}
}

// Echoes has so many texts in flight, each answered by the server before the next one
// goes by the same link, for a time; it gives how long each took.
func (h *Herd) Echoes(ctx context.Context, inFlight int, d time.Duration) ([]time.Duration, error) {
	inFlight = min(inFlight, len(h.f.agents))
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var workers sync.WaitGroup
	for w := range inFlight {
		workers.Go(func() {
			took, err := h.echoes(ctx, w, inFlight)
			mu.Lock()
			all, failed = append(all, took...), errors.Join(failed, err)
			mu.Unlock()
		})
	}
	workers.Wait()
	return all, failed
}

// echoes asks every n-th agent in turn, one after the other.
func (h *Herd) echoes(ctx context.Context, first, n int) (all []time.Duration, err error) {
	answered := make(chan error, 1)
	for i := first; ; i += n {
		if i >= len(h.f.agents) {
			i = first
		}
		a := h.f.agents[i]
		began := time.Now()
		a.mu.Lock()
		l := a.link
		if l == nil {
			a.mu.Unlock()
			return all, fmt.Errorf("agent %d has lost its link", a.number+1)
		}
		a.echoed = answered
		a.echo(l, wire.Echo{ID: "bench"}, session.SendOptions{Hold: true})
		a.mu.Unlock()
		l.conn.Drain()
		if err := <-answered; err != nil { // one that does not come is given up by the agent's visits
			return all, err
		}
		all = append(all, time.Since(began))
		if ctx.Err() != nil {
			return all, nil
		}
	}
}

// Close ends all links.
func (h *Herd) Close() {
	h.end()
	<-h.done
	h.f.close()
}

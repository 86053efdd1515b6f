package delivery

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"gururmm/server/store"
)

// Rules among the nodes of a cluster:
//   - each node has routes of its own; which of them changes a command is settled by its
//     Rev alone. Who comes too late takes up what is stored and goes on;
//   - a claim is the node's that made it: others leave it alone until that node gives it
//     back, or its lease is over;
//   - to be told of a change saves time and nothing else: what is not told is found;
//   - time alone (an expiry, a result that never came) is looked after by the node that
//     leads, whoever else does too.

// Cluster is how this node stands to the others. Its methods must not wait for the service.
type Cluster interface {
	// Node is this node's id, of its present lease.
	Node() string
	// Ended tells whether a node's lease is over for good; name is what people call it, if it is known.
	Ended(ctx context.Context, node string) (ended bool, name string, err error)
	// Leads tells whether this node does what one alone must do.
	Leads() bool
	// Tell passes on to other nodes that a command changed, and perhaps a sentence for who
	// follows it. It may be lost.
	Tell(command, notice string)
	// TakeDirectives marks directives as handed out, but for those that have ended.
	TakeDirectives(ctx context.Context, ids []string, at time.Time) (taken []string, err error)
}

const (
	// maxAgain bounds how often something is tried anew that another node came before.
	maxAgain = 5
	// lateEvery is how often the node that leads takes up what changed at the others.
	lateEvery = time.Second
)

// errOvertaken: another node has changed the agent's commands meanwhile.
var errOvertaken = fmt.Errorf("another node was faster: %w", errDatabase)

// late are agents that others changed something of, and that only the clock is kept for here.
type late struct {
	mu     sync.Mutex
	agents map[string]struct{}
}

func (l *late) add(agent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.agents == nil {
		l.agents = map[string]struct{}{}
	}
	l.agents[agent] = struct{}{}
}

func (l *late) take() map[string]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.agents
	l.agents = nil
	return all
}

// runNode does what the clock asks of a node until ctx ends.
func (s *Service) runNode(ctx context.Context) {
	tick := time.NewTicker(lateEvery)
	defer tick.Stop()
	led := false
	for {
		leads := s.o.Cluster.Leads()
		if leads && !led { // what nobody has a door for is this node's from now on
			if err := s.recover(ctx); err != nil {
				s.log.Error("commands under way can't be read; it is tried again", "error", err)
				leads = false
			}
		}
		led = leads
		for agent := range s.late.take() {
			if r := s.known(agent); r != nil {
				r.post(func() {})
			} else if r = s.route(agent); leads && r != nil {
				r.post(func() {})
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Changed says that another node has changed commands of the agent, or has ended.
func (s *Service) Changed(agent string) {
	r := s.known(agent)
	if r == nil {
		if s.o.Cluster.Leads() {
			s.late.add(agent)
		}
		return
	}
	r.stale.Store(true)
	switch {
	case r.hasDoor():
		r.nudge(func() {})
	case s.o.Cluster.Leads():
		s.late.add(agent)
	} // else it is taken up with whatever is asked of the route next
}

// Ordered says that another node has a directive for the agent.
func (s *Service) Ordered(agent string) {
	if r := s.known(agent); r != nil && r.hasDoor() {
		r.post(r.call)
	}
}

// Forget has all routes read what is stored: this node's lease was lost, and what it held is not its own.
func (s *Service) Forget() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.routes {
		r.post(func() {
			r.loaded, r.keep, r.retry = false, false, time.Time{}
			r.load()
		})
	}
}

// Heard passes on what another node told of a command.
func (s *Service) Heard(command, notice string) {
	if notice != "" {
		s.watchers.notice(command, notice)
		return
	}
	s.watchers.touch(command)
}

// touch hints that a command changed, here and at other nodes.
func (s *Service) touch(id string) {
	s.watchers.touch(id)
	if s.o.Cluster != nil {
		s.o.Cluster.Tell(id, "")
	}
}

// notice passes a sentence to those who follow a command, at whichever node.
func (s *Service) notice(id, text string) {
	s.watchers.notice(id, text)
	if s.o.Cluster != nil {
		s.o.Cluster.Tell(id, text)
	}
}

// nudge has fn run in its turn, unless one is on its way already.
func (r *route) nudge(fn func()) {
	if r.nudged.CompareAndSwap(false, true) {
		r.post(func() {
			r.nudged.Store(false)
			fn()
		})
	}
}

// hasDoor reports whether the agent has a link or a poll at this node.
func (r *route) hasDoor() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.links > 0 || len(r.waiters) > 0
}

// look has the route take up what other nodes may have changed, in its next turn.
func (r *route) look() {
	if r.s.o.Cluster != nil {
		r.stale.Store(true)
		r.nudge(func() {})
	}
}

// fresh takes up what other nodes have changed, now.
func (r *route) fresh() error {
	if r.s.o.Cluster == nil {
		return nil
	}
	r.stale.Store(true)
	r.load()
	switch {
	case r.loaded:
		return nil
	case r.keep:
		return errOvertaken
	}
	return errDatabase
}

// adopt makes the jobs of what is stored. Those that are kept go on as they were, where
// nothing else was stored since.
func (r *route) adopt(active []store.Command) {
	held := r.jobs
	if !r.keep {
		held = nil
	}
	r.jobs, r.keep = nil, false
	for _, c := range active {
		j := held[c.ID]
		switch {
		case j == nil:
			j = newJob(c)
		case j.c.Rev != c.Rev:
			r.overtake(j, c)
		}
		put(&r.jobs, c.ID, j)
	}
	for id, j := range held {
		if r.jobs[id] == nil { // ended at another node
			r.s.watchers.touch(id)
			if j.phase.taken() {
				r.unwait(1)
			}
		}
	}
}

// overtake takes up what another node has stored of j.
func (r *route) overtake(j *job, c store.Command) {
	c.Script = ""
	j.c, j.phase, j.acked = c, phaseOf(c), 0
	if j.claim != nil && !(j.phase.out() && c.Owner == r.s.o.Cluster.Node() && c.Attempts == j.claim.attempt) {
		j.unclaim()
	}
	if j.phase.waits() { // that node's door is not this one's: it may go at once
		j.epoch, j.poke = 0, true
	}
	r.s.watchers.touch(c.ID)
}

// mine reports whether a claim that nothing is known of here is this node's to give back.
func (r *route) mine(ctx context.Context, j *job) bool {
	if r.s.o.Cluster == nil || j.c.Owner == "" || j.c.Owner == r.s.o.Cluster.Node() {
		return true
	}
	ended, _, err := r.s.o.Cluster.Ended(ctx, j.c.Owner)
	if err != nil {
		r.s.log.Error("whether a claim's node lives is not known", "agent", r.agent, "command", j.c.ID, "error", err)
	}
	return err == nil && ended
}

// lostSight says why a claim is given back that nothing is known of here.
func (r *route) lostSight(j *job) string {
	if c := r.s.o.Cluster; c != nil && j.c.Owner != "" && j.c.Owner != c.Node() {
		ctx, cancel := background()
		defer cancel()
		_, name, _ := c.Ended(ctx, j.c.Owner) // an error: its name is not told
		return "its node " + cmp.Or(name, "of before") + " has ended, or was away from the database for too long"
	}
	return "the server lost sight of it (a restart, or an error of the database)"
}

// takeDirectives gives those of ids that may be handed out: another node may take any of them
// back until then. One whose answer is not written after all is handed out again in a minute.
func (r *route) takeDirectives(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	if r.s.o.Cluster == nil || len(ids) == 0 {
		return ids, nil
	}
	return r.s.o.Cluster.TakeDirectives(ctx, ids, now)
}

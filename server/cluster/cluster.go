// Package cluster holds this node's lease among the nodes that share a database, and
// carries wake-ups between them.
//
// Rules that hold here:
//   - the database alone says who lives, who leads and what changed; a wake-up only says
//     that it is worth to look now. One that is lost costs the time to the next round, one
//     that is made up costs a query;
//   - a node that could not renew its lease in time takes itself for lost before others may,
//     by its own clock that never jumps, and gives up what it held;
//   - nothing here waits for the bus: what it does not take at once is dropped.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/server/store"
)

const (
	// Lease is how long a node counts as living without a renewal: a restart of the
	// database takes less.
	Lease = 10 * time.Second
	// roundEvery is how often the lease is renewed and the changes of others are looked for.
	roundEvery = 2 * time.Second
	// givenUp is when a node that could not renew its lease takes itself for lost: before
	// the lease is over, by as much as a question of the database may take to be answered.
	givenUp = Lease - time.Second
	// beatTimeout bounds one renewal.
	beatTimeout = 5 * time.Second
	// workTimeout bounds the look at what changed.
	workTimeout = 20 * time.Second
)

// Options of a Cluster. All are needed but Bus.
type Options struct {
	Nodes store.Nodes
	// Name of this node, for people.
	Name string
	// Same is what all nodes must agree in; Join refuses another.
	Same string
	// Bus carries wake-ups; see [Bus].
	Bus Bus
	Log *slog.Logger

	// Look is told of topics that other nodes changed; those that it gives back are looked at
	// again in the next round.
	Look func(ctx context.Context, topics []string) (again []string)
	// Heard is told of a command that changed at another node.
	Heard func(command, notice string)
	// Lost is called when this node's lease is lost, Joined when it has a new one. Until
	// Joined has no error it is called again.
	Lost   func()
	Joined func(ctx context.Context) error
	// Ended is told of nodes that live no more.
	Ended func(nodes map[string]bool)
}

// Cluster is this node among the others. All methods are safe for concurrent use.
type Cluster struct {
	o Options

	poke chan struct{}

	mu       sync.Mutex
	living   map[string]store.Node
	names    map[string]string // also of those that ended
	leads    bool
	lost     bool // the lease
	why      error
	renewed  time.Time // when the last renewal began
	losses   uint64
	topics   map[string]struct{} // to be looked at
	after    int64
	received uint64
}

// Join takes a lease; Run keeps it. The error says why this node can't be one of the others.
func Join(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{o: o, poke: make(chan struct{}, 1), living: map[string]store.Node{}, names: map[string]string{}, topics: map[string]struct{}{}}
	return c, c.join(ctx)
}

func (c *Cluster) join(ctx context.Context) error {
	began := time.Now()
	if err := c.o.Nodes.Join(ctx, c.o.Same); err != nil {
		return err
	}
	// From here on; what was before is read whole.
	_, after, err := c.o.Nodes.Changes(ctx, 0)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.after, c.renewed = after, began
	c.mu.Unlock()
	return c.beat(ctx)
}

// beat renews the lease, and takes up who lives.
func (c *Cluster) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	began := time.Now()
	b, err := c.o.Nodes.Beat(ctx)
	if err != nil {
		return err
	}
	ended := map[string]bool{}
	c.mu.Lock()
	led := c.leads
	c.renewed, c.leads = began, b.Leads
	now := map[string]store.Node{}
	for _, n := range b.Living {
		if now[n.ID] = n; c.living[n.ID].ID == "" && n.ID != c.o.Nodes.Node() {
			c.o.Log.Info("another node is there", "node", n.Name, "since", n.Since)
		}
		c.names[n.ID] = n.Name
	}
	for id, n := range c.living {
		if now[id].ID == "" && id != c.o.Nodes.Node() {
			ended[id] = true
			c.o.Log.Warn("another node is gone", "node", n.Name)
		}
	}
	for _, n := range b.Ended {
		c.names[n.ID], ended[n.ID] = n.Name, true
	}
	c.living = now
	c.mu.Unlock()
	if b.Leads && !led {
		c.o.Log.Info("this node leads from now on")
	}
	if len(ended) > 0 {
		c.o.Ended(ended)
	}
	return nil
}

// Run keeps the lease and looks for changes until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if c.o.Bus != nil {
		parts.Go(func() { c.o.Bus.Run(ctx, c.message) })
	}
	parts.Go(func() { c.looking(ctx) })
	tick := time.NewTicker(roundEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.round(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Leave ends this node's lease by itself: others need not wait for its end.
func (c *Cluster) Leave(ctx context.Context) error { return c.o.Nodes.Leave(ctx) }

// round renews the lease and finds what was not told.
func (c *Cluster) round(ctx context.Context) {
	if c.isLost() {
		c.rejoin(ctx)
		return
	}
	// A lease that ends while the database is waited for is lost then, not after the wait.
	c.mu.Lock()
	left := time.Until(c.renewed.Add(givenUp))
	c.mu.Unlock()
	over := time.AfterFunc(left, func() { c.lose(errors.New("the database did not answer in time")) })
	err := c.beat(ctx)
	over.Stop()
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, store.ErrLeaseLost):
		c.lose(err)
		return
	case err != nil:
		c.fail(err)
		return
	}
	c.fail(nil)
	look, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	c.mu.Lock()
	after, leads := c.after, c.leads
	c.mu.Unlock()
	topics, next, err := c.o.Nodes.Changes(look, after)
	if err != nil {
		c.o.Log.Error("what other nodes changed can't be read; it is tried again", "error", err)
		return
	}
	c.mu.Lock()
	c.after = next
	c.mu.Unlock()
	if leads {
		orphaned, err := c.o.Nodes.Orphaned(look)
		if err != nil {
			c.o.Log.Error("claims of nodes that ended can't be read; it is tried again", "error", err)
		}
		for _, agent := range orphaned {
			topics = append(topics, store.TopicCommands+"/"+agent)
		}
	}
	c.queue(topics)
}

// fail notes whether the lease can be renewed, and tells when that changes.
func (c *Cluster) fail(err error) {
	c.mu.Lock()
	before := c.why
	c.why = err
	c.mu.Unlock()
	switch {
	case err != nil && before == nil:
		c.o.Log.Error("the lease of this node can't be renewed; it is tried again", "error", err)
	case err == nil && before != nil:
		c.o.Log.Info("the lease of this node is renewed again")
	}
}

// lose gives up what this node held.
func (c *Cluster) lose(why error) {
	c.mu.Lock()
	before := c.lost
	c.lost, c.leads, c.why = true, false, why
	if !before {
		c.losses++
	}
	c.mu.Unlock()
	if before {
		return
	}
	c.o.Log.Error("this node's lease is lost: it ends its links, and joins anew once the database answers", "error", why)
	c.o.Lost()
}

func (c *Cluster) isLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// rejoin takes a new lease and takes up everything.
func (c *Cluster) rejoin(ctx context.Context) {
	join, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	err := c.join(join)
	if err == nil {
		err = c.o.Joined(join)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.o.Log.Error("this node can't join anew; it is tried again", "error", err)
		}
		return
	}
	c.mu.Lock()
	c.lost, c.why = false, nil
	c.mu.Unlock()
	c.o.Log.Info("this node has joined anew")
}

// queue has topics looked at.
func (c *Cluster) queue(topics []string) {
	c.mu.Lock()
	for _, t := range topics {
		c.topics[t] = struct{}{}
	}
	none := len(c.topics) == 0
	c.mu.Unlock()
	if none {
		return
	}
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// looking looks at what changed, one after the other, until ctx ends.
func (c *Cluster) looking(ctx context.Context) {
	for {
		select {
		case <-c.poke:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		topics := make([]string, 0, len(c.topics))
		for t := range c.topics {
			topics = append(topics, t)
		}
		c.topics = map[string]struct{}{}
		c.mu.Unlock()
		slices.Sort(topics)
		work, cancel := context.WithTimeout(ctx, workTimeout)
		again := c.o.Look(work, topics)
		cancel()
		c.mu.Lock()
		for _, t := range again { // with the next round
			c.topics[t] = struct{}{}
		}
		c.mu.Unlock()
	}
}

// Committed passes on to other nodes what a transaction of this one changed. It never blocks.
func (c *Cluster) Committed(topics []string) {
	if c.o.Bus == nil || len(topics) == 0 {
		return
	}
	for chunk := range slices.Chunk(topics, maxTopics) {
		c.o.Bus.Send(Message{Node: c.Node(), Topics: chunk})
	}
}

// Tell passes on that a command changed. It never blocks.
func (c *Cluster) Tell(command, notice string) {
	if c.o.Bus != nil {
		c.o.Bus.Send(Message{Node: c.Node(), Command: command, Notice: notice})
	}
}

// message takes in what another node says. It is believed no further than that it is worth
// a look, and a sentence for who follows a command.
func (c *Cluster) message(m Message) {
	if m.Node == c.Node() {
		return
	}
	c.mu.Lock()
	c.received++
	c.mu.Unlock()
	if m.Command != "" {
		c.o.Heard(m.Command, m.Notice)
		return
	}
	topics := slices.DeleteFunc(m.Topics, func(t string) bool {
		kind, id, ok := strings.Cut(t, "/")
		return !ok || len(kind) != 1 || id == "" || len(id) > 64
	})
	c.queue(topics)
}

// Node is this node's id, of its present lease.
func (c *Cluster) Node() string { return c.o.Nodes.Node() }

// Leads tells whether this node does what one alone must do.
func (c *Cluster) Leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leads && !c.lost
}

// NodeName is what people call a node that lives; "": it does not, or is not known yet.
func (c *Cluster) NodeName(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.living[id].Name
}

// Ended tells whether a node's lease is over for good; name is what people call it, if it is known.
func (c *Cluster) Ended(ctx context.Context, node string) (ended bool, name string, err error) {
	c.mu.Lock()
	name = c.names[node]
	_, lives := c.living[node]
	c.mu.Unlock()
	if lives {
		return false, name, nil
	}
	lives, err = c.o.Nodes.Lives(ctx, node)
	return !lives && err == nil, name, err
}

// State is how this node stands.
type State struct {
	Name   string
	Living []store.Node // as of the last renewal, this one too
	Leads  bool
	// Lease is why the lease is lost or can't be renewed; nil: it is held.
	Lease error
	// Bus is why no wake-ups go to or come from other nodes; nil: they do.
	Bus error
	// Losses is how often a lease was lost.
	Losses uint64
	// Received counts wake-ups that came, Dropped those that were not sent.
	Received, Dropped uint64
}

// State tells how this node stands now.
func (c *Cluster) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{Name: c.o.Name, Leads: c.leads && !c.lost, Lease: c.why, Losses: c.losses, Received: c.received}
	for _, n := range c.living {
		s.Living = append(s.Living, n)
	}
	slices.SortFunc(s.Living, func(a, b store.Node) int { return strings.Compare(a.Name+"/"+a.ID, b.Name+"/"+b.ID) })
	if c.o.Bus != nil {
		s.Dropped, s.Bus = c.o.Bus.State()
	}
	if c.lost && s.Lease == nil {
		s.Lease = fmt.Errorf("the lease is lost")
	}
	return s
}

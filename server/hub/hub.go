package hub

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/crew"
	"gururmm/internal/quota"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/delivery"
	"gururmm/server/probe"
	"gururmm/server/store"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// maxLinks bounds the links one identity may hold: copies of a machine are shown, not collected.
	maxLinks = 8
	// maxReaders bounds the links of one identity whose texts are still being
	// handled, ended ones too: dialing anew does not make room for more of them.
	maxReaders = 2 * maxLinks
	// handleTimeout bounds the handling of one message: the database is local and
	// answers in milliseconds; what takes longer is given up and repeated by the agent.
	handleTimeout = 10 * time.Second
	// returnLeast is what a server takes to be there again, at the least.
	returnLeast = time.Second
	// flushEvery is how often all links are looked at, and last-seen facts go to the store.
	flushEvery = 5 * time.Second
	// storeSeenEvery is how long, at most, signs of life of an agent that has a link
	// are kept in memory alone: what is told of it is exact, and of one that was there when the
	// server was killed it is told afterwards that it was last seen so much earlier.
	storeSeenEvery = 5 * time.Minute
)

// Reasons why a link ends, as the closing frame and the log say them.
var (
	errReplaced    = errors.New("replaced by a newer link of the same instance")
	errNoPong      = errors.New("no ledger pong within 10 s while another copy holds the same identity")
	errDead        = errors.New("no frame came within the dead window")
	errUnverified  = errors.New("not verified in time")
	errUnwritten   = errors.New("a queued text was not written within 5 s")
	errFlooded     = errors.New("more is coming in than can be handled")
	errQuarantined = errors.New("quarantined by an operator")
	errRemoved     = errors.New("the agent was removed by an operator")
	errRefused     = errors.New("too many links of one identity")
)

// comeBack is why a link ends that is wanted again after so long.
type comeBack struct {
	error
	after time.Duration
}

func (c comeBack) Error() string { return wire.ComeBack(c.after, c.error.Error()) }
func (c comeBack) Unwrap() error { return c.error }

// Options of a Hub. All are needed but Probes and Cluster.
type Options struct {
	Delivery *delivery.Service
	Store    interface {
		store.Agents
		store.Resolutions
		store.AgentEvents
	}
	// Sign makes a signed message.
	Sign func(t wire.Type, payload any) (wire.Envelope, error)
	// Policy is what the server sets for an agent, complete. Must not block.
	Policy func(agent string) wire.Policy
	// Recovery is how agents' recovery is paced while a verdict is fleet-wide; empty: spread.
	Recovery Recovery
	// Returning is over how long so many agents come back, for the spread of their recovery;
	// nil: the least there is.
	Returning func(agents int) time.Duration
	// Quota bounds what one agent sends, on all of its links and by the second door; nil: nothing does.
	Quota *quota.Book
	Log   *slog.Logger
	// Probes takes the answers to probes on demand; nil: there are none.
	Probes *probe.Service
	// Cluster is how this node stands to others; nil: there are none.
	Cluster Cluster
}

// Hub holds the live links.
type Hub struct {
	opts  Options
	log   *slog.Logger
	wheel *wheel
	// started is when this process began to hear of agents.
	started time.Time

	generation atomic.Uint64
	maker      *probe.Maker
	ctx        context.Context // of handling; ends after the drain
	stop       context.CancelFunc
	readers    sync.WaitGroup
	refusals   refusals
	ends       ends
	sharing    sharing
	crew       crew.Crew // handlers and writers of all links; each link waits for its own

	mu       sync.Mutex
	agents   map[string]*endpoint
	probing  map[*session.Conn]struct{}
	probed   uint64 // probe links since the start
	draining error  // why no link is taken any more; nil: serving
	pressing pressing
	counted  bool  // agents that have not come back since the start were told of
	lost     error // this node's lease: why no link is taken for now
}

// endpoint is what is known of one agent in this process.
type endpoint struct {
	watch     *sync.Mutex // held while the agent is observed; taken before mu
	told      told
	linkEnded string // why its last link ended
	ending    int32  // links that have gone and of which it is not told yet why
	readers   int32  // links, also ended ones, with texts still to be handled

	links  []*link // oldest first
	copies []*sighting
	signs  uint64 // of life, of any copy
	// alternated is when copies were last heard in turns that did not overlap; zero: never.
	alternated selfcheck.Instant
	resolved   []store.Resolution // oldest first

	state       identity // as last judged
	quarantined bool     // by an operator: it has no link, and gets no command
	removed     bool     // by an operator: its identity is none any more
	isolated    bool     // by its own last word it runs none
	stopped     bool     // its last beacon said so, and nothing came since
	dirty       bool     // seenAt is not as stored

	seenAt     time.Time
	keepAt     selfcheck.Instant // while it has a link, seenAt is stored from then on only
	via        string
	addr       string
	verifiedAt time.Time // text both ways

	beacon *beacon // its last one; nil: none came
	// deliverAt is when the agent last asked for its commands by the second door; zero: it does not.
	deliverAt time.Time
	// verdict is the agent's last word on itself.
	verdict, sentence string
	verdictAt         time.Time
	symptom           *symptom      // nil: none
	steps             map[step]bool // of its last report, and whether their outcome was told
	worker            string        // as last told; empty: not by this process
	skew              *int64        // server's clock minus the agent's, ms, as the agent measured it

	elsewhere map[string]*view  // what other nodes see, by node
	orphaned  selfcheck.Instant // when a node that saw it ended; zero: none did
}

// beacon is what an agent reports by the second door, of which nothing else tells. It is
// never changed: copies of an endpoint share it.
type beacon struct {
	at       time.Time
	written  time.Time          // by its own clock
	findings []operator.Finding // beside the verdict
}

// reported is the last beacon; the zero one: none came.
func (ep *endpoint) reported() beacon {
	if ep.beacon == nil {
		return beacon{}
	}
	return *ep.beacon
}

// New makes a hub; Run keeps it.
func New(opts Options) *Hub {
	opts.Recovery = cmp.Or(opts.Recovery, RecoverySpread)
	if opts.Returning == nil {
		opts.Returning = func(int) time.Duration { return 0 }
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Hub{
		opts: opts, log: opts.Log, wheel: newWheel(), started: time.Now(), maker: &probe.Maker{Sign: opts.Sign},
		ctx: ctx, stop: stop,
		agents: map[string]*endpoint{}, probing: map[*session.Conn]struct{}{},
		sharing: sharing{poke: make(chan struct{}, 1), told: map[string]string{}},
	}
}

// Run keeps the links' deadlines and pings and writes last-seen facts until ctx
// ends; it writes the rest before it returns.
func (h *Hub) Run(ctx context.Context) error {
	var wheel sync.WaitGroup
	wheel.Go(func() { h.wheel.run(ctx, &h.crew) })
	if h.opts.Cluster != nil {
		wheel.Go(func() { h.runSharing(ctx) })
	}
	defer h.crew.Close()
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.flush(false)
		case <-ctx.Done():
			wheel.Wait()
			h.flush(true)
			return nil
		}
	}
}

// Accept takes over an upgraded connection of agent, whose JWT was checked and named caller. It
// returns at once, a node of several once it has a generation; the link's reader owns the
// connection from here on. settled is called once, when the link is verified or
// when it has ended; it must not block.
func (h *Hub) Accept(ws *websocket.Conn, agent string, caller wire.Copy, id wire.LinkID, addr string, settled func()) {
	generation, unknown := h.nextGeneration(agent)
	l := newLink(h, ws, agent, id, addr, generation)
	l.caller, l.settled = &caller, settled
	h.mu.Lock()
	refuse := cmp.Or(h.draining, h.lost, unknown)
	ep := h.endpoint(agent)
	if refuse == nil && ep.removed {
		refuse = errRemoved
	}
	if refuse == nil && ep.quarantined {
		refuse = errQuarantined
	}
	if refuse == nil && (len(ep.links) >= maxLinks || ep.readers >= maxReaders) {
		refuse = errRefused
	}
	if refuse == nil {
		ep.links = append(ep.links, l)
		ep.stopped = false
		ep.readers++
		h.readers.Add(1)
		l.ep = ep
		l.account.Hold()
		go l.run() // not by readers.Go: it is not one goroutine, see link.run
	}
	h.mu.Unlock()
	if refuse != nil {
		l.settle()
		h.ends.add(refuse)
		l.log().Warn("link refused", "reason", refuse)
		l.conn.Close(websocket.CloseTryAgainLater, refuse)
		return
	}
	l.log().Info("link opened", "addr", addr)
	h.observe(agent)
	l.conn.Ping(false) // a deaf uplink shows before the first text
	h.wheel.add(l)
}

// endpoint gives the agent's entry, made on first use. Call with mu held.
func (h *Hub) endpoint(agent string) *endpoint {
	ep := h.agents[agent]
	if ep == nil {
		ep = &endpoint{watch: new(sync.Mutex), told: told{who: nobody}}
		h.agents[agent] = ep
	}
	return ep
}

// remove takes exactly l out of the register, if it is still there.
func (h *Hub) remove(l *link) {
	h.mu.Lock()
	ep := h.endpoint(l.agent)
	ep.ending++
	if i := slices.Index(ep.links, l); i >= 0 {
		ep.links = slices.Delete(ep.links, i, i+1)
		ep.ended(l)
	}
	j := h.judgeIdentity(l.agent, ep)
	h.mu.Unlock()
	h.follow(l.agent, j)
}

// Links counts the live links of all agents.
func (h *Hub) Links() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, ep := range h.agents {
		n += len(ep.links)
	}
	return n
}

// sendAway ends links and tells each when to come back, at a moment of its own.
func sendAway(all []*link, reason error, over func(links int) time.Duration) {
	for i, at := range rand.Perm(len(all)) { // who was last is not always last
		after := returnLeast + over(len(all))*time.Duration(at)/time.Duration(len(all))
		all[i].end(websocket.CloseServiceRestart, "", comeBack{reason, after})
	}
}

// Drain refuses new links, tells all agents why with close code 1012 and when to come
// back, each at a moment of its own, and waits until their readers have ended or ctx
// has. over is for how long so many are spread.
func (h *Hub) Drain(ctx context.Context, reason error, over func(links int) time.Duration) error {
	h.mu.Lock()
	h.draining = reason
	var all []*link
	for _, ep := range h.agents {
		all = append(all, ep.links...)
	}
	looks := slices.Collect(maps.Keys(h.probing))
	h.mu.Unlock()
	for _, c := range looks {
		h.readers.Go(func() { c.Close(websocket.CloseServiceRestart, reason) })
	}
	sendAway(all, reason, over)
	ended := make(chan struct{})
	go func() { // ends with the last reader; each is bounded by its write timeout
		h.readers.Wait()
		close(ended)
	}()
	defer h.stop()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

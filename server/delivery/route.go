package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/serial"
	"gururmm/internal/wrap"
	"gururmm/server/store"
	"gururmm/wire"
)

// route is the way to one agent: its doors and the commands on it. Its work is
// done by its queue, one task at a time; fields are the queue's own unless they
// stand below mu.
type route struct {
	s     *Service
	agent string
	queue *serial.Queue[func()]

	retry  time.Time // not loaded: when to try again
	loaded bool
	// keep: not loaded only because another node was faster; what this one holds stands.
	keep   bool
	stale  atomic.Bool     // another node has changed something
	nudged atomic.Bool     // that is on its way through the queue
	hinted atomic.Bool     // so is a hint
	links  []*live         // one, nearly always
	jobs   map[string]*job // see put
	// epoch counts signs of life; a command given back by a link is offered on one
	// again in a later epoch.
	epoch      uint64
	taken      time.Time            // when a poll last came for commands
	directives map[string]time.Time // handed out; not again until then; see put
	explained  *explanation         // nil: nothing is
	fallen     fallen               // the last link that ended with claims out
	timer      *time.Timer

	mu      sync.Mutex
	waiters map[chan struct{}]struct{} // see put
	public  struct {
		active     int // commands that have not ended
		owed       int
		links      int
		oldest     time.Time
		unacked    time.Time
		lastResult *time.Time
	}
	closed bool
}

// job is a command that has not ended.
type job struct {
	c     store.Command // without its script
	phase Phase
	// script, where it was ordered of this process, is short and not acknowledged yet:
	// else it is read when it goes out.
	script string
	// acked is the attempt that was acknowledged; 0: not to this process, the trace has it.
	acked int
	// unsaved: c is not stored yet as it is here; stages are none of them. By saveAt all
	// is; zero: it is.
	unsaved bool
	stages  []store.Stage
	saveAt  time.Time
	heard   uint16 // bits of agentStages that its ack told of: its result repeats them

	claim *claim  // while claimed
	past  []claim // all claims made by this process, to tell which attempt an ack is of
	// epoch: not offered on a link before the route's epoch has come so far.
	epoch uint64
	// notBefore: a refusal asks to wait, by door.
	notBefore map[wire.Channel]time.Time
	refusals  int
	// poke: it became free for any door and no poll has been woken for it yet.
	poke       bool
	cancelSent map[wire.Channel]time.Time
	told       string // the kind of the last notice about why it waits
	toldAt     time.Time
}

// claim is one attempt, out by one door.
type claim struct {
	attempt int
	channel wire.Channel
	link    wire.LinkID
	gen     uint64
	at      time.Time
	written time.Time // zero: not known to be
	number  uint64    // of the message on its link; 0: not known
	read    bool      // the agent's ledger has passed it
	readAt  time.Time // when that was told first
	lease   time.Duration
	late    *lateAsk // of one that goes out by a link
}

// passed says that the agent's ledger has passed the message.
func (c *claim) passed(now time.Time) {
	if !c.read {
		c.read, c.readAt = true, now
	}
}

// deadline is when the claim goes back by time alone.
func (c *claim) deadline() time.Time {
	if c.written.IsZero() {
		return c.at.Add(unwrittenAfter)
	}
	return c.written.Add(c.lease)
}

// lateAsk has a link asked for its agent's ledger once an acknowledgement is late. Not in the
// route's turn, which waits for the database: a loss is proven while that stalls, too.
type lateAsk struct {
	mu    sync.Mutex
	timer *time.Timer // once it is written
	over  bool
}

// written begins the wait.
func (a *lateAsk) written(l Link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.timer = time.AfterFunc(askAfter, func() { l.Ask() })
	}
}

// end ends it: there is an acknowledgement, or nothing to wait for.
func (a *lateAsk) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

// unclaim has the job claimed no more.
func (j *job) unclaim() {
	if j.claim != nil && j.claim.late != nil {
		j.claim.late.end()
	}
	j.claim = nil
}

func newRoute(s *Service, agent string) *route {
	r := &route{s: s, agent: agent}
	r.queue = serial.New(maxQueued, r.turn).On(&s.crew, nil)
	return r
}

// put and drop keep a map that is nil while it holds nothing: so most are nearly always, and
// there is one for each agent.
func put[K comparable, V any](m *map[K]V, key K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = v
}

func drop[K comparable, V any](m *map[K]V, key K) {
	if delete(*m, key); len(*m) == 0 {
		*m = nil
	}
}

// turn runs one task, between taking up the database's truth and acting on what follows.
func (r *route) turn(task func()) {
	r.load()
	task()
	r.settle()
}

// post has fn run in its turn; never refused while the route is open.
func (r *route) post(fn func()) { r.queue.Push(fn, 0) } // its error means closed: nobody waits

// do runs fn in its turn and gives its error.
func (r *route) do(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	err := r.queue.Push(func() {
		switch {
		case ctx.Err() != nil: // whoever asked is gone: it must not be done behind their back
			done <- ctx.Err()
		case !r.loaded && r.keep:
			done <- errOvertaken
		case !r.loaded:
			done <- fmt.Errorf("commands of agent %s could not be read from the database", r.agent)
		default:
			done <- fn()
		}
	}, 1)
	switch err {
	case nil:
	case serial.ErrFull:
		return ErrBusy
	default:
		return ErrStopped
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-r.s.stop:
		return ErrStopped
	}
}

func (r *route) close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	for ch := range r.waiters {
		wake(ch)
	}
	r.mu.Unlock()
	r.queue.Close()
	r.queue.Wait()
	for _, j := range r.jobs {
		j.unclaim()
	}
	r.saveKept(true)
}

// background gives a bounded context for the service's own work.
func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), storeTimeout)
}

// load takes up the agent's commands from the database: at first, after an error has left
// it unknown what is stored, and after another node has changed something. Claims that
// were out and are nobody's are given back.
func (r *route) load() {
	now := r.s.o.Now()
	if r.loaded && r.stale.Swap(false) {
		r.loaded, r.keep, r.retry = false, true, time.Time{}
	}
	if r.loaded || now.Before(r.retry) {
		return
	}
	r.stale.Store(false)
	ctx, cancel := background()
	defer cancel()
	active, err := r.s.st.ActiveCommands(ctx, r.agent)
	var last *time.Time
	if err == nil {
		last, err = r.s.st.LastResult(ctx, r.agent)
	}
	if err != nil {
		keep := r.keep
		r.broken("read", err)
		r.keep = keep
		return
	}
	r.mu.Lock()
	r.public.lastResult = last
	r.mu.Unlock()
	r.loaded = true
	r.adopt(active)
	for _, j := range r.byAge() {
		switch {
		case j.phase.out() && j.claim == nil && r.mine(ctx, j):
			j.claim = &claim{attempt: j.c.Attempts, channel: j.c.Channel, at: now}
			owner := j.c.Owner
			r.release(j, r.lostSight(j))
			if c := r.s.o.Cluster; c != nil && owner != c.Node() {
				j.epoch = 0 // no door of this node's failed it
			}
		// Of a program that stored an end in two steps, and was ended between them:
		case j.phase.waits() && j.c.CancelAt != nil:
			r.cancelWaiting(j, j.c.CancelBy)
		case j.phase == Returned && j.c.Attempts >= r.s.o.MaxAttempts:
			r.move(j, Exhaust, told{reason: r.exhausted(j)})
		}
		if !r.loaded {
			return
		}
	}
}

func newJob(c store.Command) *job {
	c.Script = ""
	return &job{
		c: c, phase: phaseOf(c), poke: true,
		notBefore: map[wire.Channel]time.Time{}, cancelSent: map[wire.Channel]time.Time{},
	}
}

// broken says that the database failed: what is in memory may not be the truth
// any more, so it is read again.
func (r *route) broken(what string, err error) {
	if r.s.o.Cluster != nil && errors.Is(err, store.ErrConflict) {
		r.loaded, r.keep, r.retry = false, true, r.s.o.Now()
		return
	}
	r.keep = false
	r.s.log.Error("commands could not be "+what, "agent", r.agent, "error", err)
	r.loaded = false
	r.retry = r.s.o.Now().Add(reloadAfter)
}

// byAge gives the jobs, oldest first.
func (r *route) byAge() []*job {
	all := make([]*job, 0, len(r.jobs))
	for _, j := range r.jobs {
		all = append(all, j)
	}
	slices.SortFunc(all, func(a, b *job) int {
		return cmp.Or(a.c.CreatedAt.Compare(b.c.CreatedAt), cmp.Compare(a.c.ID, b.c.ID))
	})
	return all
}

// now is the time as it is stored.
func (r *route) now() time.Time { return r.s.o.Now().UTC().Truncate(time.Microsecond) }

// settle acts on what follows by itself: time that has run out, doors that are
// open. Then it publishes, and sets the alarm for what time will bring.
func (r *route) settle() {
	// What another node changed after this turn began was not nudged for again.
	if !r.loaded && r.keep || r.stale.Load() {
		r.load()
	}
	if r.loaded {
		r.lapse()
	}
	if r.loaded {
		r.offer()
	}
	r.saveKept(false)
	r.publish()
	r.alarm()
}

// publish shows what others may ask for without waiting.
func (r *route) publish() {
	owed, oldest, unacked := 0, time.Time{}, time.Time{}
	for _, j := range r.jobs {
		if j.phase.taken() {
			continue
		}
		if at := r.unacked(j); !at.IsZero() && (unacked.IsZero() || at.Before(unacked)) {
			unacked = at
		}
		owed++
		if oldest.IsZero() || j.c.CreatedAt.Before(oldest) {
			oldest = j.c.CreatedAt
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	count(&r.s.owing, r.public.owed > 0, owed > 0)
	r.public.active, r.public.owed, r.public.oldest = len(r.jobs), owed, oldest
	r.public.links = len(r.links)
	count(&r.s.unacked, !r.public.unacked.IsZero(), !unacked.IsZero())
	r.public.unacked = unacked
}

// count keeps the number of routes of which something is so.
func count(n *atomic.Int64, was, is bool) {
	switch {
	case is && !was:
		n.Add(1)
	case was && !is:
		n.Add(-1)
	}
}

// unacked is since when a link that is up has left j unacknowledged beyond its
// lease; zero: none has.
func (r *route) unacked(j *job) time.Time {
	for _, c := range j.past {
		if l := r.link(c.gen); l != nil && c.channel == wire.ChannelLink && l.suspect {
			return c.at
		}
	}
	return time.Time{}
}

func (r *route) anyActive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.active > 0
}

// alarm sets the timer for the next thing that time alone will bring.
func (r *route) alarm() {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	now := r.s.o.Now()
	if !r.loaded {
		sooner(r.retry)
	}
	for _, j := range r.jobs {
		if !r.loaded { // nothing of them is done before
			break
		}
		if !j.saveAt.IsZero() {
			sooner(j.saveAt)
		}
		switch {
		case j.phase.out():
			if j.claim != nil { // else it is another node's
				sooner(j.claim.deadline())
			}
		case j.phase.waits():
			sooner(j.c.ExpiresAt)
			if r.s.watchers.follow(j.c.ID) {
				sooner(now.Add(lookAgain))
			}
			for _, at := range j.notBefore {
				if at.After(now) {
					sooner(at)
				}
			}
		case j.phase.taken():
			sooner(resultDeadline(j.c))
		}
	}
	for _, until := range r.directives {
		if r.loaded {
			sooner(until)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
	case next.IsZero():
		if r.timer != nil {
			r.timer.Stop()
		}
	case r.timer == nil:
		r.timer = time.AfterFunc(next.Sub(now), func() { r.post(func() {}) })
	default:
		r.timer.Reset(next.Sub(now))
	}
}

// wake wakes all polls that wait.
func (r *route) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ch := range r.waiters {
		wake(ch)
	}
}

// pollWaits reports whether the second door is open right now: a poll waits, of
// an agent that takes its commands there.
func (r *route) pollWaits() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiters) > 0 && !r.taken.IsZero() && r.s.o.Now().Sub(r.taken) < pollFresh
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is awake already
	}
}

// maxNote bounds a note or reason in bytes; parts of them come from agents. It leaves
// room for a proof in whole sentences.
const maxNote = 2400

func cut(s string) string { return wrap.Clip(s, maxNote) }

func linkName(id wire.LinkID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}

func doorName(ch wire.Channel) string {
	if ch == wire.ChannelOOB {
		return "the second door"
	}
	return "the link"
}

package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/serial"
	"gururmm/internal/wrap"
	"gururmm/operator"
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

// live is a link that has been verified and has not ended.
type live struct {
	Link
	// suspect: a claim on it was not acknowledged, and none since. A waiting poll is preferred to it.
	suspect  bool
	peerRead uint64 // as the agent last said
	proof    Proof  // that later messages are lost
}

// explanation is what is known to be wrong with a link. The zero value: nothing.
type explanation struct {
	Proof
	link wire.LinkID
	lost bool // texts to the agent, provably
}

// fallen is a link that has ended, with the claims its end gave back.
type fallen struct {
	link   wire.LinkID
	claims map[string]claim // by command
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

// link is the live link of a generation; nil: there is none.
func (r *route) link(gen uint64) *live {
	if i := r.linkAt(gen); i >= 0 {
		return r.links[i]
	}
	return nil
}

func (r *route) linkAt(gen uint64) int {
	return slices.IndexFunc(r.links, func(l *live) bool { return l.Generation() == gen })
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

// move applies ev to j by the table, with what comes with it, and stores that
// together with stages. moved is false if ev has no effect in j's phase.
func (r *route) move(j *job, ev Event, t told, stages ...store.Stage) (moved bool, err error) {
	rule, ok := Next(j.phase, ev)
	if !ok || rule == (Rule{To: j.phase}) {
		return false, nil
	}
	c := r.after(j.c, rule, t)
	if rule.Do.Has(Soon) && r.offeredAgain(j) {
		r.keepStages(j, stages...)
		j.unsaved = true
	} else if err := r.save(j, &c, stages...); err != nil {
		return false, err
	}
	j.c, j.phase = c, rule.To
	if !j.phase.out() {
		j.unclaim()
	}
	if rule.Do.Has(Count) {
		j.hold(t.claim)
	}
	if rule.Do.Has(Again) {
		j.epoch, j.poke = r.epoch+1, true
	}
	if rule.Do.Has(CallOff) {
		r.wake() // by the link it goes at the end of the turn
	}
	if rule.Do.Has(Slot) {
		r.unwait(1)
	}
	if j.phase.taken() {
		j.script = "" // it goes out no more
	}
	if rule.Do.Has(End) {
		drop(&r.jobs, c.ID)
		r.s.log.Info("command ended", "agent", r.agent, "command", c.ID, "state", string(c.State), "reason", c.Reason, "attempts", c.Attempts)
		if r.s.o.Ended != nil {
			r.s.o.Ended(c.ID)
		}
	}
	return true, nil
}

// offeredAgain reports whether a claim of j that is lost sight of would surely be offered again:
// there are attempts and time left. Another node of a cluster sees only what is stored.
func (r *route) offeredAgain(j *job) bool {
	return r.s.o.Cluster == nil && j.c.Attempts < r.s.o.MaxAttempts && r.now().Add(offerLeft).Before(j.c.ExpiresAt)
}

// after is c after a move, as it is stored.
func (r *route) after(c store.Command, rule Rule, t told) store.Command {
	owner := ""
	if rule.To.out() && r.s.o.Cluster != nil {
		if owner = c.Owner; rule.Do.Has(Count) {
			owner = r.s.o.Cluster.Node()
		}
	}
	c = rule.apply(c, t, r.now())
	c.Owner = owner
	return c
}

// hold has the job claimed.
func (j *job) hold(c *claim) {
	j.claim, j.told, j.poke = c, "", false
	j.past = append(j.past, *c)
}

// keepStages has stages stored with what is stored next of j, or soon.
func (r *route) keepStages(j *job, stages ...store.Stage) {
	j.stages = append(j.stages, stagesOf(j.c.ID, stages)...)
	if j.saveAt.IsZero() {
		j.saveAt = r.now().Add(saveWithin)
	}
}

// stagesOf gives stages as those of a command.
func stagesOf(id string, stages []store.Stage) []store.Stage {
	for i := range stages {
		stages[i].Command, stages[i].Note = id, cut(stages[i].Note)
	}
	return stages
}

// save stores c, which j is or becomes, with stages and all that was kept of j.
func (r *route) save(j *job, c *store.Command, stages ...store.Stage) (err error) {
	ctx, cancel := background()
	defer cancel()
	all := append(j.stages, stagesOf(j.c.ID, stages)...)
	if c.Rev, err = r.s.st.SaveCommand(ctx, *c, all...); err != nil {
		r.broken("stored", err)
		if r.keep {
			err = errOvertaken
		}
		return err
	}
	j.saved()
	r.s.touch(c.ID)
	return nil
}

// note adds stages to a command without changing it.
func (r *route) note(id string, stages ...store.Stage) error {
	j := r.jobs[id]
	if j != nil && j.unsaved {
		return r.save(j, &j.c, stages...)
	}
	stages = stagesOf(id, stages)
	if j != nil {
		stages = append(j.stages, stages...)
	}
	ctx, cancel := background()
	defer cancel()
	if err := r.s.st.AddStages(ctx, stages...); err != nil {
		r.broken("stored", err)
		return err
	}
	if j != nil {
		j.saved()
	}
	r.s.touch(id)
	return nil
}

// saved says that j is stored, with all of its stages that were not.
func (j *job) saved() {
	j.unsaved, j.stages, j.saveAt = false, nil, time.Time{}
}

// saveKept stores what was kept of the jobs for long enough, or of all.
func (r *route) saveKept(all bool) {
	now := r.now()
	for _, j := range r.jobs {
		if r.loaded && !j.saveAt.IsZero() && (all || !now.Before(j.saveAt)) {
			r.note(j.c.ID) // its error: all is read again
		}
	}
}

// now is the time as it is stored.
func (r *route) now() time.Time { return r.s.o.Now().UTC().Truncate(time.Microsecond) }

func (r *route) linkUp(l Link) {
	switch i := r.linkAt(l.Generation()); {
	case i < 0:
		r.links = append(r.links, &live{Link: l})
	case r.links[i].Link != l:
		r.links[i] = &live{Link: l}
	default:
		r.links[i].proof = Proof{}
	}
	r.epoch++
	r.unwait(len(r.jobs))
	r.look()
}

func (r *route) linkDown(gen uint64, verdict string) {
	if verdict == "" {
		verdict = "no reason given"
	}
	var link wire.LinkID
	if l := r.link(gen); l != nil {
		link = l.ID()
	}
	var why explanation
	if r.explained != nil && link != 0 && r.explained.link == link {
		why = *r.explained
	}
	r.links = slices.DeleteFunc(r.links, func(l *live) bool { return l.Generation() == gen })
	for _, j := range r.byAge() {
		if j.claim == nil || j.claim.channel != wire.ChannelLink || j.claim.gen != gen {
			continue
		}
		if why.Says == "" { // it may come yet
			if r.fallen.link != j.claim.link {
				r.fallen = fallen{link: j.claim.link, claims: map[string]claim{}}
			}
			r.fallen.claims[j.c.ID] = *j.claim
		}
		switch {
		case j.claim.read:
			r.release(j, "its link ended: "+verdict+said(why, verdict)+"; the agent's ledger had passed it, so it was read")
		case why.lost && !j.claim.written.IsZero():
			r.lose(j, why.Proof)
		default:
			r.release(j, "its link ended: "+verdict+said(why, verdict))
		}
		j.epoch = 0 // another link may have it at once
	}
}

// said adds an explanation to why a link ended, unless that says it already.
func said(e explanation, verdict string) string {
	if e.Says == "" || strings.Contains(verdict, e.Says) {
		return ""
	}
	return "; " + e.Says
}

// lostNote says which text was lost, and what proves it.
func lostNote(c claim, proof string) string {
	if c.number == 0 {
		return "lost between written and read: " + proof
	}
	return fmt.Sprintf("lost between written and read, as text %d of its link: %s", c.number, proof)
}

// counted gives the proof as of this claim.
func (c claim) counted(p *operator.Proof) *operator.Proof {
	if p == nil {
		return nil
	}
	own := *p
	own.Text = c.number
	return &own
}

// explain takes in why a link fails. If it has ended already, the claims that
// its end gave back are told of in hindsight.
func (r *route) explain(e explanation) {
	if r.explained = nil; e.Says == "" {
		return
	}
	if r.explained = &e; e.link == 0 || r.fallen.link != e.link {
		return
	}
	for id, c := range r.fallen.claims {
		entry := operator.TraceEntry{
			Stage: StageReleased, At: r.now(), End: "server", Attempt: c.attempt, Channel: c.channel, Link: linkName(c.link), Note: e.Says,
		}
		if e.lost && !c.read && !c.written.IsZero() {
			entry.Stage, entry.Note, entry.Proof = StageLost, lostNote(c, e.Says), c.counted(e.Counts)
		}
		r.note(id, store.Stage{TraceEntry: entry})
		r.s.notice(id, fmt.Sprintf("attempt %d by %s: %s", c.attempt, doorName(c.channel), entry.Note))
	}
	r.fallen = fallen{}
}

func (r *route) peerRead(gen, n uint64, proof Proof) {
	l := r.link(gen)
	if l == nil {
		return
	}
	l.peerRead, l.proof = max(l.peerRead, n), proof
	for _, j := range r.byAge() {
		c := j.claim
		if c == nil || c.channel != wire.ChannelLink || c.gen != gen || c.number == 0 {
			continue
		}
		switch {
		case c.number <= l.peerRead:
			c.passed(r.now())
		case proof.Says != "":
			l.suspect = true
			r.lose(j, proof)
		}
	}
}

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

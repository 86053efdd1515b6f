package selfcheck

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"gururmm/wire"
)

const (
	// downGrace is how long a link may take to be verified before commands go by
	// the second door meanwhile: a link on a bad path takes 1 s, and an operator waits.
	downGrace = 2500 * time.Millisecond
	// workerGrace is how long a restarted worker may take until text has gone both ways.
	workerGrace = 30 * time.Second
	// stageGrace is how long a loop that was started afresh may still be reported as standing.
	stageGrace = 5 * time.Second
	// stageAgain: a loop that stands still again so soon was not cured by its restart.
	stageAgain = 10 * time.Minute
	// budgetWindow is what budgets are counted over.
	budgetWindow = time.Hour
	// recentSteps are kept for status, beacon and events.
	recentSteps = 32
	// maxLevel bounds the doubling of back-offs: 2^20 seconds exceed any maximum.
	maxLevel = 20
)

// Ladder decides, from one judgement after the other, which step to take next.
// It keeps budgets and back-off, notes what each step came to, and acts on
// nothing but itself: its owner takes the steps. It is not safe for concurrent
// use.
//
// Rungs for a link proven bad: reconnect, alternative, the second door; from
// there the link is retried with back-off until one is verified. Rungs for a
// worker that stands still: the loop afresh, where that can be, the worker, the
// service. A suspicion never acts, a step waits for its outcome, and no state is
// final: whatever is held back is tried again when its budget or back-off allows.
type Ladder struct {
	p   wire.Policy
	rng *rand.Rand

	recent []StepRecord
	code   Code // the current verdict, for Budgets

	link   linkClimb
	worker workerClimb
	// spreadAt is before when no step is forced for spreadFor: the whole fleet has that
	// verdict; zero: nothing is spread.
	spreadAt  time.Time
	spreadFor Code

	ordered []*waiting // by somebody else; their outcomes steer nothing
}

// linkClimb is how far the ladder has been climbed for the link.
type linkClimb struct {
	spent map[Code][]time.Time // forced reconnects by verdict, within the hour
	rung  linkRung             // the highest rung that did not help
	step  *waiting             // whose outcome is awaited
	// bad is the last link proven bad: only another one ends OOB delivery.
	bad wire.LinkID
	// verified is the link last seen verified and well, since when without a break.
	verified      wire.LinkID
	verifiedSince time.Time

	delivering bool
	door       *waiting  // the step into OOB delivery, until the door has answered
	downSince  time.Time // no verified link since; zero: there is one, or nothing is known
	level      int       // of the back-off
	retryAt    time.Time // back-off: nothing is forced again before; zero: none
	held       Code      // hold was recorded for it
}

type linkRung uint8

const (
	rungGround linkRung = iota
	rungReconnected
	rungAlternative
)

// workerClimb is the same for the worker.
type workerClimb struct {
	restarts []time.Time
	services []time.Time // restarts of the service
	stages   []time.Time // restarts of single loops
	tried    map[Code]triedStage
	step     *waiting
	refused  string   // why the loop that step is for can't be started afresh; "": it can, as far as known
	loop     *waiting // the hold of a crash loop that goes on
	level    int
	retryAt  time.Time
	wellAt   time.Time // no fault of the worker since; zero: there is one
	held     Code
}

// triedStage is the last restart of one loop.
type triedStage struct {
	pid int
	at  time.Time
}

// waiting is a step whose outcome is not known yet.
type waiting struct {
	kind  StepKind
	code  Code        // the verdict it was taken for
	link  wire.LinkID // in place when it was taken
	pid   int
	at    time.Time // names its record
	after time.Time // text that went both ways since then is its doing
	since time.Time // waited for from here: later than at if the machine slept
}

// NewLadder starts at the bottom; rng gives the jitter (nil: one is seeded at random).
func NewLadder(p wire.Policy, rng *rand.Rand) *Ladder {
	if rng == nil {
		rng = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	l := &Ladder{rng: rng, link: linkClimb{spent: map[Code][]time.Time{}}, worker: workerClimb{tried: map[Code]triedStage{}}}
	l.SetPolicy(p)
	return l
}

// SetPolicy puts p in force, from the next step on.
func (l *Ladder) SetPolicy(p wire.Policy) { l.p = p.WithDefaults() }

// Delivering reports whether OOB delivery is on.
func (l *Ladder) Delivering() bool { return l.link.delivering }

// Recent gives the last 32 steps, oldest first, with what came of them.
func (l *Ladder) Recent() []StepRecord { return slices.Clone(l.recent) }

// Budgets are what is left at now of this hour.
func (l *Ladder) Budgets(now time.Time) Budgets {
	return Budgets{
		Reconnects: max(0, l.p.ReconnectsPerHour-len(lately(l.link.spent[l.code], now))),
		Restarts:   max(0, l.p.RestartsPerHour-len(lately(l.worker.restarts, now))),
	}
}

// lately keeps the times within the last hour. One in the future (the wall clock
// was set back over a restart) counts as spent now.
func lately(times []time.Time, now time.Time) []time.Time {
	kept := make([]time.Time, 0, len(times))
	for _, t := range times {
		if t.After(now) {
			t = now
		}
		if now.Sub(t) < budgetWindow {
			kept = append(kept, t)
		}
	}
	return kept
}

// Next gives the steps to take now, and after how long to ask again even if
// nothing changes (0: no need). Ask it after each judgement.
func (l *Ladder) Next(j Judgement, s Snapshot, now time.Time) (steps []StepRecord, recheck time.Duration) {
	t := &turn{Ladder: l, v: j.Verdict, s: s, now: now, remedy: remedyNone}
	if r := ruleOf(t.v.Code); r != nil && t.v.Code != CodeUnknown && !t.v.Suspected {
		t.remedy = r.remedy
	}
	l.code = t.v.Code
	l.prune(now)
	t.stable()
	t.climbWorker()
	if t.linkKnown() {
		t.climbLink()
	}
	t.settleOrdered()
	return t.steps, t.recheck
}

// prune forgets what no longer counts and brings what lies in the future to now.
func (l *Ladder) prune(now time.Time) {
	for code, times := range l.link.spent {
		if times = lately(times, now); len(times) > 0 {
			l.link.spent[code] = times
		} else {
			delete(l.link.spent, code)
		}
	}
	l.worker.restarts = lately(l.worker.restarts, now)
	l.worker.services = lately(l.worker.services, now)
	l.worker.stages = lately(l.worker.stages, now)
	limit := now.Add(max(ms(l.p.BackoffMaxMS), ms(l.p.RetryLinkMS)))
	for _, at := range []*time.Time{&l.link.retryAt, &l.worker.retryAt} {
		if at.After(limit) {
			*at = limit // the clock was set back, or the policy made shorter
		}
	}
}

// spreadOut reports whether a step has to wait for its moment, since the server sees the
// verdict on many. Each draws one of its own.
func (t *turn) spreadOut() bool {
	over := ms(t.p.SpreadRecoveryMS)
	if over <= 0 {
		t.spreadAt = time.Time{}
		return false
	}
	if t.spreadAt.IsZero() || t.spreadFor != t.v.Code || t.spreadAt.Sub(t.now) > over {
		t.spreadAt, t.spreadFor = t.now.Add(time.Duration(t.rng.Int64N(int64(over)+1))), t.v.Code
	}
	return !t.due(t.spreadAt)
}

// backoff draws the wait before the next try: full jitter up to least doubled
// level times, at most BackoffMax, at least BackoffMin.
func (l *Ladder) backoff(least time.Duration, level int) time.Duration {
	low, high := ms(l.p.BackoffMinMS), ms(l.p.BackoffMaxMS)
	d := least
	for range level {
		if d >= high {
			break
		}
		d *= 2
	}
	d = max(low, min(d, high))
	return low + time.Duration(l.rng.Int64N(int64(d-low)+1))
}

// turn is one call of Next.
type turn struct {
	*Ladder
	v       Verdict
	s       Snapshot
	now     time.Time
	remedy  remedy // of the verdict, if it is proven
	steps   []StepRecord
	recheck time.Duration
}

// in asks for another turn after d.
func (t *turn) in(d time.Duration) {
	d = max(d, time.Millisecond)
	if t.recheck == 0 || d < t.recheck {
		t.recheck = d
	}
}

// due reports whether at has come; if not, another turn is asked for when it has.
func (t *turn) due(at time.Time) bool {
	if d := at.Sub(t.now); d > 0 {
		t.in(d)
		return false
	}
	return true
}

func (t *turn) take(kind StepKind, reason, expected string) {
	r := StepRecord{At: t.now, Kind: kind, Verdict: t.v.Code, Reason: reason, Expected: expected}
	if kind.judged() && kind != StepOOB || kind == StepRetryLink || kind == StepRestartStage {
		t.spreadAt = time.Time{} // the next one has a moment of its own
	}
	t.steps = append(t.steps, r)
	t.record(r)
}

func (l *Ladder) record(r StepRecord) {
	if len(l.recent) == recentSteps {
		l.recent = slices.Delete(l.recent, 0, 1)
	}
	l.recent = append(l.recent, r)
}

// outcome notes what became of the step that was taken at w.
func (l *Ladder) outcome(w *waiting, what string) {
	for i := len(l.recent) - 1; i >= 0; i-- {
		if r := &l.recent[i]; r.Kind == w.kind && r.At.Equal(w.at) {
			r.Outcome = what
			return
		}
	}
}

func (t *turn) helped(w *waiting, how string)   { t.outcome(w, "helped: "+how) }
func (t *turn) noBetter(w *waiting, why string) { t.outcome(w, "no better: "+why) }

// linkKnown reports whether the snapshot tells of the link as it is: not while
// the worker is down or does not report.
func (t *turn) linkKnown() bool {
	if t.s.Taken.IsZero() || !t.s.Worker.Running ||
		inFamily(t.v.Code, CodeAgentHung) && !t.v.Suspected || inFamily(t.v.Code, CodeAgentCrashloop) {
		t.link.downSince, t.link.verifiedSince = time.Time{}, time.Time{}
		return false
	}
	return true
}

// linkWell reports whether the link is verified and nothing is proven or
// suspected that a step of the ladder is for.
func (t *turn) linkWell() bool {
	if t.s.Link.Phase != PhaseVerified || t.s.Link.ID == 0 {
		return false
	}
	r := ruleOf(t.v.Code)
	if r == nil {
		return false
	}
	// A worker that is a little late with its reports says nothing of its link.
	return r.remedy == remedyNone || r.remedy == remedyStage || r.remedy == remedyWorker && t.v.Suspected
}

// stable follows how long all has been well, and forgets back-offs when that has
// been long enough. It comes first, so that a fault after a long good time is met
// afresh.
func (t *turn) stable() {
	c, w := &t.link, &t.worker
	hold := ms(t.p.StableMS)
	if !c.verifiedSince.IsZero() && c.verified == t.s.Link.ID && t.now.Sub(c.verifiedSince) >= hold && t.linkKnown() {
		c.rung, c.level, c.retryAt, c.held = rungGround, 0, time.Time{}, ""
	}
	if t.remedy == remedyWorker {
		if !w.wellAt.IsZero() && t.now.Sub(w.wellAt) >= hold {
			w.level, w.retryAt, w.held = 0, time.Time{}, ""
		}
		w.wellAt = time.Time{}
	} else if w.wellAt.IsZero() {
		w.wellAt = t.now
	}
}

// frees is when a budget of n of the times (oldest first) allows one more.
func frees(times []time.Time, n int) time.Time {
	if n <= 0 || len(times) < n {
		return time.Time{}
	}
	return times[len(times)-n].Add(budgetWindow)
}

// hold tells, once for each verdict, that nothing more can be done before free.
func (t *turn) hold(held *Code, reason string, free time.Time) {
	if !free.IsZero() {
		t.in(free.Sub(t.now))
	}
	if *held == t.v.Code {
		return
	}
	*held = t.v.Code
	expected := "a budget that allows more"
	if !free.IsZero() {
		expected = fmt.Sprintf("the next try in %s", span(free.Sub(t.now)))
	}
	t.take(StepHold, reason, expected)
}

package selfcheck

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gururmm/wire"
)

// path is what the way between the two ends does at the moment.
type path int

const (
	pathGood    path = iota
	pathSlow         // verified after 4 s
	pathDeaf         // text down is lost, pings come
	pathForeign      // a box answers pings, nothing else comes
	pathRefused      // nothing can be dialed
	pathFrozen       // bytes stop
	paths
)

// world is an endpoint with a worker and a path, simulated: links are dialed with
// their own back-off and deadlines as the agent does, and the ladder's steps are
// taken with the delays of a real machine.
type world struct {
	rng  *rand.Rand
	p    wire.Policy
	now  time.Time
	ways [2]path // of the first and the other endpoint
	door bool    // OOB is configured
	alts int
	hang float64 // probability that a new worker hangs too

	way     int
	phase   Phase
	since   time.Time
	id      wire.LinkID
	opened  time.Time
	verify  time.Time // when verified, or will be
	lostAt  time.Time // a text was lost at
	heard   time.Time
	fails   int
	failure *NetworkError
	dialAt  time.Time

	pid    int
	hungAt time.Time
	backAt time.Time // a worker starts at; zero: one runs

	tried  time.Time // the last dial, of whatever cause
	prompt bool      // facts come at once on each change, as in the agent
}

func newWorld(rng *rand.Rand) *world {
	w := &world{rng: rng, p: wire.DefaultPolicy(), now: t0, pid: 1, alts: rng.IntN(2), door: rng.IntN(3) > 0}
	w.dial()
	return w
}

func (w *world) current() path { return w.ways[w.way] }

func (w *world) enter(p Phase) { w.phase, w.since = p, w.now }

func (w *world) dial() {
	w.enter(PhaseDialing)
	w.id, w.lostAt, w.tried = 0, time.Time{}, w.now
	w.dialAt = w.now.Add(200 * time.Millisecond)
}

func (w *world) wait() {
	w.enter(PhaseWaiting)
	w.id, w.lostAt = 0, time.Time{}
	limit := min(ms(w.p.BackoffMaxMS), ms(w.p.BackoffMinMS)<<min(w.fails, 10))
	w.dialAt = w.now.Add(time.Duration(w.rng.Int64N(int64(limit))))
}

func (w *world) fail(kind string) {
	w.fails++
	w.failure = &NetworkError{Type: kind}
	w.wait()
}

// turn lets happen what is due.
func (w *world) turn() {
	if !w.backAt.IsZero() {
		if w.now.Before(w.backAt) {
			return
		}
		w.pid, w.backAt, w.hungAt, w.fails, w.failure = w.pid+1, time.Time{}, time.Time{}, 0, nil
		if w.rng.Float64() < w.hang {
			w.hungAt = w.now
		}
		w.dial()
	}
	if !w.hungAt.IsZero() {
		return
	}
	switch p := w.current(); w.phase {
	case PhaseWaiting:
		if !w.now.Before(w.dialAt) {
			w.dial()
		}
	case PhaseDialing:
		if w.now.Before(w.dialAt) {
			return
		}
		if p == pathRefused {
			w.fail("tcp.refused")
			return
		}
		w.id = wire.LinkID(w.rng.Uint64() | 1)
		w.opened, w.heard = w.now, w.now
		w.enter(PhaseAuth)
		w.verify = w.now.Add(500 * time.Millisecond)
		if p == pathSlow {
			w.verify = w.now.Add(4 * time.Second)
		}
	case PhaseAuth:
		switch {
		case (p == pathGood || p == pathSlow) && !w.now.Before(w.verify) && w.lostAt.IsZero():
			w.enter(PhaseVerified)
			w.fails, w.failure = 0, nil
		case w.now.Sub(w.opened) > ms(w.p.VerifyMS):
			w.fail("ws.unverified")
		}
	case PhaseVerified:
		if p == pathFrozen && w.now.Sub(w.heard) > ms(w.p.DeadMS) {
			w.fail("ws.silent")
		}
	}
	switch w.current() {
	case pathDeaf:
		if w.lostAt.IsZero() && (w.phase == PhaseAuth || w.phase == PhaseVerified && w.rng.IntN(20) == 0) {
			w.lostAt = w.now
		}
	}
	if w.current() != pathFrozen {
		w.heard = w.now
	}
}

func (w *world) snapshot() Snapshot {
	ago := func(t time.Time) *time.Duration { return new(max(0, w.now.Sub(t))) }
	s := Snapshot{
		Taken:  w.now,
		Worker: WorkerFacts{PID: w.pid, Running: w.backAt.IsZero(), Silent: sec(0)},
		Link: LinkFacts{
			Phase: w.phase, PhaseAge: ago(w.since), ID: w.id, Attempts: w.fails, Failure: w.failure, Alternatives: w.alts,
		},
		OOB: OOBFacts{Configured: w.door},
	}
	if !w.hungAt.IsZero() {
		s.Worker.Silent = ago(w.hungAt)
	}
	if w.id == 0 {
		return s
	}
	l := &s.Link
	l.In.AnyAge, l.Ledger.Local.Link = ago(w.heard), w.id
	if w.phase == PhaseVerified {
		l.VerifiedAge, l.In.TextAge = ago(w.since), sec(30)
		l.Ledger.Peer, l.Ledger.PeerAge, l.Ledger.PeerVia = &wire.Ledger{}, ago(w.heard), ViaPing
	}
	if !w.lostAt.IsZero() {
		l.Ledger.Down = &Gap{Missing: 1, Age: w.now.Sub(w.lostAt)}
	}
	if w.current() == pathForeign {
		l.Ledger.PeerVia, l.Ledger.UnansweredAge = "", ago(w.opened)
		l.In.TextAge = nil
	}
	return s
}

func (w *world) take(kind StepKind) {
	running := w.backAt.IsZero() && w.hungAt.IsZero()
	switch kind {
	case StepAlternative:
		w.way = 1 - w.way
		fallthrough
	case StepReconnect, StepRetryLink:
		if running {
			w.dial()
		}
	case StepRestartWorker, StepRestartService:
		w.backAt = w.now.Add(time.Second)
	}
}

// chronicle is what came of a run.
type chronicle struct {
	forced   map[Code][]time.Time
	restarts []time.Time
	services []time.Time
	kinds    map[StepKind]int
}

// live lets the world run until end; each holds at every turn.
func (w *world) live(t *testing.T, l *Ladder, end time.Time, c *chronicle, each func(j Judgement, s Snapshot)) {
	for w.now.Before(end) && !t.Failed() {
		w.turn()
		s := w.snapshot()
		j := Judge(s, w.now, w.p)
		before := l.Delivering()
		steps, recheck := l.Next(j, s, w.now)
		for _, step := range steps {
			c.kinds[step.Kind]++
			switch step.Kind {
			case StepReconnect, StepAlternative:
				c.forced[step.Verdict] = append(c.forced[step.Verdict], w.now)
				fallthrough
			case StepRetryLink:
				if j.Verdict.Suspected && step.Kind != StepRetryLink {
					t.Errorf("%s on a suspicion", step.Kind)
				}
				if w.p.HoldRecovery {
					t.Errorf("%s while recovery is held", step.Kind)
				}
			case StepRestartWorker:
				c.restarts = append(c.restarts, w.now)
			case StepRestartService:
				c.services = append(c.services, w.now)
			case StepOOB:
				if before || !w.door {
					t.Errorf("entered OOB delivery, delivering %v, door %v", before, w.door)
				}
			case StepRelease:
				if !before || s.Link.Phase != PhaseVerified || l.Delivering() {
					t.Errorf("released, delivering before %v, link %s", before, s.Link.Phase)
				}
			}
			w.take(step.Kind)
		}
		if each != nil {
			each(j, s)
		}
		// A real guardian looks every second; a long quiet may be passed faster.
		d := time.Second
		if w.phase == PhaseWaiting || w.phase == PhaseVerified && len(steps) == 0 {
			d = 3 * time.Second
		}
		for _, r := range []time.Duration{recheck, j.Recheck} {
			if r > 0 {
				d = min(d, r)
			}
		}
		if w.prompt {
			d = 0
		}
		w.now = w.now.Add(max(d, 100*time.Millisecond))
	}
}

// TestLadderInARandomWorld: whatever the path and the worker do, budgets hold in
// every hour, a release follows only a verified link, nothing is ever given up,
// and once all is good again the link is back and trusted.
func TestLadderInARandomWorld(t *testing.T) {
	total := map[StepKind]int{}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 42))
			w := newWorld(rng)
			hangs := seed%3 == 0
			l := NewLadder(w.p, rng)
			c := &chronicle{forced: map[Code][]time.Time{}, kinds: total}

			// The longest that a bad link may be left alone: the back-off, its jitter
			// and the outcome's deadline; without a second door the hour's budget too.
			patience := ms(w.p.BackoffMaxMS) + 2*ms(w.p.VerifyMS) + time.Minute
			if !w.door || hangs {
				patience += time.Hour
			}
			badSince := time.Time{}
			watch := func(j Judgement, s Snapshot) {
				bad := !w.p.HoldRecovery && j.Verdict.Severity == SeverityError && w.tried.Before(w.now)
				if !bad {
					badSince = time.Time{}
					return
				}
				if badSince.IsZero() || w.tried.After(badSince) {
					badSince = w.now
				}
				if d := w.now.Sub(badSince); d > patience {
					t.Errorf("stranded: %s for %v and nothing tried (delivering %v)", j.Verdict.Code, d, l.Delivering())
				}
			}
			for range 12 {
				w.ways = [2]path{path(rng.IntN(int(paths))), path(rng.IntN(int(paths)))}
				w.p.HoldRecovery = rng.IntN(6) == 0
				l.SetPolicy(w.p)
				if hangs && rng.IntN(2) == 0 && w.hungAt.IsZero() {
					w.hungAt, w.hang = w.now, rng.Float64()
				}
				w.live(t, l, w.now.Add(time.Duration(rng.Int64N(int64(40*time.Minute)))), c, watch)
				if rng.IntN(4) == 0 { // the guardian restarts
					raw, err := l.State(w.now, Uptime{})
					if err != nil {
						t.Fatal(err)
					}
					l = NewLadder(w.p, rng)
					if err := l.Restore(raw, w.now, Uptime{}); err != nil {
						t.Fatal(err)
					}
				}
			}

			w.ways, w.hang, w.p.HoldRecovery = [2]path{}, 0, false
			l.SetPolicy(w.p)
			healed := w.now
			back := time.Time{}
			w.live(t, l, w.now.Add(patience), c, func(j Judgement, s Snapshot) {
				if back.IsZero() && j.Verdict.Severity == SeverityWell && !l.Delivering() {
					back = w.now
				}
				if !back.IsZero() && (j.Verdict.Severity != SeverityWell || l.Delivering()) {
					t.Errorf("%s, delivering %v, after all was well", j.Verdict.Code, l.Delivering())
				}
			})
			if back.IsZero() {
				t.Errorf("not back within %v of a good path: %s, delivering %v", w.now.Sub(healed), w.phase, l.Delivering())
			}
			for code, times := range c.forced {
				withinBudget(t, "forced reconnects of "+string(code), times, w.p.ReconnectsPerHour)
			}
			withinBudget(t, "restarts", c.restarts, w.p.RestartsPerHour)
			withinBudget(t, "restarts of the service", c.services, 1)
		})
	}
	for _, kind := range []StepKind{StepReconnect, StepAlternative, StepOOB, StepRetryLink, StepRelease, StepRestartWorker, StepRestartService, StepHold} {
		if total[kind] == 0 {
			t.Errorf("no run took a %s: the world is too kind", kind)
		}
	}
}

// TestLadderDeafPathInTime: on a path that never lets one text through, commands
// go by the second door less than 4 s after the first loss.
func TestLadderDeafPathInTime(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(rng)
		w.door, w.alts, w.prompt = true, int(seed%2), true
		l := NewLadder(w.p, rng)
		c := &chronicle{forced: map[Code][]time.Time{}, kinds: map[StepKind]int{}}
		w.live(t, l, w.now.Add(2*time.Minute), c, nil)
		w.ways = [2]path{pathDeaf, pathDeaf}
		w.lostAt = w.now
		lost, entered := w.now, time.Time{}
		w.live(t, l, w.now.Add(10*time.Second), c, func(j Judgement, s Snapshot) {
			if l.Delivering() && entered.IsZero() {
				entered = w.now
			}
		})
		if entered.IsZero() || entered.Sub(lost) >= 4*time.Second {
			t.Errorf("seed %d: delivering after %v", seed, entered.Sub(lost))
		}
		if c.kinds[StepReconnect] != 1 || c.kinds[StepAlternative] != w.alts {
			t.Errorf("seed %d: steps %v", seed, c.kinds)
		}
		// The path is mended: the next retry's link ends it.
		w.ways = [2]path{}
		w.live(t, l, w.now.Add(6*time.Minute), c, nil)
		if l.Delivering() || c.kinds[StepRelease] != 1 {
			t.Errorf("seed %d: still delivering on a good path: %v", seed, c.kinds)
		}
	}
}

// A path that is only slow is never taken for a bad one.
func TestLadderLeavesASlowPathAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	w := newWorld(rng)
	w.door, w.ways = true, [2]path{pathSlow, pathSlow}
	c := &chronicle{forced: map[Code][]time.Time{}, kinds: map[StepKind]int{}}
	w.live(t, NewLadder(w.p, rng), w.now.Add(2*time.Hour), c, nil)
	if len(c.forced) != 0 || c.kinds[StepRetryLink] != 0 || c.kinds[StepOOB] != 1 || c.kinds[StepRelease] != 1 {
		t.Errorf("steps %v", c.kinds)
	}
}

// FuzzRestore: whatever is restored, the ladder refuses it or works on.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"v":1,"spent":{"link.text.lost":["2026-03-01T12:00:00Z"]},"link_rung":2,"link_level":20,"link_retry":"9999-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"restarts":["0001-01-01T00:00:00Z"],"worker_level":3}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := NewLadder(wire.DefaultPolicy(), rand.New(rand.NewPCG(1, 1)))
		if err := l.Restore(raw, t0, Uptime{}); err != nil {
			return
		}
		s := healthy()
		lose(&s, 1, 2)
		var kinds []StepKind
		for i := range 7200 {
			now := t0.Add(time.Duration(i) * time.Second)
			s.Taken = now
			steps, recheck := l.Next(Judge(s, now, l.p), s, now)
			if recheck < 0 {
				t.Fatalf("recheck %v", recheck)
			}
			for _, step := range steps {
				kinds = append(kinds, step.Kind)
			}
			if slices.Contains(kinds, StepOOB) {
				return
			}
		}
		t.Errorf("never reached the second door: %v", kinds)
	})
}

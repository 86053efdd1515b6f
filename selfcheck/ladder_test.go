package selfcheck

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

// bench drives a ladder by hand: facts in, steps out, the clock turned by the test.
type bench struct {
	t   *testing.T
	l   *Ladder
	p   wire.Policy
	now time.Time
	s   Snapshot
}

func newBench(t *testing.T) *bench {
	p := wire.DefaultPolicy()
	return &bench{t: t, p: p, now: t0, s: healthy(), l: NewLadder(p, rand.New(rand.NewPCG(7, 7)))}
}

// next takes one turn with the facts as they are.
func (b *bench) next() ([]StepKind, time.Duration) {
	b.s.Taken = b.now
	j := Judge(b.s, b.now, b.p)
	steps, recheck := b.l.Next(j, b.s, b.now)
	var kinds []StepKind
	for _, s := range steps {
		if s.Reason == "" || s.Expected == "" || s.Outcome != "" || !s.At.Equal(b.now) {
			b.t.Errorf("a step says what and why, and not yet what came of it: %+v", s)
		}
		kinds = append(kinds, s.Kind)
	}
	return kinds, recheck
}

// wants takes one turn and holds its steps against want.
func (b *bench) wants(want ...StepKind) {
	b.t.Helper()
	if got, _ := b.next(); !slices.Equal(got, want) {
		b.t.Fatalf("at %v: steps %v, want %v (verdict %s)", b.now.Sub(t0), got, want, b.l.code)
	}
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

// deaf puts link id in place, with text proven lost on it.
func (b *bench) deaf(id wire.LinkID) {
	b.s = connecting(PhaseAuth)
	b.s.Link.ID, b.s.Link.Ledger.Local.Link = id, id
	lose(&b.s, 1, 1.1)
}

// verified puts link id in place, verified and well.
func (b *bench) verified(id wire.LinkID) {
	b.s = healthy()
	b.s.Link.ID, b.s.Link.Ledger.Local.Link = id, id
}

func (b *bench) dialing() { b.s = dialing() }

func (b *bench) alternatives(n int) { b.s.Link.Alternatives = n }

// last gives the outcome of the last step of that kind.
func (b *bench) last(kind StepKind) string {
	all := b.l.Recent()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Kind == kind {
			return all[i].Outcome
		}
	}
	return "never taken"
}

func (b *bench) outcome(kind StepKind, want string) {
	b.t.Helper()
	if got := b.last(kind); !strings.HasPrefix(got, want) {
		b.t.Errorf("%s came to %q, want %q", kind, got, want)
	}
}

func TestLadderWholeClimb(t *testing.T) {
	b := newBench(t)
	b.wants()
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
	b.wants() // a step waits for its outcome
	b.pass(100 * time.Millisecond)
	b.dialing()
	b.wants()
	b.pass(1100 * time.Millisecond)
	b.deaf(2)
	b.alternatives(1)
	b.wants(StepAlternative)
	b.outcome(StepReconnect, "no better: on the new link")
	b.pass(1200 * time.Millisecond)
	b.deaf(3)
	b.alternatives(1)
	b.wants(StepOOB)
	b.outcome(StepAlternative, "no better")
	if took := b.now.Sub(t0); took > 3*time.Second || !b.l.Delivering() {
		t.Errorf("delivering %v after %v", b.l.Delivering(), took)
	}
	b.s.OOB.LastOK = sec(0.1)
	b.pass(200 * time.Millisecond)
	b.wants()
	b.outcome(StepOOB, "helped: the second door answers")

	// The retry comes within its back-off; it does not help, the next comes later.
	var retries int
	for range 600 {
		b.pass(time.Second)
		kinds, _ := b.next()
		for _, k := range kinds {
			if k != StepRetryLink {
				t.Fatalf("in OOB delivery: %s", k)
			}
			retries++
			b.deaf(wire.LinkID(100 + retries))
		}
	}
	// 15 s doubling to 5 min, half of it on average: in 10 min about six.
	if retries < 3 || retries > 12 {
		t.Errorf("%d retries in ten minutes", retries)
	}
	b.outcome(StepRetryLink, "no better")

	b.verified(900)
	b.wants(StepRelease)
	if b.l.Delivering() {
		t.Error("still delivering by the second door")
	}
	b.pass(time.Second)
	b.wants()
}

func TestLadderReconnectHelps(t *testing.T) {
	b := newBench(t)
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
	b.pass(500 * time.Millisecond)
	b.verified(2)
	b.wants()
	b.outcome(StepReconnect, "helped: link 0000000000000002 verified after 500 ms")

	// It comes back before the link has held: what did not cure it is not repeated.
	b.pass(10 * time.Second)
	lose(&b.s, 1, 1.1)
	b.wants(StepOOB)

	// After a link has held, all begins anew.
	b.verified(3)
	b.wants(StepRelease)
	for range 61 {
		b.pass(time.Second)
		b.wants()
	}
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
}

func TestLadderOrderNotCarriedOut(t *testing.T) {
	b := newBench(t)
	lose(&b.s, 1, 1.1)
	b.alternatives(1)
	b.wants(StepReconnect)
	// The old link stays: the worker did not do as it was told.
	b.pass(ms(b.p.VerifyMS) - time.Second)
	b.wants()
	b.pass(time.Second)
	b.wants(StepAlternative)
	b.outcome(StepReconnect, "no better: no verified link within 20 s")
}

func TestLadderActsOnProofOnly(t *testing.T) {
	for name, change := range map[string]func(s *Snapshot){
		"well":           func(s *Snapshot) {},
		"suspected loss": func(s *Snapshot) { lose(s, 1, 0.1) },
		"suspected text": rewritten,
		"delayed":        func(s *Snapshot) { s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 1, sec(1) },
		"decode":         func(s *Snapshot) { s.Stages.Undecoded = 1 },
		"rejected":       func(s *Snapshot) { s.Stages.Rejected = 1 },
		"executor full":  func(s *Snapshot) { s.Jobs.Running = 8 },
		"flapping":       func(s *Snapshot) { s.Link.Drops = 5 },
		"duplicate":      func(s *Snapshot) { other(s, 30_000) },
		"door fails":     func(s *Snapshot) { s.OOB.Failures = 9 },
		"metrics slow":   func(s *Snapshot) { stall(s, "metrics", 5) },
		"perhaps frozen": func(s *Snapshot) { s.Worker.Silent = sec(7) },
		"writer waits":   func(s *Snapshot) { atNetwork(s, 6) },
		"no snapshot":    func(s *Snapshot) { *s = Snapshot{} },
	} {
		b := newBench(t)
		change(&b.s)
		for range 60 {
			if s := b.s; !s.Taken.IsZero() || name != "no snapshot" {
				if kinds, _ := b.next(); len(kinds) != 0 {
					t.Errorf("%s: %v", name, kinds)
				}
			} else if steps, _ := b.l.Next(Judge(s, b.now, b.p), s, b.now); len(steps) != 0 {
				t.Errorf("%s: %v", name, steps)
			}
			b.pass(time.Second)
		}
	}
}

func TestLadderProofsReconnect(t *testing.T) {
	for name, change := range map[string]func(s *Snapshot){
		"altered":        func(s *Snapshot) { s.Link.Ledger.Altered = "down" },
		"stuck fragment": func(s *Snapshot) { s.Link.In.OpenFragment = sec(6) },
		"uplink":         func(s *Snapshot) { s.Link.Ledger.Up = &Gap{Missing: 1, Age: *sec(1.5)} },
		"foreign":        func(s *Snapshot) { s.Link.Ledger.UnansweredAge, s.Link.In.TextAge = sec(2), sec(95) },
		"stale":          func(s *Snapshot) { owe(s, 12, 1) },
		"unwritten":      func(s *Snapshot) { view(s, 2, wire.LinkView{Written: 17, Queued: 1, HeldMS: new(int64(1200))}) },
		"silent text":    func(s *Snapshot) { rewritten(s); view(s, 2, wire.LinkView{Written: 18}) },
	} {
		b := newBench(t)
		change(&b.s)
		if kinds, _ := b.next(); !slices.Equal(kinds, []StepKind{StepReconnect}) {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

func TestLadderLinkDown(t *testing.T) {
	b := newBench(t)
	b.dialing()
	kinds, recheck := b.next()
	if len(kinds) != 0 || recheck != downGrace {
		t.Fatalf("%v, recheck %v", kinds, recheck)
	}
	b.pass(recheck)
	b.wants(StepOOB)
	// The link's own back-off dials: nothing is forced, however long it takes.
	b.s.Link.Failure = &NetworkError{Type: "tcp.refused"}
	for range 3600 {
		b.pass(time.Second)
		b.wants()
	}
	b.verified(5)
	b.wants(StepRelease)
}

// A whole fleet may be waiting for its turn: it does not go to the second door meanwhile,
// but where the link does not come then, it does.
func TestLadderWaitsForItsTurn(t *testing.T) {
	b := newBench(t)
	b.wants()
	b.dialing()
	b.s.Link.Phase, b.s.Link.Asked = PhaseWaiting, "it is going down"
	for range 30 {
		b.s.Link.NextDial = sec(1)
		b.wants()
		b.pass(time.Second)
	}
	b.dialing()
	b.wants()
	b.pass(ms(b.p.VerifyMS) - 2*time.Second)
	b.s.Link.PhaseAge = sec(18)
	b.wants()
	b.pass(time.Second)
	b.wants(StepOOB)
}

func TestLadderFailedAttemptOpensTheDoor(t *testing.T) {
	b := newBench(t)
	b.dialing()
	b.s.Link.Failure = &NetworkError{Type: "tcp.refused"}
	b.wants(StepOOB)
}

func TestLadderSilentLinkIsRetried(t *testing.T) {
	b := newBench(t)
	b.s.Link.In.AnyAge, b.s.Link.In.TextAge, b.s.Link.Ledger.PeerAge = sec(100), sec(100), sec(100)
	b.wants(StepOOB)
	b.pass(16 * time.Second)
	b.wants(StepRetryLink) // should its own deadline not have ended it by now
}

func TestLadderBadLinkDoesNotEndDelivery(t *testing.T) {
	b := newBench(t)
	b.wants()
	owe(&b.s, 12, 1)
	b.wants(StepReconnect)
	b.pass(time.Second)
	b.verified(2)
	b.wants()
	b.pass(12 * time.Second)
	owe(&b.s, 12, 1)
	b.wants(StepOOB)
	// Delivered by the second door, nothing is owed any more; the link is as bad as it was.
	b.s = healthy()
	b.s.Link.ID = 2
	b.pass(time.Second)
	b.wants()
	b.pass(16 * time.Second)
	b.wants(StepRetryLink)
	b.pass(time.Second)
	b.verified(3)
	b.wants(StepRelease)
}

func TestLadderWithoutASecondDoor(t *testing.T) {
	b := newBench(t)
	id := wire.LinkID(10)
	taken := map[StepKind]int{}
	var hour []time.Time
	for range 3 * 3600 {
		b.deaf(id)
		b.s.OOB = OOBFacts{}
		kinds, _ := b.next()
		for _, k := range kinds {
			taken[k]++
			if k == StepReconnect {
				id++
				hour = append(hour, b.now)
			}
		}
		b.pass(time.Second)
	}
	if b.l.Delivering() {
		t.Error("delivers by a door that is not there")
	}
	if n := taken[StepReconnect]; n < 12 || n > 18 {
		t.Errorf("%d reconnects in three hours of at most 6 each, want them used", n)
	}
	if taken[StepHold] != 1 {
		t.Errorf("held %d times, want it told once", taken[StepHold])
	}
	withinBudget(t, "reconnects", hour, b.p.ReconnectsPerHour)
}

func TestLadderBudgetsPerVerdict(t *testing.T) {
	b := newBench(t)
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
	if got := b.l.Budgets(b.now); got.Reconnects != 5 || got.Restarts != 3 {
		t.Errorf("budgets %+v", got)
	}
	if got := b.l.Budgets(b.now.Add(time.Hour)); got.Reconnects != 6 {
		t.Errorf("an hour later %+v", got)
	}
	b.l.code = CodeRouteStale
	if got := b.l.Budgets(b.now); got.Reconnects != 6 {
		t.Errorf("of another verdict %+v", got)
	}
}

func TestLadderSpentBudgetOpensTheDoor(t *testing.T) {
	b := newBench(t)
	for i := range 6 {
		lose(&b.s, 1, 1.1)
		b.wants(StepReconnect)
		b.verified(wire.LinkID(10 + i))
		for range 70 { // each link holds for a while
			b.pass(time.Second)
			b.wants()
		}
	}
	lose(&b.s, 1, 1.1)
	b.wants(StepOOB)
	if got := b.l.Budgets(b.now).Reconnects; got != 0 {
		t.Errorf("%d left", got)
	}
}

func TestLadderHoldRecovery(t *testing.T) {
	b := newBench(t)
	b.p.HoldRecovery = true
	b.l.SetPolicy(b.p)
	lose(&b.s, 1, 1.1)
	b.wants(StepOOB)
	for range 900 {
		b.pass(time.Second)
		b.wants()
	}
	stall(&b.s, "orders", 6)
	b.wants()
	// Lifted: it goes on where it was held.
	b.p.HoldRecovery = false
	b.l.SetPolicy(b.p)
	b.wants(StepRestartWorker, StepRetryLink)
}

// Where the server sees a verdict on many, each takes its step at a moment of its own.
func TestLadderSpreadsItsSteps(t *testing.T) {
	const over = 60 * time.Second
	var first []time.Duration
	for seed := range uint64(200) {
		b := newBench(t)
		b.l.rng = rand.New(rand.NewPCG(seed, 1))
		b.p.SpreadRecoveryMS = over.Milliseconds()
		b.l.SetPolicy(b.p)
		began := b.now
		b.s.Worker.Silent = sec(9) // hung
		for {
			if steps, _ := b.next(); len(steps) > 0 {
				if !slices.Equal(steps, []StepKind{StepRestartWorker}) {
					t.Fatalf("steps %v", steps)
				}
				break
			}
			b.pass(100 * time.Millisecond)
		}
		first = append(first, b.now.Sub(began))
	}
	slices.Sort(first)
	if least, middle, most := first[0], first[len(first)/2], first[len(first)-1]; least > over/10 || middle < over/3 || middle > 2*over/3 || most < 9*over/10 || most > over+100*time.Millisecond {
		t.Errorf("steps of 200 were taken after %v, %v, %v", least, middle, most)
	}

	b := newBench(t)
	b.p.SpreadRecoveryMS = over.Milliseconds()
	b.l.SetPolicy(b.p)
	lose(&b.s, 1, 1.1)
	b.wants(StepOOB) // commands do not wait
	for range 2 * int(over/time.Second) {
		b.pass(time.Second)
		if steps, _ := b.next(); len(steps) > 0 {
			if !slices.Equal(steps, []StepKind{StepRetryLink}) {
				t.Fatalf("steps %v", steps)
			}
			return
		}
	}
	t.Error("the link was never retried")
}

func TestLadderWorker(t *testing.T) {
	b := newBench(t)
	hang := func(pid int) {
		b.s = healthy()
		b.s.Worker.PID, b.s.Worker.Silent = pid, sec(9)
	}
	hang(1)
	b.wants(StepRestartWorker)
	b.pass(time.Second)
	b.wants()
	b.s = connecting(PhaseAuth)
	b.s.Worker.PID = 2
	b.wants() // it reports; whether it is any good only text both ways can tell
	b.outcome(StepRestartWorker, "")
	b.pass(time.Second)
	b.s = healthy()
	b.s.Worker.PID, b.s.Link.VerifiedAge = 2, sec(0.5)
	b.wants()
	b.outcome(StepRestartWorker, "helped: a new worker, and text both ways, after 2.0 s")

	for i := range 2 {
		hang(2 + i)
		b.wants(StepRestartWorker)
		b.pass(6 * time.Second)
		hang(3 + i)
		b.next()
		b.outcome(StepRestartWorker, "no better: the new worker")
		b.pass(5 * time.Second) // its back-off
	}
	hang(4)
	b.wants(StepRestartService)
	b.pass(workerGrace)
	b.wants()
	b.outcome(StepRestartService, "no better: no new worker reported")
	b.pass(10 * time.Second)
	b.wants(StepHold)
	b.wants()
	if got := b.l.Budgets(b.now).Restarts; got != 0 {
		t.Errorf("%d restarts left", got)
	}
	// Held, never given up.
	b.pass(time.Hour)
	b.wants(StepRestartWorker)
}

func TestLadderHungWorkerSaysNothingOfTheLink(t *testing.T) {
	b := newBench(t)
	b.dialing()
	b.s.Worker.Silent = sec(9)
	b.wants(StepRestartWorker)
	for range 10 {
		b.pass(time.Second)
		b.wants()
	}
}

func TestLadderNextStep(t *testing.T) {
	b := newBench(t)
	b.wants()
	if kind, _, ok := b.l.NextStep(b.now); ok {
		t.Errorf("all is well, and %s is planned", kind)
	}
	b.deaf(2)
	b.wants(StepReconnect)
	b.pass(time.Second)
	b.deaf(3)
	b.wants(StepOOB)
	kind, in, ok := b.l.NextStep(b.now)
	if kind != StepRetryLink || in <= 0 || in > 15*time.Second || !ok {
		t.Fatalf("in OOB delivery: %s in %v, %v", kind, in, ok)
	}
	b.pass(in)
	b.wants(StepRetryLink)

	alone := newBench(t)
	alone.deaf(2)
	alone.s.OOB = OOBFacts{}
	alone.wants(StepReconnect)
	alone.pass(time.Second)
	alone.deaf(3)
	alone.s.OOB = OOBFacts{}
	alone.wants()
	kind, in, ok = alone.l.NextStep(alone.now)
	if kind != StepReconnect || in <= 0 || !ok {
		t.Fatalf("without a second door: %s in %v, %v", kind, in, ok)
	}
	alone.pass(in)
	alone.wants(StepReconnect)
}

func TestLadderState(t *testing.T) {
	b := newBench(t)
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
	b.pass(time.Second)
	b.deaf(2)
	b.wants(StepOOB)
	b.s.Worker.Silent = sec(9)
	b.wants(StepRestartWorker)
	raw, err := b.l.State(b.now, Uptime{})
	if err != nil {
		t.Fatal(err)
	}

	after := newBench(t)
	after.now = b.now.Round(0).Add(2 * time.Second)
	if err := after.l.Restore(raw, after.now, Uptime{}); err != nil {
		t.Fatal(err)
	}
	after.l.code = CodeLinkTextLost
	if got := after.l.Budgets(after.now); got.Reconnects != 5 || got.Restarts != 2 {
		t.Errorf("budgets after a restart %+v", got)
	}
	after.deaf(3)
	after.wants(StepOOB) // the reconnect that did not help is not repeated before its back-off
	if again, err := after.l.State(after.now, Uptime{}); err != nil || !json.Valid(again) {
		t.Errorf("%s, %v", again, err)
	}

	later := newBench(t)
	later.now = b.now.Add(10 * time.Minute)
	if err := later.l.Restore(raw, later.now, Uptime{}); err != nil {
		t.Fatal(err)
	}
	later.deaf(3)
	later.wants(StepReconnect) // its back-off is over
}

func TestLadderStateFromTheFuture(t *testing.T) {
	// The clock was set back by a year over the restart.
	b := newBench(t)
	for i := range 6 {
		b.l.link.spent[CodeLinkTextLost] = append(b.l.link.spent[CodeLinkTextLost], t0.AddDate(1, 0, i))
	}
	b.l.link.retryAt, b.l.link.rung = t0.AddDate(1, 0, 0), rungReconnected
	raw, err := b.l.State(b.now, Uptime{})
	if err != nil {
		t.Fatal(err)
	}
	after := newBench(t)
	if err := after.l.Restore(raw, t0, Uptime{}); err != nil {
		t.Fatal(err)
	}
	after.l.code = CodeLinkTextLost
	if got := after.l.Budgets(t0).Reconnects; got != 0 {
		t.Errorf("%d left at once", got)
	}
	after.l.Next(Judgement{}, Snapshot{}, t0)
	if got := after.l.Budgets(t0.Add(time.Hour)).Reconnects; got != 6 {
		t.Errorf("%d left after an hour: the budget must come back", got)
	}
	if d := after.l.link.retryAt.Sub(t0); d > 5*time.Minute {
		t.Errorf("back-off of %v", d)
	}
}

func TestLadderRefusesGarbage(t *testing.T) {
	b := newBench(t)
	lose(&b.s, 1, 1.1)
	b.wants(StepReconnect)
	for name, raw := range map[string]string{
		"empty":         "",
		"no JSON":       "\x00\x01",
		"cut off":       `{"v":1,"spent":{"link.text.lost":["2026-`,
		"other version": `{"v":2}`,
		"followed":      `{"v":1}{"v":1}`,
		"level":         `{"v":1,"link_level":99}`,
		"negative":      `{"v":1,"worker_level":-1}`,
		"rung":          `{"v":1,"link_rung":9}`,
		"flood":         `{"v":1,"restarts":[` + strings.Repeat(`"2026-03-01T12:00:00Z",`, 100) + `"2026-03-01T12:00:00Z"]}`,
		"huge":          strings.Repeat(" ", maxState) + `{"v":1}`,
	} {
		if err := b.l.Restore([]byte(raw), b.now, Uptime{}); !errors.Is(err, ErrBadState) {
			t.Errorf("%s: %v", name, err)
		}
		if got := b.l.Budgets(b.now).Reconnects; got != 5 {
			t.Fatalf("%s: the ladder was changed: %d left", name, got)
		}
	}
}

// After a rollback the state is one that a later version wrote.
func TestLadderTakesWhatItKnowsOfALaterState(t *testing.T) {
	b := newBench(t)
	raw := `{"v":1,"spent":{"no.such":["2026-03-01T12:00:00Z"],"link.text.lost":["2026-03-01T12:00:00Z"]},
		"restarts":["2026-03-01T12:00:00Z"],"service":{"kind":"no_such","verdict":"no.such.either"},"x":{"y":1}}`
	if err := b.l.Restore([]byte(raw), b.now, Uptime{}); err != nil {
		t.Fatal(err)
	}
	b.l.code = CodeLinkTextLost
	if got := b.l.Budgets(b.now); got.Reconnects != b.l.p.ReconnectsPerHour-1 || got.Restarts != b.l.p.RestartsPerHour-1 {
		t.Errorf("budgets %+v", got)
	}
	if len(b.l.link.spent) != 1 || len(b.l.Recent()) != 0 || b.l.worker.step != nil {
		t.Errorf("taken without knowing what it is: %v, %+v", b.l.link.spent, b.l.Recent())
	}
}

func TestLadderRecentIsBounded(t *testing.T) {
	b := newBench(t)
	for range 100 {
		b.l.Ordered(Order{Kind: StepReconnect, Reason: "by directive"}, CodeOK, b.s, b.now)
	}
	if n := len(b.l.Recent()); n != recentSteps {
		t.Errorf("%d steps kept", n)
	}
}

// withinBudget holds that no hour has more than limit of times.
func withinBudget(t *testing.T, what string, times []time.Time, limit int) {
	t.Helper()
	for i := limit; i < len(times); i++ {
		if d := times[i].Sub(times[i-limit]); d < time.Hour {
			t.Errorf("%d %s within %v", limit+1, what, d)
			return
		}
	}
}

package rollout

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// orders stands for package delivery on the same store: what is ordered is stored,
// and fails as often as told.
type orders struct {
	st   store.Store
	fail atomic.Int32
}

func (o *orders) Order(ctx context.Context, d wire.Directive, by string) (operator.Directive, error) {
	if o.fail.Add(-1) >= 0 {
		return operator.Directive{}, errors.New("the disk is full")
	}
	if err := o.st.CreateDirective(ctx, d, by, time.Now()); err != nil {
		return operator.Directive{}, err
	}
	return o.AskDirective(ctx, d.ID)
}

func (o *orders) Withdraw(ctx context.Context, agent, id, why string) error {
	return o.st.WithdrawDirective(ctx, store.DirectiveAnswer{ID: id, State: wire.DirectiveFailed, At: time.Now(), Detail: why})
}

func (o *orders) AskDirective(ctx context.Context, id string) (operator.Directive, error) {
	d, err := o.st.Directive(ctx, id)
	if d.State == "" {
		d.State = operator.DirectiveWaiting
	}
	return d, err
}

// rig is a service on a real database in a bubble of virtual time. Its fields are
// touched only while the service waits.
type rig struct {
	*Service
	t      *testing.T
	st     store.Store
	orders *orders
	agents []string
	stop   func()
	leads  func() bool // nil: it is alone

	mu    sync.Mutex // the race detector knows nothing of virtual time
	known map[string]Fact
}

func (r *rig) fact(agent string) Fact {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[agent]
}

func (r *rig) know(agent string, f Fact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[agent] = f
}

func inBubble(t *testing.T, agents int, test func(t *testing.T, r *rig)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.db")
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, st: st, orders: &orders{st: st}, known: map[string]Fact{}}
		for i := range agents {
			r.enroll(fmt.Sprint("host-", i))
		}
		r.publish("v1.2.3", "v1.3.0")
		r.start()
		defer func() {
			r.stop()
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(t, r)
	})
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) enroll(name string) {
	key, _, err := ed25519.GenerateKey(nil)
	r.must(err)
	hash, now := store.HashToken(wire.NewID()), time.Now()
	r.must(r.st.CreateEnrollToken(context.Background(), hash, operator.EnrollToken{ID: wire.NewID(), Site: "s", UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
	a, err := r.st.TradeToken(context.Background(), hash, store.Agent{
		ID: wire.NewID(), Name: name, PublicKey: key, Version: "v1.0.0", Platform: wire.Platform{OS: "linux", Arch: "amd64"},
	}, now)
	r.must(err)
	r.agents = append(r.agents, a.ID)
	r.know(a.ID, Fact{Presence: Present, Version: "v1.0.0", VerifiedSince: now})
}

func (r *rig) publish(versions ...string) {
	for _, v := range versions {
		_, err := r.st.CreateBuild(context.Background(), operator.Build{Build: wire.Build{Version: v, OS: "linux", Arch: "amd64", Size: 1, SHA256: v, Signature: "s"}})
		r.must(err)
	}
}

func (r *rig) start() {
	r.Service = New(Options{
		Store: r.st, Orders: r.orders, Fact: r.fact, Leads: r.leads,
		Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := r.Service
	go func() { ended <- s.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	}
	synctest.Wait()
}

// roll begins a rollout without soak, whose first ring is one endpoint.
func (r *rig) roll(change func(*operator.NewRollout)) operator.Rollout {
	r.t.Helper()
	n := operator.NewRollout{Version: "v1.2.3", RolloutPlan: operator.RolloutPlan{Rings: []float64{1, 100}, SoakMS: -1}}
	if change != nil {
		change(&n)
	}
	out, err := r.Create(r.t.Context(), n, "ops")
	r.must(err)
	return out
}

// pass lets the service look at the facts, a few times.
func pass() {
	time.Sleep(3 * tickEvery)
	synctest.Wait()
}

// listedAsTold: what the list says of a rollout is what is told of it alone.
func (r *rig) listedAsTold(s operator.Rollout) {
	r.t.Helper()
	all, err := r.Rollouts(r.t.Context(), 0)
	r.must(err)
	for _, l := range all {
		if l.ID == s.ID && l.State == s.State && l.Now == s.Now && l.Resumable == s.Resumable {
			return
		}
	}
	r.t.Errorf("told %q (resumable: %t), listed %+v", s.Now, s.Resumable, all)
}

// waiting are the orders that no endpoint has fetched.
func (r *rig) waiting() (out []operator.Directive) {
	r.t.Helper()
	for _, id := range r.agents {
		all, err := r.st.Directives(r.t.Context(), id, 0)
		r.must(err)
		for _, d := range all {
			if d.EndedAt == nil {
				out = append(out, d)
			}
		}
	}
	return out
}

func (r *rig) tell(d operator.Directive, state wire.DirectiveState, detail string) {
	r.t.Helper()
	_, err := r.st.AnswerDirective(r.t.Context(), d.Agent, store.DirectiveAnswer{ID: d.ID, State: state, At: time.Now(), Detail: detail})
	r.must(err)
}

func (r *rig) status(id string) operator.Rollout {
	r.t.Helper()
	out, err := r.Rollout(r.t.Context(), id)
	r.must(err)
	return out
}

func TestARolloutGoesRingByRingAcrossRestarts(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.GraceMS, n.AllowDowngrade = 20_000, true }).ID
		pass()
		open := r.waiting()
		if len(open) != 1 {
			t.Fatalf("ordered %+v", open)
		}
		pending, err := r.st.PendingDirectives(t.Context(), open[0].Agent, time.Now(), time.Now())
		r.must(err)
		if b := pending[0].Build; b == nil || b.Version != "v1.2.3" || b.GraceMS != 20_000 || !b.AllowDowngrade || b.SHA256 != "v1.2.3" || pending[0].Kind != wire.DirectiveUpdate {
			t.Errorf("ordered %+v", pending[0])
		}
		r.stop()
		r.start() // goes on where it was
		pass()
		if again := r.waiting(); len(again) != 1 || again[0].ID != open[0].ID {
			t.Fatalf("after a restart: %+v", again)
		}
		r.tell(open[0], wire.DirectiveAccepted, "")
		pass()
		if s := r.status(id); s.Rings[0].Running != 1 || s.Rings[1].Waiting != 3 {
			t.Errorf("taken up: %+v", s.Rings)
		}
		r.tell(open[0], wire.DirectiveDone, "runs")
		pass()
		if s := r.status(id); s.Ring != 1 || s.Rings[0].Done != 1 || s.Rings[1].Ordered != 3 || len(r.waiting()) != 3 {
			t.Fatalf("the next ring: %+v, %d orders", s, len(r.waiting()))
		}
		for _, d := range r.waiting() {
			r.tell(d, wire.DirectiveDone, "runs")
		}
		pass()
		if s := r.status(id); s.State != operator.RolloutDone || s.Rings[1].Done != 3 || s.EndedAt == nil || s.Now != "done" {
			t.Errorf("at the end: %+v", s)
		}
		all, err := r.Rollouts(t.Context(), 0)
		if err != nil || len(all) != 1 || all[0].State != operator.RolloutDone || all[0].Rings != nil {
			t.Errorf("listed: %+v, %v", all, err)
		}
	})
}

func TestARingThatFailsStopsAndIsResumed(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		id := r.roll(nil).ID
		pass()
		first := r.waiting()[0]
		r.tell(first, wire.DirectiveFailed, "no space left")
		pass()
		s := r.status(id)
		if s.State != operator.RolloutStopped || !strings.Contains(s.Reason, "no space left") || s.Resumable || len(s.Failures) != 1 || s.Failures[0].Agent != first.Agent || len(r.waiting()) != 0 {
			t.Fatalf("%+v", s)
		}
		r.listedAsTold(s)
		r.stop()
		r.start()
		pass()
		if _, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{Retry: true}); err != nil {
			t.Fatal(err)
		}
		pass()
		again := r.waiting()
		if len(again) != 1 || again[0].Agent != first.Agent || again[0].ID == first.ID {
			t.Fatalf("retried: %+v", again)
		}
		r.tell(again[0], wire.DirectiveFailed, "still")
		pass()
		if s := r.status(id); s.State != operator.RolloutStopped || !strings.Contains(s.Reason, "still") {
			t.Fatalf("%+v", s)
		}
		for _, how := range []operator.ResumeRollout{{}, {MaxFailures: "100%"}} { // nobody runs it
			if _, err := r.Resume(t.Context(), id, "ops", how); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "--retry") {
				t.Errorf("without it: %v", err)
			}
		}
		if _, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{MaxFailures: "-1"}); !errors.Is(err, ErrInvalid) {
			t.Errorf("a limit that can't be meant: %v", err)
		}
		if s := r.status(id); s.State != operator.RolloutStopped || s.Ring != 0 || s.Plan.MaxFailures != "5%" {
			t.Errorf("refused, it changed all the same: %+v", s)
		}
	})
}

// More failures may be allowed than before, and those count on; the limit is kept
// across a restart.
func TestAResumedRolloutKeepsToItsLimit(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{75, 100} }).ID
		pass()
		open := r.waiting()
		r.tell(open[0], wire.DirectiveFailed, "broken")
		r.tell(open[1], wire.DirectiveAccepted, "") // not withdrawn any more
		r.tell(open[2], wire.DirectiveAccepted, "")
		pass()
		if s := r.status(id); s.State != operator.RolloutStopped || !strings.HasPrefix(s.Reason, "ring 1: 1 of 3 failed, 0 allowed: host-") {
			t.Fatalf("%+v", s)
		}
		if _, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{}); !errors.Is(err, ErrState) {
			t.Errorf("as it was: %v", err)
		}
		if s, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{MaxFailures: "1"}); err != nil || s.State != operator.RolloutActive || s.ResumedAt == nil {
			t.Fatalf("%+v, %v", s, err)
		}
		if _, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{}); !errors.Is(err, ErrState) {
			t.Errorf("resumed twice: %v", err)
		}
		r.stop()
		r.start()
		r.tell(open[1], wire.DirectiveDone, "runs")
		pass()
		if s := r.status(id); s.Ring != 0 || s.Plan.MaxFailures != "1" {
			t.Errorf("before all have told: %+v", s)
		}
		r.tell(open[2], wire.DirectiveDone, "runs")
		pass()
		if s := r.status(id); s.State != operator.RolloutActive || s.Ring != 1 || s.Rings[0].Failed != 1 || s.Rings[1].Ordered != 1 {
			t.Errorf("with one failure allowed: %+v", s)
		}
	})
}

// An endpoint that is busy is no failure of the version: it is ordered again, later
// each time, across a restart too, and at last it is left alone.
func TestWhoIsBusyIsOrderedAgainAndNotBlamed(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{50, 100} }).ID
		pass()
		refuse := func(d operator.Directive) {
			t.Helper()
			_, err := r.st.AnswerDirective(t.Context(), d.Agent, store.DirectiveAnswer{ID: d.ID, State: wire.DirectiveFailed, Code: wire.CodeBusy, At: time.Now(), Detail: "an update is under way"})
			r.must(err)
		}
		var waits []time.Duration
		for try := range maxTries {
			open := r.waiting()
			if len(open) != 1 {
				t.Fatalf("try %d: ordered %+v", try, open)
			}
			refuse(open[0])
			pass()
			if s := r.status(id); try < maxTries-1 {
				if s.State != operator.RolloutActive || s.Rings[0].Later != 1 || len(s.Open) != 1 || s.Open[0].Attempts != try+1 || s.Open[0].Detail != "busy: an update is under way" {
					t.Fatalf("try %d: %+v", try, s)
				}
				waits = append(waits, time.Until(*s.Open[0].NotBefore).Round(time.Minute))
				r.stop()
				r.start()
				time.Sleep(time.Until(*s.Open[0].NotBefore) - time.Second)
				if early := r.waiting(); len(early) != 0 {
					t.Fatalf("ordered too early: %+v", early)
				}
				pass()
			}
		}
		if want := []time.Duration{time.Minute, 4 * time.Minute, 16 * time.Minute, time.Hour, time.Hour}; !slices.Equal(waits, want) {
			t.Errorf("it waited %v", waits)
		}
		s := r.status(id)
		if s.State != operator.RolloutStopped || s.Rings[0].Untried != 1 || s.Rings[0].Failed != 0 || len(s.Failures) != 0 || !strings.Contains(s.Reason, "could be tried: host-") || !strings.Contains(s.Reason, "an update is under way") {
			t.Fatalf("%+v", s)
		}
		if _, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{Retry: true}); err != nil {
			t.Fatal(err)
		}
		pass()
		r.tell(r.waiting()[0], wire.DirectiveDone, "runs")
		pass()
		if s := r.status(id); s.Ring != 1 || s.Rings[0].Done != 1 || s.Rings[1].Ordered != 1 {
			t.Errorf("in the end: %+v", s)
		}
	})
}

// The next ring goes on without one that could not be tried, and that one is
// ordered again when an operator says so, while the rollout is active.
func TestOneThatIsNotTriedIsRetriedByHand(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{60, 100} }).ID
		pass()
		open := r.waiting()
		r.tell(open[0], wire.DirectiveDone, "runs")
		time.Sleep(fetchWithin + time.Minute) // the other is there, and does not come
		synctest.Wait()
		s := r.status(id)
		if s.Ring != 1 || s.Rings[0].Untried != 1 || s.Rings[1].Ordered != 1 || len(s.Open) != 2 || !strings.Contains(s.Open[0].Detail, "second door is shut") {
			t.Fatalf("%+v", s)
		}
		if left := r.waiting(); len(left) != 1 || left[0].Agent == open[1].Agent {
			t.Errorf("its order was not taken back: %+v", left)
		}
		if s, err := r.Resume(t.Context(), id, "ops", operator.ResumeRollout{Retry: true}); err != nil || s.Rings[0].Waiting != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		pass()
		if s := r.status(id); s.Rings[0].Ordered != 1 || len(r.waiting()) != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// An endpoint that an operator removes is no part of it any more, and its order, that
// ends with it, is no failure.
func TestWhoIsRemovedIsLeftOut(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{60, 100} }).ID
		pass()
		open := r.waiting()
		r.tell(open[0], wire.DirectiveAccepted, "")
		r.must(r.st.RemoveAgent(t.Context(), open[0].Agent, "ops", time.Now()))
		r.tell(open[1], wire.DirectiveDone, "runs")
		pass()
		s := r.status(id)
		if s.Ring != 1 || s.Rings[0].Skipped != 1 || s.Rings[0].Failed != 0 || s.Rings[1].Ordered != 1 {
			t.Fatalf("%+v", s)
		}
		last := r.waiting()[0].Agent
		r.know(last, Fact{Presence: Away})
		pass()
		r.must(r.st.RemoveAgent(t.Context(), last, "ops", time.Now()))
		r.must(r.st.PurgeAgent(t.Context(), last))
		time.Sleep(lateTicks * tickEvery)
		pass()
		if s := r.status(id); s.State != operator.RolloutDone || s.Rings[1].Skipped != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Two rollouts of different endpoints go on side by side; each stops for itself.
func TestTwoRolloutsAtOnce(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, r *rig) {
		whole := func(version string, agents []string) string {
			return r.roll(func(n *operator.NewRollout) { n.Version, n.Agents, n.Rings = version, agents, []float64{50, 100} }).ID
		}
		one, two := whole("v1.2.3", r.agents[:2]), whole("v1.3.0", r.agents[2:])
		answer := func(state wire.DirectiveState, of string) {
			t.Helper()
			pass()
			for _, d := range r.waiting() {
				if d.Version != of {
					continue
				}
				if slices.Contains(r.agents[:2], d.Agent) != (of == "v1.2.3") {
					t.Errorf("%s ordered of %s", of, d.Agent)
				}
				r.tell(d, state, "told")
			}
		}
		answer(wire.DirectiveFailed, "v1.3.0")
		answer(wire.DirectiveDone, "v1.2.3")
		r.stop() // both are taken up again
		r.start()
		answer(wire.DirectiveDone, "v1.2.3")
		pass()
		if a, b := r.status(one), r.status(two); a.State != operator.RolloutDone || a.Rings[1].Done != 1 || b.State != operator.RolloutStopped || b.Ring != 0 || b.Rings[1].Waiting != 1 {
			t.Errorf("one %+v, two %+v", a, b)
		}
		if _, err := r.Resume(t.Context(), two, "ops", operator.ResumeRollout{Retry: true}); err != nil {
			t.Errorf("the first is over: %v", err)
		}
	})
}

// What an operator may get wrong, or mean otherwise, has a plain outcome.
func TestWhoIsPartOfARollout(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		r.publish("v0.9.0")
		newer, same := r.agents[0], r.agents[1]
		r.know(newer, Fact{Presence: Present, Version: "v2.0.0", VerifiedSince: time.Now()})
		r.know(same, Fact{Presence: Present, Version: "v1.2.3", VerifiedSince: time.Now()})
		wants := func(name string, change func(*operator.NewRollout), wanted, skipped int) {
			t.Helper()
			s := r.roll(change)
			n := operator.RolloutRing{}
			for _, ring := range s.Rings {
				n.Wanted += ring.Wanted
				n.Skipped += ring.Skipped
			}
			if n.Wanted != wanted || n.Skipped != skipped {
				t.Errorf("%s: %+v", name, s.Rings)
			}
			if _, err := r.Stop(t.Context(), s.ID, "ops"); err != nil {
				t.Error(err)
			}
			pass()
		}
		wants("an endpoint that runs it and a newer one are skipped", nil, 3, 2)
		wants("one that runs it is skipped", func(n *operator.NewRollout) { n.AllowDowngrade = true }, 3, 1)
		wants("a downgrade of all", func(n *operator.NewRollout) { n.Version, n.AllowDowngrade = "v0.9.0", true }, 3, 0)
		for _, c := range []struct {
			name, says string
			agents     []string
		}{
			{"all run it", "all of these endpoints (1) run v1.2.3 already", []string{same}},
			{"all are newer", "--allow-downgrade", []string{newer}},
			{"all run it or are newer", "all of these endpoints (2) run v1.2.3 or newer; to bring those that are newer (1)", []string{newer, same}},
		} {
			if _, err := r.Create(t.Context(), operator.NewRollout{Version: "v1.2.3", Agents: c.agents}, "ops"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}

func TestStoppedItTakesBackWhatNobodyFetched(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{100} }).ID
		pass()
		open := r.waiting()
		if len(open) != 3 {
			t.Fatalf("ordered %d", len(open))
		}
		r.tell(open[0], wire.DirectiveAccepted, "")
		if s, err := r.Stop(t.Context(), id, "ops"); err != nil || s.State != operator.RolloutStopped || s.Reason != "by ops" || !s.Resumable {
			t.Fatalf("%+v, %v", s, err)
		}
		pass()
		if left := r.waiting(); len(left) != 1 || left[0].ID != open[0].ID {
			t.Errorf("left %+v", left)
		}
		r.tell(open[0], wire.DirectiveDone, "runs") // what was begun is still told
		pass()
		if s := r.status(id); s.Rings[0].Done != 1 || s.Rings[0].Waiting != 2 || s.Rings[0].Ordered != 0 {
			t.Errorf("%+v", s.Rings)
		}
		if _, err := r.Stop(t.Context(), id, "ops"); !errors.Is(err, ErrState) {
			t.Errorf("stopped twice: %v", err)
		}
	})
}

// The plan is stored before the order: a server that ends between the two, or
// whose disk is full, orders once, later.
func TestAnOrderThatCouldNotBeStoredIsGivenLaterOnce(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, r *rig) {
		r.orders.fail.Store(2)
		id := r.roll(nil).ID
		time.Sleep(10 * tickEvery)
		synctest.Wait()
		if open := r.waiting(); len(open) != 1 || r.orders.fail.Load() >= 0 || r.status(id).Rings[0].Ordered != 1 {
			t.Errorf("%d orders, %+v", len(open), r.status(id))
		}
	})
}

func TestWhoIsAwayIsOrderedOnComingBack(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		gone := r.agents[1]
		there := r.fact(gone)
		r.know(gone, Fact{Presence: Away, Version: there.Version})
		id := r.roll(func(n *operator.NewRollout) { n.Rings = []float64{50, 100} }).ID
		pass()
		first := r.waiting()
		if len(first) != 1 || first[0].Agent == gone {
			t.Fatalf("ordered %+v", first)
		}
		r.tell(first[0], wire.DirectiveDone, "runs")
		pass()
		s := r.status(id)
		if s.State != operator.RolloutActive || s.Ring != 1 || s.Rings[1].Away != 1 || !strings.Contains(s.Now, "waits") {
			t.Fatalf("%+v", s)
		}
		r.know(gone, there)
		pass()
		if open := r.waiting(); len(open) != 1 || open[0].Agent != gone {
			t.Fatalf("back: %+v", open)
		}
	})
}

func TestRolloutsThatCanNotBeMeantAreRefused(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		r.publish("v0.9.0")
		refused := func(name string, want error, says string, n operator.NewRollout) {
			t.Helper()
			if _, err := r.Create(t.Context(), n, "ops"); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		refused("no version", ErrInvalid, "version", operator.NewRollout{})
		refused("not published", ErrInvalid, "publish", operator.NewRollout{Version: "v9.9.9"})
		refused("no such site", ErrInvalid, "no endpoint", operator.NewRollout{Version: "v1.2.3", Site: "mars"})
		refused("site and names", ErrInvalid, "exclude", operator.NewRollout{Version: "v1.2.3", Site: "s", Agents: r.agents})
		refused("older", ErrInvalid, "--allow-downgrade", operator.NewRollout{Version: "v0.9.0"})
		refused("bad plan", ErrInvalid, "ring 1", operator.NewRollout{Version: "v1.2.3", RolloutPlan: operator.RolloutPlan{Rings: []float64{-1}}})

		first := r.roll(func(n *operator.NewRollout) { n.Agents = r.agents[:2] })
		refused("overlapping", ErrOverlap, "gururmm update stop "+first.ID, operator.NewRollout{Version: "v1.3.0"})
		other := r.roll(func(n *operator.NewRollout) { n.Version, n.Agents = "v1.3.0", r.agents[2:] })
		if id, err := r.Uses(t.Context(), "v1.3.0"); err != nil || id != other.ID {
			t.Errorf("v1.3.0 is needed by %q, %v", id, err)
		}
		if _, err := r.Stop(t.Context(), first.ID, "ops"); err != nil {
			t.Fatal(err)
		}
		third := r.roll(func(n *operator.NewRollout) { n.Version, n.Agents = "v1.3.0", r.agents[:1] })
		if _, err := r.Resume(t.Context(), first.ID, "ops", operator.ResumeRollout{}); !errors.Is(err, ErrOverlap) || !strings.Contains(err.Error(), third.ID) {
			t.Errorf("resumed over another: %v", err)
		}
		if _, err := r.Rollout(t.Context(), "nothing"); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		if !slices.Equal(third.Plan.Rings, []float64{1, 100}) || third.Plan.MaxFailures != "5%" || third.Plan.Parallel != defaultParallel {
			t.Errorf("the plan is %+v", third.Plan)
		}
	})
}

// A rollout that is done keeps its failures in the list too.
func TestWhatFailedIsListedOfARolloutThatIsDone(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		id := r.roll(func(n *operator.NewRollout) { n.Rings, n.MaxFailures = []float64{100}, "50%" }).ID
		pass()
		open := r.waiting()
		r.tell(open[0], wire.DirectiveDone, "runs")
		r.tell(open[1], wire.DirectiveFailed, "no space left")
		pass()
		s := r.status(id)
		if s.State != operator.RolloutDone || s.Now == "done" {
			t.Fatalf("%+v", s)
		}
		r.listedAsTold(s)
	})
}

// hung is a database that does not answer.
type hung struct {
	store.Store
	opens bool // but tells which rollouts are open
}

func (h hung) OpenRollouts(ctx context.Context) ([]store.Rollout, error) {
	if h.opens {
		return []store.Rollout{{ID: "r", State: operator.RolloutActive, Plan: operator.RolloutPlan{Rings: []float64{100}}}}, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (h hung) RolloutAgents(context.Context, string) ([]operator.RolloutAgent, error) {
	return []operator.RolloutAgent{{Agent: "a", State: operator.RollWaiting}}, nil
}

func (h hung) Agents(ctx context.Context) ([]store.Agent, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (h hung) Agent(ctx context.Context, _ string) (store.Agent, error) {
	<-ctx.Done()
	return store.Agent{}, ctx.Err()
}

// A database that does not answer in time is told; a stop in the middle is no fault.
func TestADatabaseThatDoesNotAnswerIsTold(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var said strings.Builder
			s := New(Options{
				Store: hung{}, Fact: func(string) Fact { return Fact{Presence: Present} },
				Log: slog.New(slog.NewTextHandler(&said, nil)),
			})
			life, stop := context.WithCancel(t.Context())
			if stopped {
				time.AfterFunc(workTimeout/2, stop)
			}
			if err := s.load(life); (err == nil) != stopped {
				t.Errorf("stopped: %t; taking up what is stored: %v", stopped, err)
			}

			s.o.Store = hung{opens: true}
			if err := s.load(t.Context()); err != nil || len(s.open) != 1 {
				t.Fatalf("%d rollouts, %v", len(s.open), err)
			}
			life, stop = context.WithCancel(t.Context())
			if stopped {
				time.AfterFunc(workTimeout/2, stop)
			}
			s.step(life, s.open["r"])
			stop()
			if told := strings.Contains(said.String(), "could not go on"); told == stopped {
				t.Errorf("stopped: %t; said %q", stopped, said.String())
			}
		})
	}
}

package jobs

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/delivery"
	"gururmm/server/store"
	"gururmm/wire"
)

// errCrash is what a store says once its process is as good as dead.
var errCrash = errors.New("crashed")

// mortal is a store that dies with its n-th write of a job's: before it, or once it is on
// disk and nobody was told.
type mortal struct {
	store.Store
	mu   sync.Mutex
	left int // writes; below 0: all fail
	late bool
	// again: after so many that failed, it lives again: a disk that was full. 0: never.
	again int
}

func (m *mortal) write(do func() error) error {
	m.mu.Lock()
	m.left--
	dead, last := m.left < 0 && (m.again == 0 || m.left >= -m.again), m.left == -1
	m.mu.Unlock()
	if dead && !(last && m.late) {
		return errCrash
	}
	err := do()
	if dead {
		return errCrash
	}
	return err
}

func (m *mortal) CreateCommand(ctx context.Context, c store.Command, first ...store.Stage) (out store.Command, created bool, err error) {
	err = m.write(func() error { out, created, err = m.Store.CreateCommand(ctx, c, first...); return err })
	return out, created, err
}

func (m *mortal) SaveCommand(ctx context.Context, c store.Command, stages ...store.Stage) (rev int64, err error) {
	err = m.write(func() error { rev, err = m.Store.SaveCommand(ctx, c, stages...); return err })
	return rev, err
}

func (m *mortal) LeaveOut(ctx context.Context, id string, members ...store.JobMember) error {
	return m.write(func() error { return m.Store.LeaveOut(ctx, id, members...) })
}

func (m *mortal) StopJob(ctx context.Context, id, reason string, cancelled bool) (changed bool, err error) {
	err = m.write(func() error { changed, err = m.Store.StopJob(ctx, id, reason, cancelled); return err })
	return changed, err
}

func (m *mortal) EndJob(ctx context.Context, id string, at time.Time) error {
	return m.write(func() error { return m.Store.EndJob(ctx, id, at) })
}

// rig is jobs and delivery on a real database in a bubble of virtual time.
type rig struct {
	*Service
	t      *testing.T
	st     store.Store
	d      *delivery.Service
	agents []string
	stop   func()

	given map[string]int // commands of each agent, of all jobs so far

	mu   sync.Mutex
	away map[string]bool
}

const immortal = 1 << 30

func inBubble(t *testing.T, agents int, test func(t *testing.T, r *rig)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.db")
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, st: st, away: map[string]bool{}, given: map[string]int{}}
		for i := range agents {
			r.enroll(fmt.Sprintf("host-%03d", i), fmt.Sprint("site-", i%2))
		}
		r.start(immortal, false)
		defer func() {
			r.stop()
			r.must(st.Close())
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

func (r *rig) enroll(name, site string) {
	key, _, err := ed25519.GenerateKey(nil)
	r.must(err)
	hash, now, ctx := store.HashToken(wire.NewID()), time.Now(), context.Background()
	r.must(r.st.CreateEnrollToken(ctx, hash, operator.EnrollToken{ID: wire.NewID(), Site: site, UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
	a, err := r.st.TradeToken(ctx, hash, store.Agent{ID: wire.NewID(), Name: name, PublicKey: key}, now)
	r.must(err)
	r.agents = append(r.agents, a.ID)
}

// start runs the services on a store that dies with one of its writes; stop ends them.
func (r *rig) start(writes int, late bool) {
	st := &mortal{Store: r.st, left: writes, late: late}
	log := slog.New(slog.DiscardHandler)
	r.d = delivery.New(st, delivery.Options{Ended: func(string) { r.Look() }})
	r.Service = New(Options{Store: st, Commands: r.d, Log: log, Present: func(id string) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.away[id]
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	d, s := r.d, r.Service
	go func() { ended <- d.Run(ctx) }()
	go func() { ended <- s.Run(ctx) }()
	r.stop = func() {
		cancel()
		r.must(errors.Join(<-ended, <-ended))
		r.stop = func() {}
	}
	synctest.Wait()
}

func (r *rig) leaves(away bool, agents ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range agents {
		r.away[id] = away
	}
}

func (r *rig) create(n operator.NewJob) operator.Job {
	r.t.Helper()
	if n.Script == "" {
		n.Script = "true"
	}
	j, err := r.Create(r.t.Context(), n, "ops")
	r.must(err)
	sleep(2 * time.Second)
	return j
}

func sleep(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

// ends has endpoints tell that their commands of a job ended with that exit code; n at
// most, and none that is away.
func (r *rig) ends(job string, n, exit int) (told int) {
	r.t.Helper()
	for _, m := range r.members(job) {
		if m.State != string(wire.StatePending) && m.State != string(wire.StateRunning) || told == n || r.away[m.Agent] {
			continue
		}
		told++
		state := wire.StateCompleted
		if exit != 0 {
			state = wire.StateFailed
		}
		env, err := wire.Seal(wire.TypeCommandResult, wire.CommandResult{ID: m.Command, State: state, ExitCode: &exit})
		r.must(err)
		_, err = r.d.Upstream(r.t.Context(), m.Agent, wire.ChannelOOB, 0, time.Now(), env)
		r.must(err)
	}
	sleep(2 * time.Second)
	return told
}

func (r *rig) members(job string) (all []operator.JobAgent) {
	r.t.Helper()
	for after := 0; ; after = all[len(all)-1].N {
		page, err := r.st.JobAgents(r.t.Context(), job, operator.JobAgentFilter{After: after, Limit: 500})
		r.must(err)
		if all = append(all, page...); len(page) == 0 {
			return all
		}
	}
}

func (r *rig) expect(job, state string, want operator.JobCounts) operator.Job {
	r.t.Helper()
	j, err := r.Job(r.t.Context(), job)
	r.must(err)
	if j.State != state || j.Counts != want {
		r.t.Fatalf("job is %s (%s) %+v\nwant %s %+v", j.State, j.Reason, j.Counts, state, want)
	}
	return j
}

func TestAJobIsGivenToAllAndEndsWithThem(t *testing.T) {
	const all = 2*chunk + 7
	inBubble(t, all, func(t *testing.T, r *rig) {
		r.must(r.st.SetQuarantined(t.Context(), r.agents[3], true))
		j := r.create(operator.NewJob{Pick: operator.Pick{All: true}})
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: all - 1, LeftOut: 1})
		r.ends(j.ID, 5, 1)
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: all - 6, Failed: 5, LeftOut: 1})
		r.ends(j.ID, all-6-2, 0)
		sleep(11 * time.Minute)
		done := r.expect(j.ID, operator.JobDone, operator.JobCounts{Completed: all - 8, Failed: 5, Expired: 2, LeftOut: 1})
		if done.EndedAt == nil || done.Endpoints != all {
			t.Errorf("done: %+v", done)
		}
		if out := r.members(j.ID)[3]; out.State != operator.JobAgentLeftOut || out.Reason != "it is quarantined" {
			t.Errorf("quarantined: %+v", out)
		}
		if c, err := r.Cancel(t.Context(), j.ID, "ops"); err != nil || c.State != operator.JobDone || c.Reason != "" {
			t.Errorf("cancelled after its end: %+v, %v", c, err)
		}
	})
}

func TestWhomAJobHas(t *testing.T) {
	inBubble(t, 6, func(t *testing.T, r *rig) {
		r.must(r.st.ChangeTags(t.Context(), r.agents[:4], []string{"web"}, nil))
		r.must(r.st.ChangeTags(t.Context(), r.agents[2:], []string{"old"}, nil))
		r.must(r.st.RemoveAgent(t.Context(), r.agents[5], "ops", time.Now()))
		for want, pick := range map[string]operator.Pick{
			"0 1 2 3 4": {All: true},
			"0 2 4":     {Sites: []string{"site-0"}},
			"1 2 3 4":   {Sites: []string{"site-0", "site-1"}, Except: r.agents[:1]},
			"2 3":       {Tags: []string{"web", "old"}},
			"3":         {Sites: []string{"site-1"}, Tags: []string{"old", "web"}},
			"1 4":       {Agents: []string{r.agents[4], r.agents[1]}},
		} {
			j, err := r.Create(t.Context(), operator.NewJob{Pick: pick, Script: "true", Preview: true}, "ops")
			r.must(err)
			if got := strings.ReplaceAll(strings.Join(j.Names, " "), "host-00", ""); got != want || j.Endpoints != len(j.Names) || j.ID != "" {
				t.Errorf("%+v: %+v, want %s", pick, j, want)
			}
		}
		all := operator.Pick{All: true}
		for what, n := range map[string]operator.NewJob{
			"nobody":           {},
			"all and a site":   {Pick: operator.Pick{All: true, Sites: []string{"site-0"}}},
			"a tag and agents": {Pick: operator.Pick{Tags: []string{"web"}, Agents: r.agents}},
			"no such site":     {Pick: operator.Pick{Sites: []string{"site-0", "nowhere"}}},
			"no such tag":      {Pick: operator.Pick{Tags: []string{"web", "none"}}},
			"a bad tag":        {Pick: operator.Pick{Tags: []string{"W"}}},
			"none fits":        {Pick: operator.Pick{Tags: []string{"web"}, Except: r.agents}},
			"at once":          {Pick: all, AtOnce: -1},
			"no failures":      {Pick: all, StopAfterFailures: "0"},
			"no share":         {Pick: all, StopAfterFailures: "101%"},
			"a long key":       {Pick: all, IdempotencyKey: strings.Repeat("k", maxKey+1)},
		} {
			n.Script = "true"
			if _, err := r.Create(t.Context(), n, "ops"); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := r.Create(t.Context(), operator.NewJob{Pick: all}, "ops"); !errors.Is(err, delivery.ErrInvalid) {
			t.Errorf("no script: %v", err)
		}
		if _, err := r.Create(t.Context(), operator.NewJob{Pick: all, Script: "true", Expect: new(6)}, "ops"); !errors.Is(err, ErrOthers) {
			t.Errorf("another number: %v", err)
		}
		n := operator.NewJob{Pick: operator.Pick{Tags: []string{"web"}}, IdempotencyKey: "k", Expect: new(4)}
		first := r.create(n)
		r.must(r.st.ChangeTags(t.Context(), r.agents[:4], nil, []string{"web"}))
		if again := r.create(n); again.ID != first.ID || again.Endpoints != 4 { // the tag is gone: nothing to a repeat
			t.Errorf("again: %+v", again)
		}
		n.Script = "false"
		if _, err := r.Create(t.Context(), n, "ops"); !errors.Is(err, ErrKeyUsed) || !strings.Contains(err.Error(), first.ID) {
			t.Errorf("the key for another: %v", err)
		}
		if all, err := r.Jobs(t.Context(), 0); err != nil || len(all) != 1 {
			t.Errorf("jobs: %+v, %v", all, err)
		}
	})
}

func TestSoManyAtOnceAndThoseThatAreThere(t *testing.T) {
	inBubble(t, 7, func(t *testing.T, r *rig) {
		r.leaves(true, r.agents[0], r.agents[4], r.agents[6])
		j := r.create(operator.NewJob{Pick: operator.Pick{All: true}, AtOnce: 2, ExpiresInMS: time.Hour.Milliseconds()})
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: 2, Waiting: 5})
		r.ends(j.ID, 1, 0)
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: 2, Waiting: 4, Completed: 1})
		r.ends(j.ID, 2, 0)
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: 1, Waiting: 3, Completed: 3})
		r.leaves(false, r.agents[0], r.agents[4])
		sleep(2 * tickEvery)
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: 2, Waiting: 2, Completed: 3})
		for r.ends(j.ID, 9, 0) > 0 {
		}
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Waiting: 1, Completed: 6})
		sleep(time.Hour)
		r.leaves(false, r.agents[6])
		sleep(2 * tickEvery)
		r.expect(j.ID, operator.JobDone, operator.JobCounts{Completed: 6, LeftOut: 1}) // late is late
	})
}

func TestFailuresStopAJob(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, r *rig) {
		j := r.create(operator.NewJob{Pick: operator.Pick{All: true}, AtOnce: 4, StopAfterFailures: "15%"}) // two
		r.ends(j.ID, 1, 1)
		r.expect(j.ID, operator.JobRunning, operator.JobCounts{Pending: 4, Waiting: 5, Failed: 1})
		taken := r.members(j.ID)[2]
		env, err := wire.Seal(wire.TypeCommandAck, wire.CommandAck{ID: taken.Command})
		r.must(err)
		_, err = r.d.Upstream(t.Context(), taken.Agent, wire.ChannelOOB, 0, time.Now(), env)
		r.must(err)
		r.ends(j.ID, 1, 1)
		stopping := r.expect(j.ID, operator.JobStopping, operator.JobCounts{Running: 1, Failed: 2, Cancelled: 2, LeftOut: 5})
		if stopping.Reason != "stopped after 2 of 10 failed" {
			t.Errorf("reason %q", stopping.Reason)
		}
		r.ends(j.ID, 9, 0) // what has begun goes on
		r.expect(j.ID, operator.JobDone, operator.JobCounts{Completed: 1, Failed: 2, Cancelled: 2, LeftOut: 5})
		for limit, want := range map[string]int{"1": 1, "12": 12, "1%": 1, "10%": 1, "11%": 2, "100%": 10, "0.1%": 1} {
			if n, err := allowed(limit, 10); err != nil || n != want {
				t.Errorf("%s of ten: %d, %v, want %d", limit, n, err, want)
			}
		}
	})
}

func TestCancellingAJobStopsAllOfIt(t *testing.T) {
	inBubble(t, chunk+9, func(t *testing.T, r *rig) {
		j := r.create(operator.NewJob{Pick: operator.Pick{All: true}, AtOnce: chunk + 4})
		taken := r.members(j.ID)[0]
		env, err := wire.Seal(wire.TypeCommandAck, wire.CommandAck{ID: taken.Command})
		r.must(err)
		_, err = r.d.Upstream(t.Context(), taken.Agent, wire.ChannelOOB, 0, time.Now(), env)
		r.must(err)
		_, err = r.Cancel(t.Context(), j.ID, "ops")
		r.must(err)
		sleep(2 * time.Second)
		r.expect(j.ID, operator.JobStopping, operator.JobCounts{Running: 1, Cancelled: chunk + 3, LeftOut: 5})
		if c, err := r.st.Command(t.Context(), taken.Command); err != nil || c.CancelAt == nil || c.CancelBy != "job "+j.ID {
			t.Errorf("what runs: %+v, %v", c, err)
		}
		env, err = wire.Seal(wire.TypeCommandResult, wire.CommandResult{ID: taken.Command, State: wire.StateCancelled})
		r.must(err)
		_, err = r.d.Upstream(t.Context(), taken.Agent, wire.ChannelOOB, 0, time.Now(), env)
		r.must(err)
		sleep(2 * time.Second)
		if done := r.expect(j.ID, operator.JobDone, operator.JobCounts{Cancelled: chunk + 4, LeftOut: 5}); done.Reason != "cancelled by ops" {
			t.Errorf("reason %q", done.Reason)
		}
		if _, err := r.Cancel(t.Context(), "nothing", "ops"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("of no job: %v", err)
		}
	})
}

// Wherever the server dies, each endpoint gets its command once, or a reason why none; and
// what was stopped begins nothing more.
func TestAJobGoesOnWhereTheServerDied(t *testing.T) {
	const all = 7
	for _, how := range []operator.NewJob{{}, {AtOnce: 2}, {StopAfterFailures: "2", AtOnce: 3}} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d at once, stops after %q, late %v", how.AtOnce, how.StopAfterFailures, late), func(t *testing.T) {
				inBubble(t, all, func(t *testing.T, r *rig) {
					r.must(r.st.SetQuarantined(t.Context(), r.agents[4], true))
					// Each job dies one write later, until one needs no more writes than it had.
					for writes := 0; ; writes++ {
						r.stop()
						r.start(writes, late)
						n := how
						n.Pick, n.Script, n.ExpiresInMS = operator.Pick{All: true}, "true", time.Hour.Milliseconds()
						j, err := r.Create(t.Context(), n, "ops")
						r.must(err)
						sleep(2 * time.Second)
						exit := 0
						if how.StopAfterFailures != "" {
							exit = 1
						}
						if r.runs(j.ID, exit) {
							r.once(j.ID)
							if writes < all {
								t.Fatalf("done after %d writes", writes)
							}
							return
						}
						r.stop()
						r.start(immortal, false)
						sleep(2 * time.Second)
						if !r.runs(j.ID, exit) {
							j, _ := r.Job(t.Context(), j.ID)
							t.Fatalf("dead after %d writes, it does not end: %+v", writes, j)
						}
						r.once(j.ID)
					}
				})
			})
		}
	}
}

// A database that fails for a while leaves nobody out.
func TestAJobOutlivesAFullDisk(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, n := range []operator.NewJob{{}, {AtOnce: 4}} {
			inBubble(t, 12, func(t *testing.T, r *rig) {
				r.stop()
				r.st = &mortal{Store: r.st, left: 5, late: late, again: 3}
				r.start(immortal, false)
				r.must(r.st.SetQuarantined(t.Context(), r.agents[4], true))
				n.Pick, n.ExpiresInMS = operator.Pick{All: true}, time.Hour.Milliseconds()
				j := r.create(n)
				sleep(2 * tickEvery)
				if !r.runs(j.ID, 0) {
					t.Errorf("late %v, %d at once: the job does not end", late, n.AtOnce)
				}
				r.once(j.ID)
			})
		}
	}
}

// runs has the endpoints run what they get until the job is done, or nothing comes of it any more.
func (r *rig) runs(job string, exit int) (done bool) {
	for range 6 {
		for _, m := range r.members(job) {
			if m.State != string(wire.StatePending) && m.State != string(wire.StateRunning) {
				continue
			}
			state := wire.StateCompleted
			if exit != 0 {
				state = wire.StateFailed
			}
			env, err := wire.Seal(wire.TypeCommandResult, wire.CommandResult{ID: m.Command, State: state, ExitCode: &exit})
			r.must(err)
			_, _ = r.d.Upstream(r.t.Context(), m.Agent, wire.ChannelOOB, 0, time.Now(), env) // a dead server takes it not
		}
		sleep(2 * time.Second)
		if j, err := r.Job(r.t.Context(), job); err == nil && j.State == operator.JobDone {
			return true
		}
	}
	return false
}

// once checks what a job did to each endpoint.
func (r *rig) once(job string) {
	r.t.Helper()
	j, err := r.Job(r.t.Context(), job)
	r.must(err)
	parts := r.members(job)
	if len(parts) != len(r.agents) || j.Counts.Total() != len(parts) || j.Counts.Open() != 0 {
		r.t.Fatalf("%d parts, %+v", len(parts), j.Counts)
	}
	for _, p := range parts {
		all, err := r.st.Commands(r.t.Context(), store.CommandFilter{Agent: p.Agent, Limit: store.MaxList})
		r.must(err)
		mine := len(all) - r.given[p.Agent]
		r.given[p.Agent] = len(all)
		if mine == 1 && all[0].ID != p.Command {
			r.t.Fatalf("%s is not the command of %+v", all[0].ID, p)
		}
		switch {
		case p.State == operator.JobAgentLeftOut && (mine != 0 || p.Reason == ""), p.State != operator.JobAgentLeftOut && mine != 1:
			r.t.Fatalf("%d commands of %+v", mine, p)
		}
	}
	if j.StopAfterFailures == "" && (j.Counts.LeftOut != 1 || j.Counts.Completed != len(parts)-1) {
		r.t.Fatalf("counts %+v", j.Counts)
	}
	if j.StopAfterFailures != "" && (j.Counts.Failed < 2 || j.Counts.LeftOut < 1 || j.Reason == "") {
		r.t.Fatalf("counts %+v (%s)", j.Counts, j.Reason)
	}
}

package delivery

import (
	"context"
	"errors"
	"fmt"
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

// failing is a store whose changes fail while told to, before they are made or
// (the worse case) after.
type failing struct {
	store.Store
	mu     sync.Mutex
	before int
	after  int
	// unheard: of CreateCommand, after
	unheard int
}

var errDisk = errors.New("disk full")

func (f *failing) fails(n *int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *n > 0 {
		*n--
		return true
	}
	return false
}

func (f *failing) SaveCommand(ctx context.Context, c store.Command, stages ...store.Stage) (int64, error) {
	if f.fails(&f.before) {
		return 0, errDisk
	}
	rev, err := f.Store.SaveCommand(ctx, c, stages...)
	if f.fails(&f.after) {
		return 0, errDisk
	}
	return rev, err
}

func (f *failing) CreateCommand(ctx context.Context, c store.Command, first ...store.Stage) (store.Command, bool, error) {
	stored, created, err := f.Store.CreateCommand(ctx, c, first...)
	if f.fails(&f.unheard) {
		return store.Command{}, false, errDisk
	}
	return stored, created, err
}

// A command that is on disk is delivered, also if nobody was told that it is there.
func TestACommandThatWasStoredUnheardIsDelivered(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		f := &failing{Store: r.st}
		r.st = f
		r.restart()
		l := r.up()
		f.unheard = 1
		if _, err := r.s.Submit(t.Context(), r.agent, operator.NewCommand{Script: "true", IdempotencyKey: "k"}, "ops"); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		sleep(2 * reloadAfter)
		all, err := r.st.Commands(t.Context(), store.CommandFilter{})
		if err != nil || len(all) != 1 {
			t.Fatalf("%d commands, %v", len(all), err)
		}
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: all[0].ID})
		r.expect(all[0].ID, wire.StateRunning, 1)
	})
}

// An error of the database loses no command and sends none that is not stored
// as claimed; once it is over the database's truth is taken up again.
func TestDatabaseFailsAndComesBack(t *testing.T) {
	for name, test := range map[string]struct {
		fail     func(*failing)
		attempts int
	}{
		"before the change": {func(f *failing) { f.before = 1 }, 1},
		"after the change":  {func(f *failing) { f.after = 1 }, 2},
		"for three seconds": {func(f *failing) { f.before = 4 }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				f := &failing{Store: r.st}
				r.st = f
				r.restart()
				id := r.submit()
				test.fail(f)
				l := r.up()
				if len(l.sent) != 0 {
					t.Fatal("sent though it is not known to be stored as claimed")
				}
				for range 10 {
					sleep(time.Second)
					r.s.Hint(r.agent)
					synctest.Wait()
				}
				if n := len(l.commands(t)); n == 0 || n > 2 {
					t.Fatalf("%d sent", n)
				}
				r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
				f.before = 1
				if _, err := r.from(l, wire.TypeCommandResult, completed(id, "x")); !errors.Is(err, errDisk) {
					t.Fatalf("an unstored result was answered: %v", err)
				}
				sleep(2 * time.Second)
				if !resultAck(t, r.send(l, wire.TypeCommandResult, completed(id, "x"))).Stored {
					t.Fatal("not stored")
				}
				r.owed(0)
				if c := r.command(id); c.State != wire.StateCompleted || c.Attempts < test.attempts {
					t.Fatalf("got %+v", c)
				}
			})
		})
	}
}

// stalling is a store whose changes wait while it is told to.
type stalling struct {
	store.Store
	until atomic.Pointer[chan struct{}]
}

func (s *stalling) wait() {
	if c := s.until.Load(); c != nil {
		<-*c
	}
}

func (s *stalling) SaveCommand(ctx context.Context, c store.Command, stages ...store.Stage) (int64, error) {
	s.wait()
	return s.Store.SaveCommand(ctx, c, stages...)
}

func (s *stalling) AddStages(ctx context.Context, stages ...store.Stage) error {
	s.wait()
	return s.Store.AddStages(ctx, stages...)
}

// A database that stalls holds the agent's turn, and a loss is looked for all the same. What is
// acknowledged before its writer comes back is not.
func TestALinkIsAskedWhileTheDatabaseStalls(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		st := &stalling{Store: r.st}
		r.st = st
		r.restart()
		l := r.up()
		id := r.submit()
		over := make(chan struct{})
		st.until.Store(&over) // what was kept for a moment is stored now, and holds the turn
		sleep(askAfter - time.Millisecond)
		if n := l.askedFor(0); n != 0 {
			t.Errorf("asked %d times before it is late", n)
		}
		sleep(2 * time.Millisecond)
		if n := l.askedFor(0); n != 1 {
			t.Errorf("asked %d times while the database stalls, want once", n)
		}
		st.until.Store(nil)
		close(over)
		r.down(l, "gone")
		r.expect(id, wire.StatePending, 1)

		next := &fakeLink{agent: r.agent, gen: 2, id: 2}
		r.s.LinkUp(next)
		synctest.Wait()
		r.send(next, wire.TypeCommandAck, wire.CommandAck{ID: id})
		next.sent[0].written(1, time.Now(), nil)
		sleep(leaseMin)
		r.expect(id, wire.StateRunning, 2)
		if n := next.askedFor(0); n != 0 {
			t.Errorf("asked %d times for what was acknowledged", n)
		}
	})
}

// quickLink is an agent that acknowledges and ends each command at once, from
// its own goroutine.
type quickLink struct {
	fakeLink
	s    *Service
	work sync.WaitGroup
	mu   sync.Mutex
	num  uint64
	errs []error
}

func (l *quickLink) Send(env wire.Envelope, written func(uint64, time.Time, error)) error {
	l.work.Go(func() {
		l.mu.Lock()
		l.num++
		n := l.num
		l.mu.Unlock()
		written(n, time.Now(), nil)
		l.s.PeerRead(l.agent, l.gen, n, Proof{})
		if err := l.serve(env); err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
		}
	})
	return nil
}

func (l *quickLink) serve(env wire.Envelope) error {
	c, err := wire.DecodePayload[wire.Command](env)
	if err != nil {
		return err
	}
	for typ, payload := range map[wire.Type]any{wire.TypeCommandAck: wire.CommandAck{ID: c.ID}, wire.TypeCommandResult: completed(c.ID, "out")} {
		env, err := wire.Seal(typ, payload)
		if err != nil {
			return err
		}
		if _, err := l.s.Upstream(context.Background(), l.agent, wire.ChannelLink, l.id, time.Now(), env); err != nil {
			return err
		}
	}
	return nil
}

func TestManyAgentsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const agents, each = 10, 8
		var links []*quickLink
		var all sync.WaitGroup
		for i := range agents {
			id := r.enroll(fmt.Sprint("a", i))
			l := &quickLink{s: r.s, fakeLink: fakeLink{agent: id, gen: 1, id: wire.LinkID(i + 1)}}
			links = append(links, l)
			all.Go(func() { r.s.LinkUp(l) })
			for range each {
				all.Go(func() {
					c, err := r.s.Submit(t.Context(), id, operator.NewCommand{Script: "x"}, "ops")
					if err != nil {
						t.Error(err)
						return
					}
					ch, err := r.s.Follow(t.Context(), c.ID)
					if err != nil {
						t.Error(err)
						return
					}
					var last operator.Event
					for last = range ch {
					}
					if last.Kind != "end" || last.Command.State != wire.StateCompleted || last.Command.Attempts != 1 {
						t.Errorf("ended with %+v", last)
					}
				})
			}
			all.Go(func() { // those who ask do not wait
				for range 20 {
					r.s.Owed(id)
					r.s.LastResult(id)
					r.s.Hint(id)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		for _, l := range links {
			l.work.Wait()
			if len(l.errs) > 0 {
				t.Errorf("%v", l.errs)
			}
			if n, _ := r.s.Owed(l.agent); n != 0 {
				t.Errorf("%d owed at the end", n)
			}
		}
	})
}

// One agent whose link hangs in Send's callback for ever does not slow another's.
func TestStuckAgentHoldsUpNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		stuck := r.up()
		stuck.auto = false // takes everything, writes nothing
		r.submit()
		other := r.enroll("other")
		l := &fakeLink{agent: other, gen: 1, id: 77, auto: true}
		r.s.LinkUp(l)
		began := time.Now()
		if _, err := r.s.Submit(t.Context(), other, operator.NewCommand{Script: "x"}, "ops"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(l.sent) != 1 || time.Since(began) != 0 {
			t.Fatalf("%d sent after %v", len(l.sent), time.Since(began))
		}
	})
}

// Where a command stopped is said in one sentence, for each place it can be.
func TestStoppedSaysWhere(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.order(operator.NewCommand{Script: "true", ExpiresInMS: 60_000})
		r.stopped(id, "Waiting, never offered: the agent is offline.")
		l := r.up()
		l.auto = false
		r.s.Hint(r.agent)
		r.stopped(id, "Written to the link")
		sleep(6 * time.Second)
		r.stopped(id, "it is offered again with the agent's next sign of life.")
		r.s.Hint(r.agent)
		synctest.Wait()
		r.stopped(id, "Taken by the link")
		now := time.Now()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		r.stopped(id, "Acknowledged 0s ago by the link, no result yet.")
		res := wire.CommandResult{ID: id, State: wire.StateFailed, Reason: "timed out", Stages: wire.StageTimes{wire.StageStarted: now}}
		r.send(l, wire.TypeCommandResult, res)
		r.stopped(id, "Ended as failed: timed out.")
	})
}

// What an agent says is cut before it is stored: it fills no disk.
func TestWordsOfAnAgentAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		long := strings.Repeat("ü", 5000)
		r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeUnsupported, ID: id, Detail: long})
		c := r.expect(id, wire.StateUndeliverable, 1)
		if len(c.Reason) > maxNote+3 || !strings.HasSuffix(c.Reason, "ü…") {
			t.Fatalf("reason has %d bytes: …%q", len(c.Reason), c.Reason[len(c.Reason)-10:])
		}
		for range 600 { // one who makes up results for ever
			r.send(l, wire.TypeCommandResult, wire.CommandResult{ID: id, State: wire.StateFailed})
		}
		tr, err := r.s.Trace(t.Context(), id)
		if err != nil || len(tr.Entries) > 10 {
			t.Fatalf("%d entries, %v", len(tr.Entries), err)
		}
	})
}

// BenchmarkCommand is a command's whole life in the server, on disk: accepted,
// claimed, written, acknowledged, ended; 64 agents.
func BenchmarkCommand(b *testing.B) {
	st, err := store.Open(filepath.Join(b.TempDir(), "server.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	s := New(st, Options{Sign: func(t wire.Type, p any) (wire.Envelope, error) { return wire.Seal(t, p) }})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var ids []string
	for i := range 64 {
		hash, now := store.HashToken(fmt.Sprint(i)), time.Now()
		if err := st.CreateEnrollToken(ctx, hash, operator.EnrollToken{ID: fmt.Sprint(i), UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
			b.Fatal(err)
		}
		a, err := st.TradeToken(ctx, hash, store.Agent{ID: wire.NewID(), Name: "n", PublicKey: []byte(fmt.Sprint("key", i))}, now)
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, a.ID)
		s.LinkUp(&quickLink{s: s, fakeLink: fakeLink{agent: a.ID, gen: 1, id: wire.LinkID(i + 1)}})
	}
	next := make(chan string, len(ids))
	for _, id := range ids {
		next <- id
	}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			agent := <-next
			c, err := s.Submit(ctx, agent, operator.NewCommand{Script: "x"}, "ops")
			next <- agent
			if err != nil {
				b.Error(err)
				continue
			}
			ch, err := s.Follow(ctx, c.ID)
			if err != nil {
				b.Error(err)
				continue
			}
			for range ch {
			}
		}
	})
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

func TestHandedOutIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var all []string
		for range 20 {
			all = append(all, r.order(operator.NewCommand{Script: strings.Repeat("x", 200<<10)}))
			sleep(time.Millisecond) // for their order
		}
		ids, _, _ := r.take()
		if len(ids) == 0 || len(ids) > 4 || !slices.Equal(ids, all[:len(ids)]) {
			t.Fatalf("%d commands of 200 KiB in one answer", len(ids))
		}
	})
}

package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/pipe"
	"gururmm/agent/worker"
	"gururmm/internal/asleep"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// stall is a log handler at which whoever logs message hangs until it is released.
type stall struct {
	slog.Handler
	message string
	armed   atomic.Bool
	caught  atomic.Int64
	release chan struct{}
}

func (s *stall) Handle(ctx context.Context, r slog.Record) error {
	if s.armed.Load() && r.Message == s.message {
		s.caught.Add(1)
		<-s.release
	}
	return s.Handler.Handle(ctx, r)
}

// A dispatcher that hangs is named within seconds, and hides nothing of the
// link: the reader reads on, pongs go out, ledgers and snapshots come.
func TestStalledDispatcherIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		hang := &stall{message: "message refused", release: make(chan struct{})}
		r := startRig(t, srv, func(c *worker.Config) {
			hang.Handler = c.Log.Handler()
			c.Log = slog.New(hang)
		})
		p := r.verified(1)
		hang.armed.Store(true)
		p.send("dance", struct{}{}) // refused, and there it hangs
		p.sendSigned(wire.TypeCommand, command(nil))

		r.wait("the stalled loop", 10*time.Second, func() bool {
			return r.pending("dispatcher") > 5*time.Second
		})
		s := r.last()
		if l := s.Link.Ledger; l.Peer == nil || l.Peer.Written != l.Local.Read || l.Down != nil {
			t.Errorf("the ledger does not show that all was read: %+v", l)
		}
		if s.Stages.Read-s.Stages.Decoded != 1 {
			t.Errorf("stages %+v: want to see where the command is", s.Stages)
		}
		for _, loop := range []string{"reader", "writer", "executor", "metrics"} {
			if d := s.Loops[loop].Pending; d != nil && *d > time.Second {
				t.Errorf("%s: pending %v", loop, *d)
			}
		}
		pongs, reports := s.Link.Out.Frames["pong"].Count, r.reported()
		p.conn.Ping(false)
		r.wait("a pong, and reports of it", 3*time.Second, func() bool {
			return r.last().Link.Out.Frames["pong"].Count > pongs && r.reported() > reports+1
		})
		close(hang.release)
		r.wait("the command after all", 10*time.Second, func() bool { return len(p.of(wire.TypeCommandResult)) == 1 })
		r.wait("the loop to turn again", 3*time.Second, func() bool {
			d := r.last().Loops["dispatcher"].Pending
			return d == nil || *d < time.Second
		})
	})
}

// A dispatcher that was replaced and comes back finds itself superseded: what it had
// in hand was done by the other one, it answers nothing, takes nothing more and ends,
// and no job runs twice. It comes back often, so that one that stayed would be counted.
func TestAnOldDispatcherThatComesBackDoesNothing(t *testing.T) {
	for name, hangs := range map[string]struct {
		at      string // the message at which it hangs
		command bool   // it has a command in hand, else a message that is refused
	}{
		"before it has answered":       {"message refused", false},
		"behind a job that it started": {"command accepted", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				ran := t.TempDir()
				hang := &stall{message: hangs.at, release: make(chan struct{})}
				r := startRig(t, srv, func(c *worker.Config) {
					hang.Handler = c.Log.Handler()
					c.Log = slog.New(hang)
				})
				p := r.verified(1)
				var ids []string
				job := func() {
					c := command(func(c *wire.Command) { c.Script = "echo ran>>" + filepath.Join(ran, c.ID) })
					ids = append(ids, c.ID)
					p.sendSigned(wire.TypeCommand, c)
				}
				results := func() map[string]int {
					got := map[string]int{}
					for _, e := range p.of(wire.TypeCommandResult) {
						got[decode[wire.CommandResult](t, e).ID]++
					}
					return got
				}
				const rounds = 4 // more than may be left behind at once
				for n := range rounds {
					hang.armed.Store(true)
					if hangs.command {
						job()
					} else {
						p.send("dance", struct{}{})
					}
					job() // waits behind it
					r.wait("the stalled dispatcher", 10*time.Second, func() bool {
						return hang.caught.Load() == int64(n+1) && r.pending("dispatcher") > 5*time.Second
					})
					hang.armed.Store(false)
					r.order(pipe.Order{RestartStage: "dispatcher"})
					r.wait("a fresh dispatcher, and its work done", 20*time.Second, func() bool {
						return len(r.stages()) == n+1 && len(results()) == len(ids)
					})
					if f := r.stages()[n]; !f.Restarted {
						t.Fatalf("round %d: not restarted: %s", n+1, f.Detail)
					}
					hang.release <- struct{}{} // the old one is back
					job()
					r.wait("what came after it was back", 20*time.Second, func() bool { return len(results()) == len(ids) })
				}
				time.Sleep(time.Minute)

				acks := map[string]int{}
				for _, e := range p.of(wire.TypeCommandAck) {
					acks[decode[wire.CommandAck](t, e).ID]++
				}
				for i, id := range ids {
					raw, err := os.ReadFile(filepath.Join(ran, id))
					if lines := strings.Count(string(raw), "ran"); err != nil || lines != 1 {
						t.Errorf("job %d ran %d times, %v", i+1, lines, err)
					}
					if acks[id] != 1 { // of results there may be more: each is repeated until its answer is read
						t.Errorf("job %d: acknowledged %d times", i+1, acks[id])
					}
				}
				if n := len(p.of(wire.TypeNack)); !hangs.command && n != rounds {
					t.Errorf("%d messages were refused %d times: the old one answered too", rounds, n)
				}
			})
		})
	}
}

// stages gives what the worker told of loops that were to be started afresh.
func (r *rig) stages() (all []pipe.StageFact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.facts {
		if f.Stage != nil {
			all = append(all, *f.Stage)
		}
	}
	return all
}

func TestStalledMetricsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.policy.MetricsMS = 1000 // before the worker can ask: a policy without it means a minute
		release := make(chan struct{})
		r := startRig(t, srv, func(c *worker.Config) {
			c.Policy.MetricsMS = 1000
			c.Metrics = func() wire.Metrics { <-release; return wire.Metrics{} }
		})
		p := r.verified(1)
		r.wait("the stalled loop", 20*time.Second, func() bool {
			d := r.last().Loops["metrics"].Pending
			return d != nil && *d > 5*time.Second
		})
		p.sendSigned(wire.TypeCommand, command(nil))
		r.wait("a result all the same", 10*time.Second, func() bool { return len(p.of(wire.TypeCommandResult)) == 1 })
		close(release)
		r.wait("metrics", 10*time.Second, func() bool { return len(p.of(wire.TypeMetrics)) > 0 })
	})
}

// suspender stops a machine: every timer-driven loop waits at its gate.
type suspender struct {
	mu     sync.Mutex
	asleep chan struct{} // nil: awake
}

func (s *suspender) gate() {
	s.mu.Lock()
	asleep := s.asleep
	s.mu.Unlock()
	if asleep != nil {
		<-asleep
	}
}

func (s *suspender) sleep() {
	s.mu.Lock()
	s.asleep = make(chan struct{})
	s.mu.Unlock()
}

func (s *suspender) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.asleep)
	s.asleep = nil
}

// Ten minutes asleep say nothing of the peer: the link is asked whether it still
// lives, and kept when it does.
func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		var machine suspender
		r := startRig(t, srv, func(c *worker.Config) { c.Gate = machine.gate })
		p := r.verified(1)
		time.Sleep(time.Minute)
		before := len(p.of(wire.TypeHeartbeat))
		machine.sleep()
		time.Sleep(10 * time.Minute)
		if n := len(p.of(wire.TypeHeartbeat)); n > before+1 {
			t.Errorf("a sleeping machine sent %d heartbeats", n-before)
		}
		machine.wake()
		r.wait("the suspend in the facts", 5*time.Second, func() bool { return r.last().Suspend != nil })
		s := r.last()
		if l := s.Suspend.Length; l < 9*time.Minute || l > 11*time.Minute {
			t.Errorf("slept %v, want 10 min", l)
		}
		for name, l := range s.Loops {
			if l.Pending != nil && *l.Pending > time.Second {
				t.Errorf("%s pending for %v: the sleep is counted", name, *l.Pending)
			}
		}
		time.Sleep(5 * time.Minute)
		if len(srv.links()) != 1 || r.last().Link.Phase != selfcheck.PhaseVerified {
			t.Errorf("the link did not outlive the sleep: %+v", r.last().Link)
		}
		if a := r.last().Suspend.Age; a < 4*time.Minute || a > 6*time.Minute { // as of the last whole report
			t.Errorf("resumed %v ago", a)
		}

		// A peer that went away meanwhile is found out, counted from the resume.
		machine.sleep()
		srv.gone.Store(true)
		srv.set(func() { srv.mute = true })
		time.Sleep(10 * time.Minute)
		machine.wake()
		began := time.Now()
		r.wait("the end of the link", 3*time.Minute, func() bool { return r.last().Link.Drops == 1 })
		if took := time.Since(began); took < 80*time.Second || took > 100*time.Second {
			t.Errorf("given up %v after the resume, want about 90 s", took)
		}
	})
}

// On Linux and macOS the monotonic clock stands still in a sleep: no timer is late, and
// only the system's own account tells of it.
func TestSuspendWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		var slept atomic.Int64
		machine := asleep.New(func() time.Duration { return time.Duration(slept.Load()) }, false)
		r := startRig(t, srv, func(c *worker.Config) { c.Asleep = &machine })
		r.verified(1)
		time.Sleep(time.Minute)

		// Soon given up, when the machine falls asleep.
		silence := func(on bool) {
			srv.gone.Store(on)
			srv.set(func() { srv.mute = on })
		}
		silence(true)
		time.Sleep(time.Minute)
		slept.Add(int64(10 * time.Minute))
		pings := srv.pings.Load()
		r.wait("the suspend in the facts", 5*time.Second, func() bool { return r.last().Suspend != nil })
		if l := r.last().Suspend.Length; l != 10*time.Minute {
			t.Errorf("slept %v, want 10 min", l)
		}
		if srv.pings.Load() == pings {
			t.Error("the link was not asked whether it still lives")
		}
		time.Sleep(time.Minute)
		if d := r.last().Link.Drops; d != 0 {
			t.Errorf("%d links given up: the silence of before the sleep is held against the peer", d)
		}
		silence(false)
		time.Sleep(5 * time.Minute)
		if len(srv.links()) != 1 || r.last().Link.Phase != selfcheck.PhaseVerified {
			t.Errorf("the link did not outlive the sleep: %+v", r.last().Link)
		}

		// A sleep too short to matter is none.
		slept.Add(int64(time.Second))
		time.Sleep(10 * time.Second)
		if l := r.last().Suspend.Length; l != 10*time.Minute {
			t.Errorf("a second of sleep is told as %v", l)
		}
	})
}

// blind is a connection on which some box takes the ledgers out of pings and pongs.
type blind struct{ net.Conn }

func (b blind) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	for _, op := range []byte{0x89, 0x8a} {
		for rest := p[:n]; ; {
			i := bytes.Index(rest, []byte{op, wire.LedgerSize, 'G', 'L', 1})
			if i < 0 {
				break
			}
			rest[i+2] = 'X'
			rest = rest[i+3:]
		}
	}
	return n, err
}

// Where pings are rewritten, heartbeats carry the ledgers, and come sooner.
func TestRewrittenPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, func(c *worker.Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return blind{conn}, err
			}
		})
		p := r.verified(1)
		before := len(p.of(wire.TypeHeartbeat))
		time.Sleep(2 * time.Minute)
		if n := len(p.of(wire.TypeHeartbeat)) - before; n < 11 || n > 13 {
			t.Errorf("%d heartbeats in 2 min, want one every 10 s", n)
		}
		if l := r.last().Link; len(srv.links()) != 1 || l.Ledger.PeerVia != selfcheck.ViaText || l.HeartbeatPending != nil {
			t.Errorf("facts %+v", l)
		}
		// No answer any more: the facts say for how long.
		srv.set(func() { srv.mute = true })
		r.wait("an unanswered heartbeat", time.Minute, func() bool {
			h := r.last().Link.HeartbeatPending
			return h != nil && *h > 5*time.Second
		})
	})
}

// An idle, healthy while: nothing happens but heartbeats and pings.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		time.Sleep(30 * time.Minute)
		if n := len(srv.links()); n != 1 {
			t.Errorf("%d links", n)
		}
		if n := len(p.of(wire.TypeHeartbeat)); n < 28 || n > 33 {
			t.Errorf("%d heartbeats in 30 min", n)
		}
		if n := len(p.of(wire.TypeMetrics)); n < 28 || n > 33 {
			t.Errorf("%d metrics in 30 min", n)
		}
		if s := r.last(); s.Link.Drops != 0 || s.Suspend != nil || s.Link.Ledger.Down != nil || s.Link.Ledger.Up != nil {
			t.Errorf("facts %+v", s)
		}
		// One goes up the pipe each second for ever.
		if raw, _ := json.Marshal(r.last()); len(raw) > 4<<10 {
			t.Errorf("an idle report takes %d bytes", len(raw))
		}
	})
}

// A ping that is not answered in time is asked about by a heartbeat too, once: where a box
// eats pings and lets texts through, nothing is wrong.
func TestAnOverduePingIsAskedAboutByAText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		time.Sleep(time.Second)
		synctest.Wait()
		before := len(p.of(wire.TypeHeartbeat))
		ask := func() {
			r.order(pipe.Order{Ping: true})
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
		}
		ask()
		if n := len(p.of(wire.TypeHeartbeat)); n != before {
			t.Errorf("%d heartbeats more, of a ping that was answered", n-before)
		}
		srv.set(func() { srv.mute = true })
		srv.gone.Store(true)
		for range 4 {
			ask()
		}
		if n := len(p.of(wire.TypeHeartbeat)); n != before+1 {
			t.Errorf("%d heartbeats more, want one", n-before)
		}
	})
}

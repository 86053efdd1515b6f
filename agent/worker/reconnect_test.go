package worker_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/pipe"
	"gururmm/agent/worker"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func reconnect(o pipe.ReconnectOrder) pipe.Order { return pipe.Order{Reconnect: &o} }

func TestReconnectOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		first := r.verified(1)

		began := time.Now()
		r.order(reconnect(pipe.ReconnectOrder{Reason: "link.text.lost"}))
		second := r.verified(2)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("an ordered reconnect took %v: it must not back off", took)
		}
		auth := decode[wire.Auth](t, second.of(wire.TypeAuth)[0])
		if p := auth.Previous; p == nil || p.Link != first.conn.Link() || p.Read == 0 || !strings.Contains(p.Reason, "link.text.lost") {
			t.Errorf("previous link told as %+v", p)
		}
		if d := r.last().Link.Drops; d != 0 {
			t.Errorf("an ordered end counts as %d drops", d)
		}

		// An order that judged the first link leaves the second alone.
		r.order(reconnect(pipe.ReconnectOrder{Reason: "late", Link: first.conn.Link()}))
		time.Sleep(time.Minute)
		if n := len(srv.links()); n != 2 {
			t.Errorf("%d links: a late order ended a link that it did not mean", n)
		}
	})
}

// What became of a link that was up for long is no age of the attempt that led to it:
// an ordered end, a drop and a drain tell of no dial that takes minutes.
func TestEndOfALinkIsNoOldAttempt(t *testing.T) {
	for name, end := range map[string]func(r *rig, p *peer){
		"reconnect": func(r *rig, _ *peer) { r.order(reconnect(pipe.ReconnectOrder{Reason: "link.text.lost"})) },
		"drop":      func(_ *rig, p *peer) { p.conn.Close(websocket.CloseGoingAway, errors.New("the server restarts")) },
		"drain": func(r *rig, _ *peer) {
			r.order(pipe.Order{Drain: &pipe.DrainOrder{GraceMS: 1000, Reason: "update"}})
		},
		"guardian gone": func(r *rig, _ *peer) { r.stop(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := startRig(t, srv, func(c *worker.Config) {
					// A dial of no time at all can be over before a report of it is due.
					c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						time.Sleep(time.Second)
						return srv.dial(ctx, network, addr)
					}
				})
				p := r.verified(1)
				time.Sleep(3 * time.Minute)
				end(r, p)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				r.mu.Lock()
				defer r.mu.Unlock()
				down := 0
				for _, l := range r.links {
					if l.Phase == selfcheck.PhaseVerified {
						continue
					}
					down++
					if l.PhaseAge == nil || *l.PhaseAge > time.Minute {
						t.Errorf("reported as %q for %v", l.Phase, l.PhaseAge)
					}
					s := selfcheck.Snapshot{Taken: time.Now(), Worker: selfcheck.WorkerFacts{Running: true}, Link: l}
					if v := selfcheck.Judge(s, time.Now(), wire.Policy{}).Verdict; v.Severity == selfcheck.SeverityError {
						t.Errorf("judged %s: %s", v.Code, v.Sentence)
					}
				}
				if down == 0 {
					t.Error("no report tells of the time without a link")
				}
			})
		})
	}
}

func TestAlternatives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
		r := startRig(t, srv, func(c *worker.Config) {
			c.Identity.LinkURLs = []string{"ws://localhost:1/v1/link", "ws://127.0.0.2:2/v1/link"}
			c.Resolve = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{v6, v4}, nil }
		})
		r.verified(1)
		if n := r.last().Link.Alternatives; n != 2 {
			t.Errorf("%d alternatives, want the other endpoint and the other family", n)
		}
		other := reconnect(pipe.ReconnectOrder{Reason: "still so", Alternative: true})
		for n := 2; n <= 4; n++ {
			r.order(other)
			r.verified(n)
		}
		r.order(reconnect(pipe.ReconnectOrder{Reason: "by hand", URL: "ws://127.0.0.9:9/v1/link"}))
		r.verified(5)
		r.order(reconnect(pipe.ReconnectOrder{Reason: "by hand", URL: "ws://rmm.example/v1/link"})) // not usable
		r.verified(6)
		want := []string{"[::1]:1", "127.0.0.2:2", "[::1]:1", "127.0.0.2:2", "127.0.0.9:9", "127.0.0.9:9"}
		if got := srv.dialed(); !slices.Equal(got, want) {
			t.Errorf("dialed %v, want %v", got, want)
		}
	})
}

func TestOtherFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		lookups := 0
		r := startRig(t, srv, func(c *worker.Config) {
			c.Identity.LinkURLs = []string{"ws://localhost:1/v1/link"}
			c.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				lookups++
				return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")}, nil
			}
		})
		r.verified(1)
		for n := 2; n <= 3; n++ {
			r.order(reconnect(pipe.ReconnectOrder{Reason: "still so", Alternative: true}))
			r.verified(n)
		}
		if got, want := srv.dialed(), []string{"[::1]:1", "127.0.0.1:1", "[::1]:1"}; !slices.Equal(got, want) {
			t.Errorf("dialed %v, want %v", got, want)
		}
		if lookups != 3 {
			t.Errorf("%d lookups for 3 links: the name must be asked for afresh", lookups)
		}
	})
}

// The dead deadline is kept though the reader waits in Read for ever.
func TestDeadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.policy = wire.Policy{Version: 1, PingMS: 1000, DeadMS: 3000}
		r := startRig(t, srv, nil)
		r.verified(1)
		time.Sleep(10 * time.Second)
		if len(srv.links()) != 1 {
			t.Fatal("a quiet link with pongs was given up")
		}
		srv.gone.Store(true)
		srv.set(func() { srv.mute = true })
		began := time.Now()
		r.wait("the end of the link", 10*time.Second, func() bool { return r.last().Link.Drops == 1 })
		if took := time.Since(began); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("given up after %v, want about 3 s", took)
		}
		if f := r.last().Link.Failure; f == nil || f.Type != "ws.silent" {
			t.Errorf("failure %+v, want ws.silent", f)
		}
		srv.gone.Store(false)
		srv.set(func() { srv.mute = false })
		r.verified(2)
		if l := r.last().Link; l.Failure != nil || l.Drops != 1 {
			t.Errorf("after the return: %+v", l)
		}
	})
}

func TestUnverifiedLinkIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.deny = true
		r := startRig(t, srv, func(c *worker.Config) { c.Policy.VerifyMS = 4000 })
		r.wait("a second try", time.Minute, func() bool { return len(srv.links()) == 2 })
		if l := r.last().Link; l.Attempts < 1 || l.Drops != 0 {
			t.Errorf("facts %+v", l)
		}
		if n := len(srv.links()[0].of(wire.TypeHeartbeat)); n < 3 {
			t.Errorf("%d heartbeats: not verified at first, it asks again", n)
		}
		srv.set(func() { srv.deny = false })
		p := r.verified(2)
		auth := decode[wire.Auth](t, p.of(wire.TypeAuth)[0])
		if auth.Attempts < 2 || !strings.Contains(auth.Previous.Reason, "not verified in time") {
			t.Errorf("auth %+v", auth)
		}
	})
}

func TestClockSkewIsCorrectedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const skew = 3 * time.Hour
		srv := newServer(t)
		srv.refuse = func(n int) *refusal {
			if n == 1 {
				return &refusal{status: http.StatusUnauthorized, code: wire.ProblemClock, skew: skew}
			}
			return nil
		}
		srv.mute = true // its own time would set the clock right again
		r := startRig(t, srv, nil)
		began := time.Now()
		r.wait("the second try", time.Second, func() bool { return len(srv.dialed()) == 2 })
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("tried again after %v, want at once", took)
		}
		if srv.headers[0] == srv.headers[1] {
			t.Error("the second try used the first's token")
		}
		r.wait("a report of the attempt", time.Second, func() bool { return r.last().Link.Attempts > 0 })
		if a := r.last().Link.Attempts; a != 1 {
			t.Errorf("%d attempts, want the two tries to be one", a)
		}
	})
}

func TestRefusedUpgradesWaitLong(t *testing.T) {
	for name, c := range map[string]struct {
		refusal
		least, most time.Duration
	}{
		"unauthorized": {refusal{status: 401, code: wire.ProblemUnauthorized}, 5 * time.Minute, 10 * time.Minute},
		"full":         {refusal{status: 503, code: wire.ProblemRateLimited, after: "40"}, 40 * time.Second, 50 * time.Second},
		"broken":       {refusal{status: 502}, 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				srv.refuse = func(n int) *refusal {
					if n == 1 {
						return &c.refusal
					}
					return nil
				}
				r := startRig(t, srv, nil)
				began := time.Now()
				r.wait("the failure", time.Second, func() bool {
					l := r.last().Link
					return l.Phase == selfcheck.PhaseWaiting && l.Failure != nil && l.Failure.Status == c.status && l.NextDial != nil
				})
				r.wait("the next try", 20*time.Minute, func() bool { return len(srv.dialed()) == 2 })
				if took := time.Since(began); took < c.least || took > c.most+time.Second {
					t.Errorf("tried again after %v, want %v to %v", took, c.least, c.most)
				}
				r.verified(1)
			})
		})
	}
}

// A server that asks to be called again later is well, and so is the way to it: that is no
// failure, and the back-off is as before.
func TestAskedToComeBackLater(t *testing.T) {
	for name, code := range map[string]string{"busy": wire.ProblemBusy, "draining": wire.ProblemDraining} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				srv.refuse = func(n int) *refusal {
					if n <= 3 {
						return &refusal{status: 503, code: code, after: "40"}
					}
					return nil
				}
				r := startRig(t, srv, func(c *worker.Config) {
					c.Identity.LinkURLs = []string{"ws://127.0.0.1:1/v1/link", "ws://127.0.0.2:2/v1/link"}
				})
				began := time.Now()
				r.wait("the wait", time.Second, func() bool {
					l := r.last().Link
					return l.Phase == selfcheck.PhaseWaiting && l.Asked != "" && l.Failure == nil && l.NextDial != nil
				})
				r.wait("the fourth try", 20*time.Minute, func() bool { return len(srv.dialed()) == 4 })
				if took := time.Since(began); took < 120*time.Second || took > 3*52*time.Second {
					t.Errorf("three waits took %v, want 40 s each, spread over a quarter more", took)
				}
				r.verified(1)
				if l := r.last().Link; l.Asked != "" {
					t.Errorf("still asked: %q", l.Asked)
				}
				for _, addr := range srv.dialed() {
					if addr != "127.0.0.1:1" {
						t.Errorf("another endpoint was tried: %v", srv.dialed())
					}
				}
			})
		})
	}
}

func TestServerThatGoesDownIsCalledAgainWhenItSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		for n := 1; n <= 4; n++ {
			p := r.verified(n)
			began := time.Now()
			p.conn.Close(websocket.CloseServiceRestart, errors.New(wire.ComeBack(30*time.Second, "the server is going down")))
			r.wait("the wait", time.Second, func() bool { return r.last().Link.Asked != "" })
			r.wait("the next link", time.Minute, func() bool { return len(srv.links()) == n+1 })
			if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
				t.Errorf("called again after %v, want 30 s", took)
			}
		}
		r.verified(5)
		if d := r.last().Link.Drops; d != 0 {
			t.Errorf("%d links count as dropped", d)
		}
	})
}

// An idle limit on the path shows by the silence in which each link ended.
func TestDropsTellOfTheirSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.policy.PingMS, srv.policy.HeartbeatMS, srv.policy.MetricsMS, srv.policy.DeadMS = 300_000, 600_000, 600_000, 900_000
		r := startRig(t, srv, nil)
		for n := 1; n <= 3; n++ {
			p := r.verified(n)
			synctest.Wait()
			time.Sleep(45 * time.Second)
			p.ws.NetConn().Close()
			r.wait("the next link", time.Minute, func() bool { return len(srv.links()) == n+1 })
		}
		r.verified(4)
		r.wait("a report of it", time.Second, func() bool { return len(r.last().Link.Dropped) == 3 })
		v := selfcheck.Judge(r.last(), time.Now(), wire.Policy{}).Verdict
		if v.Code != selfcheck.CodeLinkFlapping || !strings.Contains(v.Sentence, "The last 3 each ended after about 45 s") || !strings.Contains(v.Action, "45 s") {
			t.Errorf("judged %s: %s %s", v.Code, v.Sentence, v.Action)
		}
	})
}

// A server that is down is tried ever more rarely, on each endpoint in turn, and
// an order ends the wait.
func TestBackoffAndFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		var down atomic.Bool
		down.Store(true)
		r := startRig(t, srv, func(c *worker.Config) {
			c.Identity.LinkURLs = []string{"ws://127.0.0.1:1/v1/link", "ws://127.0.0.2:2/v1/link"}
			dial := c.Dial
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				if err == nil && down.Load() {
					conn.Close()
				}
				return conn, err
			}
		})
		time.Sleep(time.Hour)
		n := len(srv.dialed())
		if n < 15 || n > 100 {
			t.Errorf("%d attempts in an hour, want about 30", n)
		}
		for i, addr := range srv.dialed() {
			if want := []string{"127.0.0.1:1", "127.0.0.2:2"}[i%2]; addr != want {
				t.Errorf("attempt %d went to %s, want %s", i, addr, want)
			}
		}
		down.Store(false)
		began := time.Now()
		r.order(reconnect(pipe.ReconnectOrder{Reason: "by hand"}))
		r.verified(1)
		if took := time.Since(began); took > time.Second {
			t.Errorf("an order did not end the wait: %v", took)
		}
	})
}

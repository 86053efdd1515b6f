package probe

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// way is a link and the second door to an agent that does with a probe what act says.
type way struct {
	t   *testing.T
	svc *Service
	key ed25519.PrivateKey
	// act answers a probe of so many bytes that came by a channel.
	act func(w *way, ch wire.Channel, size int, cmd wire.Command)
	// comes: the agent comes by the second door when it is called.
	comes   bool
	noWrite error

	mu     sync.Mutex
	barred string
	n      uint64
	down   time.Time // no link until then
	state  Standing
	events []operator.AgentEvent
	work   sync.WaitGroup
}

func newWay(t *testing.T, act func(*way, wire.Channel, int, wire.Command)) *way {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &way{t: t, key: key, act: act, comes: true}
	w.state.RTT = 10 * time.Millisecond
	w.svc = New(Options{
		Maker: &Maker{Sign: func(typ wire.Type, payload any) (wire.Envelope, error) { return wire.Sign(key, typ, payload) }},
		Link: func(string) (Link, string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if time.Now().Before(w.down) {
				return nil, "its new link is not verified yet"
			}
			if w.state.Ended != "" {
				w.state, w.n = Standing{RTT: 10 * time.Millisecond}, 0
			}
			return w, ""
		},
		Barred: func(string) string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.barred
		},
		Call: func(agent string) {
			if !w.comes {
				return
			}
			w.work.Go(func() {
				time.Sleep(20 * time.Millisecond)
				if env, done, ok := w.svc.Take(agent); ok {
					done(time.Now(), w.noWrite)
					if w.noWrite == nil {
						w.arrive(wire.ChannelOOB, env)
					}
				}
			})
		},
		Note: func(e operator.AgentEvent) { w.events = append(w.events, e) },
		Log:  slog.New(slog.DiscardHandler),
	})
	return w
}

func (w *way) ID() wire.LinkID { return 7 }
func (w *way) Ping() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Pong = time.Now().Add(time.Millisecond)
}
func (w *way) Standing() Standing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *way) Send(env wire.Envelope, written func(uint64, time.Time, error)) error {
	w.mu.Lock()
	w.n++
	n := w.n
	w.mu.Unlock()
	w.work.Go(func() {
		if w.noWrite != nil {
			written(0, time.Time{}, w.noWrite)
			return
		}
		written(n, time.Now(), nil)
		time.Sleep(5 * time.Millisecond)
		w.arrive(wire.ChannelLink, env)
	})
	return nil
}

// arrive checks that a probe is what an agent would take, and has act answer it.
func (w *way) arrive(ch wire.Channel, env wire.Envelope) {
	env.Seq = 1
	raw, err := env.Encode()
	if err != nil || env.Type != wire.TypeProbe {
		w.t.Errorf("%s, %v", env.Type, err)
	}
	cmd, err := wire.DecodePayload[wire.Command](env)
	if err != nil || cmd.Script != "" || cmd.Agent != "a" || !cmd.ExpiresAt.After(time.Now()) {
		w.t.Errorf("%+v, %v", cmd, err)
	}
	w.act(w, ch, len(raw), cmd)
}

func (w *way) answer(ch wire.Channel, typ wire.Type, payload any) bool {
	env, err := wire.Seal(typ, payload)
	if err != nil {
		w.t.Error(err)
	}
	return w.svc.Answered("a", ch, time.Now(), env)
}

func pass(w *way, ch wire.Channel, _ int, cmd wire.Command) {
	if !w.answer(ch, wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID, Pad: cmd.Pad}) {
		w.t.Error("an answer was taken for a command's")
	}
}

// ends has the link end, proven or not, after so long, and a fresh one be there later.
func (w *way) ends(after time.Duration, v selfcheck.Code, why string) {
	time.Sleep(after)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Verdict, w.state.Ended, w.down = v, why, time.Now().Add(7*time.Second)
}

func (w *way) reads() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Read = w.n
}

func (w *way) run(n operator.NewProbe, tell func(operator.ProbeEvent)) operator.Probe {
	w.t.Helper()
	p, err := w.svc.Run(w.t.Context(), Target{"a", "vm", "me"}, n, tell)
	if err != nil {
		w.t.Fatal(err)
	}
	w.work.Wait()
	return p
}

func quiet(operator.ProbeEvent) {}

func told(p operator.Probe) (all []string) {
	for _, s := range p.Steps {
		said := fmt.Sprintf("%s %s %d %s", s.Channel, s.Kind, s.Bytes, s.State)
		if s.ReadBy != "" {
			said += " read by " + s.ReadBy
		}
		all = append(all, strings.TrimSpace(said+" "+s.Verdict))
	}
	return all
}

func TestALadderTellsOfEachSize(t *testing.T) {
	link, sizes := []wire.Channel{wire.ChannelLink}, []int{1000, 9000}
	cases := map[string]struct {
		act     func(w *way, ch wire.Channel, size int, cmd wire.Command)
		comes   bool
		noWrite error
		order   operator.NewProbe
		steps   []string
		outcome string
		longest time.Duration
	}{
		"all pass": {pass, true, nil, operator.NewProbe{Sizes: sizes}, []string{
			"link ping 56 passed read by ledger", "link text 1000 passed read by agent", "link text 9000 passed read by agent",
			"oob text 1000 passed read by agent", "oob text 9000 passed read by agent"}, operator.ProbePassed, time.Second},
		"the large one is lost, and the ladder goes on on a fresh link": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			if size == 9000 {
				w.ends(time.Second, selfcheck.CodeLinkTextLost, "the agent closed it")
				return
			}
			pass(w, ch, size, cmd)
		}, true, nil, operator.NewProbe{Channels: link, Sizes: []int{1000, 9000, 20000}}, []string{
			"link ping 56 passed read by ledger", "link text 1000 passed read by agent", "link text 9000 lost link.text.lost", "link text 20000 passed read by agent"},
			operator.ProbeSomeLost, 15 * time.Second},
		"the server counts another text that was read after it": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.reads()
			w.ends(time.Second, selfcheck.CodeLinkTextLost, "the agent closed it")
		}, true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 lost link.text.lost"}, operator.ProbeAllLost, 5 * time.Second},
		"the link is cut": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.ends(0, "", "cut off without a closing frame")
		}, true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 cut"}, operator.ProbeAllLost, 5 * time.Second},
		"nothing is proven in time": {func(*way, wire.Channel, int, wire.Command) {}, true, nil, operator.NewProbe{Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 silent", "oob text 1000 silent"}, operator.ProbeAllLost, stepLeast + stepMost + 3*time.Second},
		"it is read, and not answered": {func(w *way, ch wire.Channel, size int, cmd wire.Command) { w.reads() },
			true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
				"link ping 56 passed read by ledger", "link text 1000 unanswered read by ledger"}, operator.ProbeUnanswered, stepLeast + time.Second},
		"answered by the other door": {func(w *way, ch wire.Channel, size int, cmd wire.Command) { pass(w, wire.ChannelOOB, size, cmd) },
			true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
				"link ping 56 passed read by ledger", "link text 1000 unanswered read by agent"}, operator.ProbeUnanswered, stepLeast + time.Second},
		"its pad comes back changed": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.answer(ch, wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID, Pad: "y" + cmd.Pad[1:]})
		}, true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 altered read by agent"}, operator.ProbeUnclear, time.Second},
		"refused": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.answer(ch, wire.TypeCommandNack, wire.Nack{ID: cmd.ID, Code: wire.CodeJournal, Detail: strings.Repeat("x", 10_000)})
		}, true, nil, operator.NewProbe{Channels: link, Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 refused read by agent"}, operator.ProbeUnclear, time.Second},
		"a guardian that knows no probes": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.answer(ch, wire.TypeNack, wire.Nack{Code: wire.CodeUnsupported, Type: wire.TypeProbe})
		}, true, nil, operator.NewProbe{Channels: []wire.Channel{wire.ChannelOOB}, Sizes: sizes[:1]}, []string{
			"oob text 1000 unsupported read by agent"}, operator.ProbeUnclear, time.Second},
		"it does not come by the second door": {pass, false, nil, operator.NewProbe{Channels: []wire.Channel{wire.ChannelOOB}, Sizes: sizes}, []string{
			"oob text 1000 untried", "oob text 9000 untried"}, operator.ProbeUntried, doorWait + time.Second},
		"nothing leaves the server": {pass, true, errors.New("broken pipe"), operator.NewProbe{Sizes: sizes[:1]}, []string{
			"link ping 56 passed read by ledger", "link text 1000 unwritten", "oob text 1000 unwritten"}, operator.ProbeUnclear, time.Second},
		"quarantined meanwhile": {func(w *way, ch wire.Channel, size int, cmd wire.Command) {
			w.mu.Lock()
			w.barred, w.down = "it is quarantined", time.Now().Add(time.Hour)
			w.mu.Unlock()
			pass(w, ch, size, cmd)
		}, true, nil, operator.NewProbe{Channels: link, Sizes: sizes}, []string{
			"link ping 56 passed read by ledger", "link text 1000 passed read by agent", "link text 9000 untried"}, operator.ProbePassed, time.Second},
		"what is as small as it gets is sent once": {pass, true, nil, operator.NewProbe{Channels: link, Sizes: []int{64, 128, 100}}, []string{
			"link ping 56 passed read by ledger", "link text 344 passed read by agent"}, operator.ProbePassed, time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWay(t, c.act)
				w.comes, w.noWrite = c.comes, c.noWrite
				began, beat := time.Now(), time.Now()
				p := w.run(c.order, func(operator.ProbeEvent) {
					if quiet := time.Since(beat); quiet > 2*tellEvery {
						t.Errorf("who waits heard nothing for %v", quiet)
					}
					beat = time.Now()
				})
				if got := told(p); !slices.Equal(got, c.steps) {
					t.Errorf("%q\nwant %q", got, c.steps)
				}
				for _, step := range p.Steps {
					if len(step.Detail) > 1000 {
						t.Errorf("an agent's word of %d bytes is kept", len(step.Detail))
					}
				}
				for ch, got := range p.Outcomes {
					if got != c.outcome {
						t.Errorf("%s: %s, want %s", ch, got, c.outcome)
					}
				}
				if took := time.Since(began); took > c.longest {
					t.Errorf("it took %v", took)
				}
				if len(w.events) != len(p.Outcomes) || w.events[0].Kind != operator.EventProbe || w.events[0].To != c.outcome || w.events[0].Reason == "" {
					t.Errorf("kept: %+v", w.events)
				}
				if len(w.svc.running) != 0 {
					t.Error("it is still under way")
				}
			})
		})
	}
}

// One ladder of an agent at a time, few of all; who goes away ends it; and what comes too late
// is no command's.
func TestLaddersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late []wire.Command
		w := newWay(t, func(w *way, _ wire.Channel, _ int, cmd wire.Command) { late = append(late, cmd) })
		ctx, cancel := context.WithCancel(t.Context())
		one := operator.NewProbe{Channels: []wire.Channel{wire.ChannelLink}, Sizes: []int{500, 1000}}
		ended := make(chan operator.Probe, 1)
		go func() {
			p, err := w.svc.Run(ctx, Target{Agent: "a"}, one, quiet)
			if err != nil {
				t.Error(err)
			}
			ended <- p
		}()
		synctest.Wait()
		if _, err := w.svc.Run(ctx, Target{Agent: "a"}, one, quiet); !errors.Is(err, ErrRunning) {
			t.Errorf("a second one: %v", err)
		}
		if w.answer(wire.ChannelLink, wire.TypeCommandAck, wire.CommandAck{ID: "another"}) {
			t.Error("a command's ack was taken for a probe's")
		}
		time.Sleep(3 * time.Second)
		cancel()
		p := <-ended
		if want := []string{"link ping 56 passed read by ledger", "link text 500 silent", "link text 1000 untried"}; !slices.Equal(told(p), want) || p.Stopped == "" {
			t.Errorf("ended early: %q, %q", told(p), p.Stopped)
		}
		w.work.Wait()
		if !w.answer(wire.ChannelLink, wire.TypeCommandAck, wire.CommandAck{ID: late[0].ID, Pad: late[0].Pad}) {
			t.Error("what came too late was taken for a command's")
		}
		time.Sleep(life + time.Second)
		if w.answer(wire.ChannelLink, wire.TypeCommandAck, wire.CommandAck{ID: late[0].ID}) || w.svc.out.Load() != 0 {
			t.Error("it is awaited for ever")
		}
		for i := range 2 * maxLate {
			l := &ladder{s: w.svc, agent: "b"}
			l.put(&flight{id: fmt.Sprint(i)})()
		}
		if n := len(w.svc.late); n != maxLate {
			t.Errorf("%d ids are remembered", n)
		}
		for i := range maxRunning {
			if err := w.svc.begin(&ladder{agent: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.svc.Run(t.Context(), Target{Agent: "more"}, one, quiet); !errors.Is(err, ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		for _, bad := range []operator.NewProbe{{Sizes: []int{operator.MaxProbeSize + 1}}, {Sizes: []int{1}}, {Sizes: make([]int, 17)}, {Channels: []wire.Channel{"mail"}}} {
			if _, err := w.svc.Run(t.Context(), Target{Agent: "c"}, bad, quiet); err == nil {
				t.Errorf("taken: %+v", bad)
			}
		}
	})
}

// Whatever an agent says while a probe is out is no answer to it without its id.
func FuzzAnswered(f *testing.F) {
	for _, seed := range []string{`{"id":"p1","pad":"xx"}`, `{"id":"","code":"unsupported","type":"probe"}`, `{"id":"p2","stages":{"read":"x"}}`, `[]`, `{"id":"p1","code":1}`} {
		for _, t := range []wire.Type{wire.TypeCommandAck, wire.TypeCommandNack, wire.TypeNack, wire.TypeCommandResult} {
			f.Add(string(t), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, typ string, payload []byte) {
		s := New(Options{})
		l := &ladder{s: s, agent: "a"}
		if err := s.begin(l); err != nil {
			t.Fatal(err)
		}
		fl := &flight{id: "p1", pad: "xx", answers: make(chan answer, 2), env: &wire.Envelope{}}
		defer l.put(fl)()
		mine := s.Answered("a", wire.ChannelLink, time.Time{}, wire.Envelope{Type: wire.Type(typ), Payload: payload})
		if got := len(fl.answers) == 1; got != mine || mine && !strings.Contains(string(payload), "p1") && !strings.Contains(string(payload), "\\u") {
			t.Errorf("taken: %v, an answer: %v", mine, got)
		}
		if mine {
			if a := <-fl.answers; len(a.detail) > maxWord+3 {
				t.Errorf("%d bytes of its word are kept", len(a.detail))
			}
		}
		if s.Answered("b", wire.ChannelLink, time.Time{}, wire.Envelope{Type: wire.Type(typ), Payload: payload}) {
			t.Error("another agent's answer was taken")
		}
	})
}

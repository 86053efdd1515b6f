package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	agentlink "gururmm/agent/link"
	"gururmm/agent/state"
	"gururmm/internal/backoff"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// misbehaveWithin: those that do begin to within so great a part of the run.
	misbehaveWithin = 10
	// repeatEvery is how often a result is sent that the server has not stored.
	repeatEvery = 5 * time.Second
	// chatEvery is how often a chatty agent says something; an echo has up to chatMost bytes.
	chatEvery = time.Second
	chatMost  = 8 << 10
	// A flapping agent stays for flapLeast to flapMost and comes back after awayMost at most.
	flapLeast, flapMost, awayMost = time.Second, 4 * time.Second, time.Second
)

// Why an agent leaves, as it tells the server.
var (
	errLeaving    = errors.New("leaving for a moment")
	errSilent     = errors.New("no frame from the server within the dead window")
	errUnverified = errors.New("not verified in time")
)

// task is a command that came, as long as the fleet lives: its journal.
type task struct {
	id     string
	stored bool // by the server
}

// agent is one copy of an identity. place tells it from all others, number is
// that of the identity. The first group does not change once it is enrolled.
type agent struct {
	fleet         *fleet
	kind          Kind
	number, place int
	copy          bool // the second machine of a cloned identity
	instance      string
	identity      state.Identity

	mu            sync.Mutex
	rng           *rand.Rand
	link          *link
	dialing       bool
	stopped       bool
	frozen        bool // half-open from now on
	verified      bool // the link is
	leaving       bool // we close it
	verifications int
	evicted       int // links that the server ended
	links         int
	verifiedAt    time.Time // of the last link that was
	again         int       // commands that came again
	failures      int       // dials since the last verified link
	tasks         []task
	previous      *wire.PreviousLink
	counters      wire.StageCounters
	timing        timing
	deafAt        time.Time // from when texts are read and not handled; zero: they are
	next          due
	resting       bool         // it answers, and says nothing of itself
	asked         time.Time    // the oldest echo that is not answered went out; zero: all are
	echoed        chan<- error // told of the answer to an echo, nil, or why none came; nil: nobody waits
}

// timing is what an agent keeps of its policy.
type timing struct{ heartbeat, ping, dead, verify, backoffMin, backoffMax time.Duration }

func timingOf(p wire.Policy) timing {
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	return timing{ms(p.HeartbeatMS), ms(p.PingMS), ms(p.DeadMS), ms(p.VerifyMS), ms(p.BackoffMinMS), ms(p.BackoffMaxMS)}
}

// due are the times of what comes next; zero: nothing.
type due struct{ dial, heartbeat, ping, repeat, verify, chat, leave, misbehave time.Time }

// newAgent makes the next one of the fleet.
func newAgent(f *fleet, kind Kind, number int) *agent {
	place := f.first + len(f.agents)
	a := &agent{
		fleet: f, kind: kind, number: number, place: place, instance: wire.NewID(),
		rng: rand.New(rand.NewPCG(f.opts.Seed, uint64(place)+1)), timing: timingOf(wire.DefaultPolicy()),
	}
	a.copy = len(f.agents) > 0 && f.agents[len(f.agents)-1].number == number
	return a
}

// presence says which machine this is; two copies are two machines.
func (a *agent) presence() wire.Presence {
	sum := sha256.Sum256(fmt.Appendf(nil, "gururmm fleet %d %d", a.fleet.opts.Seed, a.place))
	id := hex.EncodeToString(sum[:])
	return wire.Presence{
		Instance: a.instance, BootID: id[:32], Fingerprint: id, Version: "v0.0.0-fleet",
		Platform: wire.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH, Hostname: fmt.Sprintf("fleet-%s-%d", a.kind, a.number+1)},
	}
}

func (a *agent) self() wire.Copy { return wire.CopyOf(a.presence()) }

// enroll trades the token for an identity, from the agent's own address.
func (a *agent) enroll(ctx context.Context) error {
	f := a.fleet
	transport := &http.Transport{DialContext: from(a.place), TLSClientConfig: f.opts.TLS, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	id, _, _, err := state.Enroll(ctx, state.EnrollOptions{
		ServerURL: f.opts.Server, Token: f.opts.EnrollToken, Presence: a.presence(),
		HTTPClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ring == nil {
		if f.ring, err = id.Keyring(); err != nil {
			return err
		}
		f.shared = id
	}
	// One copy of what is the server's serves all.
	a.identity = state.Identity{Agent: id.Agent, Key: id.Key, Server: f.shared.Server, LinkURLs: f.shared.LinkURLs}
	return nil
}

// visit does what is due. It must not block.
func (a *agent) visit(ctx context.Context, now, held time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.frozen, a.dialing:
	case a.link == nil:
		if !now.Before(a.next.dial) {
			a.connect(ctx)
		}
	default:
		if !held.IsZero() {
			a.misbehave(now, held)
		}
		if !a.frozen {
			a.keep(now)
		}
	}
}

// connect dials if the fleet has room for one more attempt. Call with mu held.
func (a *agent) connect(ctx context.Context) {
	select {
	case a.fleet.dials <- struct{}{}:
	default:
		return // at the next visit
	}
	a.dialing = true
	a.fleet.working.Go(func() {
		defer func() { <-a.fleet.dials }()
		l, err := a.dial(ctx)
		a.mu.Lock()
		a.dialing = false
		if after, _, ok := agentlink.Asked(err); ok {
			a.fleet.failure(err)
			a.next.dial = time.Now().Add(max(after, a.timing.backoffMin))
			a.mu.Unlock()
			return
		}
		if err != nil {
			a.fleet.failure(err)
			a.next.dial = time.Now().Add(backoff.Full(a.rng, a.timing.backoffMin, a.timing.backoffMax, a.failures))
			a.failures++
			a.mu.Unlock()
			return
		}
		if a.stopped {
			a.mu.Unlock()
			l.close(websocket.CloseGoingAway, errRunOver)
			return
		}
		a.open(l)
		a.mu.Unlock()
		// Its own, so that the stack that dialing took is given back.
		a.fleet.working.Go(func() { a.read(l) })
	})
}

// open takes over a link and authenticates it. Call with mu held.
func (a *agent) open(l *link) {
	now := time.Now()
	a.link, a.verified, a.leaving = l, false, false
	a.links++
	a.counters = wire.StageCounters{}
	a.next = due{verify: now.Add(a.timing.verify), ping: now.Add(a.timing.ping), heartbeat: now.Add(a.timing.heartbeat)}
	a.send(l, wire.TypeAuth, wire.Auth{
		Presence: a.presence(), Capabilities: []string{wire.CapLedger}, Previous: a.previous, Attempts: a.failures + 1, Clock: now,
	}, true)
}

// misbehave begins, at a drawn time, what a kind is for. Call with mu held.
func (a *agent) misbehave(now, held time.Time) {
	if a.next.misbehave.IsZero() && !a.kind.Well() {
		a.next.misbehave = held.Add(time.Duration(a.rng.Int64N(int64(a.fleet.opts.Hold / misbehaveWithin))))
	}
	if !a.verified || a.next.misbehave.IsZero() || now.Before(a.next.misbehave) {
		return
	}
	switch a.kind {
	case Deaf:
		if a.deafAt.IsZero() {
			a.deafAt = now
		}
	case HalfOpen:
		a.frozen = true
		a.link.socket.frozen.Store(true)
	}
}

// keep does what keeps a link. Call with mu held.
func (a *agent) keep(now time.Time) {
	l := a.link
	over := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	switch {
	case a.leaving, a.resting:
		return
	case !a.asked.IsZero() && now.Sub(a.asked) > dialTimeout:
		a.answered(fmt.Errorf("an echo was not answered within %v", dialTimeout))
	case !a.verified && over(a.next.verify):
		a.leave(websocket.CloseGoingAway, errUnverified)
		return
	case over(a.next.leave):
		a.next.leave = time.Time{}
		a.flap()
		return
	}
	if over(a.next.ping) {
		a.next.ping = now.Add(a.timing.ping)
		if now.Sub(l.conn.Facts(now).Inbound) > a.timing.dead {
			a.leave(websocket.CloseGoingAway, errSilent)
			return
		}
		l.conn.Ping(true)
	}
	if over(a.next.heartbeat) {
		a.heartbeat(l, now)
	}
	if over(a.next.repeat) {
		a.results(l)
	}
	if !a.asked.IsZero() && now.Sub(a.asked) > session.Late {
		l.conn.Ping(true) // is it lost, or the answer?
	}
	if over(a.next.chat) {
		a.next.chat = now.Add(chatEvery)
		a.chat(l, now)
	}
}

// leave ends the link for a reason of ours. Call with mu held.
func (a *agent) leave(code int, cause error) {
	l := a.link
	a.leaving = true
	a.fleet.working.Go(func() { l.conn.Close(code, cause) })
}

// flap leaves, half the time without a word. Call with mu held.
func (a *agent) flap() {
	if a.rng.IntN(2) == 0 {
		a.leave(websocket.CloseNormalClosure, errLeaving)
		return
	}
	a.leaving = true
	a.link.socket.Close()
}

// heartbeat sends one. Call with mu held.
func (a *agent) heartbeat(l *link, now time.Time) {
	a.next.heartbeat = now.Add(a.timing.heartbeat)
	counters := a.counters
	l.conn.Send(wire.Envelope{}, session.SendOptions{Flush: true, Compose: func(ledger wire.Ledger) (wire.Envelope, error) { // an error: the link has ended, its reader says so
		return wire.Seal(wire.TypeHeartbeat, wire.Heartbeat{Ledger: ledger, Stages: counters})
	}})
}

// chat says more than anyone asked for. Call with mu held.
func (a *agent) chat(l *link, now time.Time) {
	cpu := float64(a.rng.IntN(100))
	a.send(l, wire.TypeMetrics, wire.Metrics{At: now, CPUPercent: &cpu}, false)
	a.echo(l, wire.Echo{ID: "chat", Size: a.rng.IntN(chatMost)}, session.SendOptions{})
}

// echo asks for one. No ping goes out with it: [agent.keep] asks for the ledger once the
// answer is late. Call with mu held.
func (a *agent) echo(l *link, e wire.Echo, opts session.SendOptions) {
	if a.asked.IsZero() {
		a.asked = time.Now()
	}
	a.sendAs(l, wire.TypeEcho, e, opts)
}

// answered takes the answer to an echo, or why none came. Call with mu held.
func (a *agent) answered(err error) {
	a.asked = time.Time{}
	select {
	case a.echoed <- err:
	default: // nobody waits
	}
}

// send seals and queues a text. A link that can't take it ends by itself, and the
// reader says so.
func (a *agent) send(l *link, t wire.Type, payload any, flush bool) {
	a.sendAs(l, t, payload, session.SendOptions{Flush: flush})
}

func (a *agent) sendAs(l *link, t wire.Type, payload any, opts session.SendOptions) {
	env, err := wire.Seal(t, payload)
	if err == nil {
		err = l.conn.Send(env, opts)
	}
	if err != nil && !errors.Is(err, session.ErrClosed) {
		a.fleet.failure(fmt.Errorf("send %s: %w", t, err))
	}
}

// read is the link's reader, until the link ends.
func (a *agent) read(l *link) {
	for {
		m, err := l.conn.Read()
		if err != nil {
			a.ended(l, err)
			return
		}
		a.handle(l, m)
	}
}

// ended notes who ended the link, and when to come back.
func (a *agent) ended(l *link, why error) {
	l.conn.Close(websocket.CloseGoingAway, why) // waits for its writer
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.previous = &wire.PreviousLink{Link: l.id, Read: l.conn.Facts(now).Ledger.Local.Read, Reason: why.Error()}
	if a.stopped {
		return
	}
	a.link = nil
	a.answered(fmt.Errorf("agent %d has lost its link: %w", a.number+1, why))
	if a.leaving {
		a.next.dial = now.Add(time.Duration(a.rng.Int64N(int64(awayMost))))
		return
	}
	if !a.verified {
		a.fleet.failure(fmt.Errorf("before it was verified: %w", why))
	}
	a.evicted++
	if after, _, ok := agentlink.Asked(why); ok {
		a.next.dial = now.Add(max(after, a.timing.backoffMin))
		return
	}
	a.next.dial = now.Add(backoff.Full(a.rng, a.timing.backoffMin, a.timing.backoffMax, a.failures))
	a.failures++
}

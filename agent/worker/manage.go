package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/agent/link"
	"gururmm/agent/pipe"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// unauthorizedMin and unauthorizedMax spread the retries of an endpoint whose
	// identity was refused: nothing gets better by itself, somebody must act first.
	unauthorizedMin = 5 * time.Minute
	unauthorizedMax = 10 * time.Minute
	// dropsWindow is over how long drops are counted.
	dropsWindow = 10 * time.Minute
	// dropsTold of them are told one by one.
	dropsTold = 5
	// goneWait bounds the wait for the goroutines of a link that has ended; one that
	// hangs is left behind, stays visible in the facts, and does not hold up the next link.
	goneWait = 5 * time.Second
	// givenWait is the same for a link that was given up because one of them hangs.
	givenWait = 100 * time.Millisecond
	// maxTries bounds the exponent of the back-off.
	maxTries = 30
)

// errOrdered is why a link ends on the guardian's order.
var errOrdered = errors.New("reconnect ordered")

// errAbandoned is why nothing more is taken from a link whose reader or writer hung.
var errAbandoned = errors.New("the link was given up: a goroutine of it hung")

// errDraining is why a link ends when the worker stops.
var errDraining = errors.New("the agent is stopping")

// drop is a verified link that ended, not by our order.
type drop struct {
	at time.Time
	in selfcheck.Drop
}

// manager keeps one link: dials, waits between attempts, and reports.
type manager struct {
	w   *worker
	log *slog.Logger
	tls *tls.Config

	orders  chan pipe.ReconnectOrder // room for one: the latest counts
	resumed chan struct{}            // the machine ran again: no more waiting
	cut     chan struct{}            // links were given up: they are waited for no more

	mu       sync.Mutex
	cur      *link.Session   // nil: none is open
	left     []*link.Session // ended, but a goroutine of it hangs
	given    []*link.Session // given up with such a goroutine on the guardian's order: it is known
	verified time.Time       // of cur; zero: not
	phase    selfcheck.Phase // while cur is nil
	since    time.Time
	dialAt   time.Time // of the next attempt, while waiting
	attempts int       // since the last verified link
	failure  *selfcheck.NetworkError
	asked    string // why the server has us wait; empty: it does not
	drops    []drop
	previous *wire.PreviousLink

	target  target
	reached link.Family // over which cur, or the link before, was reached
	v4, v6  bool        // what the resolver last said the server has
	tried   map[target]bool
}

func newManager(w *worker, tls *tls.Config) *manager {
	return &manager{
		w: w, log: w.log, tls: tls,
		orders: make(chan pipe.ReconnectOrder, 1), resumed: make(chan struct{}, 1), cut: make(chan struct{}, 1),
		phase: selfcheck.PhaseUnknown, since: time.Now(), tried: map[target]bool{},
	}
}

// order hands in a reconnect order; it never blocks, and the latest counts.
func (m *manager) order(o pipe.ReconnectOrder) {
	for {
		select {
		case m.orders <- o:
			return
		default:
		}
		select {
		case <-m.orders:
		default:
		}
	}
}

// run dials until ctx ends; it then closes the link and waits for it.
func (m *manager) run(ctx context.Context) {
	defer m.enter(selfcheck.PhaseUnknown, time.Time{}) // no link is kept any more: that is no failed one
	tries := 0                                         // since a verified link last held; sets the back-off
	m.setTarget(m.firstTarget())
	for ctx.Err() == nil {
		s, order, err := m.dial(ctx)
		var held, useful bool
		if s != nil {
			order, useful, held = m.hold(ctx, s)
			err = s.Err()
		}
		if held {
			tries = 0
		}
		if after, why, asked := link.Asked(err); asked && order == nil && ctx.Err() == nil {
			m.log.Info("the server asked to be called again later", "after", after.Round(time.Millisecond), "reason", why)
			order = m.wait(ctx, max(after, ms(m.w.policy().BackoffMinMS)), why)
		} else if order == nil && ctx.Err() == nil {
			if !useful {
				m.log.Warn("no verified link came of this attempt", "error", err, "url", m.goal().url, "attempt", tries+1)
				m.setTarget(afterFailure(m.w.urls(), m.goal()))
			}
			order = m.wait(ctx, m.backoff(err, tries), "")
			tries = min(tries+1, maxTries)
		}
		if order != nil {
			m.obey(*order)
		}
	}
}

// backoff draws the wait after an attempt or a link that ended with err.
func (m *manager) backoff(err error, tries int) time.Duration {
	p := m.w.policy()
	wait := backoff.Full(nil, ms(p.BackoffMinMS), ms(p.BackoffMaxMS), tries)
	if r, ok := errors.AsType[*link.Refused](err); ok {
		if r.Unauthorized() {
			wait = backoff.Full(nil, unauthorizedMin, unauthorizedMax, 1)
		}
		if r.RetryAfter > 0 { // spread over a quarter more, or all come at once
			wait = max(wait, r.RetryAfter+rand.N(r.RetryAfter/4+1))
		}
	}
	return wait
}

// dial makes one attempt. An order that names another way ends it; a plain one
// is what is being done.
func (m *manager) dial(ctx context.Context) (*link.Session, *pipe.ReconnectOrder, error) {
	m.enter(selfcheck.PhaseDialing, time.Time{})
	m.mu.Lock()
	if m.attempts == 0 {
		m.failure = nil // it told of the verified link that dropped, not of an attempt
	}
	m.attempts++
	goal := m.target
	m.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		s   *link.Session
		err error
	}
	done := make(chan outcome, 1)
	m.w.children.Go("dial", func() {
		s, err := link.Dial(ctx, m.options(goal))
		done <- outcome{s, err}
	})
	var order *pipe.ReconnectOrder
	for {
		select {
		case got := <-done:
			if got.s != nil && order != nil {
				m.discard(got.s)
				return nil, order, errOrdered
			}
			if got.s == nil && order == nil {
				m.fail(got.err)
			}
			return got.s, order, got.err
		case o := <-m.orders:
			if o.Alternative || o.URL != "" {
				order = &o
				cancel()
			}
		}
	}
}

// discard ends a link that came too late to be of use.
func (m *manager) discard(s *link.Session) {
	s.Close(websocket.CloseGoingAway, errOrdered)
	m.await(s)
}

func (m *manager) options(goal target) link.Options {
	w := m.w
	return link.Options{
		URL: goal.url, Family: goal.family,
		Token: w.cfg.Identity.Token, TLS: m.tls, Clock: &w.clock,
		Policy: w.policy, Auth: m.auth,
		Opened: w.count, Receive: w.receive, Changed: w.change, Heard: w.heard,
		Resolved: m.families, Resolve: w.cfg.Resolve, Dial: w.cfg.Dial, Proxy: w.cfg.Proxy, Gate: w.cfg.Gate,
		ReadFault: faultReader, WriteFault: faultWriter, Log: m.log,
	}
}

func (m *manager) auth() wire.Auth {
	m.mu.Lock()
	defer m.mu.Unlock()
	return wire.Auth{
		Presence:     m.w.presence(),
		Capabilities: []string{wire.CapLedger, wire.CapOOB, wire.CapCall},
		Previous:     m.previous, Attempts: m.attempts, Clock: fault.Now(),
	}
}

func (m *manager) families(v4, v6 bool) {
	m.mu.Lock()
	m.v4, m.v6 = v4, v6
	m.mu.Unlock()
}

// hold keeps s until it ends, by itself or by an order. useful reports whether it
// was verified, held whether for as long as the policy wants before back-off is reset.
func (m *manager) hold(ctx context.Context, s *link.Session) (order *pipe.ReconnectOrder, useful, held bool) {
	m.open(s)
	m.w.children.Go("heartbeat", func() { m.w.beat(s) })
	for ended := false; !ended; {
		select {
		case <-s.Done():
			ended = true
		case o := <-m.orders:
			if o.Link != 0 && o.Link != s.ID() {
				continue // it meant a link that is no more
			}
			order, ended = &o, true
			s.Close(websocket.CloseServiceRestart, fmt.Errorf("%w: %s", errOrdered, o.Reason))
		case <-ctx.Done():
			ended = true
			s.Close(websocket.CloseGoingAway, errDraining)
		}
	}
	m.await(s)
	useful, held = m.close(s, order != nil)
	return order, useful, held
}

func (m *manager) open(s *link.Session) {
	m.mu.Lock()
	m.cur, m.verified = s, time.Time{}
	m.reached = link.FamilyOf(s.Remote())
	m.mu.Unlock()
	m.log.Info("link opened", "link", s.ID(), "url", s.URL(), "remote", s.Remote())
	m.w.change()
}

// await waits until the goroutines of s have ended, but not for ever.
func (m *manager) await(s *link.Session) {
	wait := goneWait
	if m.abandoned(s) {
		wait = givenWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for waits := true; waits; {
		select {
		case <-s.Gone():
			return
		case <-timer.C:
			waits = false
		case <-m.cut:
			waits = !m.abandoned(s)
		}
	}
	m.log.Error("a link's goroutine hangs and is left behind", "link", s.ID())
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.given, s) {
		m.left = append(m.left, s)
	}
}

// relink gives up the link in place, and what is left of those before it, without
// waiting for their goroutines; another is dialed. What such a link still brings is dropped.
func (m *manager) relink(reason string) error {
	m.mu.Lock()
	m.given, m.left = hanging(m.given), hanging(m.left)
	if len(m.given) >= maxLeft {
		m.mu.Unlock()
		return errors.New("goroutines of too many links hang already")
	}
	m.given = append(m.given, m.left...)
	m.left = nil
	cur := m.cur
	if cur != nil {
		m.given = append(m.given, cur)
	}
	m.mu.Unlock()
	select {
	case m.cut <- struct{}{}:
	default:
	}
	if cur != nil {
		m.order(pipe.ReconnectOrder{Reason: reason, Link: cur.ID()})
	}
	return nil
}

// abandoned tells whether s was given up.
func (m *manager) abandoned(s *link.Session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.given, s)
}

// hanging picks those of ss that are not gone.
func hanging(ss []*link.Session) []*link.Session {
	return slices.DeleteFunc(ss, func(s *link.Session) bool {
		select {
		case <-s.Gone():
			return true
		default:
			return false
		}
	})
}

// close takes down what became of s.
func (m *manager) close(s *link.Session, ordered bool) (wasVerified, held bool) {
	now := time.Now()
	err := s.Err()
	m.mu.Lock()
	wasVerified = !m.verified.IsZero()
	held = wasVerified && now.Sub(m.verified) >= ms(m.w.policy().StableMS)
	m.cur, m.verified = nil, time.Time{}
	// What follows begins now: the phase that led to s is as old as s.
	m.phase, m.since, m.dialAt = selfcheck.PhaseWaiting, now, now
	m.previous = &wire.PreviousLink{
		Link: s.ID(), Read: s.Conn().Facts(now).Ledger.Local.Read, Reason: err.Error(),
	}
	_, _, asked := link.Asked(err)
	if !ordered && !asked && !errors.Is(err, errDraining) {
		m.failure = link.Describe(err)
		if wasVerified {
			m.drops = append(m.drops, drop{now, s.Dropped()})
		}
	}
	m.mu.Unlock()
	m.log.Info("link ended", "link", s.ID(), "reason", err, "verified", wasVerified)
	m.w.change()
	return wasVerified, held
}

// becameVerified notes the server's judgement of s.
func (m *manager) becameVerified(s *link.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s != m.cur {
		return
	}
	m.verified, m.attempts, m.failure = time.Now(), 0, nil
	m.tried = map[target]bool{m.target: true}
}

// wait lets d pass; an order, or waking up after a suspend, ends it.
// asked is why the server wants it so; empty: it is our own back-off.
func (m *manager) wait(ctx context.Context, d time.Duration, asked string) *pipe.ReconnectOrder {
	m.mu.Lock()
	m.asked = asked
	m.mu.Unlock()
	m.enter(selfcheck.PhaseWaiting, time.Now().Add(d))
	defer func() {
		m.mu.Lock()
		m.asked = ""
		m.mu.Unlock()
	}()
	select { // an old one
	case <-m.resumed:
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		m.w.cfg.Gate()
	case <-m.resumed:
	case o := <-m.orders:
		return &o
	case <-ctx.Done():
	}
	return nil
}

// obey chooses the next target as ordered.
func (m *manager) obey(o pipe.ReconnectOrder) {
	m.log.Info("reconnect ordered", "reason", o.Reason, "alternative", o.Alternative, "url", o.URL, "probe", o.Probe)
	urls := m.w.urls()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried[m.target] = true
	switch {
	case o.URL != "":
		if err := link.CheckURL(o.URL); err != nil {
			m.log.Error("the ordered endpoint is not usable", "error", err)
			return
		}
		m.target = target{url: o.URL}
	case o.Alternative:
		options := alternatives(urls, m.target, m.reached, m.v4, m.v6)
		if t, ok := next(options, m.tried); ok {
			if m.tried[t] {
				m.tried = map[target]bool{m.target: true}
			}
			m.target = t
		}
	}
}

func (m *manager) firstTarget() target {
	if urls := m.w.urls(); len(urls) > 0 {
		return target{url: urls[0]}
	}
	return target{}
}

func (m *manager) setTarget(t target) {
	m.mu.Lock()
	m.target = t
	m.mu.Unlock()
}

func (m *manager) goal() target {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.target
}

func (m *manager) enter(p selfcheck.Phase, dialAt time.Time) {
	m.mu.Lock()
	m.phase, m.since, m.dialAt = p, time.Now(), dialAt
	m.mu.Unlock()
	m.w.change()
}

func (m *manager) fail(err error) {
	_, _, asked := link.Asked(err)
	m.mu.Lock()
	m.failure = link.Describe(err)
	if asked { // it was reached, and wants to be called again
		m.failure = nil
	}
	m.mu.Unlock()
}

// wake tells that the machine ran again at now: an open link is asked at once
// whether it still lives, a back-off ends.
func (m *manager) wake(now time.Time) {
	if s := m.session(); s != nil {
		s.Resumed(now)
	}
	m.mu.Lock()
	f := m.failure
	m.mu.Unlock()
	if f != nil && f.Status == 401 {
		return // nothing got better by sleeping
	}
	select {
	case m.resumed <- struct{}{}:
	default:
	}
}

// session is the open link; nil: there is none.
func (m *manager) session() *link.Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cur
}

// facts describe the link, or the attempt at one.
func (m *manager) facts(now time.Time) selfcheck.LinkFacts {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := selfcheck.LinkFacts{Phase: m.phase, PhaseAge: selfcheck.Age(m.since, now), URL: m.target.url}
	if m.cur != nil {
		f = m.cur.Facts(now)
	} else if m.phase == selfcheck.PhaseWaiting {
		d := max(m.dialAt.Sub(now), 0)
		f.NextDial = &d
	}
	m.w.beats.fill(&f, m.cur, now)
	f.Attempts, f.Failure = m.attempts, m.failure
	f.Alternatives = len(alternatives(m.w.urls(), m.target, m.reached, m.v4, m.v6))
	for len(m.drops) > 0 && now.Sub(m.drops[0].at) > dropsWindow {
		m.drops = m.drops[1:]
	}
	f.Drops, f.Asked = len(m.drops), m.asked
	for _, d := range m.drops[max(0, len(m.drops)-dropsTold):] {
		f.Dropped = append(f.Dropped, d.in)
	}
	return f
}

// busy tells how long the reader and the writer have been at one piece of work,
// those of links left behind too: whichever hangs longest.
func (m *manager) busy(now time.Time) (reader, writer selfcheck.LoopFacts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = hanging(m.left)
	longer := func(a, b *time.Duration) bool { return b != nil && (a == nil || *b > *a) }
	for _, s := range append(slices.Clip(m.left), m.cur) {
		if s == nil {
			continue
		}
		r, w := s.Busy(now)
		if longer(reader.Pending, r) {
			reader.Pending = r
		}
		if longer(writer.Pending, w) {
			writer = selfcheck.LoopFacts{Pending: w, Waits: s.WriterWaits()}
		}
	}
	return reader, writer
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

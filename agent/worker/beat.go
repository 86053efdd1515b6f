package worker

import (
	"math/rand/v2"
	"sync"
	"time"

	"gururmm/agent/link"
	"gururmm/internal/fault"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// rewrittenBeat: where pings do not carry the ledger, heartbeats must, and often
	// enough for a loss to be seen within the time an operator waits.
	rewrittenBeat = 10 * time.Second
	// verifyRetry: a heartbeat that was answered "not yet verified" is repeated.
	verifyRetry = time.Second
	// maxListed bounds the running commands named in a heartbeat.
	maxListed = 64
	// answerGrace is the least time a ping that asks for a ledger is given.
	answerGrace = time.Second
	// beatsKept is how many heartbeats await their answer at most.
	beatsKept = 8
)

// beats remembers which heartbeats were written and not answered: to set the
// clock by the answers, and to tell when none comes.
type beats struct {
	mu      sync.Mutex
	session *link.Session
	sent    []sentBeat // oldest first
	acked   uint64     // the last one answered: its answer can overtake the news that it was written
	trip    time.Time  // the last one answered was written at; zero: none was
}

type sentBeat struct {
	number uint64
	at     time.Time
}

func (b *beats) wrote(s *link.Session, number uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s != b.session {
		b.session, b.sent, b.acked, b.trip = s, nil, 0, time.Time{}
	}
	if number <= b.acked {
		return
	}
	if len(b.sent) == beatsKept { // the oldest is what counts
		b.sent = b.sent[:beatsKept-1]
	}
	b.sent = append(b.sent, sentBeat{number, at})
}

// answered takes heartbeat number, and all before it, for answered. It gives
// when it was written; ok is false if that is not known.
func (b *beats) answered(s *link.Session, number uint64) (at time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s != b.session {
		b.session, b.sent, b.trip = s, nil, time.Time{}
	}
	b.acked = number
	rest := b.sent[:0]
	for _, sent := range b.sent {
		if sent.number == number {
			at, ok = sent.at, true
			b.trip = at
		}
		if sent.number > number {
			rest = append(rest, sent)
		}
	}
	b.sent = rest
	return at, ok
}

// awaits reports whether a heartbeat of s was written that is not answered.
func (b *beats) awaits(s *link.Session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s == b.session && len(b.sent) > 0
}

// fill tells in f of the oldest heartbeat of s that was not answered, and of the last one that was.
func (b *beats) fill(f *selfcheck.LinkFacts, s *link.Session, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s == nil || s != b.session {
		return
	}
	f.TextTripAge = selfcheck.Age(b.trip, now)
	if len(b.sent) > 0 {
		f.HeartbeatPending, f.HeartbeatSeq = selfcheck.Age(b.sent[0].at, now), b.sent[0].number
	}
}

// beat sends pings and heartbeats on s until it ends.
func (w *worker) beat(s *link.Session) {
	// The first of each comes early by chance: a fleet that came back at one moment spreads.
	lastPing := time.Now().Add(-rand.N(w.pingEvery() / 2))
	var lastBeat time.Time
	phase := selfcheck.PhaseUnknown
	for {
		if p := s.Phase(); p != phase { // the handshake's own heartbeat counts
			phase, lastBeat = p, time.Now()
			if p == selfcheck.PhaseVerified {
				lastBeat = lastBeat.Add(-rand.N(w.beatEvery(s) / 2))
			}
		}
		ping, beat := lastPing.Add(w.pingEvery()), lastBeat.Add(w.beatEvery(s))
		due := ping
		if beat.Before(due) {
			due = beat
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-s.Done():
			timer.Stop()
			return
		case <-w.rebeat: // phase, policy or path have changed
			timer.Stop()
		case <-timer.C:
		}
		w.cfg.Gate()
		fault.Stall(faultDeadlock)
		now := time.Now()
		if !now.Before(ping) {
			s.Conn().Ping(false)
			lastPing = now
		}
		if !now.Before(beat) {
			if phase == selfcheck.PhaseProbing || phase == selfcheck.PhaseVerified {
				w.heartbeat(s)
			}
			lastBeat = now
		}
	}
}

func (w *worker) pingEvery() time.Duration { return ms(w.policy().PingMS) }

// beatEvery is the interval of heartbeats on s as of now.
func (w *worker) beatEvery(s *link.Session) time.Duration {
	p := w.policy()
	every := ms(p.HeartbeatMS)
	switch {
	case s.Phase() == selfcheck.PhaseProbing:
		return min(every, verifyRetry, ms(p.VerifyMS)/4)
	case rewritten(s.Conn().Facts(time.Now()).Ledger):
		return min(every, rewrittenBeat)
	}
	return every
}

// rewritten tells whether pings on the path do not carry the ledger: they, or
// the pongs, come changed, or what they ask for never comes.
func rewritten(v selfcheck.LedgerView) bool {
	if v.PeerVia == selfcheck.ViaPing {
		return false
	}
	var rtt time.Duration
	if v.RTT != nil {
		rtt = *v.RTT
	}
	unanswered := v.UnansweredAge != nil && *v.UnansweredAge > max(answerGrace, 4*rtt)
	return v.Stripped > 0 || v.Foreign > 0 || unanswered
}

// heartbeat queues one; the writer composes it when its turn has come.
func (w *worker) heartbeat(s *link.Session) {
	running := w.exec.Running()
	running = running[:min(len(running), maxListed)]
	started, finished := w.exec.Counters()
	verdict := w.verdict()
	compose := func(l wire.Ledger) (wire.Envelope, error) {
		return wire.Seal(wire.TypeHeartbeat, wire.Heartbeat{
			Ledger: l, Stages: w.counters.stages(l.Read, started, finished),
			Running: running, Verdict: verdict,
		})
	}
	written := func(n uint64, at time.Time, err error) {
		if err == nil {
			w.beats.wrote(s, n, at)
		}
	}
	// Refused only when the link ends or is stuck, and that shows elsewhere.
	_ = s.Conn().Send(wire.Envelope{Type: wire.TypeHeartbeat}, session.SendOptions{
		Flush: true, Compose: compose, Written: written,
	})
}

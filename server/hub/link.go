package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/fault"
	"gururmm/internal/quota"
	"gururmm/internal/serial"
	"gururmm/selfcheck"
	"gururmm/server/delivery"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// inboxLimit bounds the bytes read from one link and not yet handled: a few
	// of the largest messages.
	inboxLimit = 4 << 20
	// messageWeight is what a message costs beside its text.
	messageWeight = 256
	// unwrittenAfter is how long a queued text may stay unwritten: the path takes
	// no more bytes, or the writer is stuck.
	unwrittenAfter = 5 * time.Second
	// challengeFor is how long an older link has to prove that it lives.
	challengeFor = 10 * time.Second
	// defaultRTT stands in before the first pong.
	defaultRTT = 250 * time.Millisecond
)

// identity tells whether other machines hold the same identity.
type identity uint8

const (
	identitySole      identity = iota
	identityContested          // another machine's link is being asked whether it lives
	identityDuplicate          // two machines are alive
)

// link is one live link. It implements delivery.Link.
type link struct {
	hub        *Hub
	agent      string
	id         wire.LinkID
	generation uint64
	addr       string
	ep         *endpoint // its agent's
	opened     time.Time
	timing     timing // of its policy
	conn       *session.Conn
	inbox      *serial.Queue[session.Message]
	account    *quota.Account
	debt       atomic.Int64 // nanoseconds that frames which came have yet to wait for
	lastText   atomic.Int64 // a [selfcheck.Instant]
	entry      wheelEntry   // guarded by the wheel, but for its time
	configs    []config     // that it was told of and has not acknowledged, guarded by mu
	probes     probes       // used by the handler only
	refused    uint32       // messages, to thin the log; used by the handler only
	peerNacks  uint32       // as refused

	mu         sync.Mutex
	closing    sync.WaitGroup // the closer, if any
	settled    func()         // verified, or over; nil: it was told
	caller     *wire.Copy     // as the upgrade's token says; nil once it is authed
	who        *wire.Copy     // once it is authed; never changed, so all who know of the copy share it
	version    string         // of the agent's program; as who
	verifiedAt time.Time
	verdict    selfcheck.Code // why nothing is delivered on it; empty: nothing wrong
	challenged time.Time      // zero: it was not
	aligned    uint64         // texts the agent had read when the digests last agreed
	nextPing   selfcheck.Instant
	asked      selfcheck.Instant // whether it lives, a command being unacknowledged; zero: it was not, or has answered
	identity   identity
	gone       bool
	calls      bool // the agent understands call
	reported   bool // the verdict is the agent's, from a beacon
	answered   bool // since it was challenged
	lives      bool // a ping written since then has been answered
}

// timing is what a link keeps of its policy.
type timing struct{ ping, dead, verify time.Duration }

// log tells what it says as of this link. Made when it is needed: most links have nothing to say.
func (l *link) log() *slog.Logger {
	return l.hub.log.With("agent", l.agent, "link", l.id.String(), "generation", l.generation)
}

func newLink(h *Hub, ws *websocket.Conn, agent string, id wire.LinkID, addr string, generation uint64) *link {
	now, policy := time.Now(), h.opts.Policy(agent)
	l := &link{
		hub: h, agent: agent, id: id, generation: generation, addr: addr, opened: now,
		timing: timing{ping: ms(policy.PingMS), dead: ms(policy.DeadMS), verify: ms(policy.VerifyMS)},
	}
	l.entry.at.Store(unset)
	l.account = h.opts.Quota.Of(agent)
	l.nextPing = selfcheck.At(now).Add(spread(l.timing.ping))
	l.inbox = serial.New(inboxLimit, l.handle)
	l.conn = session.New(ws, session.Options{
		Link: id, Owed: l.owed, WriteFault: fault.Of("server.writer", agent), Crew: &h.crew,
		Changed: func(e session.Evidence) {
			l.frame()
			l.changed(e)
		},
	})
	l.inbox.On(&h.crew, l.conn.Drain) // who has handled a text writes what was held back by it
	return l
}

func (l *link) owed() uint32 {
	n, _ := l.hub.opts.Delivery.Owed(l.agent)
	return uint32(n)
}

// run is the link's reader and its owner: when it ends the link, the link is gone. While there
// is nothing to read, rest stands in for it.
func (l *link) run() {
	if l.conn.Each(l.take) {
		go l.rest() // a goroutine of its own: its stack is as small as they are made
		return
	}
	l.over()
}

// rest waits until the reader has something to do. What it stands on is what an idle link
// keeps: a frame more here may cost each of them 2 KB.
func (l *link) rest() {
	l.conn.Rest()
	l.run()
}

// take hands a message to the handler, which never keeps the reader waiting.
func (l *link) take(m session.Message) (more bool) {
	l.lastText.Store(int64(selfcheck.At(m.At)))
	if err := l.inbox.Push(m, len(m.Text)+messageWeight); err != nil {
		l.end(websocket.CloseTryAgainLater, selfcheck.CodeAgentExecutorFull, errFlooded)
		return false
	}
	if m.TooLarge {
		l.pace(wire.MaxMessage)
	} else {
		l.pace(len(m.Text))
	}
	return true
}

// over ends the link, of which nothing more is read.
func (l *link) over() {
	defer l.hub.readers.Done()
	defer l.account.Release()
	l.end(websocket.CloseNormalClosure, "", nil)
	l.closing.Wait()
	l.inbox.Wait() // what was read is still handled: a result may be in it
	l.inbox.Close()
	l.hub.mu.Lock()
	l.ep.readers--
	l.hub.mu.Unlock()
}

// end removes the link, by its own generation, and closes it; it does not wait.
// cause nil: the connection has ended already. Only the first call counts.
func (l *link) end(code int, verdict selfcheck.Code, cause error) {
	l.mu.Lock()
	if l.gone {
		l.mu.Unlock()
		return
	}
	l.gone = true
	l.closing.Add(1)
	l.mu.Unlock()

	l.settle()
	l.hub.ends.add(cause)
	l.hub.wheel.remove(l)
	l.hub.seenLink(l)
	l.hub.remove(l)
	go func() { // awaited by the reader, through closing
		defer l.closing.Done()
		if cause == nil {
			cause = l.conn.Err()
		}
		l.log().Info("link ended", "reason", cause, "verdict", verdict, "open_for", time.Since(l.opened).Round(time.Millisecond))
		now := time.Now()
		facts := l.conn.Facts(now)
		why, said, proof := ending(cause, verdict, facts.Held)
		l.noteEnded(why, said)
		if proof != "" {
			counts := counted(said, facts.Ledger, now) // the closing frame has no room for the agent's
			l.hub.opts.Delivery.Explain(l.agent, l.id, delivery.Proof{Says: proof, Counts: counts}, true)
		}
		l.hub.opts.Delivery.LinkDown(l.agent, l.generation, why)
		l.hub.observe(l.agent)
		l.conn.Close(code, cause)
	}()
}

// settle tells, once, that the link is verified or over.
func (l *link) settle() {
	l.mu.Lock()
	settled := l.settled
	l.settled = nil
	l.mu.Unlock()
	if settled != nil {
		settled()
	}
}

// ending puts in words why a link ended. verdict is the server's, if it ended it; held is for how
// long it had kept a text back by then. said is the verdict on the link that stands: of the agent,
// if it closed the link with one that proves texts to be lost, or nothing to have come, or of the
// server, if that is why nothing came. proof tells of texts to the agent that it says are lost.
func ending(cause error, verdict selfcheck.Code, held time.Duration) (why string, said selfcheck.Code, proof string) {
	closed, ok := errors.AsType[*websocket.CloseError](cause)
	switch {
	case !ok:
		why = cause.Error()
	case closed.Code == websocket.CloseAbnormalClosure:
		why = "cut off without a closing frame"
	case closed.Text == "":
		why = fmt.Sprintf("the agent closed it (code %d)", closed.Code)
	default:
		text := clipSentence(closed.Text)
		said, proof = quoted(text)
		why = "the agent closed it: " + text
	}
	if verdict != "" {
		why = string(verdict) + ": " + why
	}
	if held >= wire.KeptBack {
		said = nearer(selfcheck.CodeRouteUnwritten, said)
		why = fmt.Sprintf("the server had kept a text back for %v; %s", held.Round(time.Millisecond), why)
	}
	return why, said, proof
}

// nearer is which of two verdicts on a link is nearer to the cause, the second one if they are
// equals: lost texts are lost whatever else there is, and what is kept back is silence.
func nearer(a, b selfcheck.Code) selfcheck.Code {
	weight := func(c selfcheck.Code) int {
		switch c {
		case "":
			return 0
		case selfcheck.CodeLinkSilent:
			return 1
		case selfcheck.CodeRouteUnwritten:
			return 2
		}
		return 3
	}
	if weight(a) > weight(b) {
		return a
	}
	return b
}

// quoted finds the verdict in the text of an agent's closing frame.
func quoted(text string) (said selfcheck.Code, proof string) {
	for rest, more := text, true; more && said == ""; {
		before := rest
		var part string
		part, rest, more = strings.Cut(rest, ": ")
		switch code := selfcheck.Code(part); {
		case loses(code):
			said, proof = code, "the agent says "+before
		case code == selfcheck.CodeLinkUplinkLost, code == selfcheck.CodeLinkSilent:
			said = code
		}
	}
	return said, proof
}

// Agent, ID and Generation say which link this is.
func (l *link) Agent() string      { return l.agent }
func (l *link) ID() wire.LinkID    { return l.id }
func (l *link) Generation() uint64 { return l.generation }

// Calls tells whether the agent named the capability.
func (l *link) Calls() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// RTT is the last round trip of a ledger ping, or a guess before the first.
func (l *link) RTT() time.Duration {
	return rtt(l.conn.Facts(time.Now()).Ledger)
}

func rtt(v selfcheck.LedgerView) time.Duration {
	if v.RTT == nil {
		return defaultRTT
	}
	return *v.RTT
}

// Send queues a message; it never blocks. No flush ping goes behind a command: whoever waits
// for its acknowledgement asks once that is late.
func (l *link) Send(env wire.Envelope, written func(n uint64, at time.Time, err error)) error {
	return l.send(env, session.SendOptions{Flush: env.Type != wire.TypeCommand, Written: written})
}

// send queues a text, and has it looked whether it is written in time.
func (l *link) send(env wire.Envelope, opts session.SendOptions) error {
	err := l.conn.Send(env, opts)
	if err == nil {
		l.hub.wheel.atLatest(l, time.Now().Add(unwrittenAfter))
	}
	return err
}

// reply queues an answer; a link that can't take it has ended or ends now.
func (l *link) reply(env wire.Envelope, opts session.SendOptions) {
	err := l.send(env, opts)
	if err != nil && !errors.Is(err, session.ErrClosed) {
		l.log().Warn("answer not queued", "type", env.Type, "reason", err)
		l.end(websocket.CloseTryAgainLater, selfcheck.CodeRouteUnwritten, errUnwritten)
	}
}

// visit keeps the link's deadlines; it gives the time of the next visit, and whether it is to be
// pinged. The wheel calls it: it must not block.
func (l *link) visit(now time.Time) (next time.Time, ping bool) {
	inbound, unwritten, _ := l.conn.Pulse(now)
	l.mu.Lock()
	asked := !l.asked.IsZero()
	l.mu.Unlock()
	var facts session.Facts
	var silentAt time.Time
	if asked {
		facts = l.conn.Facts(now)
		silentAt = l.silentAt(facts, now)
	}

	l.mu.Lock()
	verified := !l.verifiedAt.IsZero()
	challenged := l.challenged
	if l.answered {
		challenged = time.Time{}
	}
	if ping = selfcheck.At(now) >= l.nextPing; ping {
		l.nextPing = selfcheck.At(l.hub.wheel.together(now, l.timing.ping))
	}
	next = l.nextPing.Time(now)
	l.mu.Unlock()

	// passed tells whether a deadline is over, and has the wheel come back for it.
	passed := func(deadline time.Time) bool {
		if deadline.Before(next) {
			next = deadline
		}
		return !now.Before(deadline)
	}
	if !silentAt.IsZero() && passed(silentAt) {
		l.fallSilent(facts, now)
	}
	switch {
	case passed(inbound.Add(l.timing.dead)):
		l.end(websocket.ClosePolicyViolation, selfcheck.CodeLinkSilent, errDead)
	case !unwritten.IsZero() && passed(unwritten.Add(unwrittenAfter)):
		l.end(websocket.CloseTryAgainLater, selfcheck.CodeRouteUnwritten, errUnwritten)
	case !verified && passed(l.opened.Add(l.timing.verify)):
		l.end(websocket.ClosePolicyViolation, selfcheck.CodeLinkHandshake, errUnverified)
	case !challenged.IsZero() && passed(challenged.Add(challengeFor)):
		l.end(websocket.CloseServiceRestart, selfcheck.CodeRouteDuplicate, errNoPong)
	default:
		return next, ping
	}
	return next, false
}

// handling gives the context of one message's handling.
func (l *link) handling() (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.hub.ctx, handleTimeout)
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

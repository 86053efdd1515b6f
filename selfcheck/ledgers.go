package selfcheck

import (
	"time"

	"gururmm/wire"
)

// Ways a peer's ledger arrives.
const (
	ViaPing = "ping"
	ViaText = "text"
)

// outstandingPings bounds how many pings are remembered until their pong; a
// peer answers only the latest of several (RFC 6455 §5.5.3).
const outstandingPings = 8

// Ledgers is one end's account of one link and what the peer has said of it.
// It proves loss by arithmetic: one WebSocket is one ordered byte stream, so a
// ping that tells of N texts written can be read only after text N was.
//
// Two kinds of evidence age differently. What was read here is known at every
// moment, so a gap downwards ages by the clock, and is covered as soon as the
// missing texts come. What the peer has read is known only from its ledgers, so
// a gap upwards (and an excess) is as old as the span over which ledgers have
// shown it: without fresh evidence it never becomes proof.
//
// It is not safe for concurrent use; its owner (session.Conn) guards it.
type Ledgers struct {
	link  wire.LinkID
	local wire.Ledger

	peer       wire.Ledger
	peerAt     Instant // zero: the peer never said
	peerByText bool    // ... not by a ping
	covered    bool    // of down
	haveRTT    bool
	digested   bool // confirmedCRC is known

	confirmedCRC uint32 // of the texts that are confirmed

	rtt    time.Duration
	pongAt Instant
	// sent are pings whose pong may come; none while nothing is awaited: most links rest.
	sent []sentPing
	// pending is when the oldest ping was written that awaits a pong, none of a later one
	// having come either; zero: none does.
	pending Instant
	// lastClock is of the last ping, whether or not its pong is still awaited.
	lastClock int64
	// confirmed is how many of our texts preceded the last frame of ours that
	// the peer has provably read.
	confirmed uint64
	// known is how many texts from the first on the peer has read: its digest is of just these.
	known uint64
	// unanswered: the pong of a ping that asked for a ledger came, the ledger not yet.
	unanswered Instant

	down   gap
	target uint64 // local.Read at which down is covered
	up     gap
	excess gap

	altered   string
	alteredAt Instant
	closed    uint64
	closedAt  Instant

	owedSince Instant
	readAt    Instant

	foreign, stripped uint64
}

type sentPing struct {
	clock   int64
	written uint64
	at      Instant
	crc     uint32 // of what was written before it
	answer  bool
}

// gap is a difference first seen at since and last confirmed at until, by so many ledgers.
type gap struct {
	missing      uint64
	since, until Instant
	pings, texts uint32
}

func (g *gap) seen(missing uint64, byText bool, now Instant) {
	if g.missing == 0 {
		*g = gap{since: now}
	}
	g.missing, g.until = missing, now
	if byText {
		g.texts++
	} else {
		g.pings++
	}
}

// view gives the gap as it is told, so old.
func (g gap) view(age time.Duration) *Gap {
	return &Gap{Missing: g.missing, Age: age, Pings: g.pings, Heartbeats: g.texts}
}

// NewLedgers opens the account of one link.
func NewLedgers(link wire.LinkID) *Ledgers {
	return &Ledgers{link: link, local: wire.Ledger{Link: link}}
}

// Wrote counts a text about to be written; pings composed afterwards tell of it.
func (l *Ledgers) Wrote(payload []byte) {
	l.local.Written++
	l.local.WrittenBytes += uint64(len(payload))
	l.local.WrittenCRC = wire.Chain(l.local.WrittenCRC, payload)
}

// ReadCRC is the running digest of texts read, to be chained on by the reader.
func (l *Ledgers) ReadCRC() uint32 { return l.local.ReadCRC }

// Mark is where on a link a text was read, for who takes in the ledger that rode in it: later,
// when other frames may have come.
type Mark struct {
	// Number of the text on this link, from 1.
	Number uint64
	// CRCBefore is the digest of all texts read before it.
	CRCBefore uint32
	// confirmed is how many of our texts the peer had provably read by then.
	confirmed uint64
}

// DidRead counts one text read; crc is the digest chained over it.
func (l *Ledgers) DidRead(crc uint32, now time.Time) Mark {
	mark := Mark{Number: l.local.Read + 1, CRCBefore: l.local.ReadCRC, confirmed: l.confirmed}
	l.local.Read++
	l.local.ReadCRC = crc
	l.readAt = At(now)
	// The texts that came may be others than those missed: only the peer's next
	// ledger closes the gap. Until then it is covered, and its age goes on.
	if l.down.missing > 0 && l.local.Read >= l.target {
		l.covered = true
	}
	return mark
}

// Outgoing composes the ledger of a ping or of a text about to be written, and
// remembers a ping to match its pong.
func (l *Ledgers) Outgoing(now time.Time, owed uint32, answer bool, via string) wire.Ledger {
	out := l.local
	out.Owed, out.Answer, out.ClockMicros = owed, answer, now.UnixMicro()
	if via == ViaPing {
		// Two pings within a microsecond must differ: the pong is matched by its clock.
		if last := l.lastClock; out.ClockMicros <= last && last-out.ClockMicros < 1000 {
			out.ClockMicros = last + 1
		}
		l.lastClock = out.ClockMicros
		if len(l.sent) == outstandingPings {
			l.sent = append(l.sent[:0], l.sent[1:]...)
		}
		l.sent = append(l.sent, sentPing{clock: out.ClockMicros, written: out.Written, crc: out.WrittenCRC, at: At(now), answer: answer})
		if l.pending.IsZero() {
			l.pending = At(now)
		}
	}
	return out
}

// Ping takes in any ping that arrived; answer tells whether it asks for a
// ledger in return. A ping without a ledger of this link is counted as foreign.
func (l *Ledgers) Ping(data []byte, now time.Time) (answer bool) {
	p, err := wire.ParseLedger(data)
	if err != nil || p.Link != l.link {
		l.foreign++
		return false
	}
	l.unanswered = 0
	l.take(p, false, l.local.Read, l.local.ReadCRC, l.confirmed, At(now))
	return p.Answer
}

// PeerText takes in the peer's ledger that rode in the text read at mark. It was
// composed before its own text was counted. acked is the number of the text of
// ours that it answers, 0 if none: the peer had read that far.
func (l *Ledgers) PeerText(p wire.Ledger, mark Mark, acked uint64, now time.Time) {
	if p.Link != l.link || mark.Number == 0 {
		return
	}
	acked = min(acked, l.local.Written)
	if acked > l.confirmed {
		l.confirmed, l.digested = acked, false
	}
	l.take(p, true, mark.Number-1, mark.CRCBefore, max(mark.confirmed, acked), At(now))
}

// take compares the peer's ledger with what had been read here, and confirmed by the peer, when
// it came: a pong that was read since may have confirmed more than the peer had read then.
func (l *Ledgers) take(p wire.Ledger, byText bool, read uint64, readCRC uint32, confirmed uint64, now Instant) {
	if !l.peerAt.IsZero() && (p.Written < l.peer.Written || p.Read < l.peer.Read) {
		return // older than what is known: the freshest evidence wins
	}
	l.takeOwed(p.Owed, now)
	l.peer, l.peerAt, l.peerByText = p, now, byText

	switch {
	case p.Written > read:
		missing := p.Written - read
		l.down.seen(missing, byText, now)
		l.target, l.covered = l.local.Read+missing, false
	case l.down.missing > 0:
		l.down, l.covered = gap{}, false
		l.closed++
		l.closedAt = now
	}
	if p.Written < read {
		l.excess.seen(read-p.Written, byText, now)
	} else {
		l.excess = gap{}
	}
	if p.Written == read && p.WrittenCRC != readCRC {
		l.alter("down", now)
	}

	switch {
	case p.Read < confirmed:
		l.up.seen(confirmed-p.Read, byText, now)
	case l.up.missing > 0 && p.Read >= l.confirmed && l.wrote(p.Read, p.ReadCRC): // else a later text has made up for the count
		l.up = gap{}
		l.closed++
		l.closedAt = now
	}
	// A text is counted here before its first byte leaves: who has read more than
	// that has read texts that were repeated or made up on the way.
	if p.Read > l.local.Written || p.Read == l.local.Written && p.ReadCRC != l.local.WrittenCRC {
		l.alter("up", now)
	}
	if l.wrote(p.Read, p.ReadCRC) {
		l.known = p.Read
	}
}

// wrote reports whether the first n texts are known to have this digest. The count alone does
// not tell which texts were read: a later one makes up for one that was lost.
func (l *Ledgers) wrote(n uint64, crc uint32) bool {
	for i := range l.sent {
		if l.sent[i].written == n && l.sent[i].crc == crc {
			return true
		}
	}
	return n == l.local.Written && crc == l.local.WrittenCRC || l.digested && n == l.confirmed && crc == l.confirmedCRC
}

func (l *Ledgers) alter(direction string, now Instant) {
	if l.altered == "" {
		l.altered, l.alteredAt = direction, now
	}
}

func (l *Ledgers) takeOwed(owed uint32, now Instant) {
	switch {
	case owed == 0:
		l.owedSince = 0
	case l.owedSince.IsZero() || owed < l.peer.Owed:
		l.owedSince = now
	}
}

// Pong takes in a pong: the round trip, and how far the peer has provably read.
func (l *Ledgers) Pong(data []byte, now time.Time) {
	p, err := wire.ParseLedger(data)
	for i := range l.sent {
		s := &l.sent[i]
		if err != nil || p.Link != l.link || p.ClockMicros != s.clock {
			continue
		}
		l.pongAt = At(now)
		l.rtt, l.haveRTT = At(now).Sub(s.at), true
		if s.written >= l.confirmed {
			l.confirmed, l.confirmedCRC, l.digested = s.written, s.crc, true
		}
		if s.answer && l.unanswered.IsZero() {
			l.unanswered = At(now)
		}
		// It stands for the pings before it too (RFC 6455 section 5.5.3). They are told apart by
		// their order: a coarse clock gives two the same time.
		l.sent, l.pending = l.sent[i+1:], 0
		if len(l.sent) == 0 {
			l.sent = nil
		} else {
			l.pending = l.sent[0].at
		}
		return
	}
	if len(l.sent) > 0 { // a ping of ours came back changed
		l.stripped++
		l.pongAt = At(now)
		l.sent, l.pending = nil, 0
	}
}

// Suspicious reports whether the peer's next ledger could settle something: its
// owner should ask for it.
func (l *Ledgers) Suspicious() bool {
	return l.down.missing > 0 || l.up.missing > 0 || l.excess.missing > 0 || !l.unanswered.IsZero()
}

// Altered reports whether texts were ever found to be altered.
func (l *Ledgers) Altered() bool { return l.altered != "" }

// PeerRead is how many texts, from the first on, the peer has provably read: at least.
func (l *Ledgers) PeerRead() uint64 { return l.known }

// Clean reports whether nothing was ever found wrong with the frames of this link, and
// nothing is suspected or owed.
func (l *Ledgers) Clean() bool {
	return !l.Suspicious() && l.altered == "" && l.closed == 0 && l.foreign == 0 && l.stripped == 0 && l.owedSince.IsZero()
}

// View gives the account and what follows from it.
func (l *Ledgers) View(now time.Time) LedgerView {
	at := At(now)
	age := func(t Instant) *time.Duration {
		if t.IsZero() {
			return nil
		}
		return new(max(0, at.Sub(t)))
	}
	v := LedgerView{
		Local: l.local, Altered: l.altered, AlteredAge: age(l.alteredAt),
		Closed: l.closed, ClosedAge: age(l.closedAt),
		Foreign: l.foreign, Stripped: l.stripped,
		UnansweredAge: age(l.unanswered), PongAge: age(l.pongAt),
	}
	if !l.peerAt.IsZero() {
		p := l.peer
		v.Peer, v.PeerAge, v.PeerVia = &p, age(l.peerAt), ViaPing
		if l.peerByText {
			v.PeerVia = ViaText
		}
		v.Owed = p.Owed
	}
	if !l.pongAt.IsZero() { // on a path on which pongs never come, a ping tells nothing
		v.PingPending = age(l.pending)
	}
	if l.haveRTT {
		rtt := l.rtt
		v.RTT = &rtt
	}
	if !l.owedSince.IsZero() {
		// A text read meanwhile may have been what is owed: count from it.
		v.OwedAge = age(max(l.owedSince, l.readAt))
	}
	if l.down.missing > 0 && !l.covered {
		v.Down = l.down.view(at.Sub(l.down.since))
	}
	if l.up.missing > 0 {
		v.Up = l.up.view(l.up.until.Sub(l.up.since))
	}
	if l.excess.missing > 0 {
		v.Excess = l.excess.view(l.excess.until.Sub(l.excess.since))
	}
	return v
}

// Age is how long ago t was, as a fact; nil for the zero time: not known.
func Age(t, now time.Time) *time.Duration {
	if t.IsZero() {
		return nil
	}
	return new(max(0, now.Sub(t)))
}

package selfcheck

import (
	"math/rand/v2"
	"testing"
	"time"

	"gururmm/wire"
)

// pair is two ends of one link, with their frames carried by hand.
type pair struct {
	t    *testing.T
	now  time.Time
	a, b *Ledgers
}

func newPair(t *testing.T) *pair {
	return &pair{t: t, now: time.Unix(1_800_000_000, 0), a: NewLedgers(7), b: NewLedgers(7)}
}

func (p *pair) pass(d time.Duration) { p.now = p.now.Add(d) }

// text writes payload at one end; the result delivers it at the other.
func (p *pair) text(from, to *Ledgers, payload string) (deliver func()) {
	from.Wrote([]byte(payload))
	return func() { to.DidRead(wire.Chain(to.ReadCRC(), []byte(payload)), p.now) }
}

// mark writes payload at one end and reads it at the other.
func (p *pair) mark(from, to *Ledgers, payload string) Mark {
	from.Wrote([]byte(payload))
	return to.DidRead(wire.Chain(to.ReadCRC(), []byte(payload)), p.now)
}

// ping writes a ping; the result delivers it and its pong.
func (p *pair) ping(from, to *Ledgers, answer bool) (deliver func()) {
	raw := from.Outgoing(p.now, 0, answer, ViaPing).AppendTo(nil)
	return func() {
		wants := to.Ping(raw, p.now)
		from.Pong(raw, p.now)
		if wants {
			from.Ping(to.Outgoing(p.now, 0, false, ViaPing).AppendTo(nil), p.now)
		}
	}
}

func TestLossIsSeenByThePingBehindIt(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "one")()
	p.text(p.a, p.b, "two") // dies on the way
	p.ping(p.a, p.b, true)()
	v := p.b.View(p.now)
	if v.Down == nil || v.Down.Missing != 1 {
		t.Fatalf("reader: down gap %+v, want 1 missing", v.Down)
	}
	// The writer learns it from the answer.
	if v := p.a.View(p.now); v.Up == nil || v.Up.Missing != 1 {
		t.Fatalf("writer: up gap %+v, want 1 missing", v.Up)
	}
	p.pass(1200 * time.Millisecond)
	if got := p.b.View(p.now).Down.Age; got != 1200*time.Millisecond {
		t.Errorf("down gap ages by the clock: %v", got)
	}
	if got := p.a.View(p.now).Up.Age; got != 0 {
		t.Errorf("up gap aged %v without fresh evidence", got)
	}
	p.ping(p.a, p.b, true)()
	if got := p.a.View(p.now).Up.Age; got != 1200*time.Millisecond {
		t.Errorf("up gap confirmed over %v, want 1.2s", got)
	}
}

// A text that is read later makes up for the count of one that was lost, not for the text.
func TestALaterTextClosesNoGap(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "one")()
	p.text(p.a, p.b, "two") // dies on the way
	p.ping(p.a, p.b, true)()
	p.pass(1200 * time.Millisecond)
	answer := p.b.Outgoing(p.now, 0, false, ViaPing)
	p.text(p.a, p.b, "three")()
	answer.Read, answer.ReadCRC = p.b.local.Read, p.b.ReadCRC() // it was composed after that
	p.a.Ping(answer.AppendTo(nil), p.now)
	if v := p.a.View(p.now); v.Up == nil || v.Closed != 0 {
		t.Fatalf("the gap is %+v, %d closed: what was lost was not read", v.Up, v.Closed)
	}
	p.ping(p.a, p.b, true)()
	if v := p.a.View(p.now); v.Up == nil || v.Up.Missing != 1 || v.Up.Age != 1200*time.Millisecond || v.Closed != 0 {
		t.Fatalf("the gap is %+v, %d closed; want 1 missing for 1.2 s", v.Up, v.Closed)
	}
}

// A coarse clock gives several pings one time: each pong is of its own ping all the same.
func TestPingsOfOneInstantHaveTheirOwnPongs(t *testing.T) {
	p := newPair(t)
	one := p.ping(p.a, p.b, true)
	two := p.ping(p.a, p.b, true)
	one()
	three := p.ping(p.a, p.b, true)
	two()
	if v := p.a.View(p.now); v.Stripped != 0 || v.PingPending == nil {
		t.Fatalf("%d pings came back changed, pending %v; want none, and the third pending", v.Stripped, v.PingPending)
	}
	three()
	if v := p.a.View(p.now); v.Stripped != 0 || v.PingPending != nil {
		t.Fatalf("%d pings came back changed, pending %v; want none", v.Stripped, v.PingPending)
	}
}

// A later text that was read makes up for a lost one in the count: which texts a peer has read
// is known only where its digest says so.
func TestWhichTextsWereReadIsToldByTheDigest(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "one")()
	p.ping(p.a, p.b, true)()
	if got := p.a.PeerRead(); got != 1 {
		t.Fatalf("the peer has read text 1: %d", got)
	}
	p.text(p.a, p.b, "two") // dies on the way
	raw := p.a.Outgoing(p.now, 0, true, ViaPing).AppendTo(nil)
	three := p.text(p.a, p.b, "three")
	p.b.Ping(raw, p.now)
	three() // before its answer is composed
	p.a.Pong(raw, p.now)
	p.a.Ping(p.b.Outgoing(p.now, 0, false, ViaPing).AppendTo(nil), p.now)
	if got := p.a.PeerRead(); got != 1 {
		t.Fatalf("text 2 was lost, and the first %d texts are told to have been read", got)
	}
	p.ping(p.a, p.b, true)()
	if v := p.a.View(p.now); v.Up == nil || p.a.PeerRead() != 1 {
		t.Fatalf("gap %+v, %d texts read; want the loss, and text 1", v.Up, p.a.PeerRead())
	}
}

// An answer that is composed before a later text comes tells of what was before it, though more is written.
func TestWhatWasReadIsToldWhileMoreIsUnderWay(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "one")()
	ping := p.ping(p.a, p.b, true)
	p.text(p.a, p.b, "two") // is under way
	ping()
	if got := p.a.PeerRead(); got != 1 {
		t.Fatalf("the peer has read text 1: %d", got)
	}
}

func TestIdleLinkProvesNothing(t *testing.T) {
	p := newPair(t)
	for range 50 {
		p.ping(p.a, p.b, true)()
		p.ping(p.b, p.a, false)()
		p.pass(30 * time.Second)
	}
	for _, v := range []LedgerView{p.a.View(p.now), p.b.View(p.now)} {
		if v.Down != nil || v.Up != nil || v.Excess != nil || v.Altered != "" || v.UnansweredAge != nil {
			t.Fatalf("idle link suspected: %+v", v)
		}
	}
}

func TestOvertakenTextIsDelayedNotLost(t *testing.T) {
	p := newPair(t)
	late := p.text(p.a, p.b, "slow")
	p.ping(p.a, p.b, false)() // overtakes it
	if p.b.View(p.now).Down == nil {
		t.Fatal("gap not suspected")
	}
	p.pass(300 * time.Millisecond)
	late()
	if v := p.b.View(p.now); v.Down != nil || v.Closed != 0 {
		t.Fatalf("gap must be covered, not closed, until the peer says so: %+v", v)
	}
	p.ping(p.a, p.b, false)()
	if v := p.b.View(p.now); v.Down != nil || v.Closed != 1 || v.Altered != "" {
		t.Fatalf("gap must be closed: %+v", v)
	}
}

// Later texts must not make up for a lost one in the count.
func TestLaterTextsDoNotHideALoss(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "lost")
	p.ping(p.a, p.b, false)()
	first := p.now
	for range 5 {
		p.pass(400 * time.Millisecond)
		p.text(p.a, p.b, "kept")()
		p.ping(p.a, p.b, false)()
	}
	v := p.b.View(p.now)
	if v.Down == nil || v.Down.Missing != 1 || v.Down.Age != p.now.Sub(first) {
		t.Fatalf("down = %+v, want 1 missing for %v", v.Down, p.now.Sub(first))
	}
	if v.Closed != 0 {
		t.Errorf("closed %d gaps, none was", v.Closed)
	}
}

func TestAlteredAndDuplicatedText(t *testing.T) {
	p := newPair(t)
	p.a.Wrote([]byte("rm /tmp/a"))
	p.b.DidRead(wire.Chain(p.b.ReadCRC(), []byte("rm /tmp/b")), p.now)
	p.ping(p.a, p.b, true)()
	if v := p.b.View(p.now); v.Altered != "down" {
		t.Errorf("reader: altered = %q", v.Altered)
	}
	if v := p.a.View(p.now); v.Altered != "up" {
		t.Errorf("writer: altered = %q", v.Altered)
	}

	p = newPair(t)
	deliver := p.text(p.a, p.b, "twice")
	deliver()
	deliver()
	p.ping(p.a, p.b, false)()
	p.pass(2 * time.Second)
	p.ping(p.a, p.b, false)()
	if v := p.b.View(p.now); v.Excess == nil || v.Excess.Missing != 1 || v.Excess.Age != 2*time.Second {
		t.Errorf("excess = %+v", v.Excess)
	}
}

func TestForeignStrippedAndUnanswered(t *testing.T) {
	p := newPair(t)
	p.b.Ping(nil, p.now)
	p.b.Ping([]byte("keepalive"), p.now)
	p.b.Ping(wire.Ledger{Link: 8}.AppendTo(nil), p.now)
	if v := p.b.View(p.now); v.Foreign != 3 || v.Peer != nil {
		t.Errorf("foreign = %d, peer = %+v; want 3 and unknown", v.Foreign, v.Peer)
	}

	p.a.Outgoing(p.now, 0, true, ViaPing)
	p.a.Pong(nil, p.now) // a box emptied it
	if v := p.a.View(p.now); v.Stripped != 1 || v.RTT != nil || v.UnansweredAge != nil {
		t.Errorf("stripped pong: %+v", v)
	}

	// A box that answers pings faithfully does not know our ledger.
	raw := p.a.Outgoing(p.now, 0, true, ViaPing).AppendTo(nil)
	p.pass(20 * time.Millisecond)
	p.a.Pong(raw, p.now)
	p.pass(3 * time.Second)
	v := p.a.View(p.now)
	if v.UnansweredAge == nil || *v.UnansweredAge != 3*time.Second || v.RTT == nil || *v.RTT != 20*time.Millisecond {
		t.Errorf("unanswered: %+v", v)
	}
	if !p.a.Suspicious() {
		t.Error("an unanswered flush ping must make the owner ask again")
	}
	p.ping(p.b, p.a, false)()
	if v := p.a.View(p.now); v.UnansweredAge != nil {
		t.Error("the peer's own ledger answers it")
	}
}

func TestOwedAgesWhileItDoesNotFall(t *testing.T) {
	p := newPair(t)
	owe := func(n uint32) { p.b.Ping(p.a.Outgoing(p.now, n, false, ViaPing).AppendTo(nil), p.now) }
	owe(2)
	p.pass(4 * time.Second)
	owe(3)
	if v := p.b.View(p.now); v.Owed != 3 || *v.OwedAge != 4*time.Second {
		t.Errorf("rising debt keeps its age: %d, %v", v.Owed, *v.OwedAge)
	}
	owe(1)
	if v := p.b.View(p.now); *v.OwedAge != 0 {
		t.Errorf("a falling debt starts anew: %v", *v.OwedAge)
	}
	p.pass(4 * time.Second)
	p.text(p.a, p.b, "command")()
	p.pass(time.Second)
	owe(1)
	if v := p.b.View(p.now); *v.OwedAge != time.Second {
		t.Errorf("a text read meanwhile counts as progress: %v", *v.OwedAge)
	}
	owe(0)
	if v := p.b.View(p.now); v.OwedAge != nil {
		t.Error("no debt, no age")
	}
}

func TestLedgerInText(t *testing.T) {
	p := newPair(t)
	p.text(p.a, p.b, "one")()
	// Composed before its own text is counted, as the writer does.
	beat := func() {
		ledger := p.a.Outgoing(p.now, 0, false, ViaText)
		p.b.PeerText(ledger, p.mark(p.a, p.b, "heartbeat"), 0, p.now)
	}
	beat()
	if v := p.b.View(p.now); v.Down != nil || v.Excess != nil || v.Altered != "" || v.PeerVia != ViaText {
		t.Fatalf("a healthy heartbeat: %+v", v)
	}
	p.text(p.a, p.b, "lost")
	beat()
	if v := p.b.View(p.now); v.Down == nil || v.Down.Missing != 1 {
		t.Fatalf("loss by heartbeat: %+v", v.Down)
	}
	// acked never claims more than was written.
	p.a.PeerText(wire.Ledger{Link: 7}, Mark{Number: 1}, 1<<40, p.now)
	if v := p.a.View(p.now); v.Up == nil || v.Up.Missing != p.a.local.Written {
		t.Fatalf("up = %+v, written %d", v.Up, p.a.local.Written)
	}
}

// Who takes in a text's ledger does so later than the reader reads: a pong that came behind that
// text tells of more than its writer had read, and accuses it of nothing.
func TestAPongBehindATextSaysNothingOfItsLedger(t *testing.T) {
	p := newPair(t)
	ledger := p.a.Outgoing(p.now, 0, false, ViaText)
	mark := p.mark(p.a, p.b, "heartbeat")
	p.text(p.b, p.a, "one")()
	raw := p.b.Outgoing(p.now, 0, true, ViaPing).AppendTo(nil)
	p.a.Ping(raw, p.now)
	p.b.Pong(raw, p.now) // and the answer is lost: a box has begun to rewrite pings
	p.b.PeerText(ledger, mark, 0, p.now)
	p.pass(time.Second)
	ledger = p.a.Outgoing(p.now, 0, false, ViaText)
	p.b.PeerText(ledger, p.mark(p.a, p.b, "heartbeat"), 0, p.now)
	if v := p.b.View(p.now); v.Up != nil || v.Closed != 0 {
		t.Errorf("up gap %+v, %d closed, on a path that lost nothing", v.Up, v.Closed)
	}
}

// Whatever the order of texts and pings on a faithful stream, nothing is
// suspected for longer than a frame is under way; and one lost text is always
// found by the first ping written after it.
func TestPropertyFaithfulStreamIsNeverAccused(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t)
		lose := -1
		if seed%2 == 1 {
			lose = rng.IntN(60)
		}
		var toA, toB []func() // frames under way, in order
		texts, lost := 0, false
		for range 400 {
			p.pass(time.Duration(rng.IntN(50)) * time.Millisecond)
			switch rng.IntN(5) {
			case 0:
				d := p.text(p.a, p.b, string(rune('a'+rng.IntN(26))))
				if texts == lose {
					lost = true
				} else {
					toB = append(toB, d)
				}
				texts++
			case 1:
				toA = append(toA, p.text(p.b, p.a, "up"))
			case 2:
				raw := p.a.Outgoing(p.now, 0, true, ViaPing).AppendTo(nil)
				sawLoss := lost
				toB = append(toB, func() {
					wants := p.b.Ping(raw, p.now)
					toA = append(toA, func() { p.a.Pong(raw, p.now) })
					if wants {
						answer := p.b.Outgoing(p.now, 0, false, ViaPing).AppendTo(nil)
						toA = append(toA, func() { p.a.Ping(answer, p.now) })
					}
					if got := p.b.View(p.now).Down != nil; got != sawLoss {
						t.Fatalf("seed %d: down gap %v, loss %v", seed, got, sawLoss)
					}
				})
			case 3:
				if len(toB) > 0 {
					toB[0]()
					toB = toB[1:]
				}
			case 4:
				if len(toA) > 0 {
					toA[0]()
					toA = toA[1:]
				}
			}
			if v := p.a.View(p.now); v.Down != nil || v.Excess != nil || (!lost && (v.Up != nil || v.Altered != "")) {
				t.Fatalf("seed %d: writer suspects %+v", seed, v)
			}
			if v := p.b.View(p.now); v.Excess != nil || v.Altered == "up" || v.Up != nil {
				t.Fatalf("seed %d: reader suspects %+v", seed, v)
			}
		}
	}
}

func BenchmarkLedgerEncode(b *testing.B) {
	l := NewLedgers(7)
	now := time.Now()
	buf := make([]byte, 0, wire.LedgerSize)
	b.ReportAllocs()
	for b.Loop() {
		buf = l.Outgoing(now, 3, true, ViaPing).AppendTo(buf[:0])
	}
}

func BenchmarkLedgerCompare(b *testing.B) {
	l := NewLedgers(7)
	now := time.Now()
	raw := wire.Ledger{Link: 7}.AppendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Ping(raw, now)
	}
}

func TestLedgerAllocatesNothing(t *testing.T) {
	l := NewLedgers(7)
	now := time.Now()
	buf := make([]byte, 0, wire.LedgerSize)
	raw := wire.Ledger{Link: 7, Written: 1}.AppendTo(nil)
	if n := testing.AllocsPerRun(100, func() {
		buf = l.Outgoing(now, 3, true, ViaPing).AppendTo(buf[:0])
		l.Ping(raw, now)
	}); n != 0 {
		t.Errorf("%v allocations to encode and compare a ledger, want 0", n)
	}
}

// A text that comes twice is known by whoever wrote it, from the reader's count.
func TestRepeatedTextIsSeenByItsWriter(t *testing.T) {
	p := newPair(t)
	deliver := p.text(p.a, p.b, "one")
	deliver()
	deliver()
	p.ping(p.b, p.a, true)()
	if v := p.a.View(p.now); v.Altered != "up" {
		t.Errorf("writer: altered %q, want up; peer %+v", v.Altered, v.Peer)
	}
}

// A ping awaits its pong until that, or one of a later ping, has come; where none ever came
// it tells nothing.
func TestHowLongAPingAwaitsItsPong(t *testing.T) {
	p := newPair(t)
	pending := func(want *time.Duration) {
		t.Helper()
		got := p.a.View(p.now).PingPending
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("pending %v, want %v", got, want)
		}
	}
	p.ping(p.a, p.b, false) // lost
	p.pass(time.Second)
	pending(nil)
	second := p.ping(p.a, p.b, false)
	p.pass(time.Second)
	third := p.ping(p.a, p.b, false)
	second()
	pending(sec(0))
	p.pass(3 * time.Second)
	pending(sec(3))
	third()
	pending(nil)
	p.ping(p.a, p.b, false)
	p.pass(time.Second)
	pending(sec(1))
	p.a.Pong(nil, p.now) // a box emptied it: it came all the same
	pending(nil)
}

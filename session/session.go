// Package session is one WebSocket as both ends use it: one reader, one writer
// at a time, and a ledger in each ping.
//
// Rules that hold here:
//   - [Conn.Read], or [Conn.Each] and [Conn.Rest], are called by one goroutine at a time; they never
//     run a handler and never wait for the writer;
//   - writes happen in one goroutine that exists only while there is something to write;
//   - no lock is held across I/O, and each write has a deadline;
//   - a text counts as written when the connection took its last byte, not when it was queued.
package session

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/crew"
	"gururmm/internal/fault"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// DefaultWriteTimeout bounds one write: a peer that takes no byte for so long is gone.
	DefaultWriteTimeout = 10 * time.Second
	// DefaultMaxQueue bounds the bytes queued for a slow peer; beyond it Send says ErrQueueFull.
	DefaultMaxQueue = 8 << 20
	// maxDiscard bounds what is read and thrown away of one oversized message before the link ends.
	maxDiscard = 16 << 20
	// recheckMin and recheckMax space the pings that ask for the peer's ledger while
	// something is suspected: four within the shortest grace, then ever rarer.
	recheckMin = 250 * time.Millisecond
	recheckMax = 30 * time.Second
)

// Errors to branch on.
var (
	ErrQueueFull = errors.New("the link's send queue is full")
	ErrClosed    = errors.New("the link is closed")
)

// Options of a Conn.
type Options struct {
	Link         wire.LinkID
	WriteTimeout time.Duration // default DefaultWriteTimeout
	MaxQueue     int           // bytes, default DefaultMaxQueue
	// Owed gives the commands owed to the peer, for pings; nil: 0. Must not block.
	Owed func() uint32
	// Changed is called after new evidence (a ledger, pong or text) was taken in, by the
	// reader or by who calls [Conn.PeerLedger]: of two at one time the older may come last,
	// and [Conn.Pulse] tells what is so. It must not block.
	Changed func(Evidence)
	// Crew runs the writer; nil: a goroutine for each time that there is something to write.
	Crew *crew.Crew
	// WriteFault labels the seam before each text write; see internal/fault.
	WriteFault string
}

// Evidence is what there is to know of an account after a frame without a look at all of it.
type Evidence struct {
	// Clean: see [selfcheck.Ledgers.Clean].
	Clean bool
	// Calm: nothing is suspected and nothing was altered, so no verdict follows from the account.
	Calm bool
	// PeerRead: see [selfcheck.Ledgers.PeerRead].
	PeerRead uint64
}

// Conn is one link. All methods but Read, Each and Rest are safe for concurrent use.
type Conn struct {
	ws   *websocket.Conn
	cork *corked // below ws; nil: each frame is a write of its own
	rest rest
	opts Options

	mu       sync.Mutex
	ledgers  selfcheck.Ledgers
	queue    []item
	queued   int // bytes
	pong     []byte
	havePong bool
	writing  bool
	network  bool              // a write is in a call to the network, which has a deadline
	calm     bool              // see [Evidence]
	busy     selfcheck.Instant // a write is under way since; zero: none
	reading  selfcheck.Instant // the reader came back with something at; zero: it waits in Read
	inbound  selfcheck.Instant // last frame of any kind
	freed    selfcheck.Instant // the last call to the network returned
	waits    selfcheck.Instant // the oldest text that was given to the network, and is not written yet, is queued since; zero: none
	seq      uint64
	recheck  *recheck      // nil: nothing is suspected
	broken   *broken       // nil: no write has failed
	err      error         // why it ended; nil while open
	held     time.Duration // see [Facts.Held], as of then
	done     chan struct{} // once somebody has asked for it
	writer   sync.WaitGroup
}

// recheck asks for the peer's ledger again and again, ever more rarely.
type recheck struct {
	timer *time.Timer
	wait  time.Duration
	asked int
}

// item is a text to be written, or a ping.
type item struct {
	ping    bool
	env     wire.Envelope
	at      time.Time // of a text: queued
	compose func(wire.Ledger) (wire.Envelope, error)
	answer  bool // of a ping
	written func(n uint64, at time.Time, err error)
	weight  int
}

// New takes over an upgraded WebSocket. A message of more than 16 MiB ends the link; of a
// smaller one what exceeds [wire.MaxMessage] is thrown away.
func New(ws *websocket.Conn, opts Options) *Conn {
	if opts.WriteTimeout == 0 {
		opts.WriteTimeout = DefaultWriteTimeout
	}
	if opts.MaxQueue == 0 {
		opts.MaxQueue = DefaultMaxQueue
	}
	now := time.Now()
	c := &Conn{
		ws: ws, opts: opts,
		ledgers: *selfcheck.NewLedgers(opts.Link),
		inbound: selfcheck.At(now), reading: selfcheck.At(now),
	}
	if c.cork, _ = ws.NetConn().(*corked); c.cork != nil {
		c.rest = restOf(c.cork)
	}
	ws.SetReadLimit(maxDiscard)
	ws.SetPingHandler(c.onPing)
	ws.SetPongHandler(c.onPong)
	return c
}

// Link is the link's id.
func (c *Conn) Link() wire.LinkID { return c.opts.Link }

// Done is closed when the link has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err says why the link ended; nil while it is open.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Message is one text read.
type Message struct {
	// Text is the payload; nil if it was too large to be kept.
	Text []byte
	selfcheck.Mark
	At       time.Time
	TooLarge bool
	// Binary: it was not a text at all.
	Binary bool
}

// Read waits for the next data message. Pings are answered and ledgers taken
// in on the way. An oversized message is thrown away but counted. An error is final.
func (c *Conn) Read() (Message, error) {
	c.idle()
	kind, r, err := c.ws.NextReader()
	if err != nil {
		c.fail(err)
		return Message{}, err
	}
	return c.message(kind, r)
}

// Each reads in place of [Conn.Read], until the link ends or take says that no more is
// wanted; or, where [Conn.Rest] can wait in its place, until there is nothing to read: rests
// is true then, and the caller goes on with Rest and Each in a goroutine of its own.
func (c *Conn) Each(take func(Message) (more bool)) (rests bool) {
	var text time.Time
	for c.idle(); ; c.idle() {
		if c.rest.nothing(text) {
			return true
		}
		if c.rest.control(c.onPing, c.onPong) {
			continue
		}
		kind, r, err := c.ws.NextReader()
		at, more := c.hand(kind, r, err, take)
		if !more {
			return false
		}
		text = at
	}
}

// Rest waits until there is something to read, or the link has ended.
func (c *Conn) Rest() { c.rest.below.Wait() }

// hand reads the rest of a message and hands it over.
func (c *Conn) hand(kind int, r io.Reader, err error, take func(Message) bool) (at time.Time, more bool) {
	if err != nil {
		c.fail(err)
		return at, false
	}
	m, err := c.message(kind, r)
	return m.At, err == nil && take(m)
}

// idle says that the reader has come back for more.
func (c *Conn) idle() {
	c.mu.Lock()
	c.reading = 0
	c.mu.Unlock()
}

// message reads one to its end.
func (c *Conn) message(kind int, r io.Reader) (m Message, err error) {
	crc := c.ledgers.ReadCRC() // only the reader changes it
	m = Message{Binary: kind != websocket.TextMessage}
	m.Text, err = readText(r)
	crc = wire.Chain(crc, m.Text)
	if err == nil && len(m.Text) > wire.MaxMessage {
		m.Text, m.TooLarge = nil, true
		crc, err = discard(r, crc)
	}
	if err != nil {
		c.fail(err)
		return Message{}, err
	}
	m.At = time.Now()
	c.mu.Lock()
	m.Mark = c.ledgers.DidRead(crc, m.At)
	c.inbound, c.reading = selfcheck.At(m.At), selfcheck.At(m.At)
	c.changed()
	return m, nil
}

// scratch is what a text is read into, of which most are far smaller.
type scratch [4 << 10]byte

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// readText reads a message of which at most one byte more than [wire.MaxMessage] is wanted.
func readText(r io.Reader) ([]byte, error) {
	buf := scratches.Get().(*scratch)
	defer scratches.Put(buf)
	n := 0
	for n < len(buf) {
		some, err := r.Read(buf[n:])
		n += some
		if err == io.EOF {
			return bytes.Clone(buf[:n]), nil
		}
		if err != nil {
			return nil, err
		}
	}
	rest, err := io.ReadAll(io.LimitReader(r, wire.MaxMessage+1-int64(n)))
	return slices.Concat(buf[:n], rest), err
}

func discard(r io.Reader, crc uint32) (uint32, error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		crc = wire.Chain(crc, buf[:n])
		if err == io.EOF {
			return crc, nil
		}
		if err != nil {
			return crc, err
		}
	}
}

func (c *Conn) onPing(data string) error {
	now := time.Now()
	c.mu.Lock()
	c.inbound = selfcheck.At(now)
	answer := c.ledgers.Ping([]byte(data), now)
	// Only the latest ping needs its pong (RFC 6455 §5.5.3).
	c.pong, c.havePong = []byte(data), true
	if answer {
		c.enqueuePing(false)
	}
	c.kick()
	c.changed()
	return nil
}

func (c *Conn) onPong(data string) error {
	now := time.Now()
	c.mu.Lock()
	c.inbound = selfcheck.At(now)
	c.ledgers.Pong([]byte(data), now)
	c.changed()
	return nil
}

// changed arms the recheck while something is suspected, and tells the owner. Call with mu
// held: it gives it back.
func (c *Conn) changed() {
	suspicious := c.ledgers.Suspicious()
	switch {
	case c.over():
	case !suspicious:
		c.stopRecheck()
	case c.recheck == nil:
		c.recheck = &recheck{wait: recheckMin}
		c.recheck.timer = time.AfterFunc(recheckMin, c.ask)
	}
	c.calm = !suspicious && !c.ledgers.Altered()
	e := Evidence{Clean: c.ledgers.Clean(), Calm: c.calm, PeerRead: c.ledgers.PeerRead()}
	c.mu.Unlock()
	if c.opts.Changed != nil {
		c.opts.Changed(e)
	}
}

// ask sends a flush ping while something is suspected, ever more rarely.
func (c *Conn) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.recheck
	switch {
	case c.over() || r == nil: // stopped as it fired
		return
	case !c.ledgers.Suspicious():
		c.recheck = nil
		return
	}
	c.enqueuePing(true)
	c.kick()
	r.asked++
	if r.asked >= 8 {
		r.wait = min(2*r.wait, recheckMax)
	}
	r.timer.Reset(r.wait)
}

// stopRecheck: nothing is suspected any more, or there is nobody to ask. Call with mu held.
func (c *Conn) stopRecheck() {
	if c.recheck != nil {
		c.recheck.timer.Stop()
		c.recheck = nil
	}
}

// SendOptions of one text.
type SendOptions struct {
	// Flush sends a ledger ping behind the text that asks for the peer's ledger,
	// so that a loss is proven about one round trip later. Without it, who waits for the
	// text, or for an answer to it, sends a ping once it is late: see [Late].
	Flush bool
	// Hold leaves it to [Conn.Drain], which is called by who sends, soon, to write the text.
	Hold bool
	// Compose makes the envelope when its turn to be written has come, from the
	// ledger as of then (a heartbeat); it replaces the one given to Send. Must not block.
	Compose func(wire.Ledger) (wire.Envelope, error)
	// Written is told, once the last byte was taken, the text's number and when its
	// writing began (the peer may read it before the write returns here), or the
	// error. It is called by the writer and must not block.
	Written func(n uint64, at time.Time, err error)
}

// Late is when who waits for the answer to a text that was sent without a flush has it that the
// text or the answer may be lost, and asks for the peer's ledger: as soon as it would be asked
// again by a link on which something is suspected.
const Late = recheckMin

// Send queues a text; it never blocks. The error is [ErrQueueFull] or [ErrClosed].
func (c *Conn) Send(env wire.Envelope, opts SendOptions) error {
	weight := len(env.Payload) + len(env.Sig) + 128
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over() {
		return ErrClosed
	}
	if c.queued+weight > c.opts.MaxQueue {
		return ErrQueueFull
	}
	c.queue = append(c.queue, item{env: env, at: time.Now(), compose: opts.Compose, written: opts.Written, weight: weight})
	c.queued += weight
	if opts.Flush {
		c.enqueuePing(true)
	}
	if !opts.Hold {
		c.kick()
	}
	return nil
}

// Drain writes what is queued, and what is queued meanwhile, if no writer does so already: the
// caller is the writer, and waits for the network as one.
func (c *Conn) Drain() {
	c.mu.Lock()
	mine := !c.writing && !c.over() && (len(c.queue) > 0 || c.havePong)
	if mine {
		c.writing = true
		c.writer.Add(1)
	}
	c.mu.Unlock()
	if mine {
		c.write()
	}
}

// Ping queues a ledger ping; answer asks the peer for its ledger in return.
func (c *Conn) Ping(answer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over() {
		c.enqueuePing(answer)
		c.kick()
	}
}

// PingNow is [Conn.Ping] of who writes it, as [Conn.Drain] does.
func (c *Conn) PingNow(answer bool) {
	c.mu.Lock()
	if !c.over() {
		c.enqueuePing(answer)
	}
	c.mu.Unlock()
	c.Drain()
}

// enqueuePing appends a ping, or lets the one that is last serve. Call with mu held.
func (c *Conn) enqueuePing(answer bool) {
	if n := len(c.queue); n > 0 && c.queue[n-1].ping {
		c.queue[n-1].answer = c.queue[n-1].answer || answer
		return
	}
	c.queue = append(c.queue, item{ping: true, answer: answer})
}

// kick starts the writer if none runs. Call with mu held.
func (c *Conn) kick() {
	if !c.writing && !c.over() {
		c.writing = true
		c.writer.Add(1)
		c.opts.Crew.Go(c.write)
	}
}

// write drains the queue, pongs first, and ends when there is nothing left. Where frames can
// be gathered, those that wait together are one write.
func (c *Conn) write() {
	defer c.writer.Done()
	var told gathered
	for {
		c.mu.Lock()
		idle := len(c.queue) == 0 && !c.havePong
		if told.open && (idle || c.over() || len(told.texts) == maxGathered) {
			c.mu.Unlock()
			c.flush(&told)
			continue
		}
		c.busy = 0
		if !told.open {
			c.waits = 0
		}
		if c.over() || idle {
			rest := c.queue
			c.queue, c.queued, c.writing = nil, 0, false
			c.mu.Unlock()
			for _, it := range rest {
				if it.written != nil {
					it.written(0, time.Now(), ErrClosed)
				}
			}
			return
		}
		c.busy = selfcheck.At(time.Now())
		if more := len(c.queue) > 1 || len(c.queue) == 1 && c.havePong; more && !told.open && c.cork != nil {
			told.open = true
			c.cork.cork()
		}
		if c.havePong {
			pong := c.pong
			c.pong, c.havePong = nil, false
			c.mu.Unlock()
			c.control(websocket.PongMessage, pong)
			continue
		}
		it := c.queue[0]
		c.queue = c.queue[1:]
		c.queued -= it.weight
		if it.ping {
			c.mu.Unlock()
			ledger := c.outgoing(selfcheck.ViaPing, it.answer)
			c.control(websocket.PingMessage, ledger.AppendTo(make([]byte, 0, wire.LedgerSize)))
			continue
		}
		if c.waits.IsZero() {
			c.waits = selfcheck.At(it.at)
		}
		c.mu.Unlock()
		c.text(&it, &told)
	}
}

// maxGathered bounds the texts that share one write: each is told of only when it is over.
const maxGathered = 16

// gathered are texts that the connection has and the network does not yet.
type gathered struct {
	open  bool // frames are gathered
	texts []func(error)
}

// flush writes what is gathered, and tells of each text in it.
func (c *Conn) flush(g *gathered) {
	c.cork.SetWriteDeadline(time.Now().Add(c.opts.WriteTimeout)) // an error: the write says so
	c.atNetwork(true)
	err := c.cork.uncork()
	c.atNetwork(false)
	if err != nil {
		c.broke(err)
	}
	for _, tell := range g.texts {
		tell(err)
	}
	clear(g.texts)
	g.open, g.texts = false, g.texts[:0]
}

// text writes one envelope. Only the writer calls it, so seq needs no lock.
func (c *Conn) text(it *item, g *gathered) {
	raw, err := c.encode(it)
	if err != nil { // too large: this message is refused, the link goes on
		if it.written != nil {
			it.written(0, time.Now(), err)
		}
		return
	}
	if g.open && len(raw) > maxCorked/2-c.cork.size() { // worth a write by itself
		c.flush(g)
	}
	c.seq++
	if c.opts.WriteFault != "" {
		fault.Stall(c.opts.WriteFault)
	}
	began := time.Now()
	// Counted before it is written: the peer may have read it, and said so, before
	// WriteMessage returns here. Pings are composed by this goroutine afterwards.
	c.mu.Lock()
	c.ledgers.Wrote(raw)
	c.network = true
	c.mu.Unlock()
	c.ws.SetWriteDeadline(began.Add(c.opts.WriteTimeout))
	err = c.ws.WriteMessage(websocket.TextMessage, raw)
	c.atNetwork(false)
	if err != nil {
		c.broke(err)
	}
	switch {
	case it.written == nil:
	case g.open && err == nil:
		written, seq := it.written, it.env.Seq
		g.texts = append(g.texts, func(err error) { written(seq, began, err) })
	default:
		it.written(it.env.Seq, began, err)
	}
}

func (c *Conn) encode(it *item) ([]byte, error) {
	if it.compose != nil {
		env, err := it.compose(c.outgoing(selfcheck.ViaText, false))
		if err != nil {
			return nil, err
		}
		it.env = env
	}
	it.env.Seq = c.seq + 1
	return it.env.Encode()
}

// outgoing composes the ledger of a frame about to be written, by the writer.
func (c *Conn) outgoing(via string, answer bool) wire.Ledger {
	var owed uint32
	if c.opts.Owed != nil {
		owed = c.opts.Owed()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledgers.Outgoing(time.Now(), owed, answer, via)
}

// control writes a ping or a pong. Not by WriteControl, which waits its turn on a timer: only
// the closing frame is written beside this goroutine, and both wait for that anyway.
func (c *Conn) control(kind int, data []byte) {
	c.atNetwork(true)
	c.ws.SetWriteDeadline(time.Now().Add(c.opts.WriteTimeout))
	err := c.ws.WriteMessage(kind, data)
	c.atNetwork(false)
	if err != nil {
		c.broke(err)
	}
}

// atNetwork notes that the writer enters or leaves a call to the network.
func (c *Conn) atNetwork(on bool) {
	c.mu.Lock()
	c.network = on
	if !on {
		c.freed = selfcheck.At(time.Now())
	}
	c.mu.Unlock()
}

// PeerLedger takes in a ledger that came in text m. acked is the number of the
// text of ours that m answers (0: none): the peer has read that far.
func (c *Conn) PeerLedger(p wire.Ledger, m Message, acked uint64) {
	c.mu.Lock()
	c.ledgers.PeerText(p, m.Mark, acked, time.Now())
	c.changed()
}

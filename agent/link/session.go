package link

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/fault"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// watchEvery is how often the deadlines of a link are looked at that is not
	// verified yet. A verified one has only the dead window, and an idle endpoint
	// should not wake for it each second: an eighth of it, or the deadline itself,
	// but at least watchLeast.
	watchEvery = time.Second
	watchLeast = 10 * time.Millisecond
	// stoodStill: a look at the deadlines that comes so much late means that this
	// machine did not run. Silence meanwhile says nothing of the peer.
	stoodStill = 10 * time.Second
)

// Session is one link, upgraded. It ends by itself (reader, writer or deadline)
// or by [Session.Close]; [Session.Gone] tells when its goroutines have ended.
type Session struct {
	opts   Options
	id     wire.LinkID
	remote string
	conn   *session.Conn
	wire   *tapped
	gone   chan struct{}
	closer sync.Once

	mu       sync.Mutex
	cause    error // why we ended it; nil: it was not us
	phase    selfcheck.Phase
	since    time.Time // of phase
	opened   time.Time
	verified time.Time // zero: not
	probes   int       // acknowledged
	plain    bool      // the server did not name the ledger as a capability
	dropped  selfcheck.Drop
	awake    time.Time // silence and phases are judged from here on, not before
}

// start takes over an upgraded WebSocket: auth goes out, the reader and the watch run.
func start(ws *websocket.Conn, id wire.LinkID, conn *tapped, remote string, o Options) *Session {
	now := time.Now()
	s := &Session{
		opts: o, id: id, remote: remote, wire: conn,
		gone:  make(chan struct{}),
		phase: selfcheck.PhaseAuth, since: now, opened: now, awake: now,
	}
	s.conn = session.New(ws, session.Options{Link: id, Changed: o.heard, WriteFault: o.WriteFault})
	o.Opened(s)
	s.authenticate()
	var both sync.WaitGroup
	both.Go(s.read)
	both.Go(s.watch)
	go func() {
		both.Wait()
		// The closing frame is long sent, or the link broke: this waits for the writer.
		s.conn.Close(websocket.CloseGoingAway, errors.New("ended"))
		close(s.gone)
	}()
	return s
}

func (s *Session) authenticate() {
	env, err := wire.Seal(wire.TypeAuth, s.opts.Auth())
	if err == nil {
		err = s.conn.Send(env, session.SendOptions{Flush: true})
	}
	if err != nil {
		s.Close(websocket.CloseInternalServerErr, fmt.Errorf("send auth: %w", err))
	}
}

// read hands texts on until the link ends.
func (s *Session) read() {
	for {
		m, err := s.conn.Read()
		if err != nil {
			now := time.Now()
			s.mu.Lock()
			s.dropped = selfcheck.Drop{InMS: silence(s.wire.in.View(now)), OutMS: silence(s.wire.out.View(now))}
			s.mu.Unlock()
			return
		}
		fault.Stall(s.opts.ReadFault)
		if err := s.opts.Receive(s, m); err != nil {
			s.Close(websocket.ClosePolicyViolation, err)
			return
		}
	}
}

// watch keeps the dead and the verify deadline.
func (s *Session) watch() {
	last := time.Now()
	for {
		every := s.watchInterval(last)
		timer := time.NewTimer(every)
		select {
		case <-s.conn.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		s.opts.Gate()
		now := time.Now()
		if now.Sub(last) > every+stoodStill {
			s.Resumed(now)
		}
		last = now
		if err := s.overdue(now); err != nil {
			s.Close(websocket.CloseGoingAway, err)
			return
		}
	}
}

// watchInterval is how long from now the deadlines need no look.
func (s *Session) watchInterval(now time.Time) time.Duration {
	p, heard := s.opts.Policy(), s.heard(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verified.IsZero() {
		return min(watchEvery, ms(p.DeadMS)/4, ms(p.VerifyMS)/4)
	}
	left := ms(p.DeadMS) - now.Sub(later(heard, s.awake))
	return max(watchLeast, min(left, ms(p.DeadMS)/3))
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// overdue judges the deadlines as of now.
func (s *Session) overdue(now time.Time) error {
	p := s.opts.Policy()
	heard := s.heard(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if silence := now.Sub(later(heard, s.awake)); silence > ms(p.DeadMS) {
		// With the verdict that it comes to: there may be no time left for a report of it.
		return fmt.Errorf("%s: %w: none for %v", selfcheck.CodeLinkSilent, ErrSilent, silence.Round(time.Millisecond))
	}
	if took := now.Sub(later(s.opened, s.awake)); s.verified.IsZero() && took > ms(p.VerifyMS) {
		return fmt.Errorf("%w: %s after %v", ErrUnverified, s.phase, took.Round(time.Millisecond))
	}
	return nil
}

// heard is when the last frame of any kind came, by the tap: also one that the
// reader has not come to, such as a fragment of a long text.
func (s *Session) heard(now time.Time) time.Time {
	at := s.conn.Facts(now).Inbound
	if any := s.wire.in.View(now).AnyAge; any != nil {
		at = later(at, now.Add(-*any))
	}
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Resumed tells that this machine did not run until now: deadlines count from
// here. A ping asks at once whether the peer still holds the link.
func (s *Session) Resumed(now time.Time) {
	s.mu.Lock()
	s.awake = later(s.awake, now)
	s.mu.Unlock()
	s.conn.Ping(true)
}

// ID is the link's id.
func (s *Session) ID() wire.LinkID { return s.id }

// URL and Remote are what was dialed.
func (s *Session) URL() string    { return s.opts.URL }
func (s *Session) Remote() string { return s.remote }

// Conn carries the texts.
func (s *Session) Conn() *session.Conn { return s.conn }

// Done is closed when the link has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.conn.Done() }

// Gone is closed when its goroutines have ended too: never, if one hangs.
func (s *Session) Gone() <-chan struct{} { return s.gone }

// Close ends the link with a closing frame (RFC 6455 §7.4) and returns at once.
// The first cause stands.
func (s *Session) Close(code int, cause error) {
	s.mu.Lock()
	if s.cause == nil && s.conn.Err() == nil {
		s.cause = cause
	}
	s.mu.Unlock()
	s.closer.Do(func() { go s.conn.Close(code, cause) })
}

// Err says why the link ended; nil while it is open.
func (s *Session) Err() error {
	s.mu.Lock()
	cause := s.cause
	s.mu.Unlock()
	if cause != nil {
		return cause
	}
	err := s.conn.Err()
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() { // reads have no deadline
		return fmt.Errorf("%w: %w", errWriteTimeout, err)
	}
	return err
}

// The phases, as told by the dispatcher when it has handled the message of each.

// AuthAcked takes in the server's answer to auth.
func (s *Session) AuthAcked(ack wire.AuthAck) {
	if ack.Link != s.id {
		s.Close(websocket.CloseProtocolError,
			fmt.Errorf("%w: auth_ack of link %s on link %s", ErrProtocol, ack.Link, s.id))
		return
	}
	s.mu.Lock()
	s.plain = !slices.Contains(ack.Capabilities, wire.CapLedger)
	s.mu.Unlock()
	s.advance(selfcheck.PhaseConfiguring)
}

// Configured: the policy was acknowledged.
func (s *Session) Configured() { s.advance(selfcheck.PhaseProbing) }

// Probed: one more probe was acknowledged. It reports whether that was the last
// of a first round: a heartbeat is due.
func (s *Session) Probed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes++
	return s.probes == len(wire.ProbeSizes)
}

// Acked takes in the server's judgement from a heartbeat_ack. It reports
// whether the link has just become verified.
func (s *Session) Acked(ack wire.HeartbeatAck) bool {
	return ack.Verified && s.advance(selfcheck.PhaseVerified)
}

var order = map[selfcheck.Phase]int{
	selfcheck.PhaseAuth: 1, selfcheck.PhaseConfiguring: 2, selfcheck.PhaseProbing: 3, selfcheck.PhaseVerified: 4,
}

// advance enters phase p unless it, or a later one, was entered before.
func (s *Session) advance(p selfcheck.Phase) bool {
	now := time.Now()
	s.mu.Lock()
	if order[p] <= order[s.phase] {
		s.mu.Unlock()
		return false
	}
	s.phase, s.since = p, now
	if p == selfcheck.PhaseVerified {
		s.verified = now
	}
	s.mu.Unlock()
	s.opts.Changed()
	return true
}

// Phase is the phase the link is in.
func (s *Session) Phase() selfcheck.Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// Verified tells since when the link is verified; zero: it is not, or has ended.
func (s *Session) Verified() time.Time {
	if s.conn.Err() != nil {
		return time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verified
}

// recentFrames of the ring ride in the facts; [Session.Recent] gives more.
const recentFrames = 16

// Facts describe the link as of now.
func (s *Session) Facts(now time.Time) selfcheck.LinkFacts {
	f := selfcheck.LinkFacts{
		ID: s.id, URL: s.opts.URL, Remote: s.remote,
		Ledger: s.conn.Facts(now).Ledger,
		TCP:    s.wire.kernel(),
		In:     s.wire.in.View(now), Out: s.wire.out.View(now),
		Recent: s.wire.ring.Last(recentFrames, now),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Plain = s.plain
	f.Phase, f.PhaseAge = s.phase, selfcheck.Age(s.since, now)
	f.VerifiedAge = selfcheck.Age(s.verified, now)
	return f
}

// silence is since the last frame, in ms; nil: there was none.
func silence(v selfcheck.TapView) *int64 {
	if v.AnyAge == nil {
		return nil
	}
	return new(v.AnyAge.Milliseconds())
}

// Dropped tells of the silence in which the link ended, once its reader has.
func (s *Session) Dropped() selfcheck.Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Recent gives up to n of the last 512 frame headers, oldest first.
func (s *Session) Recent(n int, now time.Time) []selfcheck.FrameHeader {
	return s.wire.ring.Last(n, now)
}

// Busy tells how long the reader has not come back for more, and how long one
// write has been under way; nil: not at all.
func (s *Session) Busy(now time.Time) (reader, writer *time.Duration) {
	f := s.conn.Facts(now)
	if s.conn.Err() != nil {
		// A reader that has ended left its mark; one that hangs is not gone.
		select {
		case <-s.gone:
			return nil, nil
		default:
		}
	}
	return selfcheck.Age(f.ReaderBusy, now), selfcheck.Age(f.WriterBusy, now)
}

// Traffic is how many bytes of WebSocket have gone over this link, both ways: while
// it stays the same, no fact of the link but its ages has changed.
func (s *Session) Traffic() uint64 { return s.wire.bytes.Load() }

// WriterWaits tells whether the write under way is in a call to the network,
// which has a deadline of its own.
func (s *Session) WriterWaits() bool { return s.conn.Facts(time.Now()).WriterWaits }

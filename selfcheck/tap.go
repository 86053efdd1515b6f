package selfcheck

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

const (
	// maxHead bounds the HTTP head before the first frame.
	maxHead = 64 << 10
	// maxFrame bounds one frame's payload: far above what either end sends or
	// reads, so that a larger length means the stream is no longer in step.
	maxFrame = 64 << 20
	// maxControl is the longest payload of a control frame (RFC 6455 §5.5).
	maxControl = 125
	// maxHeader is the longest frame header: 2, a 64-bit length and a mask key.
	maxHeader = 14
	// sizeCounters is len(SizeBuckets)+1; a test holds that.
	sizeCounters = 10
)

// Tap watches one direction of a WebSocket's byte stream (RFC 6455) as the
// connection reads or writes it, at any boundary. It never changes or keeps a
// byte of payload. It first skips the HTTP head, up to 64 KiB; bytes that are
// not frames afterwards make it Broken, and it parses no further.
//
// A frame is counted when its last byte has gone by. A Tap is safe for
// concurrent use.
type Tap struct {
	mu   sync.Mutex
	ring *Ring
	out  bool

	base    time.Time // of all times below; set by the first bytes
	started bool
	offset  time.Duration // of base, on the ring's own clock

	// The HTTP head.
	framing bool     // the head is over
	begin   [12]byte // its first bytes: "HTTP/1.1 101" in an answer
	headLen int
	ending  int // bytes of CRLFCRLF just seen

	// The frame under way.
	header [maxHeader]byte
	have   int // bytes of it
	need   int // bytes until more is known of it
	rest   uint64
	size   uint64
	rule   frameRule
	fin    bool
	inBody bool
	began  time.Duration

	// The data message under way.
	open     bool
	opened   time.Duration
	gained   time.Duration // its last byte so far
	openText bool

	classes  [frameClasses]classCount
	lastAny  moment
	lastText moment
	lastPing moment
	lastPong moment
	bytes    uint64
	broken   string
}

type classCount struct {
	count, bytes uint64
	sizes        [sizeCounters]uint64
}

// moment is a time since the tap's base; the zero value: never.
type moment struct {
	at  time.Duration
	set bool
}

// NewTap watches the bytes that go out (out) or come in. ring takes the frames'
// headers; nil: they are not kept.
func NewTap(ring *Ring, out bool) *Tap { return &Tap{ring: ring, out: out, need: 2} }

// Observe takes in the next bytes of the stream, which passed at now.
func (t *Tap) Observe(b []byte, now time.Time) {
	if len(b) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started {
		t.started, t.base = true, now
		if t.ring != nil {
			t.offset = t.ring.since(now)
		}
	}
	t.bytes += uint64(len(b))
	if t.broken != "" {
		return
	}
	if !t.framing {
		if b = t.head(b); len(b) == 0 {
			return
		}
	}
	t.frames(b, now.Sub(t.base))
}

// crlfcrlf ends an HTTP head.
const crlfcrlf = "\r\n\r\n"

// head skips the HTTP head and gives what follows it.
func (t *Tap) head(b []byte) []byte {
	for i, c := range b {
		if t.headLen < len(t.begin) {
			t.begin[t.headLen] = c
		}
		t.headLen++
		switch {
		case c == crlfcrlf[t.ending]:
			t.ending++
		case c == '\r':
			t.ending = 1
		default:
			t.ending = 0
		}
		if t.ending == len(crlfcrlf) {
			t.ending = 0
			if !t.headEnds() {
				return nil
			}
			if t.framing {
				return b[i+1:]
			}
			continue
		}
		if t.headLen >= maxHead {
			t.broken = "no end of the HTTP head in 64 KiB"
			return nil
		}
	}
	return nil
}

// headEnds looks at the head that just ended: a request, or an answer of status
// 101, is followed by frames; another 1xx by one more head; all else by a body.
func (t *Tap) headEnds() bool {
	status := ""
	if string(t.begin[:5]) == "HTTP/" {
		status = string(t.begin[9:12])
	}
	switch {
	case status == "" || status == "101":
		t.framing = true
	case status[0] == '1':
		t.headLen = 0
	default:
		t.broken = "answered with HTTP " + printable(status) + ", not upgraded"
		return false
	}
	return true
}

// printable keeps a peer's bytes from reaching a terminal as they are.
func printable(s string) string {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return "status unreadable"
		}
	}
	return s
}

func (t *Tap) frames(b []byte, at time.Duration) {
	for len(b) > 0 {
		if t.inBody {
			n := min(t.rest, uint64(len(b)))
			t.rest -= n
			b = b[n:]
			if t.open && !t.rule.control {
				t.gained = at
			}
			if t.rest == 0 {
				t.done(at)
			}
			continue
		}
		if t.have == 0 {
			t.began = at
		}
		if t.have == 0 && len(b) >= maxHeader { // the common case: a whole header at once
			t.header = [maxHeader]byte(b)
			if !t.opening() {
				return
			}
			t.have = t.need
			b = b[t.need:]
		} else {
			n := copy(t.header[t.have:t.need], b)
			t.have += n
			b = b[n:]
			if t.have < t.need {
				return
			}
			if t.have == 2 {
				if !t.opening() {
					return
				}
				if t.need > 2 {
					continue
				}
			}
		}
		if !t.sized(at) {
			return
		}
		if t.rest == 0 {
			t.done(at)
		}
	}
}

// opening reads the first two bytes of a header: what it is and how long the header gets.
func (t *Tap) opening() bool {
	b0, b1 := t.header[0], t.header[1]
	t.fin = b0&0x80 != 0
	t.rule = opcodes[b0&0x0f]
	length := b1 & 0x7f
	switch {
	case b0&0x70 != 0:
		return t.breaks("reserved bits 0x%02x", b0&0x70)
	case t.rule.class == FrameOther:
		return t.breaks("reserved opcode 0x%x", b0&0x0f)
	case t.rule.control && !t.fin:
		return t.breaks("a fragmented %s", t.rule.class)
	case t.rule.control && length > maxControl:
		return t.breaks("a %s of more than 125 bytes", t.rule.class)
	case t.rule.class == FrameContinuation && !t.open:
		return t.breaks("a continuation of nothing")
	case !t.rule.control && t.rule.class != FrameContinuation && t.open:
		return t.breaks("a new %s inside of a fragmented message", t.rule.class)
	}
	switch length {
	case 126:
		t.need = 4
	case 127:
		t.need = 10
	}
	if b1&0x80 != 0 {
		t.need += 4 // the mask key; its value is of no interest
	}
	return true
}

// sized reads a header that is complete.
func (t *Tap) sized(at time.Duration) bool {
	switch length := t.header[1] & 0x7f; length {
	case 126:
		t.size = uint64(binary.BigEndian.Uint16(t.header[2:]))
		if t.size < 126 {
			return t.breaks("a length of %d in 16 bits", t.size)
		}
	case 127:
		t.size = binary.BigEndian.Uint64(t.header[2:])
		if t.size <= 0xffff {
			return t.breaks("a length of %d in 64 bits", t.size)
		}
		if t.size > maxFrame {
			return t.breaks("a frame of %d bytes", t.size)
		}
	default:
		t.size = uint64(length)
	}
	t.rest, t.inBody = t.size, true
	if !t.rule.control {
		if !t.open {
			t.openText = t.rule.class == FrameText
			if !t.fin {
				t.open, t.opened = true, t.began
			}
		}
		t.gained = at
	}
	return true
}

// done counts the frame under way, all of which has passed.
func (t *Tap) done(at time.Duration) {
	t.have, t.need, t.inBody = 0, 2, false
	c := &t.classes[t.rule.class]
	c.count++
	c.bytes += t.size
	c.sizes[sizeBucket(t.size)]++
	t.lastAny = moment{at, true}
	switch {
	case t.rule.class == FramePing:
		t.lastPing = t.lastAny
	case t.rule.class == FramePong:
		t.lastPong = t.lastAny
	case !t.rule.control && t.fin:
		t.open = false
		if t.openText {
			t.lastText = t.lastAny
		}
	}
	if t.ring != nil {
		t.ring.add(t.rule.class, t.fin, t.out, t.size, t.offset+at)
	}
}

func sizeBucket(size uint64) int {
	for i, bound := range SizeBuckets {
		if size <= bound {
			return i
		}
	}
	return len(SizeBuckets)
}

func (t *Tap) breaks(format string, args ...any) bool {
	t.broken = fmt.Sprintf(format, args...)
	return false
}

// View sums up what went by, with ages at now. A moment that never was has no age.
func (t *Tap) View(now time.Time) TapView {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := TapView{Bytes: t.bytes, Broken: t.broken}
	if !t.started {
		return v
	}
	at := now.Sub(t.base)
	since := func(m moment) *time.Duration {
		if !m.set {
			return nil
		}
		return new(max(0, at-m.at))
	}
	v.AnyAge, v.TextAge = since(t.lastAny), since(t.lastText)
	v.PingAge, v.PongAge = since(t.lastPing), since(t.lastPong)
	if t.open {
		v.OpenFragment = since(moment{t.opened, true})
		v.FragmentIdle = since(moment{t.gained, true})
	}
	if t.have > 0 && t.broken == "" {
		v.PartialFrame = since(moment{t.began, true})
	}
	for class, c := range t.classes {
		if c.count == 0 {
			continue
		}
		if v.Frames == nil {
			v.Frames = make(map[string]ClassView, frameClasses)
		}
		v.Frames[FrameClass(class).String()] = ClassView{Count: c.count, Bytes: c.bytes, Sizes: append([]uint64(nil), c.sizes[:]...)}
	}
	return v
}

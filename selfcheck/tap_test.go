package selfcheck

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

// frame encodes one frame (RFC 6455 §5.2); b0 is FIN, RSV and opcode.
func frame(b0 byte, size int, masked bool) []byte {
	var mask byte
	if masked {
		mask = 0x80
	}
	b := []byte{b0}
	switch {
	case size < 126:
		b = append(b, mask|byte(size))
	case size <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(size))
	}
	if masked {
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, make([]byte, size)...)
}

const (
	fin   = 0x80
	opCnt = 0x0
	opTxt = 0x1
	opBin = 0x2
	opCls = 0x8
	opPng = 0x9
	opPog = 0xA
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// tapped gives a tap past its HTTP head.
func tapped(ring *Ring) *Tap {
	t := NewTap(ring, false)
	t.Observe([]byte(switching), t0)
	return t
}

func age(d *time.Duration) time.Duration {
	if d == nil {
		return -1
	}
	return *d
}

func TestTapCountsFrames(t *testing.T) {
	for _, masked := range []bool{false, true} {
		tap := tapped(nil)
		for _, size := range []int{0, 1, 125, 126, 127, 0xffff, 0x10000, 200_000} {
			tap.Observe(frame(fin|opTxt, size, masked), t0)
		}
		tap.Observe(frame(fin|opBin, 3, masked), t0)
		tap.Observe(frame(fin|opPng, 56, masked), t0)
		tap.Observe(frame(fin|opPog, 125, masked), t0)
		tap.Observe(frame(fin|opCls, 2, masked), t0)
		v := tap.View(t0)
		if v.Broken != "" {
			t.Fatalf("masked %v: broken: %s", masked, v.Broken)
		}
		text := v.Frames["text"]
		if text.Count != 8 || text.Bytes != 0+1+125+126+127+0xffff+0x10000+200_000 {
			t.Errorf("masked %v: text is %+v", masked, text)
		}
		// Buckets: 0, ≤64, ≤125, ≤512, ≤1K, ≤4K, ≤8K, ≤64K, ≤1M, more.
		if want := []uint64{1, 1, 1, 2, 0, 0, 0, 2, 1, 0}; !reflect.DeepEqual(text.Sizes, want) {
			t.Errorf("masked %v: sizes %v, want %v", masked, text.Sizes, want)
		}
		for _, class := range []string{"binary", "ping", "pong", "close"} {
			if v.Frames[class].Count != 1 {
				t.Errorf("masked %v: %d of %s", masked, v.Frames[class].Count, class)
			}
		}
		if len(v.Frames) != 5 {
			t.Errorf("masked %v: classes %v", masked, v.Frames)
		}
	}
}

func TestSizeBuckets(t *testing.T) {
	for size, want := range map[uint64]int{0: 0, 1: 1, 64: 1, 65: 2, 1 << 20: 8, 1<<20 + 1: 9, maxFrame: 9} {
		if got := sizeBucket(size); got != want {
			t.Errorf("%d bytes are in bucket %d, want %d", size, got, want)
		}
	}
}

func TestTapNeverSeenHasNoAge(t *testing.T) {
	for name, v := range map[string]TapView{
		"nothing":   NewTap(nil, false).View(t0),
		"head only": tapped(nil).View(t0.Add(time.Hour)),
	} {
		if v.AnyAge != nil || v.TextAge != nil || v.PingAge != nil || v.PongAge != nil ||
			v.OpenFragment != nil || v.FragmentIdle != nil || v.PartialFrame != nil || v.Frames != nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestTapAges(t *testing.T) {
	tap := tapped(nil)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	tap.Observe(frame(fin|opTxt, 10, false), at(1))
	tap.Observe(frame(fin|opPng, 56, false), at(2))
	tap.Observe(frame(fin|opPog, 56, false), at(3))
	v := tap.View(at(5))
	for name, got := range map[string][2]time.Duration{
		"any": {age(v.AnyAge), 2 * time.Second}, "text": {age(v.TextAge), 4 * time.Second},
		"ping": {age(v.PingAge), 3 * time.Second}, "pong": {age(v.PongAge), 2 * time.Second},
	} {
		if got[0] != got[1] {
			t.Errorf("%s age is %v, want %v", name, got[0], got[1])
		}
	}

	whole := frame(fin|opTxt, 300, false)
	tap.Observe(whole[:1], at(6))
	tap.Observe(whole[1:100], at(7))
	v = tap.View(at(8))
	if age(v.PartialFrame) != 2*time.Second || v.Frames["text"].Count != 1 || age(v.TextAge) != 7*time.Second {
		t.Errorf("in the middle of a frame: %+v", v)
	}
	tap.Observe(whole[100:], at(9))
	if v = tap.View(at(9)); v.PartialFrame != nil || v.Frames["text"].Count != 2 || age(v.TextAge) != 0 {
		t.Errorf("after its last byte: %+v", v)
	}
}

func TestTapFragments(t *testing.T) {
	tap := tapped(nil)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	tap.Observe(frame(opTxt, 10, false), at(1))
	tap.Observe(frame(fin|opPng, 0, false), at(2)) // control frames may stand between (RFC 6455 §5.4)
	tap.Observe(frame(opCnt, 10, false), at(4))
	tap.Observe(frame(fin|opPog, 0, false), at(5))
	v := tap.View(at(9))
	if age(v.OpenFragment) != 8*time.Second || age(v.FragmentIdle) != 5*time.Second {
		t.Errorf("open %v, idle %v", age(v.OpenFragment), age(v.FragmentIdle))
	}
	if v.TextAge != nil {
		t.Errorf("an unfinished text has the age %v", *v.TextAge)
	}
	tap.Observe(frame(fin|opCnt, 0, false), at(10))
	v = tap.View(at(10))
	if v.OpenFragment != nil || v.FragmentIdle != nil || age(v.TextAge) != 0 || v.Broken != "" {
		t.Errorf("finished: %+v", v)
	}
	if v.Frames["text"].Count != 1 || v.Frames["continuation"].Count != 2 || v.Frames["ping"].Count != 1 {
		t.Errorf("frames %+v", v.Frames)
	}
	// A fragmented binary message is no text.
	tap.Observe(append(frame(opBin, 1, false), frame(fin|opCnt, 1, false)...), at(12))
	if v = tap.View(at(12)); age(v.TextAge) != 2*time.Second {
		t.Errorf("text age after a binary message is %v", age(v.TextAge))
	}
}

func TestTapBreaks(t *testing.T) {
	long := func(b0, b1 byte, rest ...byte) []byte { return append([]byte{b0, b1}, rest...) }
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"reserved data opcode":    {long(fin|0x3, 0), "reserved opcode 0x3"},
		"reserved control opcode": {long(fin|0xB, 0), "reserved opcode 0xb"},
		"reserved bit":            {long(fin|0x40|opTxt, 0), "reserved bits 0x40"},
		"fragmented ping":         {long(opPng, 0), "fragmented ping"},
		"long ping":               {long(fin|opPng, 126, 0, 200), "more than 125 bytes"},
		"16 bits for 125":         {long(fin|opTxt, 126, 0, 125), "length of 125 in 16 bits"},
		"64 bits for 65535":       {long(fin|opTxt, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff), "length of 65535 in 64 bits"},
		"sign bit":                {long(fin|opTxt, 127, 0x80, 0, 0, 0, 0, 0, 0, 0), "a frame of 9223372036854775808 bytes"},
		"far too long":            {long(fin|opTxt, 127, 0, 0, 1, 0, 0, 0, 0, 0), "a frame of 1099511627776 bytes"},
		"continuation of nothing": {long(fin|opCnt, 0), "continuation of nothing"},
		"text inside a fragment":  {append(frame(opTxt, 1, false), frame(fin|opTxt, 1, false)...), "a new text inside"},
		"plain text":              {[]byte("HTTP/1.1 502 Bad Gateway\r\n"), "reserved"},
	} {
		tap := tapped(nil)
		good := frame(fin|opTxt, 5, false)
		tap.Observe(good, t0)
		tap.Observe(c.bytes, t0)
		tap.Observe(good, t0) // nothing is parsed any more
		v := tap.View(t0)
		if !strings.Contains(v.Broken, c.want) {
			t.Errorf("%s: broken is %q, want %q", name, v.Broken, c.want)
		}
		if v.Frames["text"].Count > 2 || v.PartialFrame != nil {
			t.Errorf("%s: parsed on: %+v", name, v)
		}
		if want := uint64(len(switching) + 2*len(good) + len(c.bytes)); v.Bytes != want {
			t.Errorf("%s: %d bytes, want %d", name, v.Bytes, want)
		}
	}
}

func TestTapHead(t *testing.T) {
	text := string(frame(fin|opTxt, 5, false))
	for name, c := range map[string]struct {
		stream string
		texts  uint64
		broken string
	}{
		"answer":         {switching + text, 1, ""},
		"request":        {"GET /v1/link HTTP/1.1\r\nHost: a\r\n\r\n" + text, 1, ""},
		"early hints":    {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + switching + text, 1, ""},
		"CRCRLFCRLF":     {"GET / HTTP/1.1\r\nA: b\r\r\n\r\n" + text, 1, ""},
		"refused":        {"HTTP/1.1 401 Unauthorized\r\n\r\n{}", 0, "answered with HTTP 401"},
		"strange status": {"HTTP/1.1 \x1b[2 x\r\n\r\n", 0, "status unreadable"},
		"endless":        {strings.Repeat("x", maxHead), 0, "no end of the HTTP head"},
		"nearly endless": {strings.Repeat("x", maxHead-4) + "\r\n\r\n" + text, 1, ""},
		"short":          {"\r\n\r\n" + text, 1, ""},
	} {
		for _, step := range []int{1, len(c.stream)} {
			tap := NewTap(nil, true)
			for chunk := range chunks([]byte(c.stream), step) {
				tap.Observe(chunk, t0)
			}
			v := tap.View(t0)
			if v.Frames["text"].Count != c.texts || !strings.Contains(v.Broken, c.broken) || (c.broken == "") != (v.Broken == "") {
				t.Errorf("%s in steps of %d: %d texts, broken %q", name, step, v.Frames["text"].Count, v.Broken)
			}
		}
	}
}

func chunks(b []byte, n int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			k := min(n, len(b))
			if !yield(b[:k]) {
				return
			}
			b = b[k:]
		}
	}
}

// mixed is a valid stream with every class, length form and a control frame
// inside of a fragmented message; it ends in the middle of a frame.
func mixed(masked bool) []byte {
	var b bytes.Buffer
	b.WriteString(switching)
	for _, f := range [][]byte{
		frame(fin|opTxt, 80, masked), frame(fin|opPng, 56, masked), frame(opTxt, 3, masked),
		frame(fin|opPog, 56, masked), frame(opCnt, 0, masked), frame(fin|opPng, 0, masked),
		frame(fin|opCnt, 200, masked), frame(fin|opBin, 70_000, masked), frame(fin|opTxt, 0, masked),
		frame(opTxt, 126, masked), frame(fin|opPng, 125, masked), frame(opCnt, 1000, masked)[:500],
	} {
		b.Write(f)
	}
	return b.Bytes()
}

func viewOf(stream []byte, cuts func() int) TapView {
	tap := NewTap(NewRing(8), false)
	for rest := stream; len(rest) > 0; {
		n := min(max(1, cuts()), len(rest))
		tap.Observe(rest[:n], t0)
		rest = rest[n:]
	}
	return tap.View(t0.Add(time.Second))
}

func TestTapSplitsDoNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, masked := range []bool{false, true} {
		stream := mixed(masked)
		want := viewOf(stream, func() int { return len(stream) })
		if want.Broken != "" || want.PartialFrame == nil || want.OpenFragment == nil {
			t.Fatalf("the stream is not what it should be: %+v", want)
		}
		if got := viewOf(stream, func() int { return 1 }); !reflect.DeepEqual(got, want) {
			t.Errorf("byte by byte: %+v, want %+v", got, want)
		}
		for range 100 {
			limit := 1 + rng.IntN(300)
			if got := viewOf(stream, func() int { return rng.IntN(limit) }); !reflect.DeepEqual(got, want) {
				t.Fatalf("cut up to %d: %+v, want %+v", limit, got, want)
			}
		}
	}
}

// FuzzTap: whatever comes by, the tap does not panic, and any split of it gives the same view.
func FuzzTap(f *testing.F) {
	f.Add(mixed(false), uint64(1))
	f.Add(mixed(true), uint64(2))
	f.Add([]byte("\r\n\r\n\x81\x7e\x00\x7d"), uint64(3))
	f.Add([]byte("HTTP/1.1 100 \r\n\r\nHTTP/1.1 101 \r\n\r\n\x89\x00\x01\x00\x80\x00"), uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		if len(stream) > 128<<10 {
			stream = stream[:128<<10]
		}
		want := viewOf(stream, func() int { return len(stream) })
		rng := rand.New(rand.NewPCG(seed, 0))
		limit := 1 + rng.IntN(64)
		if got := viewOf(stream, func() int { return rng.IntN(limit) }); !reflect.DeepEqual(got, want) {
			t.Errorf("split: %+v\nwhole: %+v", got, want)
		}
	})
}

func TestRing(t *testing.T) {
	ring := NewRing(4)
	if got := ring.Last(10, t0); got != nil {
		t.Errorf("an empty ring gives %v", got)
	}
	in, out := NewTap(ring, false), NewTap(ring, true)
	in.Observe([]byte(switching), t0)
	out.Observe([]byte("GET / HTTP/1.1\r\n\r\n"), t0)
	for i := range 3 {
		now := t0.Add(time.Duration(i) * time.Second)
		in.Observe(frame(fin|opTxt, i, false), now)
		out.Observe(frame(fin|opPng, 10+i, true), now)
	}
	got := ring.Last(RingSize, t0.Add(3*time.Second))
	want := []FrameHeader{
		{Class: FrameText, Fin: true, Size: 1, Age: 2 * time.Second},
		{Class: FramePing, Fin: true, Out: true, Size: 11, Age: 2 * time.Second},
		{Class: FrameText, Fin: true, Size: 2, Age: time.Second},
		{Class: FramePing, Fin: true, Out: true, Size: 12, Age: time.Second},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := ring.Last(1, t0.Add(3*time.Second)); !reflect.DeepEqual(got, want[3:]) {
		t.Errorf("the last one is %v", got)
	}
	if got := ring.Last(-1, t0); got != nil {
		t.Errorf("fewer than none: %v", got)
	}
	raw, err := json.Marshal(want[1])
	if err != nil || !strings.Contains(string(raw), `"class":"ping"`) {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestFrameClassText(t *testing.T) {
	for c := range frameClasses {
		raw, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back FrameClass
		if err := back.UnmarshalText(raw); err != nil || back != c {
			t.Errorf("%s came back as %v, %v", raw, back, err)
		}
	}
	if got := FrameClass(200).String(); got != "other" {
		t.Errorf("a value that is none is %q", got)
	}
	var c FrameClass
	if err := c.UnmarshalText([]byte("carrier pigeon")); err == nil {
		t.Error("an unknown name is taken")
	}
}

func TestTapIsSafeForConcurrentUse(t *testing.T) {
	ring := NewRing(RingSize)
	in, out := tapped(ring), tapped(ring)
	text := frame(fin|opTxt, 80, false)
	var wg sync.WaitGroup
	for _, tap := range []*Tap{in, out} {
		wg.Go(func() {
			for range 2000 {
				tap.Observe(text, t0)
			}
		})
		wg.Go(func() {
			for range 200 {
				tap.View(t0)
				ring.Last(10, t0)
			}
		})
	}
	wg.Wait()
	if n := in.View(t0).Frames["text"].Count + out.View(t0).Frames["text"].Count; n != 4000 {
		t.Errorf("%d texts, want 4000", n)
	}
}

func TestTapTables(t *testing.T) {
	if len(SizeBuckets)+1 != sizeCounters {
		t.Errorf("%d size buckets need %d counters, there are %d", len(SizeBuckets), len(SizeBuckets)+1, sizeCounters)
	}
}

func TestTapDoesNotAllocate(t *testing.T) {
	tap := tapped(NewRing(RingSize))
	stream := append(frame(fin|opTxt, 80, true), frame(fin|opPng, 56, true)...)
	if n := testing.AllocsPerRun(1000, func() {
		tap.Observe(stream[:7], t0)
		tap.Observe(stream[7:], t0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTapText80(b *testing.B) {
	tap := tapped(NewRing(RingSize))
	text := frame(fin|opTxt, 80, true)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	now := time.Now()
	for b.Loop() {
		tap.Observe(text, now)
	}
}

// BenchmarkTapText80Batch reads 4 KiB at a time, as a busy connection does.
func BenchmarkTapText80Batch(b *testing.B) {
	tap := tapped(NewRing(RingSize))
	const frames = 48
	batch := bytes.Repeat(frame(fin|opTxt, 80, true), frames)
	b.ReportAllocs()
	for b.Loop() {
		tap.Observe(batch, t0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/frames, "ns/frame")
}

package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gururmm/agent/link"
	"gururmm/checkup"
	"gururmm/internal/neterr"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

// rungs are the sizes tried, in bytes of a whole text: from little more than an
// empty echo, over what one packet holds, to the longest script.
var rungs = []int{100, 512, 1 << 10, 1400, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10}

const (
	// narrowings bounds the steps between the last rung that passed and the first
	// that did not: the limit is then known to a sixteenth of the gap.
	narrowings = 4
	// echoWait bounds the wait for an echo, and slowest adds to it for its bytes, as
	// bytes a second: who is slower than that has other troubles.
	echoWait = 6 * time.Second
	slowest  = 32 << 10
	// lostGrace is how long a proven gap must stay before the text counts as lost.
	lostGrace = time.Second
)

// way is a direction of texts.
type way string

const (
	up   way = "up"   // endpoint → server
	down way = "down" // server → endpoint
)

// climbed is how far one direction got.
type climbed struct {
	Passed int    // bytes of the largest text that passed; 0: none
	Failed int    // of the smallest that did not; 0: none failed
	Why    string // it failed
	Type   string // of the network error
	Lost   way    // on which way it was lost, where that is proven
}

// echoed is what the ladders of an endpoint gave; zero: not known.
type echoed map[way]climbed

// maxSegment is what a packet of Ethernet carries (RFC 894), in bytes: the kernel's
// idea of loopback or of a network of large frames says nothing of the path beyond.
const maxSegment = 1460

// brokenBeyond names the directions in which texts of one segment pass and longer
// ones do not; "" if that is not what is seen.
func (e echoed) brokenBeyond(segment int) string {
	var ways []string
	segment = min(segment, maxSegment)
	for _, w := range []way{up, down} {
		// A few segments' worth of slack: the rungs are coarse, and TLS adds to a text.
		if c := e[w]; c.Failed > 0 && c.Passed > 0 && c.Passed <= segment && c.Failed <= 4*segment {
			ways = append(ways, string(w))
		}
	}
	return strings.Join(ways, " and ")
}

// echo climbs the ladder in both directions.
func (r *run) echo(ctx context.Context, p Probe, res *checkup.Result) {
	l := &ladder{open: func(ctx context.Context) (*link.Look, <-chan wire.Envelope, error) { return r.open(ctx, r.at(p)) }}
	defer l.drop()
	got := echoed{}
	for _, w := range []way{up, down} {
		c, err := l.climb(ctx, w)
		if err != nil {
			r.refusal(err, res)
			return
		}
		got[w] = c
		if c.Passed == 0 {
			// Not even the smallest comes back: what the other direction could do stays unknown.
			if c.Lost == down {
				delete(got, w)
				got[down] = c
			}
			break
		}
	}
	r.mu.Lock()
	r.echoes[p.Endpoint] = got
	r.mu.Unlock()
	tellEchoes(res, got)
}

// tellEchoes puts both directions in words.
func tellEchoes(res *checkup.Result, got echoed) {
	res.Figures = map[string]any{}
	var seen []string
	failed, least := false, 0
	for _, w := range []way{up, down} {
		c, known := got[w]
		if !known {
			seen = append(seen, string(w)+" is unknown")
			continue
		}
		res.Figures[string(w)+"_passed_bytes"] = c.Passed
		if c.Failed == 0 {
			seen = append(seen, string(w)+" to "+bytesOf(c.Passed))
			continue
		}
		failed = true
		res.Figures[string(w)+"_failed_bytes"] = c.Failed
		text := fmt.Sprintf("%s fails at %s", w, bytesOf(c.Failed))
		if c.Passed > 0 {
			text = fmt.Sprintf("%s passes %s, fails at %s", w, bytesOf(c.Passed), bytesOf(c.Failed))
		}
		seen = append(seen, text)
		res.Notes = append(res.Notes, fmt.Sprintf("%s: %s", w, c.Why))
		if res.Type == "" {
			res.Type, res.Phase = c.Type, neterr.Phase(c.Type)
		}
		if least == 0 || c.Passed < least {
			least = c.Passed
		}
	}
	if !failed {
		pass(res, "texts pass "+strings.Join(seen, ", "))
		return
	}
	do := fmt.Sprintf("A box on the way lets through texts of %s and none of more: raise its limit on WebSocket messages, or have this server passed through uninspected.", bytesOf(least))
	if least == 0 {
		do = "The link opens and answers pings, but no text passes: a box on the way holds WebSocket data back. Have this server passed through uninspected."
	}
	fail(res, strings.Join(seen, "; "), do)
}

// ladder tries texts, on one probe link as long as it is whole.
type ladder struct {
	open  func(context.Context) (*link.Look, <-chan wire.Envelope, error)
	look  *link.Look
	texts <-chan wire.Envelope
	tried int
}

func (l *ladder) drop() {
	if l.look != nil {
		l.look.Close()
		l.look = nil
	}
}

// climb finds the largest text that passes in direction w, and the smallest that
// does not. The error is that of opening a probe link.
func (l *ladder) climb(ctx context.Context, w way) (climbed, error) {
	var c climbed
	try := func(size int) (bool, error) {
		why, err := l.try(ctx, w, size)
		switch {
		case err != nil:
			return false, err
		case why == nil:
			c.Passed = size
			return true, nil
		}
		d := link.Describe(why)
		c.Failed, c.Why, c.Type = size, why.Error(), d.Type
		if t, ok := errors.AsType[*lost](why); ok {
			c.Type, c.Lost = t.typ, t.way
		}
		return false, nil
	}
	for _, size := range rungs {
		ok, err := try(size)
		if err != nil {
			return c, err
		}
		if !ok {
			break
		}
	}
	if c.Failed == 0 || c.Passed == 0 {
		return c, ctx.Err()
	}
	for range narrowings {
		if c.Failed-c.Passed <= max(64, c.Passed/16) {
			break
		}
		if _, err := try(between(c.Passed, c.Failed)); err != nil {
			return c, err
		}
	}
	return c, nil
}

// between halves a gap, at a round number where there is room for one.
func between(lo, hi int) int {
	mid := (lo + hi) / 2
	if hi-lo > 4<<10 {
		mid = mid &^ (1<<10 - 1)
	}
	return mid
}

// lost says that a text did not pass, and how that is known.
type lost struct {
	what, typ string
	way       way // where that is proven
}

func (e *lost) Error() string { return e.what }

// try sends one text of size bytes in direction w. why says that it did not pass;
// then the probe link is given up, for its account no longer adds up.
func (l *ladder) try(ctx context.Context, w way, size int) (why, err error) {
	if l.look == nil {
		if l.look, l.texts, err = l.open(ctx); err != nil {
			l.look = nil
			return nil, err
		}
	}
	l.tried++
	id := fmt.Sprintf("%04d", l.tried%10000)
	echo, want := shape(id, w, size)
	if why = l.exchange(ctx, echo, want, size); why != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.drop()
	}
	return why, nil
}

// exchange sends echo and judges what comes back.
func (l *ladder) exchange(ctx context.Context, echo wire.Echo, want, size int) error {
	env, err := wire.Seal(wire.TypeEcho, echo)
	if err == nil {
		err = l.look.Conn.Send(env, session.SendOptions{Flush: true})
	}
	if errors.Is(err, session.ErrClosed) {
		<-l.look.Conn.Done() // within a second, and then it is known why
		return l.look.Conn.Err()
	}
	if err != nil {
		return err
	}
	over := time.NewTimer(echoWait + time.Duration(size)*time.Second/slowest)
	defer over.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case env, open := <-l.texts:
			if !open {
				return cut(l.look.Conn.Err())
			}
			reply, err := wire.DecodePayload[wire.EchoReply](env)
			switch {
			case env.Type == wire.TypeNack:
				nack, _ := wire.DecodePayload[wire.Nack](env) // empty says as much
				return &lost{what: fmt.Sprintf("the server refused it: %s %s", nack.Code, nack.Detail), typ: neterr.WSProtocol}
			case env.Type != wire.TypeEchoReply || err != nil:
				return &lost{what: "it came back damaged", typ: neterr.WSProtocol}
			case reply.ID != echo.ID:
				continue // of a text given up before
			case reply.Got != len(echo.Pad) || len(reply.Pad) != want:
				return &lost{what: fmt.Sprintf("%d of %d bytes arrived, %d of %d came back", reply.Got, len(echo.Pad), len(reply.Pad), want), typ: neterr.WSProtocol}
			}
			return nil
		case <-tick.C:
			v := l.look.Conn.Facts(time.Now()).Ledger
			if g := v.Up; gone(g, v) {
				return &lost{"it was lost: the server read the ping behind it, but not the text", neterr.WSUnverified, up}
			}
			if g := v.Down; gone(g, v) {
				return &lost{"it was lost: the server wrote it, and the ping behind it came without it", neterr.WSUnverified, down}
			}
		case <-over.C:
			return &lost{what: "no answer in " + (echoWait + time.Duration(size)*time.Second/slowest).Round(time.Second).String(), typ: neterr.WSSilent}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gone tells whether a gap has lasted long enough to be a loss, and not a delay.
func gone(g *selfcheck.Gap, v selfcheck.LedgerView) bool {
	grace := lostGrace
	if v.RTT != nil {
		grace = max(grace, 4**v.RTT)
	}
	return g != nil && g.Age >= grace
}

// cut says that the connection ended under a text.
func cut(err error) error {
	d := link.Describe(err)
	return &lost{what: "the connection was cut under it: " + d.Detail, typ: d.Type}
}

// shape makes an echo whose text (up), or whose reply's (down), has size bytes,
// less at most two for the text's number; want is the reply's pad in bytes.
func shape(id string, w way, size int) (echo wire.Echo, want int) {
	if w == up {
		return wire.Echo{ID: id, Pad: strings.Repeat("x", max(0, size-empty(wire.TypeEcho, wire.Echo{ID: id, Pad: "x"})+1))}, 0
	}
	want = max(0, size-empty(wire.TypeEchoReply, wire.EchoReply{ID: id, Pad: "x"})+1)
	return wire.Echo{ID: id, Size: want}, want
}

// empty is the length of payload's text with a number of three digits.
func empty(t wire.Type, payload any) int {
	env, err := wire.Seal(t, payload)
	if err != nil { // plain structs: they can be encoded
		panic(err)
	}
	env.Seq = 999
	text, err := env.Encode()
	if err != nil {
		panic(err)
	}
	return len(text)
}

package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func TestTokenServesOnceUntilItsTimesRefuseIt(t *testing.T) {
	c, now := newReplays(), time.Unix(1_800_000_000, 0)
	until := now.Add(90 * time.Second)
	if c.use("x", "a", now, until) != fresh || c.use("x", "a", now, until) != replayed || c.use("x", "a", until, until) != replayed {
		t.Error("a token must serve once")
	}
	if c.use("x", "b", until.Add(time.Second), until.Add(time.Minute)); len(c.used) != 1 || len(c.order) != 1 || c.each["x"] != 1 {
		t.Errorf("what can't be replayed any more is still remembered: %d", len(c.used))
	}
}

func TestFullReplayMemoryRefusesRatherThanForgets(t *testing.T) {
	c, now := newReplays(), time.Unix(1_800_000_000, 0)
	until := now.Add(90 * time.Second)
	for i := range maxReplays {
		c.use(fmt.Sprint(i%100), fmt.Sprint(i), now, until)
	}
	if c.use("x", "one more", now, until) != replaysFull || c.use("0", "0", now, until) != replayed {
		t.Error("full: it must refuse, and still know the first")
	}
	if c.use("x", "one more", until.Add(time.Second), until.Add(time.Minute)) != fresh {
		t.Error("time did not make room")
	}
}

func TestOneAgentCannotFillTheReplayMemoryOfAll(t *testing.T) {
	c, now := newReplays(), time.Unix(1_800_000_000, 0)
	until := now.Add(90 * time.Second)
	for i := range maxReplays + 1 {
		if got := c.use("astray", fmt.Sprint(i), now, until); i >= maxReplaysEach && got != replaysTooMany {
			t.Fatalf("request %d was answered %d", i, got)
		}
	}
	if c.use("other", "0", now, until) != fresh {
		t.Error("another agent is refused for it")
	}
	if c.use("astray", "0", now, until) != replayed {
		t.Error("its old token was forgotten")
	}
	if c.use("astray", "new", until.Add(time.Second), until.Add(time.Minute)) != fresh {
		t.Error("time did not make room")
	}
}

func TestSharesAreEachAgentsOwn(t *testing.T) {
	var s shares
	first, ok := s.take("a", 2)
	_, also := s.take("a", 2)
	if _, third := s.take("a", 2); !ok || !also || third {
		t.Error("want two of two shares, and no third")
	}
	if _, ok := s.take("b", 2); !ok {
		t.Error("one agent took another's share")
	}
	first()
	first() // counts once
	if _, ok := s.take("a", 2); !ok {
		t.Error("a share given back can't be taken")
	}
	if _, ok := s.take("a", 2); ok {
		t.Error("a share was given back twice")
	}
}

func TestLimiterIsBoundedAndPerAddress(t *testing.T) {
	l, now := newLimiter(2, time.Second), time.Unix(1_800_000_000, 0)
	for i, want := range []bool{true, true, false} {
		if l.allow("a", now) != want {
			t.Errorf("request %d of one moment: want %v", i+1, want)
		}
	}
	if !l.allow("b", now) {
		t.Error("one address must not slow another")
	}
	if !l.allow("a", now.Add(time.Second)) || l.allow("a", now.Add(time.Second)) {
		t.Error("one more a second later")
	}
	for i := range maxBuckets + 100 {
		l.allow(fmt.Sprint(i), now)
	}
	if len(l.full) > maxBuckets {
		t.Errorf("%d addresses remembered", len(l.full))
	}
	if !l.allow("late", now.Add(time.Hour)) {
		t.Error("addresses not seen for an hour were not forgotten")
	}
}

func TestForwardedAddressIsBelievedFromTrustedProxiesOnly(t *testing.T) {
	a := &API{o: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}}}
	for _, c := range []struct{ peer, forwarded, want string }{
		{"192.0.2.7:1", "", "192.0.2.7"},
		{"192.0.2.7:1", "198.51.100.1", "192.0.2.7"},
		{"127.0.0.1:1", "198.51.100.1", "198.51.100.1"},
		{"127.0.0.1:1", "203.0.113.9, 198.51.100.1, 10.1.1.1", "198.51.100.1"},
		{"127.0.0.1:1", "203.0.113.9, nonsense", "127.0.0.1"},
		{"[::ffff:127.0.0.1]:1", "198.51.100.1", "198.51.100.1"},
		{"127.0.0.1:1", "", "127.0.0.1"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := a.clientAddr(r); got != c.want {
			t.Errorf("from %s for %q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

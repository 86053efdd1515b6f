package worker

import (
	"strings"
	"testing"
	"time"
)

func TestClockIsCarriedByTheMonotonicClock(t *testing.T) {
	var c clock
	now := time.Now()
	if got := c.at(now); !got.Equal(now) {
		t.Errorf("before it is known, %v for %v", got, now)
	}
	if c.facts() != nil {
		t.Error("an offset is known before the clocks were compared")
	}
	server := now.Add(3 * time.Hour).Round(0)
	c.Observe(server, now.Add(-10*time.Millisecond), now.Add(10*time.Millisecond))
	for _, d := range []time.Duration{-time.Second, 0, time.Second, time.Hour} {
		if off := c.at(now.Add(d)).Sub(server.Add(d)); off.Abs() > time.Second {
			t.Errorf("%v later the server's time is off by %v", d, off)
		}
	}
	if off := *c.facts() - 3*time.Hour; off.Abs() > time.Second {
		t.Errorf("offset %v", *c.facts())
	}

	// Only a time that bears a monotonic reading is proof against a wall clock that is set.
	if !strings.Contains(c.local.String(), " m=") || strings.Contains(c.server.String(), " m=") {
		t.Errorf("carried from %v to %v", c.local, c.server)
	}

	// A slow exchange says too little; an offset of the guardian's replaces what was known.
	before := c.Now()
	c.Observe(server.Add(time.Hour), now, now.Add(3*time.Second))
	if d := c.Now().Sub(before); d.Abs() > time.Second {
		t.Errorf("a slow exchange moved the clock by %v", d)
	}
	c.set(-5 * time.Minute)
	if off := *c.facts() + 5*time.Minute; off.Abs() > time.Second {
		t.Errorf("offset %v", *c.facts())
	}
}

package worker

import (
	"strings"
	"testing"
	"time"

	"gururmm/internal/asleep"
	"gururmm/internal/clocktest"
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

// What this machine's wall clock is set to does not move the server's time, and a sleep
// counts once, whether the monotonic clock shows it (Windows) or not (Linux, macOS).
func TestClockCountsASleepOnceAndNoStep(t *testing.T) {
	for _, goesOn := range []bool{false, true} {
		for _, m := range []struct {
			name        string
			slept, step time.Duration
		}{
			{"neither", 0, 0},
			{"a sleep", 8 * time.Hour, 0},
			{"set ahead", 0, 3 * time.Hour},
			{"set back", 0, -3 * time.Hour},
			{"a sleep, and set ahead", 8 * time.Hour, 3 * time.Hour},
			{"a sleep, and set back by as much", 3 * time.Hour, -3 * time.Hour},
		} {
			slept := time.Hour // before
			c := clock{asleep: asleep.New(func() time.Duration { return slept }, goesOn)}
			local := time.Now()
			server := local.Add(5 * time.Minute).Round(0)
			c.Observe(server, local, local)
			slept += m.slept
			now := local.Add(time.Minute)
			if goesOn {
				now = clocktest.Set(t, now.Add(m.slept), m.step)
			} else {
				now = clocktest.Set(t, now, m.slept+m.step)
			}
			if got, want := c.at(now), server.Add(time.Minute+m.slept); !got.Equal(want) {
				t.Errorf("%s (goes on: %t): the server's time is off by %v", m.name, goesOn, got.Sub(want))
			}
		}
	}
}

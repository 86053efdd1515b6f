package asleep

import (
	"testing"
	"time"
)

func TestThisMachineTellsItsSleep(t *testing.T) {
	c := System()
	before := c.Total()
	for range 1000 {
		if slept := c.Total() - before; slept.Abs() > time.Second {
			t.Fatalf("%v of sleep while this test ran", slept)
		}
	}
	// Two clocks that do not tick from one moment would be years apart.
	if before < -time.Second || before > 365*24*time.Hour {
		t.Errorf("%v of sleep since boot", before)
	}
	if (Clock{}).Total() != 0 {
		t.Error("the zero clock tells of sleep")
	}
}

func TestMissedBySomeMonotonicClocks(t *testing.T) {
	hour := func() time.Duration { return time.Hour }
	if got := New(hour, false).Missed(time.Hour); got != time.Hour {
		t.Errorf("a clock that stands still in a sleep missed %v of an hour", got)
	}
	if got := New(hour, true).Missed(time.Hour); got != 0 {
		t.Errorf("a clock that goes on in a sleep missed %v of an hour", got)
	}
}

func TestAheadIsTheSleepBetweenTwoClocks(t *testing.T) {
	running, slept := time.Minute, time.Duration(0)
	reads := 0
	stands := func() (time.Duration, bool) { reads++; return running, true }
	goesOn := func() (time.Duration, bool) {
		if reads == 1 {
			return running + slept + time.Hour, true // held up for an hour since the other was read
		}
		return running + slept, true
	}
	for _, slept = range []time.Duration{0, 8 * time.Hour} {
		reads = 0
		if got := ahead(stands, goesOn); got != slept {
			t.Errorf("%v of sleep, want %v", got, slept)
		}
	}
	broken := func() (time.Duration, bool) { return time.Hour, false }
	if ahead(broken, goesOn) != 0 || ahead(stands, broken) != 0 {
		t.Error("a clock that can't be read tells of sleep")
	}
}

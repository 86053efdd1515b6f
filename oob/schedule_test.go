package oob_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func TestSchedule(t *testing.T) {
	last := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rng := rand.New(rand.NewPCG(1, 2))
	p := wire.DefaultPolicy()
	for _, c := range []struct {
		severity selfcheck.Severity
		policy   wire.Policy
		floor    time.Time
		lo, hi   time.Duration
	}{
		{selfcheck.SeverityWell, p, time.Time{}, 810 * time.Second, 990 * time.Second},
		{selfcheck.SeverityError, p, time.Time{}, 27 * time.Second, 33 * time.Second},
		{selfcheck.SeverityUnknown, p, time.Time{}, 27 * time.Second, 33 * time.Second},
		{selfcheck.SeverityNotice, wire.Policy{}, time.Time{}, 27 * time.Second, 33 * time.Second},
		{selfcheck.SeverityError, p, last.Add(time.Minute), time.Minute, time.Minute},
		{selfcheck.SeverityError, p, last.Add(time.Second), 27 * time.Second, 33 * time.Second},
	} {
		seen := map[time.Duration]bool{}
		for i := range 500 {
			r := rng
			if i%10 == 0 {
				r = nil
			}
			d := oob.Schedule(last, c.severity, c.policy, c.floor, r).Sub(last)
			if d < c.lo || d > c.hi {
				t.Fatalf("%q: next after %v, want %v to %v", c.severity, d, c.lo, c.hi)
			}
			seen[d] = true
		}
		if c.lo != c.hi && len(seen) < 100 {
			t.Errorf("%q: no jitter", c.severity)
		}
	}
}

package backoff_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"gururmm/internal/backoff"
)

func TestFullStaysInItsWindow(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		min, max time.Duration
		attempt  int
		lo, hi   time.Duration
	}{
		{"first", time.Second, 5 * time.Minute, 0, time.Second, 2 * time.Second},
		{"third", time.Second, 5 * time.Minute, 2, time.Second, 8 * time.Second},
		{"capped", time.Second, 5 * time.Minute, 20, time.Second, 5 * time.Minute},
		{"no overflow", time.Second, math.MaxInt64, math.MaxInt, time.Second, math.MaxInt64},
		{"negative attempt", time.Second, time.Minute, -5, time.Second, 2 * time.Second},
		{"floor", 0, 0, 3, 10 * ms, 10 * ms},
		{"max below min", time.Second, time.Millisecond, 3, time.Second, time.Second},
		{"odd cap", 3 * ms, 25 * ms, 9, 10 * ms, 25 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				if d := backoff.Full(rng, c.min, c.max, c.attempt); d < c.lo || d > c.hi {
					t.Fatalf("Full = %v, want %v to %v", d, c.lo, c.hi)
				}
			}
			if d := backoff.Full(nil, c.min, c.max, c.attempt); d < c.lo || d > c.hi {
				t.Fatalf("Full without rng = %v, want %v to %v", d, c.lo, c.hi)
			}
		})
	}
}

// A fleet that lost its server at one moment must arrive evenly over the window.
func TestFullIsUniform(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n, buckets = 20_000, 10
	var hist [buckets]int
	lo, hi := time.Second, 64*time.Second
	for range n {
		d := backoff.Full(rng, lo, hi, 30)
		i := int(int64(d-lo) * buckets / int64(hi-lo+1))
		hist[i]++
	}
	for i, got := range hist {
		if want := n / buckets; got < want*8/10 || got > want*12/10 {
			t.Errorf("bucket %d holds %d of %d, want about %d", i, got, n, want)
		}
	}
}

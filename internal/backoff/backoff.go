// Package backoff spreads retries: full jitter over an exponentially growing
// window, so that a fleet cut off at one moment does not come back at one moment.
package backoff

import (
	"math/rand/v2"
	"time"
)

// floor is below what no retry waits: a window set to nothing must not become a
// busy loop against a server in trouble.
const floor = 10 * time.Millisecond

// Full draws the wait before retry number attempt, counted from 0: uniform in
// [min, min(max, min·2^(attempt+1))]. That is the "full jitter" of AWS
// Architecture Blog, "Exponential Backoff And Jitter" (2015), lifted to min, so that the very
// first retry is spread too. Nonsense is mended rather than obeyed: min is at
// least 10 ms, max at least min, a negative attempt is 0.
//
// A nil rng means the process-wide source; a given one is not locked here.
func Full(rng *rand.Rand, min, max time.Duration, attempt int) time.Duration {
	if min < floor {
		min = floor
	}
	if max < min {
		max = min
	}
	top := min
	for i := 0; i <= attempt || i == 0; i++ {
		if top > max/2 { // doubling would pass max, or overflow
			top = max
			break
		}
		top *= 2
	}
	span := int64(top - min)
	if span <= 0 {
		return min
	}
	if rng == nil {
		return min + time.Duration(rand.Int64N(span+1))
	}
	return min + time.Duration(rng.Int64N(span+1))
}

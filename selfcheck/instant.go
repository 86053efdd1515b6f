package selfcheck

import "time"

// Instant is a time in 8 bytes, for accounts of which a server keeps one for each link, where
// a [time.Time] takes 24: nanoseconds since some moment before this process began, by the clock
// that goes on while the wall clock is set. 0: never; all others are later. It is for distances
// and for which came first; to tell it, see [Instant.Time].
type Instant int64

// began is lead after 0. Times of before count too: those of a test's clock are.
var began = time.Now()

const lead = 50 * 365 * 24 * Instant(time.Hour)

// At is t as an instant; of the zero time: never.
func At(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	return Instant(t.Sub(began)) + lead
}

// Time is the instant by now's clock; the zero time: never.
func (i Instant) Time(now time.Time) time.Time {
	if i.IsZero() {
		return time.Time{}
	}
	return now.Add(i.Sub(At(now)))
}

// IsZero reports whether it never was.
func (i Instant) IsZero() bool { return i == 0 }

// Sub is how long after o it was.
func (i Instant) Sub(o Instant) time.Duration { return time.Duration(i - o) }

// Add is d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

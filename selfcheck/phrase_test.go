package selfcheck

import (
	"testing"
	"time"
)

func TestSpanRoundsToTheNearest(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                   "0 s",
		700 * time.Millisecond:         "700 ms",
		59*time.Second + 600e6:         "60 s",
		9*time.Minute + 59*time.Second: "10 min",
		3*time.Hour - time.Minute:      "3 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

package selfcheck

import (
	"encoding/json"
	"strings"
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

// What is beyond a limit is seen to be, and an unknown process has no number.
func TestWhatIsBeyondALimitIsSeenToBe(t *testing.T) {
	const limit = 7500 * time.Millisecond
	for d, want := range map[time.Duration]string{limit + 12*time.Millisecond: "7.512 s", limit + 100*time.Millisecond: "7.6 s"} {
		if got := spanBeyond(d, limit); got != want {
			t.Errorf("%v beyond %v: %q, want %q", d, limit, got, want)
		}
	}
	raw, err := json.Marshal(WorkerFacts{})
	if err != nil || strings.Contains(string(raw), "pid") || strings.Contains(string(raw), "version") {
		t.Errorf("a worker that is not there: %s, %v", raw, err)
	}
}

package moment

import (
	"testing"
	"time"
)

func TestOneMomentReadsTheSameEverywhere(t *testing.T) {
	was := time.Local
	t.Cleanup(func() { time.Local = was })
	time.Local = time.FixedZone("east", 2*3600)
	now := time.Date(2026, 11, 24, 3, 5, 50, 900e6, time.UTC)
	for want, got := range map[string]string{
		"2026-11-24 05:05:50":           Local(now),
		"2026-11-24 03:05:50 UTC":       UTC(now.In(time.Local)),
		"2026-11-24 05:05:38 (12s ago)": Aged(now.Add(-12*time.Second), now),
		"2026-11-24 06:00:50 (in 55m)":  Aged(now.Add(55*time.Minute), now),
		"2026-11-24 05:05:51 (0s ago)":  Aged(now.Add(300*time.Millisecond), now),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, d := range map[string]time.Duration{"0s": -time.Hour, "59s": 59900 * time.Millisecond, "1m": time.Minute, "47h": 48*time.Hour - 1, "2d": 48 * time.Hour} {
		if got := Span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

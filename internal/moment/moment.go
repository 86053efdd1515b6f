// Package moment tells points in time to people, everywhere in one way: the reader's
// local time to the second, and how long ago that is. What programs read is RFC 3339 in
// UTC; a sentence that crosses from one machine to another says "UTC" itself, because
// its writer does not know where it is read.
package moment

import (
	"fmt"
	"time"
)

// Local is t for whoever reads it on this machine: "2026-11-24 03:05:50".
func Local(t time.Time) string { return t.Local().Format(time.DateTime) }

// UTC is t within a sentence that is read on another machine: "2026-11-24 03:05:50 UTC".
func UTC(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// Aged is t with its distance from now: "2026-11-24 03:05:50 (12s ago)", or "(in 54m)".
func Aged(t, now time.Time) string {
	if d := t.Sub(now); d >= time.Second {
		return Local(t) + " (in " + Span(d) + ")"
	}
	return Local(t) + " (" + Span(now.Sub(t)) + " ago)"
}

// Span gives a duration in its largest unit that leaves a digit or two: 12s, 54m, 30h, 3d.
// Less than nothing is 0s: two clocks differ a little.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

package selfcheck

import (
	"fmt"
	"strconv"
	"time"
)

// span writes d for people, to the nearest: three figures are enough.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Round(time.Second).Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Round(time.Minute).Minutes())
	default:
		return fmt.Sprintf("%.0f h", d.Round(time.Hour).Hours())
	}
}

// spanBeyond writes d so that it can be seen on which side of limit it is.
func spanBeyond(d, limit time.Duration) string {
	if said := span(d); said != span(limit) {
		return said
	}
	return fmt.Sprintf("%.3f s", d.Seconds())
}

// count writes n with its noun, which takes an s unless n is 1.
func count[N ~int | ~uint32 | ~uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func number[N ~int | ~uint32 | ~uint64](n N) string { return strconv.FormatUint(uint64(n), 10) }

func orAge(n *int64) string {
	if n == nil {
		return "never"
	}
	return span(ms(*n))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// String names the error as its vocabulary does, with its detail.
func (e *NetworkError) String() string {
	if e == nil {
		return ""
	}
	s := e.Type
	if s == "" {
		s = orNone(e.Phase)
	}
	if e.Status != 0 {
		s += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

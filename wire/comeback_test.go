package wire_test

import (
	"testing"
	"time"

	"gururmm/wire"
)

func TestComeBack(t *testing.T) {
	for _, d := range []time.Duration{0, time.Millisecond, 12345 * time.Millisecond, 90 * time.Second} {
		reason := wire.ComeBack(d, "the server is going down: soon")
		if got, ok := wire.ParseComeBack(reason); !ok || got != d {
			t.Errorf("%q is read as %v, %v", reason, got, ok)
		}
	}
	for _, reason := range []string{"", "draining", "draining soon", "draining : x", "draining -5s: x", "draining 1e9s: x", "drained 5s: x", "the server is going down"} {
		if got, ok := wire.ParseComeBack(reason); ok {
			t.Errorf("%q is read as %v", reason, got)
		}
	}
}

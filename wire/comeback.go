package wire

import (
	"strings"
	"time"
)

// comeBack begins the reason in the closing frame of a server that goes down.
const comeBack = string(CodeDraining) + " "

// ComeBack is the reason in the closing frame (RFC 6455 §7.4) of a server that goes
// down and wants to be called again after so long: `draining 12.3s: sentence`.
func ComeBack(after time.Duration, sentence string) string {
	return comeBack + after.Round(time.Millisecond).String() + ": " + sentence
}

// ParseComeBack takes the time out of such a reason; ok is false for any other.
func ParseComeBack(reason string) (after time.Duration, ok bool) {
	rest, ok := strings.CutPrefix(reason, comeBack)
	if !ok {
		return 0, false
	}
	word, _, ok := strings.Cut(rest, ":")
	if !ok {
		return 0, false
	}
	after, err := time.ParseDuration(word)
	return after, err == nil && after >= 0
}

package wrap

import "strings"

// Plain takes out of what somebody else wrote (a host name, an operator's reason) all
// that would move the reader's cursor or turn the order of the letters: control
// characters but newline and tab, and the invisible marks of Unicode for width,
// lines and direction (UAX #9; U+202E is the well-known one).
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < 0x20, r >= 0x7f && r < 0xa0, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e,
			r >= 0x2060 && r <= 0x2069, r == 0xfeff, r == 0x61c:
			return -1
		}
		return r
	}, s)
}

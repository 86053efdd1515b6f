package wrap

import "strings"

// Clip bounds text to n bytes where it must be kept small, and never in the middle of a
// sentence's word: it ends at the last whole sentence that fits, else at the last whole
// word, and says with "…" that there was more.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 { // not inside a character
		n--
	}
	head := s[:n]
	if i := strings.LastIndex(head, ". "); i > n/2 {
		return head[:i+1] + " …"
	}
	if i := strings.LastIndexByte(head, ' '); i > n/2 {
		return head[:i] + " …"
	}
	return head + "…"
}

// Cut bounds text to n columns of one line; "…" stands for what was cut off.
func Cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

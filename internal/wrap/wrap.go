// Package wrap folds sentences to the width that every terminal has.
package wrap

import "strings"

// Width in columns of what is printed for people.
const Width = 80

// Lines breaks text between words into lines of at most n columns; a longer word stands alone.
func Lines(text string, n int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len([]rune(*last))+1+len([]rune(word)) <= n:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}

// Behind writes text behind head, folded at [Width], further lines indented to
// where the first begins.
func Behind(head, text string) string {
	n := len([]rune(head))
	return head + strings.Join(Lines(text, Width-n), "\n"+strings.Repeat(" ", n))
}

package wrap

import (
	"slices"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	for text, want := range map[string][]string{
		"":                       {""},
		"short":                  {"short"},
		"two words here":         {"two words", "here"},
		"averyverylongword then": {"averyverylongword", "then"},
	} {
		if got := Lines(text, 10); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestBehindKeepsTheColumn(t *testing.T) {
	got := Behind("größe: ", strings.Repeat("word ", 20))
	lines := strings.Split(got, "\n")
	if len(lines) != 2 || len([]rune(lines[0])) > Width || !strings.HasPrefix(lines[1], "       word") {
		t.Errorf("%q", got)
	}
}

package wrap

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClipEndsWhereASentenceOrAWordDoes(t *testing.T) {
	for in, want := range map[string]string{
		"It fits.":                        "It fits.",
		"Two were lost. The third is so":  "Two were lost. …",
		"two were lost on the way hither": "two were lost on …",
		strings.Repeat("ü", 20):           strings.Repeat("ü", 9) + "…",
	} {
		if got := Clip(in, 19); got != want || !utf8.ValidString(got) {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestCutCountsColumns(t *testing.T) {
	for in, want := range map[string]string{"größe": "größe", "größer": "größ…"} {
		if got := Cut(in, 5); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

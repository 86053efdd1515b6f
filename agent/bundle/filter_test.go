package bundle

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// Looking for hints first is for speed alone: what is taken out stays the same.
func TestHintsMissNothing(t *testing.T) {
	pieces := []string{
		"a line", "\n", "\n", "\n \t\n", " ", "=", ":", "token", "Password", "pa\u017f\u017fword", "secret value", "api-key", `{"token":`, `"abc"`, "Bearer", "Basic ",
		"eyJhbGciOi.eyJzdWIi.c2ln", "gre_ABCDEFGH12", "https://user:word@host/", "@", "://", strings.Repeat("A", 86) + "==", "AKIAABCDEFGHIJKLMNOP",
		"-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "harmless words that go on", "12", "Set-Coo\u212aie: a=bcdef", "\u00e9",
	}
	rng := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 3000 {
		var text strings.Builder
		for range 1 + rng.IntN(25) {
			text.WriteString(pieces[rng.IntN(len(pieces))])
		}
		n := 0
		whole := replace(keys, []byte(text.String()), &n)
		for _, shape := range shapes {
			whole = replace(shape, whole, &n)
		}
		got, m := newFilter(nil, false).text([]byte(text.String()))
		if !bytes.Equal(got, whole) || m != n {
			t.Fatalf("of %q\nremains %q (%d)\nwant    %q (%d)", text.String(), got, m, whole, n)
		}
		taken += n
	}
	if taken < 1000 {
		t.Errorf("only %d secrets were in the texts", taken)
	}
}

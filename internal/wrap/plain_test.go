package wrap

import "testing"

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"host-1": "host-1", "a\x1b[2Jb": "a[2Jb", "two\nlines\tand": "two\nlines\tand", "gnp\u202egpj.exe": "gnpgpj.exe",
		"zero\u200bwidth": "zerowidth", "\u009bcsi": "csi", "größe 日本": "größe 日本",
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

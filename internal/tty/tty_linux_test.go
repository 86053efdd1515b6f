package tty

import (
	"os"
	"testing"

	"gururmm/internal/ttytest"
)

func TestOnlyATerminalIsOne(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, program := ttytest.Pair(t)
	if Is(null) || Is(r) || Is(w) || !Is(program) {
		t.Errorf("null %v, pipe %v and %v, terminal %v", Is(null), Is(r), Is(w), Is(program))
	}
	if _, err := HideInput(null); err == nil {
		t.Error("nothing can be hidden where nobody types")
	}
}

func TestWhatIsTypedIsNotShown(t *testing.T) {
	person, program := ttytest.Pair(t)
	restore, err := HideInput(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := person.WriteString("secret\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	n, err := program.Read(got)
	if err != nil || string(got[:n]) != "secret\n" {
		t.Fatalf("read %q, %v", got[:n], err)
	}
	restore()
	restore()
	if _, err := person.WriteString("shown\n"); err != nil {
		t.Fatal(err)
	}
	// All that the person sees: the line's end, then what is typed after restore.
	var seen string
	for len(seen) < len("\r\nshown\r\n") {
		n, err := person.Read(got)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(got[:n])
	}
	if seen != "\r\nshown\r\n" {
		t.Errorf("the person saw %q", seen)
	}
}

func TestColoursAreForATerminalThatWantsThem(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, program := ttytest.Pair(t)
	for _, c := range []struct {
		noColor, term string
		want          bool
	}{{"", "xterm", true}, {"", "", true}, {"1", "xterm", false}, {"", "dumb", false}} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		if Colorful(null) || Colorful(program) != c.want {
			t.Errorf("NO_COLOR=%q TERM=%q: /dev/null %v, a terminal %v", c.noColor, c.term, Colorful(null), Colorful(program))
		}
	}
}

package main

import (
	"io"
	"strings"
	"testing"

	"gururmm/internal/ttytest"
)

// On a terminal the server's log is for people, in colours unless they are not wanted.
func TestALogOnATerminal(t *testing.T) {
	for _, c := range []struct {
		noColor, term string
		want          bool
	}{{"", "xterm", true}, {"1", "xterm", false}, {"", "dumb", false}} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		person, terminal := ttytest.Pair(t)
		log, err := newLogger(terminal, "info")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("it serves", "door", 2)
		terminal.Close()
		seen, _ := io.ReadAll(person) // ends with an error, for the program's end is closed
		if !strings.Contains(string(seen), "it serves") || strings.Contains(string(seen), "{") || strings.Contains(string(seen), "\x1b") != c.want {
			t.Errorf("NO_COLOR=%q TERM=%q: %q", c.noColor, c.term, seen)
		}
	}
}

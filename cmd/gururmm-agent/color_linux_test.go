package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/internal/ttytest"
)

// On a terminal the doctor's page has colours, unless they are not wanted.
func TestColoursOnATerminal(t *testing.T) {
	for _, c := range []struct {
		env  string
		want bool
	}{{"NO_COLOR=", true}, {"NO_COLOR=1", false}, {"TERM=dumb", false}} {
		person, terminal := ttytest.Pair(t)
		cmd := exec.CommandContext(t.Context(), program, "doctor", "--only", "disk", "--state-dir", filepath.Join(t.TempDir(), "state"))
		cmd.Env = append(os.Environ(), "NO_COLOR=", "TERM=xterm", c.env)
		cmd.Stdout = terminal
		err := cmd.Run()
		terminal.Close()
		seen, _ := io.ReadAll(person) // ends with an error, for the program's end is closed
		if err != nil || !strings.Contains(string(seen), "1 pass") || strings.Contains(string(seen), "\x1b") != c.want {
			t.Errorf("%s: %v, %q", c.env, err, seen)
		}
	}
}

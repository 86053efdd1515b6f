package main

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// Words must reach the endpoint's shell as they were given to ours.
func TestJoinScriptKeepsWords(t *testing.T) {
	if got := joinScript("", []string{"echo $HOME | wc"}); got != "echo $HOME | wc" {
		t.Errorf("one word is a script as it is: %q", got)
	}
	for _, first := range []string{"FOO=1", "if", "time"} {
		if got := joinScript("", []string{first, "a=b"}); got != "'"+first+"' a=b" {
			t.Errorf("a word in front must stay one: %q", got)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	alphabet := []rune("ab '\"\\$`!*?[]{}()<>|&;~#\n\té-_./")
	for range 200 {
		words := []string{"printf", "%s\\0"}
		for range 1 + rng.IntN(4) {
			w := make([]rune, rng.IntN(8))
			for i := range w {
				w[i] = alphabet[rng.IntN(len(alphabet))]
			}
			words = append(words, string(w))
		}
		out, err := exec.Command("sh", "-c", joinScript(wire.ShellSh, words)).Output()
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		if want := strings.Join(words[2:], "\x00") + "\x00"; string(out) != want {
			t.Fatalf("%q arrived as %q", words[2:], out)
		}
	}
}

func event(kind string, change func(*operator.Event)) operator.Event {
	ev := operator.Event{Kind: kind}
	change(&ev)
	return ev
}

func TestOutputIsPrintedOnceEvenIfTheStreamIsTakenUpAgain(t *testing.T) {
	var out, errs bytes.Buffer
	w := &watch{out: &out, err: &errs, printed: map[wire.Stream]int64{}, told: map[string]bool{}}
	piece := func(s wire.Stream, offset int64, data string) operator.Event {
		return event("output", func(ev *operator.Event) { ev.Stream, ev.Offset, ev.Data = s, offset, []byte(data) })
	}
	for _, ev := range []operator.Event{
		piece(wire.Stdout, 0, "hello "), piece(wire.Stderr, 0, "oops"),
		piece(wire.Stdout, 0, "hello "), piece(wire.Stdout, 0, "hello world"), piece(wire.Stdout, 6, "world\n"),
	} {
		if err := w.show(ev); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "hello world\n" || errs.String() != "oops" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
}

func TestExitCodes(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, c := range []struct {
		command operator.Command
		want    int
	}{
		{operator.Command{State: wire.StateCompleted, ExitCode: code(0)}, 0},
		{operator.Command{State: wire.StateFailed, ExitCode: code(7)}, 7},
		{operator.Command{State: wire.StateFailed, ExitCode: code(256)}, exitNoCode},
		{operator.Command{State: wire.StateFailed, ExitCode: code(-1073741510)}, exitNoCode},
		{operator.Command{State: wire.StateFailed, Reason: "timed out after 1s"}, exitNoCode},
		{operator.Command{State: wire.StateUndeliverable, Reason: "link.text.lost"}, exitNoCode},
		{operator.Command{State: wire.StateCancelled, ExitCode: code(0)}, exitNoCode},
	} {
		w := &watch{err: &bytes.Buffer{}, told: map[string]bool{}, last: &c.command}
		got := 0
		if err := w.end(); err != nil {
			got = err.(*exitError).code
			if got == exitNoCode && c.command.ExitCode == nil && !strings.Contains(err.Error(), string(c.command.State)) {
				t.Errorf("the state is not told: %v", err)
			}
		}
		if got != c.want {
			t.Errorf("%s: exit %d, want %d", c.command.State, got, c.want)
		}
	}
}

// exec and trace say how much is missing, and by whose limit.
func TestOutputThatWasCutIsTold(t *testing.T) {
	const why = "7 bytes of its stdout were left out: over the ordered limit of 10 bytes a stream"
	c := operator.Command{ID: "c1", State: wire.StateCompleted, ExitCode: new(0), StdoutLost: 7, Reason: why}
	var errs, out bytes.Buffer
	w := &watch{err: &errs, told: map[string]bool{}, last: &c}
	if err := w.end(); err != nil || !strings.Contains(errs.String(), "output was cut: "+why) {
		t.Errorf("exec: %v, %q", err, errs.String())
	}
	if err := printTrace(&out, operator.Trace{Command: c}); err != nil || !strings.Contains(strings.Join(strings.Fields(out.String()), " "), why) {
		t.Errorf("trace: %v, %q", err, out.String())
	}
	c.StdoutLost, c.Reason = 0, "exit code 0"
	if said := outputCut(c); said != "" {
		t.Errorf("nothing was cut: %q", said)
	}
}

func TestProcessesLeftBehindAreTold(t *testing.T) {
	var errs bytes.Buffer
	w := &watch{err: &errs, told: map[string]bool{}, last: &operator.Command{State: wire.StateCompleted, ExitCode: new(0), Orphans: true}}
	if err := w.end(); err != nil || !strings.Contains(errs.String(), "what they write is not kept") {
		t.Errorf("%v, %q", err, errs.String())
	}
}

func TestWhatAnEndpointSaysCannotMoveTheCursor(t *testing.T) {
	if got := wrap.Plain("a\x1b[2Jb\u009bc\r\n"); got != "a[2Jbc\n" {
		t.Errorf("%q", got)
	}
	if got := oneLine("web\n\tserver of the long name", 10); got != "web serve…" {
		t.Errorf("%q", got)
	}
}

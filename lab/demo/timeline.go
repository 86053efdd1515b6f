package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/wrap"
)

// Colours by actor (ECMA-48 SGR).
var colours = map[string]string{
	"operator": "\x1b[1m", "path": "\x1b[31m", "agent": "\x1b[33m", "server": "\x1b[36m", "door": "\x1b[35m", "demo": "\x1b[32m",
}

const colourOff = "\x1b[0m"

// timeline keeps the steps and prints each as it becomes known.
type timeline struct {
	out    io.Writer // nil: only kept
	colour bool
	began  time.Time

	mu    sync.Mutex
	steps []Step
}

// tell adds one thing that happened at.
func (t *timeline) tell(at time.Time, actor, what, format string, args ...any) {
	step := Step{AtMS: ms(at.Sub(t.began)), Actor: actor, What: what, Text: fmt.Sprintf(format, args...)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, step)
	t.print(step)
}

// sorted gives the steps in the order in which they happened; they may have become known in another.
func (t *timeline) sorted() []Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.Clone(t.steps)
	slices.SortStableFunc(out, func(a, b Step) int {
		switch {
		case a.AtMS < b.AtMS:
			return -1
		case a.AtMS > b.AtMS:
			return 1
		}
		return 0
	})
	return out
}

const (
	lead   = "%+9.3f s  %-8s  "
	indent = 9 + 4 + 8 + 2 // of lead, as printed
)

func (t *timeline) print(s Step) {
	if t.out == nil {
		return
	}
	head := fmt.Sprintf(lead, s.AtMS/1000, s.Actor)
	lines := wrap.Lines(s.Text, wrap.Width-indent)
	if t.colour {
		head += colours[s.Actor]
		lines[len(lines)-1] += colourOff
	}
	fmt.Fprintf(t.out, "%s%s\n", head, strings.Join(lines, "\n"+strings.Repeat(" ", indent)))
}

// say prints text that is no event.
func (t *timeline) say(format string, args ...any) {
	if t.out != nil {
		fmt.Fprintf(t.out, format+"\n", args...)
	}
}

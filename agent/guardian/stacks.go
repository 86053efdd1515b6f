package guardian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gururmm/agent/pipe"
	"gururmm/internal/atomicfile"
	"gururmm/selfcheck"
)

const (
	// stacksAfter is how long a loop stands before the worker is asked for its
	// stacks: they are to be here when it is proven, and tell nothing afterwards.
	stacksAfter = 2500 * time.Millisecond
	// stacksGap spaces the asking: writing them stops the worker for a moment.
	stacksGap = 30 * time.Second
	// keepStacks is how many files of them are kept.
	keepStacks = 5
)

// stacksState is what the loop knows of the worker's stacks: the last ones, from
// whichever worker.
type stacksState struct {
	text  string
	at    time.Time
	gen   int
	why   string
	file  string    // that keeps them; "": none does
	asked time.Time // of the worker of this generation
}

// wantStacks asks the worker for its stacks while a loop of it seems to stand still.
func (g *Guardian) wantStacks(now time.Time) {
	d, l := &g.dump, g.worker.life
	if l == nil || l.killed != "" || d.gen == l.gen && now.Sub(d.asked) < stacksGap {
		return
	}
	ask := func(why string) {
		if g.order(pipe.Order{Stacks: true}) {
			*d = stacksState{gen: l.gen, asked: now, why: why}
		}
	}
	if !l.reported.IsZero() && now.Sub(l.reported) >= stacksAfter {
		ask("it did not report") // its loop of orders may turn all the same
		return
	}
	for name, loop := range g.snapshot.Loops {
		if loop.Pending == nil || *loop.Pending+now.Sub(g.snapshot.Taken) < stacksAfter {
			continue
		}
		ask("its " + name + " loop stood still")
		return
	}
}

// tookStacks takes in what the worker of generation gen wrote.
func (g *Guardian) tookStacks(gen int, text string, now time.Time) {
	if d := &g.dump; d.gen == gen && !d.asked.IsZero() && d.text == "" {
		d.text, d.at = text, now
		g.log.Warn("worker's stacks came", "why", d.why, "bytes", len(text))
	}
}

// maxLogWords bounds a worker's last words in the log, in bytes: stacks are many times
// as long, and have a file of their own.
const maxLogWords = 2 << 10

func wordsForLog(words string) string {
	if len(words) <= maxLogWords {
		return words
	}
	return strings.ToValidUTF8(words[:maxLogWords], "") + fmt.Sprintf(" … (%d bytes in all)", len(words))
}

// lastWords keeps the stacks that a worker wrote as it ended, if it did; the
// answer says where, for people.
func (g *Guardian) lastWords(gen int, words, why string, now time.Time) string {
	if !strings.Contains(words, "\ngoroutine ") && !strings.HasPrefix(words, "goroutine ") {
		return ""
	}
	g.dump = stacksState{gen: gen, text: words, at: now, why: why}
	g.saveStacks()
	if g.dump.file == "" {
		return ""
	}
	return "; its stacks are kept in " + filepath.Base(g.dump.file)
}

// showStack adds to a proven stall what the loop is in, and keeps the whole.
func (g *Guardian) showStack(v *selfcheck.Verdict) {
	loop := selfcheck.StageOf(v.Code)
	if v.Code == selfcheck.CodeAgentHung {
		loop = "reporter"
	}
	d, l := &g.dump, g.worker.life
	if loop == "" || v.Suspected || l == nil || d.gen != l.gen || d.text == "" {
		return
	}
	if stack := pipe.LoopStack(d.text, loop); stack != "" {
		v.Evidence = append(slices.Clip(v.Evidence), selfcheck.Evidence{Fact: "stack", Seen: stack})
	}
	if d.file == "" {
		g.saveStacks()
	}
}

// saveStacks lets the keeper write the last stacks to a file of their own.
func (g *Guardian) saveStacks() {
	dir, d := g.cfg.StacksDir, &g.dump
	if dir == "" {
		return
	}
	name := filepath.Join(dir, "worker-"+d.at.UTC().Format("20060102T150405.000Z")+".txt")
	text := fmt.Sprintf("worker %d at %s: %s\n\n%s", d.gen, d.at.UTC().Format(time.RFC3339), d.why, d.text)
	if g.keep(job{what: jobStacks, do: func() error { return writeStacks(name, text) }}) {
		d.file = name
	}
}

// writeStacks writes one file and removes the oldest beyond keepStacks.
func writeStacks(name, text string) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := atomicfile.Write(name, []byte(text), 0o600)
	files, globErr := filepath.Glob(filepath.Join(dir, "worker-*.txt"))
	slices.Sort(files) // by time
	for _, old := range files[:max(0, len(files)-keepStacks)] {
		err = errors.Join(err, os.Remove(old))
	}
	return errors.Join(err, globErr)
}

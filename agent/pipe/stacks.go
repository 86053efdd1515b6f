package pipe

import (
	"path"
	"strings"
)

// loopFrames are the functions that the worker's long-lived loops run in.
var loopFrames = map[string]string{
	"reader":     "gururmm/agent/link.(*Session).read(",
	"writer":     "gururmm/session.(*Conn).write(",
	"dispatcher": "gururmm/agent/worker.(*worker).dispatch(",
	"executor":   "gururmm/agent/task.(*Executor).loop(",
	"metrics":    "gururmm/agent/worker.(*worker).measure(",
	"orders":     "gururmm/agent/worker.(*worker).listen(",
	"monitor":    "gururmm/agent/worker.(*worker).monitor(",
	"reporter":   "gururmm/agent/worker.(*worker).report(",
	"facts":      "gururmm/agent/worker.(*out).run(",
}

const (
	maxLoopStacks = 2    // goroutines told of: one that was left behind, and its successor
	maxLoopStack  = 1000 // bytes of one
)

// LoopStack picks from the stacks of all goroutines what the worker's loop of
// that name is in, innermost call first, in one line; "" if it is not among them.
func LoopStack(stacks, loop string) string {
	frame, known := loopFrames[loop]
	if !known {
		return ""
	}
	var found []string
	for goroutine := range strings.SplitSeq(stacks, "\n\n") {
		if strings.Contains(goroutine, "\n"+frame) && len(found) < maxLoopStacks {
			found = append(found, oneLine(goroutine))
		}
	}
	return strings.Join(found, " | ")
}

// oneLine folds the stack of one goroutine: its state, then each function with
// the place it is at.
func oneLine(goroutine string) string {
	lines := strings.Split(strings.TrimSpace(goroutine), "\n")
	state, _, _ := strings.Cut(lines[0], "]")
	var calls []string
	for i, line := range lines[1:] {
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "created by ") {
			continue
		}
		call := line
		if n := strings.LastIndex(call, "("); n > 0 {
			call = call[:n]
		}
		call = path.Base(call)
		if at := i + 2; at < len(lines) && strings.HasPrefix(lines[at], "\t") {
			place, _, _ := strings.Cut(strings.TrimSpace(lines[at]), " ")
			call += " " + path.Base(place)
		}
		calls = append(calls, call)
	}
	out := state + "]: " + strings.Join(calls, " < ")
	if len(out) > maxLoopStack {
		out = strings.ToValidUTF8(out[:maxLoopStack], "") + " …"
	}
	return out
}

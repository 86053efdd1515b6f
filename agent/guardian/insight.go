package guardian

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/internal/insight"
)

const (
	// insightWait is what the worker gets to answer, beyond the time a trace takes.
	insightWait = 2 * time.Second
	// maxStacks and maxTrace bound what either process shows of itself, in bytes; a
	// trace of the worker's must fit a line of the pipe in base64.
	maxStacks = 1 << 20
	maxTrace  = pipe.MaxTrace
)

// insightState are the questions that wait for the worker to show itself.
type insightState struct {
	stacks, traces     []ask
	stacksBy, tracesBy time.Time
}

// errDeafWorker says that the worker does not answer: it is frozen, or was just started.
var errDeafWorker = fmt.Errorf("the worker did not answer within %v", insightWait)

// errNoWorker says that there is none to ask.
var errNoWorker = errors.New("no worker runs that takes orders")

// askStacks asks the worker for its stacks; the answer is a string or an error.
func (g *Guardian) askStacks(q ask, now time.Time) {
	in := &g.insight
	if in.stacks = append(in.stacks, q); len(in.stacks) > 1 {
		return // the answer under way serves all
	}
	in.stacksBy = now.Add(insightWait)
	if !g.order(pipe.Order{Stacks: true}) {
		g.answerStacks("", errNoWorker)
	}
}

func (g *Guardian) answerStacks(stacks string, err error) {
	for _, q := range g.insight.stacks {
		q.reply <- shown[string]{stacks, err}
	}
	g.insight.stacks = nil
}

// askTrace asks the worker for a trace; the answer is bytes or an error.
func (g *Guardian) askTrace(d time.Duration) func(q ask, now time.Time) {
	return func(q ask, now time.Time) {
		in := &g.insight
		if in.traces = append(in.traces, q); len(in.traces) > 1 {
			return
		}
		in.tracesBy = now.Add(d + insightWait)
		if !g.order(pipe.Order{TraceMS: d.Milliseconds()}) {
			g.answerTrace(nil, errNoWorker)
		}
	}
}

func (g *Guardian) answerTrace(trace []byte, err error) {
	for _, q := range g.insight.traces {
		q.reply <- shown[[]byte]{trace, err}
	}
	g.insight.traces = nil
}

// insightDue gives up on a worker that shows nothing.
func (g *Guardian) insightDue(now time.Time) {
	if len(g.insight.stacks) > 0 && !now.Before(g.insight.stacksBy) {
		g.answerStacks("", errDeafWorker)
	}
	if len(g.insight.traces) > 0 && !now.Before(g.insight.tracesBy) {
		g.answerTrace(nil, errDeafWorker)
	}
}

// nextDue is when a question must be given up; zero: none waits.
func (in *insightState) nextDue() (next time.Time) {
	if len(in.stacks) > 0 {
		next = in.stacksBy
	}
	if len(in.traces) > 0 && (next.IsZero() || in.tracesBy.Before(next)) {
		next = in.tracesBy
	}
	return next
}

// shown is what the worker showed, or why it did not.
type shown[T any] struct {
	it  T
	err error
}

// stacks gathers those of both processes.
func (g *Guardian) stacks(ctx context.Context) local.Stacks {
	s := local.Stacks{Guardian: insight.Stacks(maxStacks)}
	w, err := askLoop[shown[string]](ctx, g, g.askStacks)
	if err = errors.Join(err, w.err); err != nil {
		s.WorkerWhy = err.Error()
	}
	s.Worker = w.it
	return s
}

// traces records both processes for d.
func (g *Guardian) traces(ctx context.Context, d time.Duration) local.Traces {
	var t local.Traces
	done := make(chan struct{})
	go func() {
		defer close(done)
		own, err := insight.Trace(ctx, d, maxTrace)
		if t.Guardian = own; err != nil {
			t.GuardianWhy = err.Error()
		}
	}()
	w, err := askLoop[shown[[]byte]](ctx, g, g.askTrace(d))
	if err = errors.Join(err, w.err); err != nil {
		t.WorkerWhy = err.Error()
	}
	t.Worker = w.it
	<-done
	return t
}

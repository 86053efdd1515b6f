package delivery

import (
	"context"
	"sync"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// followAgain: a hint may be lost, the database is looked at this often anyway.
	followAgain = 10 * time.Second
	// followNodes is the same where other nodes may change it, whose hints may be lost.
	followNodes = 2 * time.Second
	// maxNotices bounds those kept for a slow follower; the oldest go first.
	maxNotices = 32
	// followChunk bounds the output in one event, in bytes.
	followChunk = 32 << 10
)

// watchers are those who follow commands. They are only hinted at: what they
// tell is read from the database, so a slow one blocks nobody and misses nothing.
type watchers struct {
	mu sync.Mutex
	by map[string]map[*watcher]struct{}
}

type watcher struct {
	hint    chan struct{}
	notices []operator.Event // guarded by watchers.mu
}

func (w *watchers) add(id string) *watcher {
	one := &watcher{hint: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]map[*watcher]struct{}{}
	}
	if w.by[id] == nil {
		w.by[id] = map[*watcher]struct{}{}
	}
	w.by[id][one] = struct{}{}
	return one
}

func (w *watchers) remove(id string, one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by[id], one)
	if len(w.by[id]) == 0 {
		delete(w.by, id)
	}
}

// follow reports whether anybody follows the command.
func (w *watchers) follow(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.by[id]) > 0
}

// touch hints that the command changed.
func (w *watchers) touch(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.by[id] {
		wake(one.hint)
	}
}

// notice passes a sentence to those who wait.
func (w *watchers) notice(id, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.by[id] {
		if len(one.notices) == maxNotices {
			one.notices = one.notices[1:]
		}
		one.notices = append(one.notices, operator.Event{Kind: "notice", Notice: text})
		wake(one.hint)
	}
}

func (w *watchers) notices(one *watcher) []operator.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := one.notices
	one.notices = nil
	return out
}

// Follow tells of a command: its state and output so far, then what happens,
// until an event of kind end, or ctx is done; then the channel is closed.
func (s *Service) Follow(ctx context.Context, id string) (<-chan operator.Event, error) {
	c, err := s.st.Command(ctx, id)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.stopped {
		return nil, ErrStopped
	}
	f := &follower{s: s, ctx: ctx, id: id, out: make(chan operator.Event), me: s.watchers.add(id)}
	s.followers.Go(f.run)
	if r := s.routes[c.Agent]; r != nil {
		r.post(func() { // the reason why it waits is told anew
			if j := r.jobs[id]; j != nil {
				j.told = ""
			}
		})
	}
	return f.out, nil
}

// follower is one who follows, and how far it has told.
type follower struct {
	s      *Service
	ctx    context.Context
	id     string
	out    chan operator.Event
	me     *watcher
	told   bool
	rev    int64
	stage  int64
	offset map[wire.Stream]int64
}

func (f *follower) run() {
	defer close(f.out)
	defer f.s.watchers.remove(f.id, f.me)
	f.offset = map[wire.Stream]int64{}
	every := followAgain
	if f.s.o.Cluster != nil {
		every = followNodes
	}
	again := time.NewTicker(every)
	defer again.Stop()
	for f.catchUp() {
		select {
		case <-f.me.hint:
		case <-again.C:
		case <-f.ctx.Done():
			return
		case <-f.s.stop:
			return
		}
	}
}

// send gives one event; false: nobody takes it any more.
func (f *follower) send(e operator.Event) bool {
	if e.At.IsZero() {
		e.At = f.s.o.Now().UTC()
	}
	select {
	case f.out <- e:
		return true
	case <-f.ctx.Done():
	case <-f.s.stop:
	}
	return false
}

// catchUp tells everything between what was told and what is stored; false:
// that was the end.
func (f *follower) catchUp() bool {
	notices := f.s.watchers.notices(f.me)
	c, err := f.s.st.Command(f.ctx, f.id)
	if err != nil {
		return f.failed(err)
	}
	if !f.told {
		f.told, f.rev = true, c.Rev
		if !f.send(operator.Event{Kind: "state", Command: &c.Command}) {
			return false
		}
	}
	stages, err := f.s.st.Stages(f.ctx, f.id, f.stage)
	if err != nil {
		return f.failed(err)
	}
	for _, s := range stages {
		f.stage = s.Seq
		if !f.send(operator.Event{Kind: "stage", At: s.At, Stage: &s.TraceEntry}) {
			return false
		}
	}
	if !f.output(wire.Stdout, c.StdoutBytes) || !f.output(wire.Stderr, c.StderrBytes) {
		return false
	}
	for _, n := range notices {
		if !f.send(n) {
			return false
		}
	}
	if c.State.Terminal() {
		f.send(operator.Event{Kind: "end", Command: &c.Command})
		return false
	}
	if c.Rev != f.rev {
		f.rev = c.Rev
		return f.send(operator.Event{Kind: "state", Command: &c.Command})
	}
	return true
}

// failed logs that the database could not be read; the next look may succeed.
func (f *follower) failed(err error) bool {
	if f.ctx.Err() != nil {
		return false
	}
	f.s.log.Error("a followed command could not be read", "command", f.id, "error", err)
	return true
}

// output tells a stream up to held bytes.
func (f *follower) output(stream wire.Stream, held int64) bool {
	for f.offset[stream] < held {
		at := f.offset[stream]
		data, err := f.s.st.ReadOutput(f.ctx, f.id, stream, at, min(followChunk, held-at))
		if err != nil {
			return f.failed(err)
		}
		if len(data) == 0 || !f.send(operator.Event{Kind: "output", Stream: stream, Offset: at, Data: data}) {
			return false
		}
		f.offset[stream] = at + int64(len(data))
	}
	return true
}

// Command gives one command.
func (s *Service) Command(ctx context.Context, id string) (operator.Command, error) {
	c, err := s.st.Command(ctx, id)
	return c.Command, err
}

// Filter narrows a list of commands; its Agent is an id.
type Filter = store.CommandFilter

// Commands lists commands, newest first.
func (s *Service) Commands(ctx context.Context, f Filter) ([]operator.Command, error) {
	all, err := s.st.Commands(ctx, f)
	out := make([]operator.Command, len(all))
	for i, c := range all {
		out[i] = c.Command
	}
	return out, err
}

// Output gives a stream as far as it is held without a gap.
func (s *Service) Output(ctx context.Context, id string, stream wire.Stream) ([]byte, error) {
	return s.st.ReadOutput(ctx, id, stream, 0, maxOutput)
}

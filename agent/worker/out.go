package worker

import (
	"io"
	"log/slog"
	"sync"
	"time"

	"gururmm/agent/pipe"
	"gururmm/internal/fault"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// maxUpstream bounds, in bytes, what waits for the guardian; beyond it output is
	// dropped (the server asks for what it misses), never an ack or a result.
	maxUpstream = 8 << 20
	// maxBatch bounds the upstream messages of one line, in bytes: well below [pipe.MaxLine].
	maxBatch = 1 << 20
	// guardianDeaf: a guardian that takes no line for so long will not come back to it.
	guardianDeaf = 30 * time.Second
)

// out writes facts up the pipe: one goroutine, the latest snapshot only,
// everything else in order.
type out struct {
	w      io.Writer
	log    *slog.Logger
	broken func(error) // told once that the pipe is gone

	wake chan struct{}
	done chan struct{} // the goroutine has ended

	mu       sync.Mutex
	facts    []pipe.Fact
	up       []wire.Envelope
	upBytes  int
	dropped  int // outputs
	snapshot *selfcheck.Snapshot
	same     bool
	busy     time.Time // a write is under way since; zero: none
	closing  bool
}

func newOut(w io.Writer, log *slog.Logger, broken func(error)) *out {
	return &out{w: w, log: log, broken: broken, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// send queues one fact.
func (o *out) send(f pipe.Fact) { o.add(func() { o.facts = append(o.facts, f) }) }

// report queues a snapshot in place of one that waits.
func (o *out) report(s *selfcheck.Snapshot) { o.add(func() { o.snapshot = s }) }

// unchanged tells that the last snapshot still stands.
func (o *out) unchanged() { o.add(func() { o.same = true }) }

// upstream queues a message for the second door.
func (o *out) upstream(env wire.Envelope) {
	weight := len(env.Payload) + 128
	o.add(func() {
		if env.Type == wire.TypeCommandOutput && o.upBytes+weight > maxUpstream {
			o.dropped++
			return
		}
		o.up = append(o.up, env)
		o.upBytes += weight
	})
}

func (o *out) add(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes until [out.finish] and the queue is empty, or the pipe breaks.
func (o *out) run() {
	defer close(o.done)
	for {
		f, more := o.next()
		if !more {
			return
		}
		if f == nil {
			<-o.wake
			continue
		}
		fault.Stall(faultFacts)
		fault.Stall(faultDeadlock)
		err := pipe.Write(o.w, f)
		o.mu.Lock()
		o.busy = time.Time{}
		o.mu.Unlock()
		if err == pipe.ErrTooLong {
			o.log.Error("a fact is too long for the pipe and was dropped")
			continue
		}
		if err != nil {
			o.broken(err)
			return
		}
	}
}

// next takes what is to be written; nil: nothing now. more is false at the end.
func (o *out) next() (f *pipe.Fact, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.facts) > 0:
		f = &o.facts[0]
		o.facts = o.facts[1:]
	case len(o.up) > 0:
		f = &pipe.Fact{Upstream: o.batch()}
	case o.snapshot != nil:
		f = &pipe.Fact{Snapshot: o.snapshot}
		o.snapshot, o.same = nil, false
	case o.same:
		f = &pipe.Fact{Same: true}
		o.same = false
	default:
		return nil, !o.closing
	}
	o.busy = time.Now()
	return f, true
}

// batch takes messages for one line. Call with mu held.
func (o *out) batch() []wire.Envelope {
	n, size := 0, 0
	for n < len(o.up) && (n == 0 || size+len(o.up[n].Payload) <= maxBatch) {
		size += len(o.up[n].Payload)
		o.upBytes -= len(o.up[n].Payload) + 128
		n++
	}
	batch := o.up[:n:n]
	o.up = o.up[n:]
	if len(o.up) == 0 {
		o.up = nil
		if o.dropped > 0 {
			o.log.Warn("output was dropped because the guardian took none", "pieces", o.dropped)
			o.dropped = 0
		}
	}
	return batch
}

// stuck is how long one write has been under way.
func (o *out) stuck(now time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy.IsZero() {
		return 0
	}
	return now.Sub(o.busy)
}

// restamp forgives the time in which this machine did not run.
func (o *out) restamp(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.busy.IsZero() {
		o.busy = now
	}
}

// finish lets the goroutine end when all is written, and waits for it at most wait.
func (o *out) finish(wait time.Duration) bool {
	o.add(func() { o.closing = true })
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.done:
		return true
	case <-timer.C:
		return false
	}
}

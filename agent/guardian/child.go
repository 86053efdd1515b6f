package guardian

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/agent/pipe"
	"gururmm/internal/tcpinfo"
	"gururmm/selfcheck"
)

// Child is a started worker. All of it but Wait may be used at any time.
type Child struct {
	PID    int
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser // nil: none
	// Wait returns when the process has ended, and says how. Called once.
	Wait func() error
	// Kill ends the process and all its descendants; jobs are those it was known to run.
	Kill func(jobs []selfcheck.JobFact) error
	// AskStacks makes the process write the stacks of all goroutines to its
	// standard error and end, even if none of them turns; nil: no such way here.
	AskStacks func() error
	// Outside asks the kernel about the process, which need not turn; nil: no such way here.
	Outside func() (tcpinfo.Process, error)
}

const (
	// maxOrders bounds what waits for a worker that does not read; it has then been hung for long.
	maxOrders     = 256
	maxOrderBytes = 8 << 20
	// stacksWait is what a worker gets to write its stacks before it is killed.
	stacksWait = time.Second
	// pipesWait is how long what a dead worker has still written is read; a
	// stray descendant could hold the pipe open for ever.
	pipesWait = time.Second
	// stderrRing is how much of the worker's last words is kept: the stacks of a
	// crash, not its log, which is passed on.
	stderrRing = 64 << 10
	// maxGarbled bounds the lines of one worker that are no facts: one whose memory is
	// damaged may go on to report, and keep its guardian busy. The first are logged.
	maxGarbled, garbledTold = 1000, 3
	// maxLogLine bounds one line of the worker's log.
	maxLogLine = 16 << 10
)

// outbox holds the orders for one worker; put never blocks.
type outbox struct {
	queue chan pipe.Order
	bytes atomic.Int64
	busy  atomic.Pointer[time.Time] // since when a write is under way; nil: none
	lost  atomic.Int64              // orders dropped because the worker does not read
}

func newOutbox() *outbox { return &outbox{queue: make(chan pipe.Order, maxOrders)} }

// put queues o; false: the worker does not read, and o is dropped.
func (b *outbox) put(o pipe.Order) bool {
	n := weight(o)
	if b.bytes.Load()+n > maxOrderBytes {
		b.lost.Add(1)
		return false
	}
	select {
	case b.queue <- o:
		b.bytes.Add(n)
		return true
	default:
		b.lost.Add(1)
		return false
	}
}

// pending is how long the write under way has not come through; nil: none is.
func (b *outbox) pending(now time.Time) *time.Duration {
	since := b.busy.Load()
	if since == nil {
		return nil
	}
	d := max(0, now.Sub(*since))
	return &d
}

// write empties the box into w until it breaks or done is closed. A drain is the
// last order: the end of the pipe behind it lets the worker's reader of orders end too.
func (b *outbox) write(w io.WriteCloser, done <-chan struct{}) {
	for {
		select {
		case o := <-b.queue:
			now := time.Now()
			b.busy.Store(&now)
			err := pipe.Write(w, o)
			b.busy.Store(nil)
			b.bytes.Add(-weight(o))
			if err != nil || o.Drain != nil {
				w.Close()
				return
			}
		case <-done:
			return
		}
	}
}

func weight(o pipe.Order) int64 {
	n := int64(64)
	for _, e := range o.Deliver {
		n += int64(len(e.Payload) + len(e.Sig) + len(e.Type))
	}
	if o.Policy != nil {
		n += int64(len(o.Policy.Payload))
	}
	return n
}

// life is one generation of the worker, from its start to the end of its whole process tree.
type life struct {
	gen    int
	began  time.Time
	orders *outbox
	spawn  func(context.Context) (Child, error)
	trial  bool // of a program that is not trusted yet

	kill     chan struct{} // closed: end it now
	killOnce sync.Once
	stacks   atomic.Bool                         // ask for them first
	jobs     atomic.Pointer[[]selfcheck.JobFact] // as last reported

	// Of the loop:
	pid      int
	killed   string // why we ended it ourselves; "": we did not
	killedAt time.Time
	reported time.Time // last snapshot; zero: never one
	outside  outside
}

// end asks for the end of this life, for its last stacks first if it is thought
// broken; it returns at once.
func (l *life) end(stacks bool) {
	l.killOnce.Do(func() { l.stacks.Store(stacks); close(l.kill) })
}

// lifeExit is the end of a generation; its tree is gone and its pipes are read to the end.
type lifeExit struct {
	err   error
	words string // last of its standard error
}

// live runs one generation and reports it to the loop; it returns when nothing of it is left.
func (g *Guardian) live(l *life) {
	var exit lifeExit
	child, err := l.spawn(g.helpers)
	if err != nil {
		exit.err = err
	} else {
		exit.words, exit.err = g.attend(l, child)
	}
	g.hand(func() { g.workerEnded(l, exit) })
}

// attend serves the pipes of a started child until it has ended.
func (g *Guardian) attend(l *life, child Child) (words string, err error) {
	g.hand(func() { g.workerStarted(l, child) })
	last := &ring{}
	gone := make(chan struct{})
	var waitErr error
	var wg, readers sync.WaitGroup
	wg.Go(func() { waitErr = child.Wait(); close(gone) })
	done := make(chan struct{})
	wg.Go(func() { l.orders.write(child.Stdin, done) })
	readers.Go(func() { g.readFacts(l, child.Stdout) })
	if child.Stderr != nil {
		readers.Go(func() { g.readLog(child.Stderr, last) })
	}

	select {
	case <-gone:
	case <-l.kill:
		g.putDown(l, child, gone)
	case <-g.helpers.Done():
		g.putDown(l, child, gone)
	}
	if kerr := child.Kill(l.lastJobs()); kerr != nil { // its tree, when it ended by itself
		g.log.Warn("worker's process tree could not be killed", "error", kerr)
	}
	<-gone
	close(done)
	child.Stdin.Close()
	read := make(chan struct{})
	go func() { readers.Wait(); close(read) }()
	late := time.NewTimer(pipesWait)
	select {
	case <-read:
	case <-late.C:
	}
	late.Stop()
	child.Stdout.Close()
	if child.Stderr != nil {
		child.Stderr.Close()
	}
	<-read
	wg.Wait()
	return last.String(), waitErr
}

// putDown ends a child that lives: it is asked for its stacks, which also ends it, then killed.
func (g *Guardian) putDown(l *life, child Child, gone <-chan struct{}) {
	if child.AskStacks != nil && l.stacks.Load() {
		if err := child.AskStacks(); err == nil {
			wait := time.NewTimer(stacksWait)
			defer wait.Stop()
			select {
			case <-gone:
				return
			case <-wait.C:
			}
		}
	}
	if err := child.Kill(l.lastJobs()); err != nil {
		g.log.Warn("worker could not be killed", "error", err)
	}
}

func (l *life) lastJobs() []selfcheck.JobFact {
	if p := l.jobs.Load(); p != nil {
		return *p
	}
	return nil
}

// readFacts passes on what the worker says until it says no more.
func (g *Guardian) readFacts(l *life, r io.Reader) {
	lines := pipe.NewReader[pipe.Fact](r)
	garbled := 0
	for {
		fact, err := lines.Read()
		switch {
		case errors.Is(err, pipe.ErrGarbled):
			if garbled++; garbled <= garbledTold {
				g.log.Warn("worker said something that is no fact", "error", err, "lines", garbled)
			}
			if garbled <= maxGarbled {
				continue
			}
			g.log.Error("worker writes garbage: it is ended", "lines", garbled)
			l.end(true)
			io.Copy(io.Discard, r) // see below
			return
		case errors.Is(err, pipe.ErrTooLong):
			g.log.Error("worker's pipe can't be followed any further", "error", err)
			l.end(true)
			io.Copy(io.Discard, r) // until it is dead: it must not block on its pipe while it writes its stacks
			return
		case err != nil:
			return
		}
		if fact.Snapshot != nil {
			l.jobs.Store(&fact.Snapshot.Jobs.Jobs)
		}
		if !g.hand(func() { g.take(l, fact) }) {
			return
		}
	}
}

// readLog passes the worker's log through line by line and keeps the last of it.
func (g *Guardian) readLog(r io.Reader, last *ring) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n') // a longer line comes in pieces
		if len(line) > 0 {
			if line[0] != '{' {
				last.Write(line)
			}
			if g.cfg.WorkerLog != nil {
				g.cfg.WorkerLog.Write(line)
			} else {
				g.log.Info("worker says", "line", string(bytes.TrimRight(line, "\n")))
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// ring keeps the last [stderrRing] bytes. One goroutine writes; it is read after that has ended.
type ring struct{ buf []byte }

func (r *ring) Write(p []byte) (int, error) {
	if len(r.buf)+len(p) > 2*stderrRing {
		keep := max(0, len(r.buf)-stderrRing)
		r.buf = append(r.buf[:0], r.buf[keep:]...)
	}
	r.buf = append(r.buf, p...)
	return len(p), nil
}

func (r *ring) String() string {
	return string(r.buf[max(0, len(r.buf)-stderrRing):])
}

// order hands o to the worker, if there is one that reads.
func (g *Guardian) order(o pipe.Order) bool {
	if g.worker.life == nil {
		return false
	}
	if !g.worker.life.orders.put(o) {
		g.log.Warn("worker does not read its orders: one is dropped", slog.Int64("dropped", g.worker.life.orders.lost.Load()))
		return false
	}
	return true
}

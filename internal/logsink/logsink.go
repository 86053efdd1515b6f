// Package logsink keeps a log's reader from holding up who writes it: a pipe that
// nobody empties, a terminal that was stopped, a disk that hangs.
//
//   - [Sink.Write] takes a copy and returns at once; one goroutine for each destination
//     writes, in order. Two destinations are two sinks: one that stands still doesn't
//     hold up the other one.
//   - The queue is bounded. When it is full the newest lines are dropped and counted; how
//     many is told by a line in their place, once half of the queue is free again.
//   - [Sink.Flush] and [Sink.Close] wait for a bounded time. A goroutine that stands in a
//     write which never returns is left behind: nothing can end it but the process's end.
package logsink

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	maxLines = 4096      // a dump of stacks has many short ones
	maxBytes = 256 << 10 // waiting
	// flushWait is what a reader gets to take what waits, at a stop.
	flushWait = time.Second
)

// ErrUnread says that the destination did not take all in time.
var ErrUnread = errors.New("log is not read: its last lines are lost")

// Sink is an io.Writer that never blocks. Each Write is one line, or a piece of one.
type Sink struct {
	w    io.Writer
	done chan struct{} // closed when its goroutine has ended

	mu      sync.Mutex
	wake    sync.Cond
	queue   []entry
	bytes   int   // in queue
	dropped int64 // since the last line that was queued
	closed  bool
}

// entry is a line, or the mark that all before it is written.
type entry struct {
	line []byte
	mark chan struct{}
}

// New starts a sink for lines of JSON. What w answers is not looked at: a log that
// can't be written is no reason to stop.
func New(w io.Writer) *Sink {
	s := &Sink{w: w, done: make(chan struct{})}
	s.wake.L = &s.mu
	go s.run()
	return s
}

// Write queues a copy of p, or drops it. It gives len(p), nil always.
func (s *Sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(p) == 0 {
		return len(p), nil
	}
	lines, bytes := maxLines, maxBytes
	if s.dropped > 0 { // half at once, not one line and one note in turns
		lines, bytes = lines/2, bytes/2
	}
	if len(s.queue) >= lines || s.bytes+len(p) > bytes && len(s.queue) > 0 {
		s.dropped++
		return len(p), nil
	}
	s.tellDropped()
	s.put(entry{line: append([]byte(nil), p...)})
	return len(p), nil
}

// tellDropped queues the count of what was dropped, if any.
func (s *Sink) tellDropped() {
	if s.dropped == 0 {
		return
	}
	s.put(entry{line: fmt.Appendf(nil, `{"level":"warn","dropped":%d,"time":%q,"message":"log was not read in time: lines are missing here"}`+"\n",
		s.dropped, time.Now().Format(time.RFC3339Nano))})
	s.dropped = 0
}

func (s *Sink) put(e entry) {
	s.queue = append(s.queue, e)
	s.bytes += len(e.line)
	s.wake.Signal()
}

func (s *Sink) run() {
	defer close(s.done)
	torn := false // the last line, by a piece that was dropped perhaps
	for {
		e, ok := s.next()
		if !ok {
			return
		}
		if e.mark != nil {
			close(e.mark)
			continue
		}
		if torn && e.line[0] == '{' {
			s.w.Write([]byte("\n"))
		}
		torn = e.line[len(e.line)-1] != '\n'
		s.w.Write(e.line)
	}
}

// next waits for an entry; false: there will be none.
func (s *Sink) next() (entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		s.queue = nil // an idle sink holds no memory
		if s.tellDropped(); len(s.queue) > 0 {
			break
		}
		if s.closed {
			return entry{}, false
		}
		s.wake.Wait()
	}
	e := s.queue[0]
	s.queue[0] = entry{}
	s.queue = s.queue[1:]
	s.bytes -= len(e.line)
	return e, true
}

// Flush waits until what was written so far is at the destination, for 1 s at most;
// then it gives [ErrUnread].
func (s *Sink) Flush() error {
	mark := make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.await(s.done)
	}
	s.tellDropped()
	s.put(entry{mark: mark})
	s.mu.Unlock()
	return s.await(mark)
}

// Close flushes, for 1 s at most, and takes no more lines. With [ErrUnread] the destination is
// in use still: it must not be closed, that might wait for the write.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	return s.await(s.done)
}

func (s *Sink) await(ch <-chan struct{}) error {
	late := time.NewTimer(flushWait)
	defer late.Stop()
	select {
	case <-ch:
		return nil
	case <-late.C:
		return ErrUnread
	}
}

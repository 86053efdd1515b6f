// Package insight shows a process from inside, when asked: the stacks of its
// goroutines, and a runtime trace of a moment. Neither costs anything while nobody asks.
package insight

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/trace"
	"sync"
	"time"
)

// ErrCut says that a trace was ended, or its end cut off, for its size.
var ErrCut = errors.New("the trace reached its size limit")

// Stacks gives the stacks of all goroutines, cut off at limit bytes. The world
// stops for it, for less than a millisecond in a process like ours.
func Stacks(limit int) string {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, min(size, limit))
		n := runtime.Stack(buf, true)
		if n < len(buf) || size >= limit {
			return string(buf[:n])
		}
	}
}

// Trace records what the runtime does (go tool trace) for d, until ctx ends, or
// until the record nears limit bytes. There is one at a time in a process: a
// second one is an error. With [ErrCut] there is a trace all the same.
func Trace(ctx context.Context, d time.Duration, limit int) ([]byte, error) {
	to := &capped{limit: limit, near: make(chan struct{})}
	if err := trace.Start(to); err != nil {
		return nil, fmt.Errorf("runtime trace: %w", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-to.near:
	case <-ctx.Done():
	}
	trace.Stop() // returns once all is written
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.lost > 0 || len(to.buf) >= limit/2 {
		return to.buf, fmt.Errorf("%w: it covers less than %v, %d bytes of its end are missing", ErrCut, d, to.lost)
	}
	return to.buf, nil
}

// capped keeps the first bytes, and tells when half of the room is taken: the
// runtime still hands over what it has buffered when it is told to stop.
type capped struct {
	limit int
	near  chan struct{}
	once  sync.Once

	mu   sync.Mutex
	buf  []byte
	lost int
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.limit-len(c.buf))
	c.buf = append(c.buf, p[:n]...)
	c.lost += len(p) - n
	if len(c.buf) >= c.limit/2 {
		c.once.Do(func() { close(c.near) })
	}
	return len(p), nil
}

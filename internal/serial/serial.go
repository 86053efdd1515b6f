// Package serial runs work in order, one piece at a time, without a goroutine
// while there is none: a server that holds many quiet links pays nothing for
// their queues.
package serial

import (
	"errors"
	"sync"

	"gururmm/internal/crew"
)

// Errors of [Queue.Push].
var (
	ErrFull   = errors.New("queue is full")
	ErrClosed = errors.New("queue is closed")
)

// Queue hands items to one handler in order. Push never blocks. The zero value
// is not usable; see [New].
type Queue[T any] struct {
	handle func(T)
	limit  int
	crew   *crew.Crew
	behind func()

	mu      sync.Mutex
	items   []T
	size    int
	running bool
	closed  bool
	wg      sync.WaitGroup
}

// New makes a queue whose items may weigh limit together, in the caller's unit.
func New[T any](limit int, handle func(T)) *Queue[T] {
	return &Queue[T]{handle: handle, limit: limit}
}

// On has the handler run by c, and behind called, by the same goroutine, each time that there
// is nothing more to handle: what is pushed then has another handler already, which waits for
// nothing that behind waits for. Call it before the first Push.
func (q *Queue[T]) On(c *crew.Crew, behind func()) *Queue[T] {
	q.crew, q.behind = c, behind
	return q
}

// Push appends item of the given weight. The error is [ErrFull] or [ErrClosed].
func (q *Queue[T]) Push(item T, weight int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return ErrClosed
	case q.size+weight > q.limit && len(q.items) > 0:
		return ErrFull
	}
	q.items = append(q.items, item)
	q.size += weight
	if !q.running {
		q.running = true
		q.wg.Add(1)
		q.crew.Go(q.drain)
	}
	return nil
}

func (q *Queue[T]) drain() {
	defer q.wg.Done()
	for {
		q.mu.Lock()
		if len(q.items) == 0 || q.closed {
			q.items, q.size, q.running = nil, 0, false
			q.mu.Unlock()
			if q.behind != nil {
				q.behind()
			}
			return
		}
		batch := q.items
		q.items, q.size = nil, 0
		q.mu.Unlock()
		for _, item := range batch {
			q.handle(item)
		}
	}
}

// Len counts the items not yet taken by the handler.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// Close drops what is queued and refuses more; Wait waits for the handler.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

// Wait returns when no handler runs. Call it after Close, never from the handler.
func (q *Queue[T]) Wait() { q.wg.Wait() }

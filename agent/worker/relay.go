package worker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// maxLeft bounds the goroutines of one loop that are left behind hanging; with
// more of them a fresh process is due.
const maxLeft = 2

// relay is a loop that can be handed to a fresh goroutine when the one that runs
// it hangs. A goroutine can't be ended from outside: it is left behind, its token
// revoked, and whatever it still did must look at that first.
type relay struct {
	run func(ctx context.Context, by *token)

	mu   sync.Mutex
	cur  *token
	end  context.CancelFunc
	ends []<-chan struct{} // of those replaced
}

func newRelay(run func(ctx context.Context, by *token)) *relay {
	return &relay{run: run, cur: newToken()}
}

// start runs the loop until ctx ends.
func (r *relay) start(ctx context.Context, c *children, name string) {
	ctx, end := context.WithCancel(ctx)
	done := make(chan struct{})
	r.mu.Lock()
	by := r.cur
	r.end = end
	r.ends = append(r.ends, done)
	r.mu.Unlock()
	c.Go(name, func() {
		defer close(done)
		defer end()
		r.run(ctx, by)
	})
}

// replace hands the loop to a fresh goroutine. between is run when the old one is
// fenced off and the new one not yet begun.
func (r *relay) replace(ctx context.Context, c *children, name string, between func(to *token)) error {
	r.mu.Lock()
	hanging := r.ends[:0]
	for _, done := range r.ends {
		select {
		case <-done:
		default:
			hanging = append(hanging, done)
		}
	}
	r.ends = hanging
	if len(hanging) > maxLeft {
		r.mu.Unlock()
		return errors.New("too many goroutines of it hang already")
	}
	old, end := r.cur, r.end
	r.cur = newToken()
	to := r.cur
	r.mu.Unlock()
	old.revoked.Store(true)
	end()
	if between != nil {
		between(to)
	}
	r.start(ctx, c, name)
	return nil
}

func (r *relay) token() *token {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cur
}

func (r *relay) post(now time.Time)                   { r.token().post(now) }
func (r *relay) restamp(now time.Time)                { r.token().restamp(now) }
func (r *relay) pending(now time.Time) *time.Duration { return r.token().pending(now) }

package worker

import (
	"maps"
	"slices"
	"sync"
)

// children are the goroutines of a run, by name: one that hangs at the end can be named.
type children struct {
	wg sync.WaitGroup

	mu      sync.Mutex
	running map[string]int
}

func (c *children) Go(name string, f func()) {
	c.count(name, 1)
	c.wg.Go(func() {
		defer c.count(name, -1)
		f()
	})
}

func (c *children) Wait() { c.wg.Wait() }

func (c *children) count(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		c.running = map[string]int{}
	}
	if c.running[name] += n; c.running[name] == 0 {
		delete(c.running, name)
	}
}

// left names those that have not ended.
func (c *children) left() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.running))
}

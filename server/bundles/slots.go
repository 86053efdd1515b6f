package bundles

import (
	"context"
	"sync"
)

// slots let one at a time do something for an agent. Waiting ends with a context,
// and no lock is held meanwhile.
type slots struct {
	mu sync.Mutex
	by map[string]*slot
}

type slot struct {
	taken chan struct{} // holds one who has it
	users int           // who has it or waits for it
}

func (s *slots) of(agent string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.by[agent]
	if l == nil {
		l = &slot{taken: make(chan struct{}, 1)}
		s.by[agent] = l
	}
	l.users++
	return l
}

func (s *slots) leave(agent string, l *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.by, agent)
	}
}

// take waits for agent's slot until ctx ends.
func (s *slots) take(ctx context.Context, agent string) (release func(), err error) {
	l := s.of(agent)
	select {
	case l.taken <- struct{}{}:
		return func() { <-l.taken; s.leave(agent, l) }, nil
	case <-ctx.Done():
		s.leave(agent, l)
		return nil, ctx.Err()
	}
}

// try takes agent's slot if it is free at once.
func (s *slots) try(agent string) (release func(), ok bool) {
	l := s.of(agent)
	select {
	case l.taken <- struct{}{}:
		return func() { <-l.taken; s.leave(agent, l) }, true
	default:
		s.leave(agent, l)
		return nil, false
	}
}

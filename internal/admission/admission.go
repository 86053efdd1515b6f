// Package admission keeps a crowd from doing all its work at once, and none of it in
// time: so many at a time are let in, some wait for a moment, and the rest are told at
// once when to come back, each at a time of its own.
package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// Longest is the most that somebody is asked to wait before it comes back.
	Longest = time.Minute
	// guess stands in for how long a place is held, before the first was given back.
	guess = 100 * time.Millisecond
	// weight of the newest in the average of how long places are held.
	weight = 0.05
)

// Busy says that there is no room now.
type Busy struct {
	// After is when there will be: a turn of its own for each that is sent away, one
	// behind the other as fast as places were given back lately.
	After time.Duration
}

func (b *Busy) Error() string {
	return fmt.Sprintf("too many at once; come back in %v", b.After.Round(time.Second))
}

// Gate bounds what is under way of one kind.
type Gate struct {
	places   chan struct{} // one for each that is in
	crowd    int           // most that wait
	patience time.Duration // how long each waits

	mu      sync.Mutex
	waiting int
	hold    time.Duration // how long a place is held, on average
	booked  time.Time     // the turn of the last one that was sent away
	refused uint64
}

// New makes a gate of so many places, before which crowd more wait, each as long as
// patience.
func New(places, crowd int, patience time.Duration) *Gate {
	return &Gate{places: make(chan struct{}, places), crowd: crowd, patience: patience, hold: guess}
}

// Enter takes a place; leave gives it back, and may be called more than once. The error
// is a [*Busy], or that of ctx.
func (g *Gate) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
		return g.held(), nil
	default:
	}
	g.mu.Lock()
	if g.waiting >= g.crowd {
		defer g.mu.Unlock()
		return nil, g.turn(time.Now())
	}
	g.waiting++
	g.mu.Unlock()
	patience := time.NewTimer(g.patience)
	defer patience.Stop()
	in := false
	select {
	case g.places <- struct{}{}:
		in = true
	case <-patience.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting--
	switch {
	case in:
		return g.held(), nil
	case err == nil:
		err = g.turn(time.Now())
	}
	return nil, err
}

func (g *Gate) held() func() {
	since := time.Now()
	return sync.OnceFunc(func() {
		<-g.places
		g.mu.Lock()
		defer g.mu.Unlock()
		g.hold += time.Duration(weight * float64(time.Since(since)-g.hold))
	})
}

// turn gives the next one that is sent away its time. Call with mu held.
func (g *Gate) turn(now time.Time) *Busy {
	g.refused++
	each := max(time.Microsecond, g.hold/time.Duration(cap(g.places)))
	if soon := now.Add(time.Duration(g.waiting) * each); g.booked.Before(soon) {
		g.booked = soon
	}
	g.booked = g.booked.Add(each)
	after := g.booked.Sub(now)
	if after > Longest { // more than can be promised: they are spread, and told again
		g.booked = now.Add(Longest)
		after = Longest/2 + rand.N(Longest/2)
	}
	return &Busy{After: after}
}

// Stats of a gate at one moment.
type Stats struct {
	In, Waiting int
	Refused     uint64 // since its start
}

// Stats counts who is in, who waits and who was sent away.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{In: len(g.places), Waiting: g.waiting, Refused: g.refused}
}

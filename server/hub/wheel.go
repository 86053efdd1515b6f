package hub

import (
	"container/heap"
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/crew"
)

// wheel is the one goroutine that keeps the deadlines and pings of all links:
// a heap of the next visit of each. A quiet link costs one entry, no timer.
type wheel struct {
	base   time.Time // of since
	mu     sync.Mutex
	due    visits
	wakeup chan struct{} // the earliest visit moved
}

// wheelEntry is a link's place in the wheel.
type wheelEntry struct {
	// at is when it is visited, as wheel.since tells it; of one that is held, the earliest that
	// the next visit was asked for. Read without the lock: each text that is sent asks for a
	// visit, and nearly always there will be one in time.
	at    atomic.Int64
	index int // in the heap, plus 1; 0: not in it
	// held: a visit is under way.
	held, ended bool
}

func newWheel() *wheel { return &wheel{base: time.Now(), wakeup: make(chan struct{}, 1)} }

// since is a time as the wheel keeps it.
func (w *wheel) since(t time.Time) int64 { return int64(t.Sub(w.base)) }

// unset is in place of a time while none is set: a visit is under way, or none will be.
const unset = math.MaxInt64

// add has l visited from now on.
func (w *wheel) add(l *link) { w.atLatest(l, time.Now()) }

// atLatest has l visited at t, or earlier if it was due earlier.
func (w *wheel) atLatest(l *link, t time.Time) {
	e, at := &l.entry, w.since(t)
	if e.at.Load() <= at {
		return
	}
	w.mu.Lock()
	first := false
	switch {
	case e.ended || e.at.Load() <= at:
	case e.held:
		e.at.Store(at)
	case e.index == 0:
		e.at.Store(at)
		heap.Push(&w.due, l)
		first = e.index == 1
	default:
		e.at.Store(at)
		w.due[e.index-1].at = at
		heap.Fix(&w.due, e.index-1)
		first = e.index == 1
	}
	w.mu.Unlock()
	if first {
		select {
		case w.wakeup <- struct{}{}:
		default:
		}
	}
}

// remove ends the visits of l.
func (w *wheel) remove(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.entry.ended = true
	if l.entry.index > 0 {
		heap.Remove(&w.due, l.entry.index-1)
	}
}

// take gives the next link that is due, or how long to wait for one.
func (w *wheel) take(now time.Time) (*link, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) == 0 {
		return nil, time.Hour
	}
	if wait := w.due[0].at - w.since(now); wait > 0 {
		return nil, time.Duration(wait)
	}
	l := heap.Pop(&w.due).(*link)
	l.entry.held = true
	l.entry.at.Store(unset)
	return l, 0
}

// back returns l after its visit, to be visited again at t or earlier if that was asked for meanwhile.
func (w *wheel) back(l *link, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &l.entry
	e.held = false
	if e.ended {
		return
	}
	e.at.Store(min(e.at.Load(), w.since(t)))
	heap.Push(&w.due, l)
}

// together is when a link that is pinged now is pinged next: at most an interval later, and at
// one of few moments, so that one waking of this process, and of what reads the answers, is
// for many.
func (w *wheel) together(now time.Time, interval time.Duration) time.Time {
	at := now.Sub(w.base) + interval
	if even := at.Truncate(interval / 120); even > now.Sub(w.base) {
		at = even
	}
	return w.base.Add(at)
}

const (
	// pingedAtOnce bounds how many links one job pings, one after the other.
	pingedAtOnce = 32
	// pingStuck is how long one of them may hold the others up: its peer takes nothing, and what
	// was written before has just filled all the room there was.
	pingStuck = 100 * time.Millisecond
)

// pings are links that are pinged one after the other.
type pings struct {
	links []*link
	taken atomic.Int32
}

// write pings those that nobody has taken yet. If one holds it up, another one goes on with the
// rest, so there are never more at it than links. c runs them: each link waits for its own.
func (p *pings) write(c *crew.Crew) {
	more := time.AfterFunc(pingStuck, func() {
		if int(p.taken.Load()) < len(p.links) {
			c.Go(func() { p.write(c) })
		}
	})
	defer more.Stop()
	for i := p.taken.Add(1); int(i) <= len(p.links); i = p.taken.Add(1) {
		p.links[i-1].conn.PingNow(false)
	}
}

// run visits links as they become due until ctx ends. c writes their pings.
func (w *wheel) run(ctx context.Context, c *crew.Crew) {
	var due []*link
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		l, wait := w.take(now)
		if l != nil {
			next, ping := l.visit(now)
			w.back(l, next)
			if ping {
				due = append(due, l)
			}
		}
		if len(due) == pingedAtOnce || l == nil && len(due) > 0 {
			batch := &pings{links: due}
			due = nil
			c.Go(func() { batch.write(c) })
		}
		if l != nil {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.wakeup:
		case <-ctx.Done():
			return
		}
	}
}

// spread draws the first interval of a steady one, so that links that opened
// together do not ping together.
func spread(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// visits is a heap of links by the time of their next visit.
type visits []visit

// visit is one; at is that of the link, which is far away where many are compared.
type visit struct {
	at int64
	l  *link
}

func (v visits) Len() int           { return len(v) }
func (v visits) Less(i, j int) bool { return v[i].at < v[j].at }
func (v visits) Swap(i, j int) {
	v[i], v[j] = v[j], v[i]
	v[i].l.entry.index, v[j].l.entry.index = i+1, j+1
}

// Push implements heap.Interface.
func (v *visits) Push(x any) {
	l := x.(*link)
	*v = append(*v, visit{l.entry.at.Load(), l})
	l.entry.index = len(*v)
}

// Pop implements heap.Interface.
func (v *visits) Pop() any {
	old := *v
	l := old[len(old)-1].l
	old[len(old)-1] = visit{}
	*v = old[:len(old)-1]
	l.entry.index = 0
	return l
}

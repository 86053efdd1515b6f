package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/server/store"
)

// ledger is a database of nodes in memory, with the time of the bubble.
type ledger struct {
	mu     sync.Mutex
	until  map[string]time.Time
	leader string
	joins  int
	topics []string
}

// seat is one node's part of it.
type seat struct {
	store.Nodes // what is not asked for here
	l           *ledger
	name        string
	id          string
	down        bool // it is not answered
}

var errDown = errors.New("no database")

func (s *seat) Node() string {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.id
}

func (s *seat) wait(ctx context.Context) error {
	s.l.mu.Lock()
	down := s.down
	s.l.mu.Unlock()
	if !down {
		return nil
	}
	select { // as a network that swallows everything
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
		return errDown
	}
}

func (s *seat) Join(ctx context.Context, _ string) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.joins++
	s.id = s.name + string(rune('0'+s.l.joins))
	s.l.until[s.id] = time.Now().Add(Lease)
	return nil
}

func (s *seat) Beat(ctx context.Context) (b store.Beat, err error) {
	if err := s.wait(ctx); err != nil {
		return b, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if _, there := s.l.until[s.id]; !there {
		return b, store.ErrLeaseLost
	}
	s.l.until[s.id] = time.Now().Add(Lease)
	for id, until := range s.l.until {
		if time.Now().After(until) {
			delete(s.l.until, id)
			b.Ended = append(b.Ended, store.Node{ID: id, Name: id})
			continue
		}
		b.Living = append(b.Living, store.Node{ID: id, Name: id})
	}
	if _, there := s.l.until[s.l.leader]; !there {
		s.l.leader = s.id
	}
	b.Leads = s.l.leader == s.id
	return b, nil
}

func (s *seat) Changes(ctx context.Context, after int64) ([]string, int64, error) {
	if err := s.wait(ctx); err != nil {
		return nil, after, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	next := int64(len(s.l.topics)) + 1
	if after == 0 {
		return nil, next, nil
	}
	return slices.Clone(s.l.topics[after-1:]), next, nil
}

func (s *seat) Orphaned(context.Context) ([]string, error) { return nil, nil }

func (s *seat) Lives(_ context.Context, id string) (bool, error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	_, there := s.l.until[id]
	return there, nil
}

// watch is what a cluster has called.
type watch struct {
	mu     sync.Mutex
	lost   []time.Time
	joined int
	ended  []string
	looked []string
	fail   bool // to look
}

func (w *watch) options(s *seat, bus Bus) Options {
	return Options{
		Nodes: s, Name: s.name, Bus: bus, Log: slog.New(slog.DiscardHandler),
		Look: func(_ context.Context, topics []string) []string {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.fail {
				return topics
			}
			w.looked = append(w.looked, topics...)
			return nil
		},
		Heard: func(command, notice string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looked = append(w.looked, command+":"+notice)
		},
		Lost: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lost = append(w.lost, time.Now())
		},
		Joined: func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.joined++
			return nil
		},
		Ended: func(nodes map[string]bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for id := range nodes {
				w.ended = append(w.ended, id)
			}
		},
	}
}

func (w *watch) seen() (looked []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.looked)
}

// told is what was called until now.
func (w *watch) told() (lost []time.Time, joined int, ended []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lost), w.joined, slices.Clone(w.ended)
}

func run(t *testing.T, c *Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// A node from which the database is away gives up before others may take over, and joins
// anew; the others take the lead, and it is told whose lease is over.
func TestLeaseIsGivenUpBeforeItIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{until: map[string]time.Time{}}
		sa, sb := &seat{l: l, name: "a"}, &seat{l: l, name: "b"}
		var wa, wb watch
		a, err := Join(t.Context(), wa.options(sa, nil))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Join(t.Context(), wb.options(sb, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, a)()
		defer run(t, b)()
		time.Sleep(time.Minute)
		if lost, _, _ := wa.told(); !a.Leads() || b.Leads() || len(lost) > 0 {
			t.Fatalf("a leads: %v, b: %v, lost %v", a.Leads(), b.Leads(), lost)
		}
		was := sa.Node()
		l.mu.Lock()
		sa.down = true
		over := l.until[was]
		l.mu.Unlock()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if lost, _, _ := wa.told(); len(lost) != 1 || !lost[0].Before(over) || over.Sub(lost[0]) > 2*time.Second {
			t.Errorf("its lease is over at %v, given up at %v", over, lost)
		}
		if a.Leads() || a.State().Lease == nil || !b.Leads() {
			t.Errorf("a leads: %v, %v; b: %v", a.Leads(), a.State().Lease, b.Leads())
		}
		_, _, told := wb.told()
		if ended, _, err := b.Ended(t.Context(), was); !ended || err != nil || !slices.Contains(told, was) {
			t.Errorf("b knows of its end: %v, %v, told %v", ended, err, told)
		}
		l.mu.Lock()
		sa.down = false
		l.mu.Unlock()
		time.Sleep(2 * roundEvery)
		synctest.Wait()
		if _, joined, _ := wa.told(); joined != 1 || sa.Node() == was || a.State().Lease != nil || a.Leads() {
			t.Errorf("joined %d times, as %s, %+v", joined, sa.Node(), a.State())
		}
		if s := a.State(); s.Losses != 1 || len(s.Living) != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// What changed is found once a round without a bus, and what could not be looked at is again.
func TestChangesAreFoundWithoutABus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{until: map[string]time.Time{}, topics: []string{"c/old"}}
		var w watch
		c, err := Join(t.Context(), w.options(&seat{l: l, name: "a"}, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, c)()
		synctest.Wait()
		l.mu.Lock()
		l.topics = append(l.topics, "c/new")
		l.mu.Unlock()
		time.Sleep(roundEvery + time.Millisecond)
		if got := w.seen(); !slices.Equal(got, []string{"c/new"}) {
			t.Errorf("looked at %q", got)
		}
		w.mu.Lock()
		w.fail = true
		w.mu.Unlock()
		l.mu.Lock()
		l.topics = append(l.topics, "a/again")
		l.mu.Unlock()
		time.Sleep(3 * roundEvery)
		w.mu.Lock()
		w.fail = false
		w.mu.Unlock()
		time.Sleep(roundEvery + time.Millisecond)
		if got := w.seen(); !slices.Equal(got, []string{"c/new", "a/again"}) {
			t.Errorf("looked at %q", got)
		}
	})
}

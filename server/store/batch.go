package store

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"gururmm/wire"
)

// batchEvery: signs of life are written this often at most. A crash loses that
// much of "last seen", which the next heartbeat mends; a thousand agents cost
// one transaction instead of a thousand.
const batchEvery = 2 * time.Second

// batch gathers what may be written late: the latest of each kind per agent.
type batch struct {
	d *database

	mu      sync.Mutex
	seen    map[string]sign
	metrics map[string]wire.Metrics
	used    map[string]time.Time // operator tokens by name
	events  noted
	timer   *time.Timer // armed while something waits
	closed  bool
	writing sync.WaitGroup
	// eventing is full while events are written.
	eventing chan struct{}
}

type sign struct {
	at  time.Time
	via string
}

func newBatch(d *database) *batch {
	b := &batch{d: d, events: noted{}, eventing: make(chan struct{}, 1)}
	b.clear()
	return b
}

// clear forgets what is gathered but the events. Call with mu held, or before b is shared.
func (b *batch) clear() {
	b.seen, b.metrics, b.used = map[string]sign{}, map[string]wire.Metrics{}, map[string]time.Time{}
}

// note changes the batch and has it written soon.
func (b *batch) note(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	change()
	b.arm()
}

// arm has the batch written soon. Call with mu held.
func (b *batch) arm() {
	if b.timer == nil && !b.closed {
		b.writing.Add(1)
		b.timer = time.AfterFunc(batchEvery, func() {
			defer b.writing.Done()
			ctx, cancel := context.WithTimeout(context.Background(), 2*busyTimeout)
			defer cancel()
			if err := b.flush(ctx); err != nil {
				b.d.log.Error("signs of life or events could not be written", "error", err)
			}
		})
	}
}

func (d *database) Seen(agent string, at time.Time, via string) {
	d.batch.note(func() {
		if at.After(d.batch.seen[agent].at) {
			d.batch.seen[agent] = sign{at, via}
		}
	})
}

func (d *database) SaveMetrics(agent string, m wire.Metrics) {
	d.batch.note(func() { d.batch.metrics[agent] = m })
}

func (d *database) Flush(ctx context.Context) error { return d.batch.flush(ctx) }

func (b *batch) flush(ctx context.Context) error {
	return errors.Join(b.flushSigns(ctx), b.flushEvents(ctx))
}

func (b *batch) flushSigns(ctx context.Context) error {
	b.mu.Lock()
	seen, metrics, used := b.seen, b.metrics, b.used
	b.clear()
	if b.timer != nil && b.timer.Stop() {
		b.writing.Done()
	}
	b.timer = nil
	b.mu.Unlock()
	if len(seen)+len(metrics)+len(used) == 0 {
		return nil
	}
	return b.d.group.do(ctx, func(tx *txn) error {
		// In order: nodes of a cluster that write the same rows must not wait for each other.
		for _, agent := range slices.Sorted(maps.Keys(seen)) {
			s := seen[agent]
			if _, err := tx.Exec(`UPDATE agents SET last_seen = ?1, last_via = ?2 WHERE id = ?3 AND coalesce(last_seen, 0) < ?1`,
				micros(s.at), s.via, agent); err != nil {
				return err
			}
		}
		for _, agent := range slices.Sorted(maps.Keys(metrics)) {
			m := metrics[agent]
			raw, err := json.Marshal(m)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(`UPDATE agents SET metrics = ? WHERE id = ?`, string(raw), agent); err != nil {
				return err
			}
		}
		for name, at := range used {
			if _, err := tx.Exec(`UPDATE operator_tokens SET last_used = ? WHERE name = ?`, micros(at), name); err != nil {
				return err
			}
		}
		return nil
	})
}

// overlay shows an agent with what is not written yet.
func (b *batch) overlay(a *Agent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.seen[a.ID]; ok && (a.LastSeen == nil || s.at.After(*a.LastSeen)) {
		at := s.at.UTC().Truncate(time.Microsecond)
		a.LastSeen, a.LastVia = &at, s.via
	}
	if m, ok := b.metrics[a.ID]; ok {
		a.Metrics = &m
	}
}

// close writes what is left and takes no more.
func (b *batch) close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*busyTimeout)
	defer cancel()
	err := b.flush(ctx)
	b.writing.Wait()
	return err
}

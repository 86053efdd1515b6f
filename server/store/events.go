package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"gururmm/operator"
)

// AgentEvents are what changed about agents, bounded by number and age.
type AgentEvents interface {
	// NoteEvent keeps a change. It never blocks; written in batches, in order of time.
	// From is the store's to know but for a link's, a probe's, a step's and an outcome's: a change to what
	// was stored last of that kind is none, nor is a step or outcome that is kept already. One of an agent that was purged leaves nothing.
	NoteEvent(e operator.AgentEvent)
	// AgentEvents lists what was written.
	AgentEvents(ctx context.Context, f EventFilter) ([]operator.AgentEvent, error)
}

// EventFilter narrows a list. Zero fields do not.
type EventFilter struct {
	Agent string    // id
	Since time.Time // not before
	// After, if given, lists those with Seq above it, the oldest first; else the newest come first.
	After *int64
	Limit int // as in CommandFilter
}

const (
	// KeepAgentEvents is how many events of each agent stay.
	KeepAgentEvents = 500
	// KeepAgentEventsFor is how long they stay, counted back from the newest that is written.
	KeepAgentEventsFor = 90 * 24 * time.Hour
	// eventsAtOnce bounds the events of one write: some milliseconds, so that a fleet that
	// returns does not keep the writer from commands.
	eventsAtOnce = 64
	// forgetAtOnce bounds the old events that go with one write; more than come with it.
	forgetAtOnce = 4 * eventsAtOnce
)

func (d *database) NoteEvent(e operator.AgentEvent) {
	d.batch.note(func() { d.batch.events.add(e) })
}

// noted are events not written yet, by agent, each in order.
type noted map[string][]operator.AgentEvent

// add drops an agent's oldest where it has more than would be kept of it.
func (n noted) add(e operator.AgentEvent) {
	q := append(n[e.Agent], e)
	n[e.Agent] = q[max(0, len(q)-KeepAgentEvents):]
}

// inOrder gives all in order of time.
func (n noted) inOrder() []operator.AgentEvent {
	var all []operator.AgentEvent
	for _, q := range n {
		all = append(all, q...)
	}
	slices.SortStableFunc(all, func(a, b operator.AgentEvent) int { return a.At.Compare(b.At) })
	return all
}

// flushEvents writes what is noted, a few at a time; what can't be written stays noted.
// One at a time does it, so that an agent's events keep their order.
func (b *batch) flushEvents(ctx context.Context) error {
	select {
	case b.eventing <- struct{}{}:
		defer func() { <-b.eventing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	b.mu.Lock()
	all := b.events.inOrder()
	b.events = noted{}
	b.mu.Unlock()
	for len(all) > 0 {
		some := all[:min(len(all), eventsAtOnce)]
		if err := b.d.group.do(ctx, func(tx *txn) error { return b.d.saveEvents(tx, some) }); err != nil {
			b.keep(all)
			return err
		}
		all = all[len(some):]
	}
	return nil
}

// keep puts events back before those noted since, and has them written later.
func (b *batch) keep(all []operator.AgentEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	since := b.events
	b.events = noted{}
	for _, e := range all {
		b.events.add(e)
	}
	for _, q := range since {
		for _, e := range q {
			b.events.add(e)
		}
	}
	b.arm()
}

func (d *database) saveEvents(tx *txn, all []operator.AgentEvent) error {
	var newest time.Time
	for _, e := range all {
		if e.At.After(newest) {
			newest = e.At
		}
		if err := d.saveEvent(tx, e); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`DELETE FROM agent_events WHERE seq IN (SELECT seq FROM agent_events WHERE at < ? ORDER BY at LIMIT ?)`,
		micros(newest.Add(-KeepAgentEventsFor)), forgetAtOnce)
	return err
}

func (d *database) saveEvent(tx *txn, e operator.AgentEvent) error {
	if lock := d.lockRow(); lock != "" { // another node's event of this agent comes before, or after
		var n int
		if err := tx.QueryRow(`SELECT 1 FROM agents WHERE id = ?`+lock, e.Agent).Scan(&n); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	var n int64 // of this one, within the agent; 0: the agent is gone
	var last string
	if err := tx.QueryRow(`SELECT coalesce((SELECT coalesce((SELECT max(n) FROM agent_events WHERE agent = ?1), 0) + 1 FROM agents WHERE id = ?1 AND purged = 0), 0),
		coalesce((SELECT value FROM agent_state WHERE agent = ?1 AND kind = ?2), '')`, e.Agent, e.Kind).Scan(&n, &last); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	told := int64(0)
	if e.Told != nil {
		told = micros(*e.Told)
	}
	switch e.Kind {
	case operator.EventLink, operator.EventProbe:
	case operator.EventStep, operator.EventOutcome: // its report repeats it
		// Two of one moment differ in what is done: that is now of a step, and was of its outcome.
		does, column := e.To, "now"
		if e.Kind == operator.EventOutcome {
			does, column = e.From, "was"
		}
		var known int
		err := tx.QueryRow(`SELECT count(*) FROM agent_events WHERE agent = ? AND kind = ? AND told = ? AND verdict = ? AND `+column+` = ?`,
			e.Agent, e.Kind, told, e.Verdict, does).Scan(&known)
		if err != nil || known > 0 {
			return err
		}
	default:
		if last == e.To || last == "" && e.To == operator.NoFinding {
			return nil
		}
		e.From = last
		if _, err := tx.Exec(`INSERT INTO agent_state (agent, kind, value) VALUES (?, ?, ?) ON CONFLICT (agent, kind) DO UPDATE SET value = excluded.value`,
			e.Agent, e.Kind, e.To); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`INSERT INTO agent_events (agent, n, at, kind, was, now, reason, link, verdict, told) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.Agent, n, micros(e.At), e.Kind, e.From, e.To, e.Reason, e.Link, e.Verdict, told); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM agent_events WHERE agent = ? AND n <= ?`, e.Agent, n-KeepAgentEvents)
	return err
}

func (d *database) AgentEvents(ctx context.Context, f EventFilter) ([]operator.AgentEvent, error) {
	const columns = `SELECT e.seq, e.agent, a.name, e.at, e.kind, e.was, e.now, e.reason, e.link, e.verdict, e.told FROM agent_events e JOIN agents a ON a.id = e.agent WHERE `
	since, after := int64(0), int64(0)
	if !f.Since.IsZero() {
		since = micros(f.Since)
	}
	if f.After != nil {
		after = *f.After
	}
	// Each way has its index; a "+" keeps a condition from choosing another.
	query := columns + `e.at >= ?2 AND +e.seq > ?3 AND ?1 = '' ORDER BY e.at DESC, e.seq DESC LIMIT ?4`
	switch {
	case f.Agent != "" && f.After != nil:
		query = columns + `e.agent = ?1 AND +e.at >= ?2 AND +e.seq > ?3 ORDER BY e.n LIMIT ?4`
	case f.Agent != "":
		query = columns + `e.agent = ?1 AND +e.at >= ?2 AND +e.seq > ?3 ORDER BY e.n DESC LIMIT ?4`
	case f.After != nil:
		query = columns + `+e.at >= ?2 AND e.seq > ?3 AND ?1 = '' ORDER BY e.seq LIMIT ?4`
	}
	return list(ctx, d, func(r row) (e operator.AgentEvent, err error) {
		var at, told int64
		err = r.Scan(&e.Seq, &e.Agent, &e.AgentName, &at, &e.Kind, &e.From, &e.To, &e.Reason, &e.Link, &e.Verdict, &told)
		if e.At = timeOf(at); told != 0 {
			e.Told = new(timeOf(told))
		}
		return e, err
	}, query, f.Agent, since, after, limited(f.Limit))
}

package store

import (
	"context"
	"strings"
	"time"
)

// Removal ends agents.
type Removal interface {
	// RemoveAgent takes the agent's identity from it, for good: from now on Agents and
	// FindAgents leave it out. What it was ordered and has not answered has failed. One
	// that was removed before stays as it was.
	RemoveAgent(ctx context.Context, id, by string, at time.Time) error
	// PurgeAgent deletes all that is known of an agent that was removed but its id and
	// key: its commands with their output, orders, tags, beacons, events and bundles' entries. ErrNotFound
	// if it was not removed.
	PurgeAgent(ctx context.Context, id string) error
	// RemovedAgents lists those that were removed and not purged, by name.
	RemovedAgents(ctx context.Context) ([]Agent, error)
	// FindRemoved finds among them as FindAgents does.
	FindRemoved(ctx context.Context, ref string) ([]Agent, error)
}

// live and retired pick agents that are there, and those that were removed and not purged.
const (
	live    = `removed_at IS NULL`
	retired = `removed_at IS NOT NULL AND purged = 0`
)

func (d *database) findAgents(ctx context.Context, among, ref string) ([]Agent, error) {
	if found, err := d.agents(ctx, `WHERE `+among+` AND id = ?`, ref); err != nil || len(found) > 0 {
		return found, err
	}
	if found, err := d.agents(ctx, `WHERE `+among+` AND lower(name) = lower(?)`, ref); err != nil || len(found) > 0 || len(ref) < MinPrefix {
		return found, err
	}
	return d.agents(ctx, `WHERE `+among+` AND `+prefixed, strings.ToLower(ref))
}

func (d *database) FindAgents(ctx context.Context, ref string) ([]Agent, error) {
	return d.findAgents(ctx, live, ref)
}

func (d *database) FindRemoved(ctx context.Context, ref string) ([]Agent, error) {
	return d.findAgents(ctx, retired, ref)
}

func (d *database) Agents(ctx context.Context) ([]Agent, error) { return d.agents(ctx, `WHERE `+live) }

func (d *database) CountAgents(ctx context.Context) (int, error) {
	return first(ctx, d, func(r row) (n int, err error) { err = r.Scan(&n); return n, err }, `SELECT count(*) FROM agents WHERE `+live)
}

func (d *database) RemovedAgents(ctx context.Context) ([]Agent, error) {
	return d.agents(ctx, `WHERE `+retired)
}

func (d *database) RemoveAgent(ctx context.Context, id, by string, at time.Time) error {
	return d.group.do(ctx, func(tx *txn) error {
		if err := one(tx.Exec(`UPDATE agents SET removed_by = CASE WHEN removed_at IS NULL THEN ?1 ELSE removed_by END, removed_at = coalesce(removed_at, ?2) WHERE id = ?3`,
			by, micros(at), id)); err != nil {
			return err
		}
		tx.touch(TopicAgent, id)
		_, err := tx.Exec(`UPDATE directives SET state = 'failed', ended_at = ?, detail = 'the agent was removed before it told an outcome' WHERE agent = ? AND ended_at IS NULL`,
			micros(at), id)
		return err
	})
}

func (d *database) PurgeAgent(ctx context.Context, id string) error {
	return d.group.do(ctx, func(tx *txn) error {
		if err := one(tx.Exec(`UPDATE agents SET purged = 1, name = '', site = '', platform = '{}', version = '', fingerprint = '',
			last_seen = NULL, last_via = '', metrics = NULL WHERE id = ? AND removed_at IS NOT NULL`, id)); err != nil {
			return err
		}
		for _, q := range []string{
			`DELETE FROM job_agents WHERE agent = ?`,
			`DELETE FROM outputs WHERE command IN (SELECT id FROM commands WHERE agent = ?)`,
			`DELETE FROM commands WHERE agent = ?`,
			`DELETE FROM directives WHERE agent = ?`,
			`DELETE FROM beacons WHERE agent = ?`,
			`DELETE FROM bundles WHERE agent = ?`,
			`DELETE FROM agent_events WHERE agent = ?`,
			`DELETE FROM agent_state WHERE agent = ?`,
			`DELETE FROM resolutions WHERE agent = ?`,
			`DELETE FROM agent_tags WHERE agent = ?`,
		} {
			if _, err := tx.Exec(q, id); err != nil {
				return err
			}
		}
		return nil
	})
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gururmm/wire"
)

// Retention deletes what is old.
type Retention interface {
	// DeleteOld deletes some of what ended before then, so little that other writes hardly
	// wait: commands with their stages, output and idempotency keys, jobs with their
	// members, orders to guardians with their reports. A command of a job stays as long as
	// the job does. What has not ended stays in any case.
	DeleteOld(ctx context.Context, before time.Time) (Deleted, error)
}

// Deleted is what one call has deleted.
type Deleted struct {
	Commands, Jobs, Directives int
	// More: it may not have been all.
	More bool
}

// Bounds of one DeleteOld. Output is deleted page by page, so it is bounded by bytes.
const (
	oldCommands   = 50
	oldOutput     = 8 << 20
	oldMembers    = 500
	oldDirectives = 100
)

func (d *database) DeleteOld(ctx context.Context, before time.Time) (out Deleted, err error) {
	err = d.group.do(ctx, func(tx *txn) error {
		out = Deleted{}
		for _, some := range []func(*txn, int64, *Deleted) error{deleteJob, deleteCommands, deleteDirectives} {
			if err := some(tx, micros(before), &out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// deleteJob deletes some of a job's members, or the job once it has none. From the first
// on it is shown no more.
func deleteJob(tx *txn, before int64, out *Deleted) error {
	var id string
	err := tx.QueryRow(`SELECT id FROM jobs WHERE ended_at < ? ORDER BY ended_at, id LIMIT 1`, before).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	out.More = true
	if _, err := tx.Exec(`UPDATE jobs SET deleting = 1 WHERE id = ?`, id); err != nil {
		return err
	}
	res, err := tx.Exec(`DELETE FROM job_agents WHERE job = ? AND n < (SELECT min(n) FROM job_agents WHERE job = ?) + ?`, id, id, oldMembers)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	out.Jobs++
	_, err = tx.Exec(`DELETE FROM jobs WHERE id = ?`, id)
	return err
}

func deleteCommands(tx *txn, before int64, out *Deleted) error {
	rows, err := tx.Query(`SELECT id, stdout_bytes + stderr_bytes FROM commands c WHERE ended_at < ? AND state NOT IN (?, ?)
		AND NOT EXISTS (SELECT 1 FROM job_agents m WHERE m.command = c.id) ORDER BY ended_at, id LIMIT ?`,
		before, string(wire.StatePending), string(wire.StateRunning), oldCommands)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []string
	held := int64(0)
	for rows.Next() && held < oldOutput {
		var id string
		var bytes int64
		if err := rows.Scan(&id, &bytes); err != nil {
			return err
		}
		ids, held = append(ids, id), held+bytes
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close() // before the next statement of this connection
	for _, id := range ids {
		for _, q := range []string{`DELETE FROM outputs WHERE command = ?`, `DELETE FROM commands WHERE id = ?`} {
			if _, err := tx.Exec(q, id); err != nil {
				return err
			}
		}
	}
	out.Commands += len(ids)
	out.More = out.More || len(ids) == oldCommands || held >= oldOutput
	return nil
}

// deleteDirectives goes by when they expired: an answer comes before, or soon after.
func deleteDirectives(tx *txn, before int64, out *Deleted) error {
	res, err := tx.Exec(`DELETE FROM directives WHERE id IN (SELECT id FROM directives
		WHERE expires_at < ? AND coalesce(ended_at, 0) < ? ORDER BY expires_at LIMIT ?)`, before, before, oldDirectives)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	out.Directives += int(n)
	out.More = out.More || n == oldDirectives
	return err
}

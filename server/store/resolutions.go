package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// Resolution is an operator's word on one of several machines with one identity:
// it is not the one that keeps it.
type Resolution struct {
	ID    string
	Agent string
	// Kept and Other are the two copies as they were when it was said.
	Kept, Other wire.Copy
	By          string
	At          time.Time
	// NewAgent is what the other machine has become, DoneAt when.
	NewAgent string
	DoneAt   *time.Time
}

// Resolutions say which machine keeps an identity.
type Resolutions interface {
	// Resolutions lists those of one agent, or of all if agent is empty, oldest first.
	Resolutions(ctx context.Context, agent string) ([]Resolution, error)
	// Resolve replaces the open ones of agent; those that are done stay.
	Resolve(ctx context.Context, agent string, rs []Resolution) error
	// CreateReenrollToken is CreateEnrollToken for the machine of one resolution:
	// the agent that trades it is what that machine has become.
	CreateReenrollToken(ctx context.Context, hash Hash, t operator.EnrollToken, resolution string) error
}

func scanResolution(r row) (v Resolution, err error) {
	var (
		kept, other string
		at          int64
		done        sql.NullInt64
	)
	if err := r.Scan(&v.ID, &v.Agent, &kept, &other, &v.By, &at, &v.NewAgent, &done); err != nil {
		return v, err
	}
	v.At, v.DoneAt = timeOf(at), timePtr(done)
	if err := json.Unmarshal([]byte(kept), &v.Kept); err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(other), &v.Other)
}

func (d *database) Resolutions(ctx context.Context, agent string) ([]Resolution, error) {
	return list(ctx, d, scanResolution, `SELECT id, agent, kept, other, created_by, created_at, new_agent, done_at
		FROM resolutions WHERE (?1 = '' OR agent = ?1) ORDER BY created_at, id`, agent)
}

func (d *database) Resolve(ctx context.Context, agent string, rs []Resolution) error {
	return d.group.do(ctx, func(tx *txn) error {
		tx.touch(TopicAgent, agent)
		if _, err := tx.Exec(`DELETE FROM resolutions WHERE agent = ? AND done_at IS NULL`, agent); err != nil {
			return err
		}
		for _, r := range rs {
			kept, err := json.Marshal(r.Kept)
			if err != nil {
				return err
			}
			other, err := json.Marshal(r.Other)
			if err != nil {
				return err
			}
			_, err = tx.Exec(`INSERT INTO resolutions (id, agent, kept, other, created_by, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
				r.ID, agent, string(kept), string(other), r.By, micros(r.At))
			if orphan(err) {
				return ErrNotFound
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *database) CreateReenrollToken(ctx context.Context, hash Hash, t operator.EnrollToken, resolution string) error {
	return d.group.do(ctx, func(tx *txn) error {
		// Those that were handed out before and have run out are of no use to anybody.
		if _, err := tx.Exec(`DELETE FROM enroll_tokens WHERE resolution = ? AND expires_at <= ?`, resolution, micros(t.CreatedAt)); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO enroll_tokens (id, hash, site, uses_left, created_at, expires_at, resolution) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			t.ID, hash[:], t.Site, t.UsesLeft, micros(t.CreatedAt), micros(t.ExpiresAt), resolution)
		if taken(err) {
			return ErrConflict
		}
		return err
	})
}

// resolved notes in the trade's own transaction what the machine of a resolution
// has become, and makes its other tokens useless. was is the identity it leaves.
func resolved(tx *txn, resolution, token, agent string, now time.Time) (was string, err error) {
	if resolution == "" {
		return "", nil
	}
	err = tx.QueryRow(`SELECT agent FROM resolutions WHERE id = ?`, resolution).Scan(&was)
	if errors.Is(err, sql.ErrNoRows) { // the operator has thought better of it
		return "", ErrTokenInvalid
	}
	if err != nil {
		return "", err
	}
	if _, err := tx.Exec(`UPDATE resolutions SET new_agent = ?, done_at = ? WHERE id = ? AND done_at IS NULL`, agent, micros(now), resolution); err != nil {
		return "", err
	}
	_, err = tx.Exec(`DELETE FROM enroll_tokens WHERE resolution = ? AND id <> ?`, resolution, token)
	return was, err
}

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

const agentColumns = `id, public_key, name, site, platform, version, fingerprint, enrolled_at, quarantined, last_seen, last_via, metrics, was, removed_at, removed_by`

func scanAgent(r row) (Agent, error) {
	var (
		a        Agent
		key      []byte
		platform string
		enrolled int64
		seen     sql.NullInt64
		metrics  sql.NullString
		removed  sql.NullInt64
	)
	err := r.Scan(&a.ID, &key, &a.Name, &a.Site, &platform, &a.Version, &a.Fingerprint, &enrolled, &a.Quarantined, &seen, &a.LastVia, &metrics, &a.Was, &removed, &a.RemovedBy)
	if err != nil {
		return a, err
	}
	a.PublicKey, a.EnrolledAt, a.LastSeen, a.RemovedAt = key, timeOf(enrolled), timePtr(seen), timePtr(removed)
	if err := json.Unmarshal([]byte(platform), &a.Platform); err != nil {
		return a, err
	}
	if metrics.Valid {
		a.Metrics = new(wire.Metrics)
		return a, json.Unmarshal([]byte(metrics.String), a.Metrics)
	}
	return a, nil
}

func (d *database) agents(ctx context.Context, where string, args ...any) ([]Agent, error) {
	all, err := list(ctx, d, scanAgent, `SELECT `+agentColumns+` FROM agents `+where+` ORDER BY lower(name), id`, args...)
	for i := range all {
		d.batch.overlay(&all[i])
	}
	return all, err
}

func (d *database) Agent(ctx context.Context, id string) (Agent, error) {
	found, err := d.agents(ctx, `WHERE id = ?`, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Agent{}, err
	}
	return found[0], nil
}

// prefixed picks ids that begin with ?1; no id has a character above "~".
const prefixed = `id >= ?1 AND id < ?1 || '~'`

// findIDs gives the id in table that is ref, else up to [MaxFound] that begin with it.
func (d *database) findIDs(ctx context.Context, table, ref string) ([]string, error) {
	id := func(r row) (id string, err error) { err = r.Scan(&id); return id, err }
	if found, err := list(ctx, d, id, `SELECT id FROM `+table+` WHERE id = ?`, ref); err != nil || len(found) > 0 || len(ref) < MinPrefix {
		return found, err
	}
	return list(ctx, d, id, `SELECT id FROM `+table+` WHERE `+prefixed+` ORDER BY id LIMIT ?2`, strings.ToLower(ref), MaxFound)
}

func (d *database) UpdatePresence(ctx context.Context, id string, p wire.Presence) error {
	platform, err := json.Marshal(p.Platform)
	if err != nil {
		return err
	}
	return d.group.do(ctx, func(tx *txn) error {
		// A host that can't tell its name keeps the one it had.
		return one(tx.Exec(`UPDATE agents SET name = coalesce(nullif(?, ''), name), platform = ?, version = ?, fingerprint = ? WHERE id = ?`,
			p.Platform.Hostname, string(platform), p.Version, p.Fingerprint, id))
	})
}

func (d *database) SetQuarantined(ctx context.Context, id string, on bool) error {
	return d.group.do(ctx, func(tx *txn) error {
		tx.touch(TopicAgent, id)
		return one(tx.Exec(`UPDATE agents SET quarantined = ? WHERE id = ?`, on, id))
	})
}

func (d *database) CreateEnrollToken(ctx context.Context, hash Hash, t operator.EnrollToken) error {
	return d.group.do(ctx, func(tx *txn) error {
		_, err := tx.Exec(`INSERT INTO enroll_tokens (id, hash, site, uses_left, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
			t.ID, hash[:], t.Site, t.UsesLeft, micros(t.CreatedAt), micros(t.ExpiresAt))
		if taken(err) {
			return ErrConflict
		}
		return err
	})
}

func (d *database) EnrollTokens(ctx context.Context) ([]operator.EnrollToken, error) {
	return list(ctx, d, func(r row) (t operator.EnrollToken, err error) {
		var created, expires int64
		err = r.Scan(&t.ID, &t.Site, &t.UsesLeft, &created, &expires)
		t.CreatedAt, t.ExpiresAt = timeOf(created), timeOf(expires)
		return t, err
	}, `SELECT id, site, uses_left, created_at, expires_at FROM enroll_tokens ORDER BY created_at DESC, id DESC`)
}

func (d *database) DeleteEnrollToken(ctx context.Context, id string) error {
	return d.group.do(ctx, func(tx *txn) error {
		return one(tx.Exec(`DELETE FROM enroll_tokens WHERE id = ?`, id))
	})
}

func (d *database) TradeToken(ctx context.Context, hash Hash, a Agent, now time.Time) (Agent, error) {
	platform, err := json.Marshal(a.Platform)
	if err != nil {
		return Agent{}, err
	}
	err = d.group.do(ctx, func(tx *txn) error {
		var (
			token, site, before, resolution string
			uses                            int
		)
		err := tx.QueryRow(`SELECT id, site, uses_left, resolution FROM enroll_tokens WHERE hash = ? AND expires_at > ?`, hash[:], micros(now)).Scan(&token, &site, &uses, &resolution)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrTokenInvalid
		}
		if err != nil {
			return err
		}
		known, err := scanAgent(tx.QueryRow(`SELECT `+agentColumns+` FROM agents WHERE public_key = ?`, []byte(a.PublicKey)))
		if err == nil {
			if err := tx.QueryRow(`SELECT enroll_token FROM agents WHERE id = ?`, known.ID).Scan(&before); err != nil {
				return err
			}
			if known.RemovedAt != nil { // its key is no identity any more
				return ErrTokenInvalid
			}
			if before != token {
				return ErrConflict
			}
			a = known
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if uses < 1 {
			return ErrTokenInvalid
		}
		if err := one(tx.Exec(`UPDATE enroll_tokens SET uses_left = uses_left - 1 WHERE id = ? AND uses_left > 0`, token)); err != nil {
			return err
		}
		a.Site, a.EnrolledAt = site, now.UTC().Truncate(time.Microsecond)
		if a.Was, err = resolved(tx, resolution, token, a.ID, now); err != nil {
			return err
		}
		if a.Was != "" {
			tx.touch(TopicAgent, a.Was)
		}
		_, err = tx.Exec(`INSERT INTO agents (id, public_key, name, site, platform, version, fingerprint, enrolled_at, enroll_token, was) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			a.ID, []byte(a.PublicKey), a.Name, a.Site, string(platform), a.Version, a.Fingerprint, micros(a.EnrolledAt), token, a.Was)
		if taken(err) {
			return ErrConflict
		}
		return err
	})
	if err != nil {
		return Agent{}, err
	}
	return a, nil
}

func (d *database) CreateOperatorToken(ctx context.Context, name string, hash Hash, now time.Time) error {
	return d.group.do(ctx, func(tx *txn) error {
		_, err := tx.Exec(`INSERT INTO operator_tokens (name, hash, created_at) VALUES (?, ?, ?)`, name, hash[:], micros(now))
		if taken(err) {
			return ErrConflict
		}
		return err
	})
}

const operatorTokens = `SELECT name, created_at, last_used FROM operator_tokens `

func scanOperatorToken(r row) (t OperatorToken, err error) {
	var (
		created int64
		used    sql.NullInt64
	)
	err = r.Scan(&t.Name, &created, &used)
	t.CreatedAt, t.LastUsed = timeOf(created), timePtr(used)
	return t, err
}

func (d *database) OperatorToken(ctx context.Context, hash Hash, now time.Time) (OperatorToken, error) {
	t, err := first(ctx, d, scanOperatorToken, operatorTokens+`WHERE hash = ?`, hash[:])
	if errors.Is(err, ErrNotFound) {
		return OperatorToken{}, ErrTokenInvalid
	}
	if err != nil {
		return OperatorToken{}, err
	}
	d.batch.note(func() { d.batch.used[t.Name] = now })
	return t, nil
}

func (d *database) OperatorTokens(ctx context.Context) ([]OperatorToken, error) {
	return list(ctx, d, scanOperatorToken, operatorTokens+`ORDER BY name`)
}

func (d *database) DeleteOperatorToken(ctx context.Context, name string) error {
	return d.group.do(ctx, func(tx *txn) error {
		return one(tx.Exec(`DELETE FROM operator_tokens WHERE name = ?`, name))
	})
}

package store

import (
	"context"
	"database/sql"

	"gururmm/operator"
)

func (d *database) CreateBundle(ctx context.Context, b operator.Bundle, room int64) error {
	return d.group.do(ctx, func(tx *txn) error {
		var used int64
		if err := tx.QueryRow(`SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM bundles`).Scan(&used); err != nil {
			return err
		}
		if used+b.Size > room {
			return ErrNoRoom
		}
		_, err := tx.Exec(`INSERT INTO bundles (id, agent, sha256, size, reason, made_at, began_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			b.ID, b.Agent, b.SHA256, b.Size, b.Reason, microsPtr(b.MadeAt), micros(b.BeganAt))
		switch {
		case taken(err):
			return ErrConflict
		case orphan(err):
			return ErrNotFound
		}
		return err
	})
}

func (d *database) SaveBundle(ctx context.Context, b operator.Bundle) error {
	return d.group.do(ctx, func(tx *txn) error {
		return one(tx.Exec(`UPDATE bundles SET held = ?, completed_at = ? WHERE id = ?`, b.Held, microsPtr(b.CompletedAt), b.ID))
	})
}

const bundleColumns = `SELECT id, agent, sha256, size, held, reason, made_at, began_at, completed_at FROM bundles `

func scanBundle(r row) (b operator.Bundle, err error) {
	var (
		made, completed sql.NullInt64
		began           int64
	)
	err = r.Scan(&b.ID, &b.Agent, &b.SHA256, &b.Size, &b.Held, &b.Reason, &made, &began, &completed)
	b.MadeAt, b.BeganAt, b.CompletedAt = timePtr(made), timeOf(began), timePtr(completed)
	b.Complete = completed.Valid
	return b, err
}

func (d *database) Bundle(ctx context.Context, id string) (operator.Bundle, error) {
	found, err := list(ctx, d, scanBundle, bundleColumns+`WHERE id = ?`, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return operator.Bundle{}, err
	}
	return found[0], nil
}

func (d *database) Bundles(ctx context.Context, agent string) ([]operator.Bundle, error) {
	return list(ctx, d, scanBundle, bundleColumns+`WHERE ?1 = '' OR agent = ?1 ORDER BY began_at DESC, id DESC`, agent)
}

func (d *database) DeleteBundle(ctx context.Context, id string) error {
	return d.group.do(ctx, func(tx *txn) error {
		return one(tx.Exec(`DELETE FROM bundles WHERE id = ?`, id))
	})
}

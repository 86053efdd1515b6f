package store

import (
	"context"

	"gururmm/operator"
)

func (d *database) CreateBuild(ctx context.Context, b operator.Build) (created bool, err error) {
	err = d.group.do(ctx, func(tx *txn) error {
		var known int
		if err := tx.QueryRow(`SELECT count(*) FROM builds WHERE sha256 = ? AND version = ? AND os = ? AND arch = ?`,
			b.SHA256, b.Version, b.OS, b.Arch).Scan(&known); err != nil {
			return err
		}
		if created = known == 0; !created {
			return nil
		}
		_, err := tx.Exec(`INSERT INTO builds (sha256, version, os, arch, size, signature, published_by, published_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			b.SHA256, b.Version, b.OS, b.Arch, b.Size, b.Signature, b.PublishedBy, micros(b.PublishedAt))
		if taken(err) {
			return ErrConflict
		}
		return err
	})
	return created, err
}

func (d *database) Builds(ctx context.Context) ([]operator.Build, error) {
	return list(ctx, d, func(r row) (b operator.Build, err error) {
		var at int64
		err = r.Scan(&b.SHA256, &b.Version, &b.OS, &b.Arch, &b.Size, &b.Signature, &b.PublishedBy, &at)
		b.PublishedAt = timeOf(at)
		return b, err
	}, `SELECT sha256, version, os, arch, size, signature, published_by, published_at FROM builds ORDER BY version, os, arch`)
}

func (d *database) DeleteBuilds(ctx context.Context, version string) error {
	return d.group.do(ctx, func(tx *txn) error {
		res, err := tx.Exec(`DELETE FROM builds WHERE version = ?`, version)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
}

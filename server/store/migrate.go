package store

import (
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed migrations
var migrationFiles embed.FS

// steps gives the embedded migrations of a folder in order; the n-th makes schema first+n.
func steps(folder string, first int) []string {
	names, err := fs.Glob(migrationFiles, folder+"/[0-9][0-9][0-9][0-9].sql") // sorted
	if err != nil {
		panic(err) // the pattern is a constant
	}
	var out []string
	for i, name := range names {
		if name != fmt.Sprintf("%s/%04d.sql", folder, first+i) {
			panic("migration files must be numbered without a gap: " + name)
		}
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err) // embedded
		}
		out = append(out, string(text))
	}
	return out
}

// migrate brings the schema from PRAGMA user_version to len(steps), each step
// in a transaction of its own. A newer schema is refused: this program does not
// know what it would break.
func migrate(db *sql.DB, steps []string) error {
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(steps) {
		return newerSchema(version, len(steps))
	}
	for ; version < len(steps); version++ {
		if err := step(db, version+1, steps[version]); err != nil {
			return fmt.Errorf("migration %04d: %w", version+1, err)
		}
	}
	return nil
}

func step(db *sql.DB, version int, text string) (err error) {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err = tx.Exec(text); err != nil {
		return err
	}
	if _, err = tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

func newerSchema(is, known int) error {
	return fmt.Errorf("%w: its schema is %d, this program knows %d; run the newer version, or restore a backup", ErrNewerSchema, is, known)
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Snapshot writes what the SQLite database in the file path holds at one moment to the file
// into, which must not exist and is readable for its owner alone. A server may be working on
// the database: it is not kept waiting. into is as large as the database at most.
func Snapshot(ctx context.Context, path, into string) (err error) {
	l := &lite{path: path}
	if _, err := os.Stat(path); err != nil { // it would be made
		return err
	}
	f, err := os.OpenFile(into, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	db, err := connect(path, 1)
	if db == nil {
		return l.named(err)
	}
	defer func() { err = l.named(errors.Join(err, db.Close())) }()
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", into); err != nil {
		return err
	}
	return nil
}

// Check reads the SQLite database in the file path, which nobody may be working on, and
// tells whether this program can start with it: ErrCorrupt, ErrNewerSchema.
func Check(path string) (err error) {
	l := &lite{path: path}
	db, err := connect(path, 1, "query_only(1)")
	if db == nil {
		return l.named(err)
	}
	defer func() { err = l.named(errors.Join(err, db.Close())) }()
	if err != nil {
		return err
	}
	if err := check(db); err != nil {
		return err
	}
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch known := len(steps("migrations", 1)); {
	case version == 0:
		return fmt.Errorf("%w: there is nothing in it", ErrCorrupt)
	case version > known:
		return newerSchema(version, known)
	}
	return nil
}

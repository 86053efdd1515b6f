package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/server/store"
)

// errMoved: the SQLite database in a state directory is one that was moved.
var errMoved = errors.New("moved to PostgreSQL")

// Moved is what was moved of a table.
type Moved = store.Moved

// moved is the file that says so.
type moved struct {
	At       time.Time `json:"moved_at"`
	Database string    `json:"database"` // without a password
}

// movedAway refuses a SQLite database that was moved: what has come since is not in it.
func movedAway(dir string) error {
	path := filepath.Join(dir, fileMoved)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m moved
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	to := fmt.Sprintf("(%s) on %s", m.Database, m.At.Local().Format(time.DateTime))
	if err != nil {
		to = fmt.Sprintf("(%v)", err) // that it is there says enough
	}
	return fmt.Errorf("%s was %w %s: start with --database-url or --database-url-file; or remove %s to go back to what it held then, without all that has come since",
		filepath.Join(dir, fileDatabase), errMoved, to, path)
}

// Migrate moves what the SQLite database in cfg.StateDir holds to the empty PostgreSQL
// that url names, as store.OpenPostgres takes it, and leaves a mark that keeps it from being
// used again; told is told of each table. No server may be running on either side. Ended in
// the midst, it is repeated.
func Migrate(ctx context.Context, cfg Config, url string, log *slog.Logger, told func(Moved)) (all []Moved, err error) {
	dir := cfg.StateDir
	path := filepath.Join(dir, fileDatabase)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: nothing to move", path)
	}
	release, err := ownState(dir)
	if err != nil {
		return nil, fmt.Errorf("%w; a move needs the server stopped", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := errors.Join(halfRestored(dir), wholeState(dir)); err != nil {
		return nil, err
	}
	return store.Move(ctx, path, url, store.MoveOptions{Log: log, Told: told, Mark: func(database string) error {
		raw, err := json.Marshal(moved{time.Now().UTC().Truncate(time.Second), database})
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(dir, fileMoved), append(raw, '\n'), 0o600); err != nil {
			return fmt.Errorf("%w; all is in %s, but %s is not marked as moved: repeat the command", err, database, path)
		}
		return nil
	}})
}

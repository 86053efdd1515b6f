package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// busyTimeout: another process (a backup) may hold the file for so long.
	busyTimeout = 5 * time.Second
	// maxReaders bounds readers; they share CPU with the writer and never wait for it (WAL).
	maxReaders = 4
	// maxChecked: a file up to this size, in bytes, is checked whole at start (about a
	// second); damage in a larger one is found where it is read.
	maxChecked = 1 << 30
)

// database is the SQLite implementation: one writer, which commits in groups,
// and readers apart.
type database struct {
	path  string
	log   *slog.Logger
	read  *sql.DB
	write *sql.DB
	group *group
	batch *batch
	known statements
}

var _ Store = (*database)(nil)

// Open opens, and if need be creates, the SQLite database in the file path, and
// brings its schema up to date. log may be nil.
func Open(path string, log *slog.Logger) (Store, error) { return OpenTold(path, log, nil) }

// OpenTold is [Open] with somebody who is told of each commit, by the writer itself: told
// must not block, nor ask the store.
func OpenTold(path string, log *slog.Logger, told func(Commit)) (Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &database{path: path, log: log}
	if err := d.open(); err != nil {
		d.closeFiles()
		return nil, d.named(err)
	}
	writer, err := d.write.Conn(context.Background())
	if err != nil {
		d.closeFiles()
		return nil, d.named(err)
	}
	d.group = newGroup(writer, d.named, told)
	d.batch = newBatch(d)
	return d, nil
}

func (d *database) open() error {
	// Created here for its mode; SQLite gives -wal and -shm the mode of the file itself.
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm() != 0o600 {
		err = f.Chmod(0o600)
	}
	f.Close()
	if err != nil {
		return err
	}
	if d.write, err = connect(d.path, 1, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"); err != nil {
		return err
	}
	if info.Size() > 0 && info.Size() <= maxChecked {
		if err := check(d.write); err != nil {
			return err
		}
	}
	if err := migrate(d.write, migrations()); err != nil {
		return err
	}
	d.read, err = connect(d.path, maxReaders, "query_only(1)")
	return err
}

func connect(path string, conns int, pragmas ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The name is a URI (https://sqlite.org/uri.html): its path is escaped, so that a
	// '?' or '%' in a directory's name stays part of it.
	abs = filepath.ToSlash(abs)
	if !strings.HasPrefix(abs, "/") {
		abs = "/" + abs // a drive letter
	}
	query := url.Values{"_txlock": {"immediate"}}
	for _, p := range append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}, pragmas...) {
		query.Add("_pragma", p)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: abs}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, db.Ping()
}

// Blank reports whether the database in the file path has no schema: none of its
// migrations is there, as before the first start, or where its write-ahead log, which may
// hold all of it, was lost. Nothing is written to it but what its log holds. The error says that it can't be read.
func Blank(path string) (blank bool, err error) {
	db, err := connect(path, 1, "query_only(1)")
	if db == nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err != nil {
		return false, err
	}
	var version int
	err = db.QueryRow("PRAGMA user_version").Scan(&version)
	return err == nil && version == 0, err
}

func check(db *sql.DB) error {
	var word string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&word); err != nil {
		return err
	}
	if word != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, word)
	}
	return nil
}

// named puts the file's name on an error that is not one of this package's
// everyday ones, and makes damage of the file recognisable.
func (d *database) named(err error) error {
	switch {
	case late(err):
		return ErrRemoved
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, ErrTokenInvalid),
		errors.Is(err, ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		case sqlite3.SQLITE_FULL:
			err = fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("database %s: %w; it was left as it is: restore it from a backup, or move it away to begin anew", d.path, err)
	}
	return fmt.Errorf("database %s: %w", d.path, err)
}

func (d *database) closeFiles() error {
	var errs []error
	for _, db := range []*sql.DB{d.read, d.write} { // the writer last: it checkpoints
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

func (d *database) Close() error {
	flushed := d.batch.close()
	ended := d.group.close()
	for _, stmt := range d.known.take() {
		ended = errors.Join(ended, stmt.Close())
	}
	return errors.Join(flushed, d.named(ended), d.named(d.closeFiles()))
}

func (d *database) Ready(ctx context.Context) error {
	// An empty write transaction takes the lock and touches the log.
	return d.group.do(ctx, func(*txn) error { return nil })
}

// micros is a time as stored.
func micros(t time.Time) int64 { return t.UnixMicro() }

// microsPtr is a time that may never have been.
func microsPtr(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: micros(*t), Valid: true}
}

func timeOf(us int64) time.Time { return time.UnixMicro(us).UTC() }

func timePtr(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := timeOf(us.Int64)
	return &t
}

// taken reports whether err is the violation of a UNIQUE or PRIMARY KEY constraint.
func taken(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// orphan reports whether err is the violation of a foreign key.
func orphan(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

// late reports whether err is the refusal of a row of an agent that was removed; see
// migration 0010.
func late(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_TRIGGER
}

// row is a row to be scanned.
type row = interface{ Scan(...any) error }

// one gives ErrNotFound unless exactly one row was changed.
func one(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, ErrNotFound)
	}
	return nil
}

// statements are the readers' queries, prepared once; database/sql has each
// connection know them.
type statements struct {
	mu sync.Mutex
	by map[string]*sql.Stmt
}

func (s *statements) get(query string) *sql.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[query]
}

// put keeps stmt, unless someone was faster: then that one serves.
func (s *statements) put(query string, stmt *sql.Stmt) (kept *sql.Stmt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.by[query]; first != nil {
		return first
	}
	if s.by == nil {
		s.by = map[string]*sql.Stmt{}
	}
	s.by[query] = stmt
	return stmt
}

func (s *statements) take() map[string]*sql.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.by
	s.by = nil
	return all
}

func (d *database) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt := d.known.get(query)
	if stmt == nil {
		made, err := d.read.PrepareContext(ctx, query)
		if err != nil {
			return nil, d.named(err)
		}
		if stmt = d.known.put(query, made); stmt != made {
			made.Close()
		}
	}
	rows, err := stmt.QueryContext(ctx, args...)
	return rows, d.named(err)
}

// first reads one row with scan, or gives ErrNotFound.
func first[T any](ctx context.Context, d *database, scan func(row) (T, error), query string, args ...any) (v T, err error) {
	all, err := list(ctx, d, scan, query, args...)
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return v, err
	}
	return all[0], nil
}

// list reads all rows of a query with scan.
func list[T any](ctx context.Context, d *database, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := d.query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, d.named(err)
		}
		out = append(out, v)
	}
	return out, d.named(rows.Err())
}

// limited bounds a list's length.
func limited(n int) int {
	const usual = 50
	switch {
	case n <= 0:
		return usual
	case n > MaxList:
		return MaxList
	}
	return n
}

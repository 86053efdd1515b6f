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

// lite is SQLite in one file: one connection that writes, and readers apart.
type lite struct {
	path  string
	read  *sql.DB
	write *sql.DB
	conn  *sql.Conn // the writer's
	known map[string]*sql.Stmt
	asked statements
}

var _ engine = (*lite)(nil)

// Open opens, and if need be creates, the SQLite database in the file path, and
// brings its schema up to date. log may be nil.
func Open(path string, log *slog.Logger) (Store, error) { return OpenTold(path, log, nil) }

// OpenTold is [Open] with somebody who is told of each commit, by the writer itself: told
// must not block, nor ask the store.
func OpenTold(path string, log *slog.Logger, told func(Commit)) (Store, error) {
	l := &lite{path: path, known: map[string]*sql.Stmt{}}
	if err := l.open(); err != nil {
		return nil, l.named(errors.Join(err, l.close()))
	}
	return newDatabase(l, quiet(log), told), nil
}

func (d *lite) open() error {
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
	if d.write, err = connect(d.path, 1, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "temp_store(MEMORY)"); err != nil {
		return err
	}
	if info.Size() > 0 && info.Size() <= maxChecked {
		if err := check(d.write); err != nil {
			return err
		}
	}
	if err := migrate(d.write, steps("migrations", 1)); err != nil {
		return err
	}
	if d.read, err = connect(d.path, maxReaders, "query_only(1)"); err != nil {
		return err
	}
	d.conn, err = d.write.Conn(context.Background())
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
func (d *lite) named(err error) error {
	switch {
	case late(err):
		return ErrRemoved
	case err == nil, everyday(err):
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

func (d *lite) close() error {
	var errs []error
	for _, stmt := range d.asked.take() {
		errs = append(errs, stmt.Close())
	}
	for _, stmt := range d.known {
		errs = append(errs, stmt.Close())
	}
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	for _, db := range []*sql.DB{d.read, d.write} { // the writer last: it checkpoints
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// begin does the singles first, without savepoints: those are a third of what a write costs.
// If one of them fails all is undone, and each write has its own savepoint in the next try.
func (d *lite) begin(first []*single) (*txn, error) {
	tx := &txn{session: liteSession{d}}
	if err := tx.do("BEGIN IMMEDIATE"); err != nil {
		return tx, err
	}
	for _, s := range first {
		var err error
		if s.done, err = once(tx, s); err == nil {
			continue
		}
		for _, s := range first {
			s.done = false
		}
		if err := d.rollback(tx, nil); err != nil {
			return tx, err
		}
		return tx, tx.do("BEGIN IMMEDIATE")
	}
	return tx, nil
}

// once does a write's usual case; did is false if it is another.
func once(tx *txn, s *single) (did bool, err error) {
	if s.steps != nil {
		return s.steps(tx)
	}
	err = s.scan(tx.QueryRow(s.query, s.args...))
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (d *lite) announce(*txn) ([]string, error) { return nil, nil }

func (d *lite) lockRow() string { return "" } // there is one writer

func (d *lite) commit(tx *txn) error {
	if err := tx.do("COMMIT"); err != nil {
		return d.rollback(tx, err)
	}
	return nil
}

// rollback ends the transaction and passes cause on. SQLite may have ended it by
// itself (a full disk): that it says so is no further error.
func (d *lite) rollback(tx *txn, cause error) error {
	if err := tx.do("ROLLBACK"); err != nil && cause != nil {
		return fmt.Errorf("%w (rollback: %v)", cause, err)
	}
	return cause
}

// liteSession is the writer's connection. Its statements are prepared once: parsing
// would cost more than running them. Nothing but the disk keeps it waiting.
type liteSession struct{ d *lite }

func (s liteSession) prepared(query string) (*sql.Stmt, error) {
	if stmt := s.d.known[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.d.conn.PrepareContext(context.Background(), query)
	if err == nil {
		s.d.known[query] = stmt
	}
	return stmt, err
}

func (s liteSession) Exec(query string, args ...any) (sql.Result, error) {
	stmt, err := s.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Exec(args...)
}

func (s liteSession) Query(query string, args ...any) (rows, error) {
	stmt, err := s.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Query(args...)
}

func (s liteSession) QueryRow(query string, args ...any) row {
	stmt, err := s.prepared(query)
	if err != nil { // the row tells it
		return s.d.conn.QueryRowContext(context.Background(), query, args...)
	}
	return stmt.QueryRow(args...)
}

func (s liteSession) do(statement string) error {
	_, err := s.Exec(statement)
	return err
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

func (d *lite) query(ctx context.Context, query string, args []any) (rows, error) {
	stmt := d.asked.get(query)
	if stmt == nil {
		made, err := d.read.PrepareContext(ctx, query)
		if err != nil {
			return nil, err
		}
		if stmt = d.asked.put(query, made); stmt != made {
			made.Close()
		}
	}
	return stmt.QueryContext(ctx, args...)
}

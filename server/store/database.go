package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"
)

// database is the one implementation: its queries are such as every engine takes.
//
// What that asks of a query: "?" or "?1" for what is given, CAST where an engine has to
// know its type; no function that only one has (iif, max of two), no INSERT OR IGNORE.
type database struct {
	engine
	log   *slog.Logger
	group *group
	batch *batch
}

var _ Store = (*database)(nil)

// engine is a database system: its connections, transactions and errors.
type engine interface {
	// query reads, beside the writer.
	query(ctx context.Context, query string, args []any) (rows, error)
	// begin opens a transaction. Only the group's goroutine does, and only one at a time.
	// It may do some of first, and marks those.
	begin(first []*single) (*txn, error)
	// announce stores what a transaction has changed for the other nodes of a cluster, and
	// gives it; without a cluster it does nothing.
	announce(tx *txn) (topics []string, err error)
	// lockRow ends a query of a row that is changed by what was read: another writer waits.
	lockRow() string
	// commit returns when the transaction is on disk, or with the error of all its writes.
	commit(tx *txn) error
	// rollback ends the transaction and passes cause on.
	rollback(tx *txn, cause error) error
	// named makes an error of the engine recognisable by this package's own, and says
	// which database it is of.
	named(err error) error
	// close ends all connections; the writer rests.
	close() error
}

// txn is the writer's connection as writes see it, inside a transaction.
type txn struct {
	session
	topics []string
}

// touch notes what the transaction changes; see [Nodes].
func (t *txn) touch(kind, id string) { t.topics = append(t.topics, topic(kind, id)) }

// session runs statements. Only the writer's goroutine uses it.
type session interface {
	Exec(query string, args ...any) (sql.Result, error)
	Query(query string, args ...any) (rows, error)
	QueryRow(query string, args ...any) row
	// do runs a statement that controls the transaction.
	do(statement string) error
}

// row is a row to be scanned.
type row = interface{ Scan(...any) error }

// rows are what a query finds.
type rows interface {
	row
	Next() bool
	Err() error
	Close() error
}

// newDatabase has e be written to by a group of its own; told as in [OpenTold].
func newDatabase(e engine, log *slog.Logger, told func(Commit)) *database {
	d := &database{engine: e, log: log, group: newGroup(e, told)}
	d.batch = newBatch(d)
	return d
}

// quiet is log, or one that drops all.
func quiet(log *slog.Logger) *slog.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return log
}

func (d *database) Close() error {
	flushed := d.batch.close()
	if !d.group.close() {
		return flushed // it was closed before
	}
	return errors.Join(flushed, d.named(d.engine.close()))
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

// list reads all rows of a query with scan. A connection that was lost while it rested is
// no reason to fail: reading again does no harm.
func list[T any](ctx context.Context, d *database, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	for again := 0; ; again++ {
		out, err := listOnce(ctx, d, scan, query, args)
		if errors.Is(err, errLost) && ctx.Err() != nil {
			return nil, ctx.Err() // that ended the connection
		}
		if again == maxReaders || !errors.Is(err, errLost) {
			return out, d.named(err)
		}
	}
}

func listOnce[T any](ctx context.Context, d *database, scan func(row) (T, error), query string, args []any) ([]T, error) {
	rows, err := d.query(ctx, query, args)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
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

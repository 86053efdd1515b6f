package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"gururmm/internal/fault"
)

// Rules of a move from SQLite to PostgreSQL:
//   - nobody writes to either side meanwhile: the one is in a write transaction that
//     changes nothing, the other is locked as by a server;
//   - all rows go over in one transaction, which is committed only once both sides have
//     been read and agree, table by table, in the number of rows and in their sum;
//   - of a move that was cut off behind its commit the row "writer" tells, until a server
//     has begun to write: repeated, it compares both sides again and goes on.

// Errors to branch on of [Move].
var (
	// ErrNotEmpty: the database that was to be moved to holds data.
	ErrNotEmpty = errors.New("the database to move to is not empty")
	// ErrMoveUnknown: the connection broke at the end. Repeated, the move finds out.
	ErrMoveUnknown = errors.New("whether the move is complete is not known")
)

// moveTables are all tables, each behind those that it refers to.
var moveTables = []string{
	"enroll_tokens", "operator_tokens", "agents", "agent_state", "agent_tags", "agent_events", "beacons", "builds", "bundles",
	"directives", "resolutions", "rollouts", "rollout_agents", "jobs", "job_agents", "commands", "outputs",
}

// ownTables are PostgreSQL's alone: of its schema, its writers, and a cluster's nodes.
var ownTables = []string{"schema_version", "writer", "nodes", "leader", "views", "changes", "used_tokens"}

// movedOwner is the row "writer" of a database that a move has filled and no server has written to.
const movedOwner = "moved from SQLite"

// MoveOptions of [Move].
type MoveOptions struct {
	Log *slog.Logger // nil: none
	// Told is told of each table that is over; nil: nobody.
	Told func(Moved)
	// Mark is called at the end, while nobody can write to either side: it has to see to it
	// that SQLite is not used any more. Needed.
	Mark func(database string) error
}

// Moved is what was moved of a table.
type Moved struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	// Altered is how many texts PostgreSQL can't hold as they were; see [OpenPostgres].
	Altered int64 `json:"altered,omitempty"`
}

// Move copies all that the SQLite database in the file path holds into the empty
// PostgreSQL database that url names. No server may be running on either. On an error both
// are as usable as before. The error is ErrNotEmpty if there is data at url, but for that of
// the same move, cut off before its end; then only what was missing is done.
func Move(ctx context.Context, path, url string, o MoveOptions) (all []Moved, err error) {
	to, _, err := newPostgres(url, PostgresOptions{Log: o.Log})
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil { // it would be made
		return nil, err
	}
	from := &lite{path: path, known: map[string]*sql.Stmt{}}
	defer func() { err = errors.Join(err, from.close()) }()
	if err := from.open(); err != nil {
		return nil, from.named(err)
	}
	if _, err := from.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, from.named(err)
	}
	defer func() {
		_, undone := from.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		err = errors.Join(err, undone)
	}()
	m := move{MoveOptions: o, from: from, to: to}
	defer func() { err = errors.Join(err, to.close()) }()
	if err := m.open(ctx); err != nil {
		return nil, to.named(err)
	}
	if all, err = m.run(ctx); err != nil {
		return nil, err
	}
	return all, o.Mark(to.name())
}

type move struct {
	MoveOptions
	from *lite
	to   *postgres
	// filled: a move did so before, and nobody has written since.
	filled bool
}

// open connects, takes the server's lock and sees to the schema.
func (m *move) open(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, m.to.cfg)
	if err != nil {
		return unreachable(err)
	}
	m.to.conn = conn // closed with it
	if err := m.to.check(ctx, conn); err != nil {
		return err
	}
	if err := lock(ctx, conn, false); err != nil {
		return err
	}
	if err := m.strangers(ctx, conn); err != nil {
		return err
	}
	if err := m.to.migrate(ctx, conn); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM writer WHERE owner = $1)`, movedOwner).Scan(&m.filled); err != nil {
		return err
	}
	for _, table := range moveTables {
		var some bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM `+table+`)`).Scan(&some); err != nil {
			return err
		}
		if some && !m.filled {
			return fmt.Errorf("%w: its table %s has rows; a move needs an empty one: make another (CREATE DATABASE), or this one anew", ErrNotEmpty, table)
		}
	}
	return nil
}

// strangers refuses a database with tables of something else.
func (m *move) strangers(ctx context.Context, conn *pgx.Conn) error {
	names, err := tablesOf(ctx, conn)
	if err != nil {
		return err
	}
	version, err := schema(ctx, conn)
	if err != nil || version > 0 || len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w: it has tables of another program (%s); a move needs one of its own: CREATE DATABASE", ErrNotEmpty, strings.Join(names[:min(3, len(names))], ", "))
}

func tablesOf(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	found, err := conn.Query(ctx, `SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowTo[string])
}

// run does all but the mark.
func (m *move) run(ctx context.Context) (all []Moved, err error) {
	if err := m.sameTables(ctx); err != nil {
		return nil, err
	}
	tx, err := m.to.conn.Begin(ctx)
	if err != nil {
		return nil, m.to.named(err)
	}
	// On an error the connection is closed, which ends the transaction.
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0`); err != nil {
		return nil, m.to.named(err)
	}
	var differ []string
	for _, name := range moveTables {
		done, same, err := m.table(ctx, tx, name)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		if !same {
			differ = append(differ, name)
		}
		if all = append(all, done); m.Told != nil {
			m.Told(done)
		}
	}
	switch {
	case len(differ) > 0 && m.filled:
		return nil, m.to.named(fmt.Errorf("%w: a move that was cut off has filled it, and %s has changed since (%s); make the PostgreSQL database anew and repeat: no server has worked on it",
			ErrNotEmpty, m.from.path, strings.Join(differ, ", ")))
	case len(differ) > 0: // never seen
		return nil, m.to.named(fmt.Errorf("what was stored reads otherwise than what was sent (%s); nothing was moved", strings.Join(differ, ", ")))
	case m.filled:
		return all, m.to.named(tx.Rollback(ctx))
	}
	if _, err := tx.Exec(ctx, `DELETE FROM writer`); err != nil {
		return nil, m.to.named(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO writer (owner, n) VALUES ($1, 0)`, movedOwner); err != nil {
		return nil, m.to.named(err)
	}
	fault.Die("move.copied")
	if err := tx.Commit(ctx); err != nil {
		return nil, m.to.named(fmt.Errorf("%w: %w; repeat the command, it finds out", ErrMoveUnknown, err))
	}
	fault.Die("move.committed")
	return all, nil
}

// sameTables refuses to leave one behind: both sides have the same, each with the same columns.
func (m *move) sameTables(ctx context.Context) error {
	theirs, err := tablesOf(ctx, m.to.conn)
	if err != nil {
		return m.to.named(err)
	}
	theirs = slices.DeleteFunc(theirs, func(name string) bool { return slices.Contains(ownTables, name) })
	ours, err := m.words(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY 1`)
	if err != nil {
		return err
	}
	if known := slices.Sorted(slices.Values(moveTables)); !slices.Equal(ours, known) || !slices.Equal(theirs, known) {
		return fmt.Errorf("SQLite has the tables %s, PostgreSQL %s, and a move knows %s: nothing was moved", strings.Join(ours, " "), strings.Join(theirs, " "), strings.Join(known, " "))
	}
	return nil
}

func (m *move) words(ctx context.Context, query string, args ...any) (all []string, err error) {
	found, err := m.from.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, m.from.named(err)
	}
	defer found.Close()
	for found.Next() {
		var s string
		if err := found.Scan(&s); err != nil {
			return nil, m.from.named(err)
		}
		all = append(all, s)
	}
	return all, m.from.named(found.Err())
}

// column of a table, with its type at PostgreSQL.
type column struct{ name, kind string }

func (m *move) columns(ctx context.Context, tx pgx.Tx, table string) ([]column, error) {
	found, err := tx.Query(ctx, `SELECT column_name::text, data_type::text FROM information_schema.columns
		WHERE table_schema = current_schema() AND table_name = $1 ORDER BY column_name::text COLLATE "C"`, table)
	if err != nil {
		return nil, m.to.named(err)
	}
	theirs, err := pgx.CollectRows(found, func(r pgx.CollectableRow) (c column, err error) { return c, r.Scan(&c.name, &c.kind) })
	if err != nil {
		return nil, m.to.named(err)
	}
	ours, err := m.words(ctx, `SELECT name FROM pragma_table_info(?) ORDER BY name`, table)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(ours, names(theirs)) {
		return nil, fmt.Errorf("SQLite has the columns %s, PostgreSQL %s: nothing was moved", strings.Join(ours, " "), strings.Join(names(theirs), " "))
	}
	return theirs, nil
}

func names(all []column) []string {
	out := make([]string, len(all))
	for i, c := range all {
		out[i] = c.name
	}
	return out
}

// table moves one, unless it is filled, and reports whether both sides have the same.
func (m *move) table(ctx context.Context, tx pgx.Tx, name string) (done Moved, same bool, err error) {
	done.Table = name
	columns, err := m.columns(ctx, tx, name)
	if err != nil {
		return done, false, err
	}
	list := strings.Join(names(columns), ", ")
	found, err := m.from.conn.QueryContext(ctx, `SELECT `+list+` FROM `+name)
	if err != nil {
		return done, false, m.from.named(err)
	}
	defer found.Close()
	source := &source{rows: found, columns: columns}
	if m.filled {
		for source.Next() {
		}
	} else if err := m.copy(ctx, tx, name, columns, source); err != nil && source.Err() == nil {
		return done, false, m.to.named(err)
	}
	if err := source.Err(); err != nil {
		return done, false, m.from.named(err)
	}
	there, err := digestOf(ctx, tx, name, list)
	if err != nil {
		return done, false, m.to.named(err)
	}
	done.Rows, done.Altered = source.sum.rows, source.altered
	return done, there.rows == source.sum.rows && there.sum == source.sum.sum, nil
}

// copy sends the rows of a table.
func (m *move) copy(ctx context.Context, tx pgx.Tx, name string, columns []column, rows pgx.CopyFromSource) error {
	// Rows of agents that were removed are let in by nobody else.
	if _, err := tx.Exec(ctx, `ALTER TABLE `+name+` DISABLE TRIGGER USER`); err != nil {
		return err
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{name}, names(columns), rows); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `ALTER TABLE `+name+` ENABLE TRIGGER USER; ANALYZE `+name); err != nil {
		return err
	}
	if !slices.ContainsFunc(columns, func(c column) bool { return c.name == "seq" }) {
		return nil
	}
	// A number that was given is never given again, also where its row is gone.
	last, err := m.words(ctx, `SELECT CAST(seq AS TEXT) FROM sqlite_sequence WHERE name = ?`, name)
	if err != nil || len(last) == 0 {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence($1, 'seq'), greatest($2::text::bigint, 1), $2::text::bigint > 0)`, name, last[0])
	return err
}

// source is a table of SQLite as PostgreSQL takes it.
type source struct {
	rows    *sql.Rows
	columns []column
	values  []any
	sum     digest
	altered int64
	err     error
}

func (s *source) Next() bool {
	if s.err != nil || !s.rows.Next() {
		return false
	}
	s.values = make([]any, len(s.columns))
	into := make([]any, len(s.columns))
	for i := range into {
		into[i] = &s.values[i]
	}
	if s.err = s.rows.Scan(into...); s.err != nil {
		return false
	}
	for i, c := range s.columns {
		if s.values[i], s.err = s.value(c, s.values[i]); s.err != nil {
			return false
		}
	}
	s.err = s.sum.add(s.values)
	return s.err == nil
}

func (s *source) Values() ([]any, error) { return s.values, s.err }

func (s *source) Err() error { return errors.Join(s.err, s.rows.Err()) }

// value is v in the type that the column has at PostgreSQL. SQLite keeps what it is given: text
// that was given as bytes is bytes there, and a truth is a number.
func (s *source) value(c column, v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		switch c.kind {
		case "bigint":
			return v, nil
		case "boolean":
			return v != 0, nil
		}
	case []byte:
		switch c.kind {
		case "text":
			return s.text(string(v)), nil
		case "bytea":
			return append([]byte{}, v...), nil // none is not nil
		}
	case string:
		switch c.kind {
		case "text":
			return s.text(v), nil
		case "bytea":
			return []byte(v), nil
		}
	}
	return nil, fmt.Errorf("column %s: a %T where PostgreSQL wants %s", c.name, v, c.kind)
}

func (s *source) text(v string) string {
	storable := storableText(v)
	if storable != v {
		s.altered++
	}
	return storable
}

func digestOf(ctx context.Context, tx pgx.Tx, table, list string) (d digest, err error) {
	found, err := tx.Query(ctx, `SELECT `+list+` FROM `+table)
	if err != nil {
		return d, err
	}
	defer found.Close()
	for found.Next() {
		values, err := found.Values()
		if err == nil {
			err = d.add(values)
		}
		if err != nil {
			return d, err
		}
	}
	return d, found.Err()
}

// digest is the sum of a table's rows, in whatever order they come: that of their SHA-256
// as four numbers.
type digest struct {
	rows int64
	sum  [4]uint64
	hash hash.Hash
}

func (d *digest) add(values []any) error {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	d.hash.Reset()
	for _, v := range values {
		if err := hashValue(d.hash, v); err != nil {
			return err
		}
	}
	whole := d.hash.Sum(nil)
	for i := range d.sum {
		d.sum[i] += binary.BigEndian.Uint64(whole[8*i:])
	}
	d.rows++
	return nil
}

// hashValue puts one value so that no two rows are the same bytes: its kind, its length, itself.
func hashValue(h hash.Hash, v any) error {
	put := func(kind byte, b []byte) {
		h.Write(binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(b))))
		h.Write(b)
	}
	switch v := v.(type) {
	case nil:
		put('n', nil)
	case int64:
		put('i', binary.BigEndian.AppendUint64(nil, uint64(v)))
	case bool:
		b := byte(0)
		if v {
			b = 1
		}
		put('b', []byte{b})
	case string:
		put('t', []byte(v))
	case []byte:
		put('x', v)
	default:
		return fmt.Errorf("a value of type %T", v)
	}
	return nil
}

package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Rules of PostgreSQL as a store:
//   - one server writes, the one whose connection holds the database's advisory lock; nodes
//     of a cluster share that lock, and each has a row of its own (see cluster.go);
//   - a transaction whose connection broke is stored or not, and which of both the database
//     says (its row in "writer"); nothing is guessed, nothing acknowledged before it is known;
//   - a connection that was lost is made anew by whoever needs it next, not more often
//     than a pause that grows allows; until then each request is told so at once;
//   - nothing of a URL but host, port, user and database is in an error or a log.

const (
	// connectTimeout bounds one try to reach the server, to the end of authentication.
	connectTimeout = 5 * time.Second
	// writeTimeout bounds one transaction; longer, and its connection is given up.
	writeTimeout = 20 * time.Second
	// settleTimeout is how long a broken commit's outcome is asked for: a server that was
	// killed recovers within.
	settleTimeout = 10 * time.Second
	// leastPause and mostPause are between tries to reach the server.
	leastPause = 50 * time.Millisecond
	mostPause  = time.Second
	// lockWait is how long the lock is waited for: the server notices soon that a process
	// that was killed is gone.
	lockWait = 5 * time.Second
	// firstPostgres is the schema that a PostgreSQL begins with.
	firstPostgres = 12
	// leastPostgres is the oldest version that is taken: the oldest that its makers mend.
	leastPostgres = 14
	// lockSpace tells this program's advisory locks from those of others: "grmm".
	lockSpace = 0x67726d6d
)

// everySession is what each connection is set to. Every query of a request has an index; a plan
// made while a table was small, and kept, must not read all of one that has grown since. A
// scan that can't be helped counts as dear then, which must not start the compiler.
var everySession = map[string]string{"application_name": "gururmm", "enable_seqscan": "off", "jit": "off"}

// PostgresOptions of [OpenPostgres].
type PostgresOptions struct {
	Log *slog.Logger // nil: none
	// Told is told of each commit, as in [OpenTold].
	Told func(Commit)
	// Beside another server that may be running on the database: no lock is taken, and the
	// schema must be there already.
	Beside bool
}

// OpenPostgres opens the PostgreSQL database that url names (postgres://user@host/database),
// and brings its schema up to date. What url leaves out comes from the usual variables and
// files (PGPASSFILE, PGSSLROOTCERT, …). The error is ErrInUse if another server works on it.
func OpenPostgres(url string, o PostgresOptions) (Store, error) {
	p, readers, err := newPostgres(url, o)
	if err != nil {
		return nil, err
	}
	if err := p.open(readers); err != nil {
		return nil, p.named(errors.Join(err, p.close()))
	}
	return newDatabase(p, p.log, o.Told), nil
}

// newPostgres reads url; nothing is connected yet.
func newPostgres(url string, o PostgresOptions) (*postgres, *pgxpool.Config, error) {
	if !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		return nil, nil, errors.New("database URL: want postgres://user@host:port/database")
	}
	pool, err := pgxpool.ParseConfig(url)
	if err != nil { // it says what, without a password
		return nil, nil, fmt.Errorf("database URL: %w", err)
	}
	p := &postgres{
		cfg: pool.ConnConfig.Copy(), beside: o.Beside, log: quiet(o.Log),
		queries: placeholders{by: map[string]string{}},
	}
	p.id.Store(new(rand.Text()))
	for name, value := range everySession {
		p.cfg.RuntimeParams[name] = value
	}
	p.cfg.ConnectTimeout = connectTimeout
	pool.ConnConfig = p.cfg.Copy()
	// A write is one row by its key: to plan it anew each time would cost more than to do it.
	p.cfg.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	pool.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	pool.MaxConns = maxReaders
	return p, pool, nil
}

// postgres is a PostgreSQL database: one connection that writes, and readers apart.
type postgres struct {
	cfg     *pgx.ConnConfig
	log     *slog.Logger
	beside  bool
	node    *NodeOptions           // nil: alone
	id      atomic.Pointer[string] // this process, in the table "writer"; changed in the writer's turn only
	queries placeholders
	read    *pgxpool.Pool
	closed  atomic.Bool

	// Of the writer's goroutine alone:

	conn  *pgx.Conn // nil: lost
	claim bool      // the row in "writer" is there
	n     int64     // of the last transaction
	// why the connection could not be made anew, and when the next try is due.
	why   error
	next  time.Time
	pause time.Duration
}

var _ engine = (*postgres)(nil)

func (p *postgres) open(pool *pgxpool.Config) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockWait+connectTimeout)
	defer cancel()
	if err := p.connect(ctx); err != nil {
		return err
	}
	p.read, err = pgxpool.NewWithConfig(context.Background(), pool)
	return err
}

// connect makes the writer's connection, and has it hold the lock.
func (p *postgres) connect(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, p.cfg)
	if err != nil {
		return unreachable(err)
	}
	if err := p.prepare(ctx, conn); err != nil {
		p.drop(conn)
		return err
	}
	p.conn = conn
	return nil
}

// prepare makes a fresh connection the writer's.
func (p *postgres) prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := p.check(ctx, conn); err != nil {
		return err
	}
	if p.beside {
		return p.sameSchema(ctx, conn)
	}
	if p.node != nil {
		return p.prepareNode(ctx, conn)
	}
	if err := lock(ctx, conn, false); err != nil {
		return err
	}
	if !p.claim { // the first time
		if err := p.migrate(ctx, conn); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `DELETE FROM writer`); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `INSERT INTO writer (owner, n) VALUES ($1, 0)`, *p.id.Load())
		p.claim = err == nil
		return err
	}
	var still bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM writer WHERE owner = $1)`, *p.id.Load()).Scan(&still); err != nil {
		return err
	}
	if !still {
		return errTakenOver
	}
	return nil
}

// errTakenOver: what this server knows of the database is no longer true.
var errTakenOver = fmt.Errorf("%w: another server has written to it since the connection was lost; restart this one", ErrInUse)

// check refuses a database that can't keep what it is given, and has the session keep it.
func (p *postgres) check(ctx context.Context, conn *pgx.Conn) error {
	var (
		version             int
		standby             bool
		encoding, fsync, on string
	)
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), current_setting('server_encoding'),
		current_setting('fsync'), current_setting('synchronous_commit')`).Scan(&version, &standby, &encoding, &fsync, &on)
	switch {
	case err != nil:
		return err
	case version < leastPostgres:
		return fmt.Errorf("its version is %d, this program needs %d or newer", version, leastPostgres)
	case standby:
		return fmt.Errorf("%w: it is a standby, which takes no writes", ErrUnavailable)
	case encoding != "UTF8":
		return fmt.Errorf("its encoding is %s; make it anew with ENCODING 'UTF8'", encoding)
	case fsync == "off":
		return errors.New("its server runs with fsync = off: what it has acknowledged would be lost with the power; switch it on")
	}
	if on == "off" { // a stricter setting than "on" stays
		if _, err := conn.Exec(ctx, `SET synchronous_commit = on`); err != nil {
			return err
		}
	}
	// A node that vanished must not hold the lock for hours.
	_, err = conn.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', '30s', false), set_config('tcp_keepalives_idle', '10', false),
		set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false)`)
	return err
}

// lock takes the advisory lock of the schema that is in use, for as long as conn lives;
// shared with others that do, or alone.
func lock(ctx context.Context, conn *pgx.Conn, shared bool) error {
	query := `SELECT pg_try_advisory_lock($1, hashtext(current_schema()::text))`
	if shared {
		query = `SELECT pg_try_advisory_lock_shared($1, hashtext(current_schema()::text))`
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for pause := leastPause; ; pause = min(2*pause, mostPause) {
		var got bool
		if err := conn.QueryRow(ctx, query, int32(lockSpace)).Scan(&got); err != nil {
			if ctx.Err() != nil {
				return ErrInUse
			}
			return err
		}
		if got {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ErrInUse
		}
	}
}

// schema tells the version of the schema; 0: none.
func schema(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('schema_version') IS NOT NULL`).Scan(&there); err != nil || !there {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT version FROM schema_version`).Scan(&version)
	return version, err
}

func (p *postgres) sameSchema(ctx context.Context, conn *pgx.Conn) error {
	version, err := schema(ctx, conn)
	known := firstPostgres - 1 + len(steps("migrations/postgres", firstPostgres))
	switch {
	case err != nil:
		return err
	case version == 0:
		return fmt.Errorf("%w: no server has been started on it yet", ErrNotFound)
	case version > known:
		return newerSchema(version, known)
	case version < known:
		return fmt.Errorf("its schema is %d, this program needs %d: start the server of this version first", version, known)
	}
	return nil
}

// migrate brings the schema up to date, each step in a transaction of its own.
func (p *postgres) migrate(ctx context.Context, conn *pgx.Conn) error {
	return migratePostgres(ctx, conn, steps("migrations/postgres", firstPostgres))
}

func migratePostgres(ctx context.Context, conn *pgx.Conn, steps []string) error {
	version, err := schema(ctx, conn)
	if err != nil {
		return err
	}
	known := firstPostgres - 1 + len(steps)
	if version > known {
		return newerSchema(version, known)
	}
	next := max(version+1, firstPostgres)
	for ; next <= known; next++ {
		text := steps[next-firstPostgres]
		if version == 0 {
			text = "CREATE TABLE schema_version (version BIGINT NOT NULL); INSERT INTO schema_version VALUES (0);\n" + text
			version = next
		}
		text = "BEGIN;\n" + text + fmt.Sprintf(";\nUPDATE schema_version SET version = %d; COMMIT", next)
		if _, err := conn.PgConn().Exec(ctx, text).ReadAll(); err != nil {
			_, undo := conn.Exec(ctx, "ROLLBACK")
			err = fmt.Errorf("migration %04d: %w", next, errors.Join(err, undo))
			if breaks(err, "42501") { // since PostgreSQL 15 not everybody may make tables
				err = fmt.Errorf("%w; its owner may allow it: GRANT CREATE, USAGE ON SCHEMA public TO %q", err, conn.Config().User)
			}
			return err
		}
	}
	return nil
}

// unreachable makes an error of a try to connect one to come back from.
func unreachable(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		// 57P0x: it goes down or comes up; 53300: too many connections. All else is for the operator.
		if !strings.HasPrefix(e.Code, "57P") && e.Code != "53300" {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// drop ends a connection; what the server still does for it, it notices itself.
func (p *postgres) drop(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	_ = conn.Close(ctx) // it is of no use any more
}

// ready gives the writer's connection, made anew if it was lost and the pause is over.
func (p *postgres) ready() error {
	if p.conn != nil && !p.conn.IsClosed() {
		return nil
	}
	if time.Now().Before(p.next) {
		return p.why
	}
	return p.reconnect(connectTimeout)
}

func (p *postgres) reconnect(within time.Duration) error {
	p.forget()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.connect(ctx); err != nil {
		if !errors.Is(err, ErrInUse) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrLeaseLost) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if p.why == nil {
			p.log.Error("the database can't be reached", "database", p.name(), "error", err)
		}
		p.pause = min(max(2*p.pause, leastPause), mostPause)
		p.why, p.next = err, time.Now().Add(p.pause)
		return err
	}
	if p.why != nil {
		p.log.Info("the database is reached again", "database", p.name())
	}
	p.why, p.pause = nil, 0
	return nil
}

// forget gives the connection up.
func (p *postgres) forget() {
	if p.conn != nil {
		p.drop(p.conn)
		p.conn = nil
	}
}

// begin opens a transaction that leaves its number in the database, and does all of first in
// the same message; or none, if one of them fails: then each write is done for itself.
func (p *postgres) begin(first []*single) (*txn, error) {
	for again := false; ; {
		if err := p.ready(); err != nil {
			return nil, err
		}
		s := &pgSession{p: p, conn: p.conn}
		s.ctx, s.cancel = context.WithTimeout(context.Background(), writeTimeout)
		err := s.lost(p.conn.SendBatch(s.ctx, p.opening(first)).Close())
		if err == nil {
			return &txn{session: s}, nil
		}
		gone := errors.Is(err, errLost)
		err = p.rollback(&txn{session: s}, err)
		for _, one := range first {
			one.done = false
		}
		switch {
		case gone && !again: // it may have been lost while it rested
			again = true
		case !gone && len(first) > 0:
			first = nil
		default:
			return nil, err
		}
	}
}

// opening is what a transaction begins with.
func (p *postgres) opening(first []*single) *pgx.Batch {
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	if !p.beside {
		p.n++
		b.Queue("SELECT note_transaction($1, $2)", *p.id.Load(), p.n)
	}
	for _, some := range alike(first) {
		if len(some) > 1 {
			query, args := together(some)
			b.Queue(query, args...).Query(func(rows pgx.Rows) error { return scanTogether(rows, some) })
			continue
		}
		one := some[0]
		b.Queue(p.queries.get(one.query), storable(one.args)...).QueryRow(func(row pgx.Row) error {
			err := one.scan(row)
			if errors.Is(err, pgx.ErrNoRows) { // not the usual case
				return nil
			}
			one.done = err == nil
			return err
		})
	}
	return b
}

func (p *postgres) commit(tx *txn) error {
	s := tx.session.(*pgSession)
	defer s.cancel()
	said, err := s.conn.PgConn().Exec(s.ctx, "COMMIT").ReadAll()
	if err = s.lost(err); errors.Is(err, errLost) {
		return p.settle(err)
	}
	if p.conn.PgConn().TxStatus() != 'I' { // it was not even sent
		p.forget()
	}
	if err == nil && (len(said) != 1 || said[0].CommandTag.String() != "COMMIT") { // a write had failed and did not say so
		err = errors.New("the transaction was rolled back")
	}
	return err
}

func (p *postgres) rollback(tx *txn, cause error) error {
	s := tx.session.(*pgSession)
	defer s.cancel()
	err := tx.do("ROLLBACK")
	if err != nil { // then the connection is of no use
		p.forget()
	}
	if err != nil && cause != nil && !errors.Is(cause, errLost) {
		return fmt.Errorf("%w (rollback: %v)", cause, err)
	}
	return cause
}

// settle finds out what became of the transaction numbered p.n, whose connection broke
// while it was committed: nil, it is stored; ErrUnavailable, it is not; ErrUnknown, the
// database could not be asked. The old connection's lock is free once the database has
// ended its transaction, one way or the other, so the new one waits for that.
func (p *postgres) settle(cause error) error {
	p.forget()
	if p.beside {
		return fmt.Errorf("%w: %w", ErrUnknown, cause)
	}
	for until := time.Now().Add(settleTimeout); ; {
		err := p.reconnect(min(lockWait+connectTimeout, time.Until(until)))
		if err == nil {
			var n int64
			ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
			err = p.conn.QueryRow(ctx, `SELECT n FROM writer WHERE owner = $1`, *p.id.Load()).Scan(&n)
			cancel()
			if err == nil && n == p.n {
				return nil
			}
			if err == nil {
				return cause
			}
		}
		pause := max(time.Until(p.next), leastPause)
		if errors.Is(err, errTakenOver) || errors.Is(err, ErrLeaseLost) || pause >= time.Until(until) {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		time.Sleep(pause)
	}
}

func (p *postgres) close() error {
	p.closed.Store(true)
	p.forget()
	if p.read != nil {
		p.read.Close()
	}
	return nil
}

// name is the database for people, without a secret.
func (p *postgres) name() string {
	return fmt.Sprintf("postgres://%s@%s/%s", p.cfg.User, net.JoinHostPort(p.cfg.Host, strconv.Itoa(int(p.cfg.Port))), p.cfg.Database)
}

func (p *postgres) named(err error) error {
	switch {
	case late(err):
		return ErrRemoved
	case err == nil, everyday(err):
		return err
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "XX001", "XX002", "58030": // a page, an index, the disk under them
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		case "53100":
			err = fmt.Errorf("%w: %w", ErrFull, err)
		case "GR002":
			if p.node != nil {
				return ErrLeaseLost
			}
			err = fmt.Errorf("%w: %w", ErrInUse, err)
		case "25006": // it has become a standby
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return fmt.Errorf("database %s: %w", p.name(), err)
}

// placeholders are queries as PostgreSQL wants them: "$1" for "?" and "?1".
type placeholders struct {
	mu sync.RWMutex
	by map[string]string
}

func (q *placeholders) get(query string) string {
	q.mu.RLock()
	out, ok := q.by[query]
	q.mu.RUnlock()
	if ok {
		return out
	}
	out = dollars(query)
	q.mu.Lock()
	q.by[query] = out
	q.mu.Unlock()
	return out
}

// dollars numbers each "?" in turn and keeps the number of "?1". No query of this package
// has a "?" in a literal.
func dollars(query string) string {
	var b strings.Builder
	n := 0
	for i := 0; i < len(query); i++ {
		if query[i] != '?' {
			b.WriteByte(query[i])
			continue
		}
		b.WriteByte('$')
		if i+1 == len(query) || query[i+1] < '0' || query[i+1] > '9' {
			n++
			b.WriteString(strconv.Itoa(n))
		}
	}
	return b.String()
}

// storable gives arguments as text of PostgreSQL can hold them: it knows no NUL and only
// whole characters. Scripts are checked before; in what an endpoint says of itself a mark
// in their place tells as much.
func storable(args []any) []any {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = storableText(a)
		case []string:
			for i := range a {
				a[i] = storableText(a[i])
			}
		}
	}
	return args
}

func storableText(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// pgSession is the writer's connection in one transaction.
type pgSession struct {
	p      *postgres
	conn   *pgx.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

// lost marks an error after which the connection is gone.
func (s *pgSession) lost(err error) error { return lost(s.conn, err) }

func lost(conn *pgx.Conn, err error) error {
	if err != nil && conn.IsClosed() && !errors.Is(err, errLost) {
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, errLost, hidden{err})
	}
	return err
}

// hidden is an error that says what it is and is no other: the end of a transaction's own
// time is not that of a caller's context.
type hidden struct{ error }

func (s *pgSession) Exec(query string, args ...any) (sql.Result, error) {
	tag, err := s.conn.Exec(s.ctx, s.p.queries.get(query), storable(args)...)
	return driver.RowsAffected(tag.RowsAffected()), s.lost(err)
}

func (s *pgSession) Query(query string, args ...any) (rows, error) {
	r, err := s.conn.Query(s.ctx, s.p.queries.get(query), storable(args)...)
	return pgRows{r, s.conn, nil}, s.lost(err)
}

func (s *pgSession) QueryRow(query string, args ...any) row {
	return pgRow{s.conn.QueryRow(s.ctx, s.p.queries.get(query), storable(args)...), s}
}

func (s *pgSession) do(statement string) error {
	_, err := s.conn.PgConn().Exec(s.ctx, statement).ReadAll()
	return s.lost(err)
}

type pgRow struct {
	row
	s *pgSession
}

func (r pgRow) Scan(into ...any) error { return r.s.lost(r.row.Scan(into...)) }

// pgRows are rows of a connection that done, if given, takes back.
type pgRows struct {
	pgx.Rows
	conn *pgx.Conn
	done func()
}

func (r pgRows) Err() error { return lost(r.conn, r.Rows.Err()) }

func (r pgRows) Close() error {
	r.Rows.Close()
	err := r.Err()
	if r.done != nil {
		r.done()
	}
	return err
}

func (r pgRows) Scan(into ...any) error { return lost(r.conn, r.Rows.Scan(into...)) }

func (p *postgres) query(ctx context.Context, query string, args []any) (rows, error) {
	if p.closed.Load() {
		return nil, ErrClosed
	}
	conn, err := p.read.Acquire(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, unreachable(err)
	}
	r, err := conn.Query(ctx, p.queries.get(query), storable(args)...)
	if err != nil {
		r.Close()
		err = lost(conn.Conn(), err)
		conn.Release()
		return nil, err
	}
	return pgRows{r, conn.Conn(), sync.OnceFunc(conn.Release)}, nil
}

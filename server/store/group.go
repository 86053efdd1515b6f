package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// maxGroup bounds how many writes share one commit; beyond it the gain is small
// and one slow group would delay too many.
const maxGroup = 256

// group is the one writer: writes that come while a commit is under way share
// the next one, so that a disk's flush is paid once for many. Each stands alone
// behind a savepoint: one that fails takes no other with it.
type group struct {
	tx    *txn
	named func(error) error
	in    chan *write
	quit  chan struct{}
	ended sync.WaitGroup
	once  sync.Once
	told  func(Commit)
}

// Commit is one transaction of the writer.
type Commit struct {
	Writes int // that shared it
	// Took is from its beginning to the disk's word, or to the error.
	Took time.Duration
	// Err is why nothing of it is stored; nil: all is, but for the writes that failed by themselves.
	Err error
}

type write struct {
	fn   func(*txn) error
	err  error
	done chan struct{}
	// claimed by whoever comes first: the writer to run it, or its caller to give it up.
	claimed atomic.Bool
}

func newGroup(conn *sql.Conn, named func(error) error, told func(Commit)) *group {
	g := &group{told: told, tx: &txn{conn: conn, known: map[string]*sql.Stmt{}}, named: named, in: make(chan *write, maxGroup), quit: make(chan struct{})}
	g.ended.Go(g.run)
	return g
}

// do runs fn in a transaction and returns when it is on disk. If ctx ends while
// it waits for its turn, fn is not run at all; once begun it is waited for
// (busyTimeout and a disk's flush bound it), so that its outcome is always known.
func (g *group) do(ctx context.Context, fn func(*txn) error) error {
	w := &write{fn: fn, done: make(chan struct{})}
	select {
	case <-g.quit:
		return ErrClosed
	default:
	}
	select {
	case g.in <- w:
	case <-g.quit:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-w.done:
		return g.named(w.err)
	case <-ctx.Done():
		if w.claimed.CompareAndSwap(false, true) {
			return ctx.Err()
		}
	case <-g.quit:
		g.ended.Wait() // it still writes what it had accepted
		if w.claimed.CompareAndSwap(false, true) {
			return ErrClosed
		}
	}
	<-w.done
	return g.named(w.err)
}

func (g *group) close() (err error) {
	g.once.Do(func() {
		close(g.quit)
		g.ended.Wait()
		err = g.tx.close()
	})
	return err
}

func (g *group) run() {
	for {
		select {
		case w := <-g.in:
			g.commit(g.gather(w))
		case <-g.quit:
			for { // what was accepted before is still written
				select {
				case w := <-g.in:
					g.commit(g.gather(w))
				default:
					return
				}
			}
		}
	}
}

// gather takes first and whatever else waits already.
func (g *group) gather(first *write) []*write {
	all := []*write{first}
	for len(all) < maxGroup {
		select {
		case w := <-g.in:
			all = append(all, w)
		default:
			return all
		}
	}
	return all
}

func (g *group) commit(all []*write) {
	began := time.Now()
	err := g.transaction(all)
	if g.told != nil {
		g.told(Commit{Writes: len(all), Took: time.Since(began), Err: err})
	}
	if err != nil {
		for _, w := range all {
			if w.err == nil {
				w.err = err
			}
		}
	}
	for _, w := range all {
		close(w.done)
	}
}

// transaction runs all writes and commits; its error is of all that have none of their own.
func (g *group) transaction(all []*write) error {
	if err := g.tx.do("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, w := range all {
		if !w.claimed.CompareAndSwap(false, true) {
			continue // given up
		}
		if len(all) == 1 {
			if w.err = w.fn(g.tx); w.err != nil {
				return g.tx.rollback(nil)
			}
		} else if err := g.apart(w); err != nil {
			return g.tx.rollback(err)
		}
	}
	if err := g.tx.do("COMMIT"); err != nil {
		return g.tx.rollback(err)
	}
	return nil
}

// apart runs w behind a savepoint. Its error means that the whole transaction is lost.
func (g *group) apart(w *write) error {
	if err := g.tx.do("SAVEPOINT w"); err != nil {
		return err
	}
	if w.err = w.fn(g.tx); w.err != nil {
		if err := g.tx.do("ROLLBACK TO w"); err != nil {
			return err
		}
	}
	return g.tx.do("RELEASE w")
}

// txn is the writer's connection as writes see it, inside a transaction. Its
// statements are prepared once: parsing would cost more than running them. Only
// the writer's goroutine uses it, and nothing but the disk keeps it waiting.
type txn struct {
	conn  *sql.Conn
	known map[string]*sql.Stmt
}

func (t *txn) prepared(query string) (*sql.Stmt, error) {
	if stmt := t.known[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := t.conn.PrepareContext(context.Background(), query)
	if err == nil {
		t.known[query] = stmt
	}
	return stmt, err
}

func (t *txn) Exec(query string, args ...any) (sql.Result, error) {
	stmt, err := t.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Exec(args...)
}

func (t *txn) Query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := t.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Query(args...)
}

func (t *txn) QueryRow(query string, args ...any) *sql.Row {
	stmt, err := t.prepared(query)
	if err != nil { // the row tells it
		return t.conn.QueryRowContext(context.Background(), query, args...)
	}
	return stmt.QueryRow(args...)
}

func (t *txn) do(statement string) error {
	_, err := t.Exec(statement)
	return err
}

// rollback ends the transaction and passes cause on. SQLite may have ended it by
// itself (a full disk): that it says so is no further error.
func (t *txn) rollback(cause error) error {
	if err := t.do("ROLLBACK"); err != nil && cause != nil {
		return fmt.Errorf("%w (rollback: %v)", cause, err)
	}
	return cause
}

func (t *txn) close() error {
	var errs []error
	for _, stmt := range t.known {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, t.conn.Close())...)
}

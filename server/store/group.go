package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxGroup bounds how many writes share one commit; beyond it the gain is small
// and one slow group would delay too many.
const maxGroup = 256

// maxAgain bounds how often a write is tried that waits for one of another node which waits for it.
const maxAgain = 5

// group is the one writer: writes that come while a commit is under way share
// the next one, so that a disk's flush is paid once for many. Each stands alone
// behind a savepoint: one that fails takes no other with it.
type group struct {
	e     engine
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
	// Topics are what nodes of a cluster are to look at again; without one there are none.
	Topics []string
	// Err is why nothing of it is stored; nil: all is, but for the writes that failed by themselves.
	Err error
}

type write struct {
	fn     func(*txn) error
	single *single      // nil: there is none
	aside  func() error // in place of both: no transaction is made for it
	err    error
	done   chan struct{}
	// claimed by whoever comes first: the writer to run it, or its caller to give it up.
	claimed atomic.Bool
	ours    bool // the writer's
}

// claim takes w for the writer; false: its caller has given it up.
func (w *write) claim() bool {
	w.ours = w.ours || w.claimed.CompareAndSwap(false, true)
	return w.ours
}

// single is a write's usual case: one statement, which does all or nothing and so needs no
// savepoint. It is tried in place of the write's function, which is for all other cases.
type single struct {
	query string // it gives a row if it did all, and else has done nothing
	args  []any
	topic string          // what it changes; see [txn.touch]
	scan  func(row) error // that row; may run again, on another try
	// steps are the same for SQLite, where it knows no such statement; nil: it does. The
	// first decides, and has done nothing where did is false.
	steps func(*txn) (did bool, err error)
	// many is the same for some writes at once, where an engine knows that; "": there is no
	// such. It finds what is given as "g", with a column "a1" for "?1", and gives the row of
	// each write that it did behind the write's key.
	many, key string
	done      bool
}

func newGroup(e engine, told func(Commit)) *group {
	g := &group{told: told, e: e, in: make(chan *write, maxGroup), quit: make(chan struct{})}
	g.ended.Go(g.run)
	return g
}

// do runs fn in a transaction and returns when it is on disk. If ctx ends while
// it waits for its turn, fn is not run at all; once begun it is waited for
// (busyTimeout and a disk's flush bound it), so that its outcome is always known.
func (g *group) do(ctx context.Context, fn func(*txn) error) error {
	return g.doSingle(ctx, nil, fn)
}

// alone runs fn in the writer's turn, outside of a transaction.
func (g *group) alone(ctx context.Context, fn func() error) error {
	return g.submit(ctx, &write{aside: fn})
}

// doSingle is do for a write whose usual case is one statement.
func (g *group) doSingle(ctx context.Context, s *single, fn func(*txn) error) error {
	return g.submit(ctx, &write{fn: fn, single: s})
}

// submit gives w to the writer and waits for its outcome, or for its turn no longer than ctx lasts.
func (g *group) submit(ctx context.Context, w *write) error {
	w.done = make(chan struct{})
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
		return g.e.named(w.err)
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
	return g.e.named(w.err)
}

// close writes what was accepted and takes no more; first is false if it did before.
func (g *group) close() (first bool) {
	g.once.Do(func() {
		close(g.quit)
		g.ended.Wait()
		first = true
	})
	return first
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
	all = slices.DeleteFunc(all, func(w *write) bool {
		if w.aside != nil {
			if w.claim() { // else it was given up
				w.err = w.aside()
			}
			close(w.done)
		}
		return w.aside != nil
	})
	if len(all) == 0 {
		return
	}
	began := time.Now()
	topics, err := g.transaction(all)
	if deadlocked(err) || len(all) == 1 && deadlocked(all[0].err) {
		topics, err = g.onebyone(all), nil
	}
	if g.told != nil {
		g.told(Commit{Writes: len(all), Took: time.Since(began), Topics: topics, Err: err})
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

// onebyone runs writes each in a transaction of its own: another node of the cluster changes
// the same rows in another order, and who holds few of them is soon done.
func (g *group) onebyone(all []*write) (topics []string) {
	for _, w := range all {
		for range maxAgain {
			w.err = nil
			more, err := g.transaction([]*write{w})
			topics = append(topics, more...)
			if w.err == nil {
				w.err = err
			}
			if !deadlocked(w.err) {
				break
			}
		}
	}
	return topics
}

// transaction runs all writes and commits; its error is of all that have none of their own.
func (g *group) transaction(all []*write) (topics []string, err error) {
	var singles []*single
	for _, w := range all {
		if w.single != nil && w.claim() {
			singles = append(singles, w.single)
		}
	}
	tx, err := g.e.begin(singles)
	if err != nil {
		return nil, err
	}
	for _, w := range all {
		if w.single != nil && w.single.done {
			tx.topics = append(tx.topics, w.single.topic)
			continue
		}
		if !w.claim() { // given up
			continue
		}
		if len(all) == 1 {
			if w.err = w.fn(tx); w.err != nil {
				return nil, g.e.rollback(tx, nil)
			}
		} else if err := apart(tx, w); err != nil {
			return nil, g.e.rollback(tx, err)
		} else if deadlocked(w.err) {
			return nil, g.e.rollback(tx, w.err)
		}
	}
	if topics, err = g.e.announce(tx); err != nil {
		return nil, g.e.rollback(tx, err)
	}
	return topics, g.e.commit(tx)
}

// apart runs w behind a savepoint. Its error means that the whole transaction is lost.
func apart(tx *txn, w *write) error {
	if err := tx.do("SAVEPOINT w"); err != nil {
		return err
	}
	if w.err = w.fn(tx); w.err != nil {
		if err := tx.do("ROLLBACK TO w"); err != nil {
			return err
		}
	}
	return tx.do("RELEASE w")
}

package store

import (
	"context"
	"database/sql"
)

// Watch tells of each query that st asks from now on, before any is asked. single: it is
// for an engine that sends many in one message alone.
func Watch(st Store, told func(query string, args []any, single bool)) {
	d := st.(*database)
	w := watched{d.engine, told}
	d.engine, d.group.e = w, w
}

// Dollars is a query as PostgreSQL is asked.
var Dollars = dollars

// watched is an engine whose queries are told.
type watched struct {
	engine
	told func(string, []any, bool)
}

func (w watched) query(ctx context.Context, query string, args []any) (rows, error) {
	w.told(query, args, false)
	return w.engine.query(ctx, query, args)
}

func (w watched) begin(first []*single) (*txn, error) {
	for _, s := range first {
		w.told(s.query, s.args, true)
		if s.many != "" {
			query, args := together([]*single{s})
			w.told(query, args, true)
		}
	}
	tx, err := w.engine.begin(first)
	if err != nil {
		return nil, err
	}
	return &txn{session: watchedSession{tx.session, w.told}}, nil
}

func unwatched(tx *txn) *txn { return &txn{session: tx.session.(watchedSession).session} }

func (w watched) commit(tx *txn) error { return w.engine.commit(unwatched(tx)) }

func (w watched) rollback(tx *txn, cause error) error {
	return w.engine.rollback(unwatched(tx), cause)
}

type watchedSession struct {
	session
	told func(string, []any, bool)
}

func (w watchedSession) Exec(query string, args ...any) (sql.Result, error) {
	w.told(query, args, false)
	return w.session.Exec(query, args...)
}

func (w watchedSession) Query(query string, args ...any) (rows, error) {
	w.told(query, args, false)
	return w.session.Query(query, args...)
}

func (w watchedSession) QueryRow(query string, args ...any) row {
	w.told(query, args, false)
	return w.session.QueryRow(query, args...)
}

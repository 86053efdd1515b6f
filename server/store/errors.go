package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// errLost: a connection is gone, and what was asked on it has no answer. It never leaves
// this package but as [ErrUnavailable].
var errLost = errors.New("the connection was lost")

// breaks reports whether err is one of these extended codes of SQLite, or this SQLSTATE of
// PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func breaks(err error, state string, codes ...int) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == state
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	for _, code := range codes {
		if ok && e.Code() == code {
			return true
		}
	}
	return false
}

// taken reports whether err is the violation of a UNIQUE or PRIMARY KEY constraint.
func taken(err error) bool {
	return breaks(err, "23505", sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// orphan reports whether err is the violation of a foreign key.
func orphan(err error) bool { return breaks(err, "23503", sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) }

// deadlocked reports whether err is that two transactions waited for each other.
func deadlocked(err error) bool { return err != nil && breaks(err, "40P01") }

// late reports whether err is the refusal of a row of an agent that was removed, by a
// trigger; see the migrations.
func late(err error) bool { return breaks(err, "GR001", sqlite3.SQLITE_CONSTRAINT_TRIGGER) }

// everyday reports whether err is one of this package's that say nothing of the database.
func everyday(err error) bool {
	for _, known := range []error{ErrNotFound, ErrRemoved, ErrQuarantined, ErrConflict, ErrTokenInvalid, ErrClosed, ErrNoRoom, ErrLeaseLost, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

package store

import (
	"errors"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// errLost: a connection is gone, and what was asked on it has no answer. It never leaves
// this package.
var errLost = errors.New("the connection was lost")

// breaks reports whether err is one of these extended codes of SQLite.
func breaks(err error, codes ...int) bool {
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
	return breaks(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// orphan reports whether err is the violation of a foreign key.
func orphan(err error) bool { return breaks(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) }

// late reports whether err is the refusal of a row of an agent that was removed, by a
// trigger; see the migrations.
func late(err error) bool { return breaks(err, sqlite3.SQLITE_CONSTRAINT_TRIGGER) }

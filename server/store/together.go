package store

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Writes of one kind as one statement of PostgreSQL: what a statement costs beside its row,
// at both ends, is paid once for all of them.

// alike puts those together that one statement can do: it changes a row once, so no two have
// one key.
func alike(all []*single) (out [][]*single) {
	place := map[string]int{}
	for _, s := range all {
		at, known := place[s.many]
		if known && s.many != "" && !slices.ContainsFunc(out[at], func(o *single) bool { return o.key == s.key }) {
			out[at] = append(out[at], s)
			continue
		}
		place[s.many] = len(out)
		out = append(out, []*single{s})
	}
	return out
}

// together gives the statement that does all of some, which are of one kind.
func together(some []*single) (query string, args []any) {
	var columns, names []string
	for i := range some[0].args {
		kind, column := columnOf(some, i)
		columns = append(columns, fmt.Sprintf("CAST($%d AS %s[])", i+1, kind))
		names = append(names, fmt.Sprintf("a%d", i+1))
		args = append(args, column)
	}
	return "WITH g AS (SELECT * FROM unnest(" + strings.Join(columns, ", ") + ") AS g (" + strings.Join(names, ", ") + ")) " + some[0].many, args
}

// columnOf gives the i-th argument of all as an array, and PostgreSQL's name of its type.
func columnOf(some []*single, i int) (kind string, column any) {
	switch some[0].args[i].(type) {
	case string:
		return "TEXT", gather(some, func(s *single) string { return storableText(s.args[i].(string)) })
	case bool:
		return "BOOLEAN", gather(some, func(s *single) bool { return s.args[i].(bool) })
	case int:
		return "BIGINT", gather(some, func(s *single) int64 { return int64(s.args[i].(int)) })
	case int64:
		return "BIGINT", gather(some, func(s *single) int64 { return s.args[i].(int64) })
	case sql.NullInt64:
		return "BIGINT", gather(some, func(s *single) *int64 {
			if n := s.args[i].(sql.NullInt64); n.Valid {
				return &n.Int64
			}
			return nil
		})
	}
	panic(fmt.Sprintf("no column of %T", some[0].args[i])) // the queries are this package's own
}

func gather[T any](some []*single, of func(*single) T) []T {
	out := make([]T, len(some))
	for i, s := range some {
		out[i] = of(s)
	}
	return out
}

// scanTogether reads the rows of such a statement.
func scanTogether(rows pgx.Rows, some []*single) error {
	by := make(map[string]*single, len(some))
	for _, s := range some {
		by[s.key] = s
	}
	for rows.Next() {
		r := keyed{rows: rows}
		if err := r.Scan(); err != nil {
			return err
		}
		s := by[r.key]
		if s == nil {
			return fmt.Errorf("a row of none of the writes: %s", r.key)
		}
		if err := s.scan(&r); err != nil {
			return err
		}
		s.done = true
	}
	return rows.Err()
}

// keyed is a row without its first column, the key.
type keyed struct {
	rows pgx.Rows
	key  string
}

func (r *keyed) Scan(into ...any) error {
	for len(into) < len(r.rows.FieldDescriptions())-1 {
		into = append(into, nil)
	}
	return r.rows.Scan(append([]any{&r.key}, into...)...)
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"gururmm/wire"
)

// heldColumn is where a command keeps how much of a stream is held without a gap.
func heldColumn(stream wire.Stream) (string, error) {
	switch stream {
	case wire.Stdout:
		return "stdout_bytes", nil
	case wire.Stderr:
		return "stderr_bytes", nil
	}
	return "", fmt.Errorf("%w: stream %q", ErrNotFound, stream)
}

// maxPieces bounds the pieces of one stream held beyond a gap: each one that comes
// is compared with them, by the one writer of all. What is not held the agent sends
// again, from the gap on.
const maxPieces = 512

// piece is a stretch of bytes held.
type piece struct{ start, end int64 }

func (d *database) AddOutput(ctx context.Context, command string, stream wire.Stream, offset int64, data []byte) (have int64, err error) {
	column, err := heldColumn(stream)
	if err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("output at a negative offset (%d)", offset)
	}
	// In order and without a gap, as almost all comes.
	usual := &single{query: `WITH saved AS (
			UPDATE commands SET ` + column + ` = ` + column + ` + ?4 WHERE id = ?1 AND ` + column + ` = ?3
			AND NOT EXISTS (SELECT 1 FROM outputs WHERE command = ?1 AND stream = ?2 AND start >= ?3) RETURNING id, ` + column + ` AS held
		), added AS (INSERT INTO outputs (command, stream, start, data) SELECT id, ?2, ?3, ?5 FROM saved) SELECT held FROM saved`,
		args: []any{command, string(stream), offset, int64(len(data)), data},
		scan: func(r row) error { return r.Scan(&have) },
		steps: func(tx *txn) (bool, error) {
			have = offset + int64(len(data))
			err := one(tx.Exec(`UPDATE commands SET `+column+` = ?1 WHERE id = ?2 AND `+column+` = ?3
				AND NOT EXISTS (SELECT 1 FROM outputs WHERE command = ?2 AND stream = ?4 AND start >= ?3)`, have, command, offset, string(stream)))
			if errors.Is(err, ErrNotFound) {
				return false, nil
			}
			if err == nil {
				_, err = tx.Exec(`INSERT INTO outputs (command, stream, start, data) VALUES (?, ?, ?, ?)`, command, string(stream), offset, data)
			}
			return err == nil, err
		}}
	if len(data) == 0 {
		usual = nil
	}
	err = d.group.doSingle(ctx, usual, func(tx *txn) error {
		err := tx.QueryRow(`SELECT `+column+` FROM commands WHERE id = ?`+d.lockRow(), command).Scan(&have)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		// Only what lies beyond the gapless part can be new; held pieces there are few.
		from, to := offset, offset+int64(len(data))
		if to <= have {
			return nil
		}
		from = max(from, have)
		held, err := piecesFrom(tx, command, stream, have)
		if err != nil {
			return err
		}
		if from > have && len(held) >= maxPieces {
			return nil
		}
		for _, gap := range uncovered(piece{from, to}, held) {
			if _, err := tx.Exec(`INSERT INTO outputs (command, stream, start, data) VALUES (?, ?, ?, ?)`,
				command, string(stream), gap.start, data[gap.start-offset:gap.end-offset]); err != nil {
				return err
			}
			held = append(held, gap)
		}
		before := have
		for grown := true; grown; {
			grown = false
			for _, p := range held {
				if p.start <= have && p.end > have {
					have, grown = p.end, true
				}
			}
		}
		if have == before {
			return nil
		}
		_, err = tx.Exec(`UPDATE commands SET `+column+` = ? WHERE id = ?`, have, command)
		return err
	})
	return have, err
}

func piecesFrom(tx *txn, command string, stream wire.Stream, from int64) ([]piece, error) {
	rows, err := tx.Query(`SELECT start, start + length(data) FROM outputs WHERE command = ? AND stream = ? AND start >= ? ORDER BY start`,
		command, string(stream), from)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var held []piece
	for rows.Next() {
		var p piece
		if err := rows.Scan(&p.start, &p.end); err != nil {
			return nil, err
		}
		held = append(held, p)
	}
	return held, rows.Err()
}

// uncovered gives the parts of p that no piece of held, ordered by start, covers.
func uncovered(p piece, held []piece) []piece {
	var out []piece
	for _, h := range held {
		if h.end <= p.start || p.start >= p.end {
			continue
		}
		if h.start >= p.end {
			break
		}
		if h.start > p.start {
			out = append(out, piece{p.start, h.start})
		}
		p.start = h.end
	}
	if p.start < p.end {
		out = append(out, p)
	}
	return out
}

func (d *database) ReadOutput(ctx context.Context, command string, stream wire.Stream, offset, max int64) ([]byte, error) {
	column, err := heldColumn(stream)
	if err != nil {
		return nil, err
	}
	have, err := first(ctx, d, func(r row) (n int64, err error) { err = r.Scan(&n); return n, err },
		`SELECT `+column+` FROM commands WHERE id = ?`, command)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset >= have || max <= 0 {
		return nil, nil
	}
	end := offset + min(max, have-offset)
	out := make([]byte, 0, end-offset)
	rows, err := d.query(ctx, `SELECT start, data FROM outputs WHERE command = ? AND stream = ?
		AND start < ? AND start + length(data) > ? ORDER BY start`, []any{command, string(stream), end, offset})
	if err != nil {
		return nil, d.named(err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			start int64
			data  []byte
		)
		if err := rows.Scan(&start, &data); err != nil {
			return nil, d.named(err)
		}
		next := offset + int64(len(out))
		if start > next || start+int64(len(data)) <= next {
			return nil, d.named(fmt.Errorf("%w: output of %s has a hole at byte %d", ErrCorrupt, command, next))
		}
		data = data[next-start:]
		out = append(out, data[:min(int64(len(data)), end-next)]...)
	}
	return out, d.named(rows.Err())
}

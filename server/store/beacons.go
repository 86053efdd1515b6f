package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"sync"

	"gururmm/operator"
	"gururmm/wire"
)

func (d *database) SaveBeacon(ctx context.Context, b operator.Beacon) (added bool, err error) {
	report, err := pack(b.Report)
	if err != nil {
		return false, err
	}
	var view sql.NullString
	if b.View != nil {
		raw, err := json.Marshal(b.View)
		if err != nil {
			return false, err
		}
		view = sql.NullString{String: string(raw), Valid: true}
	}
	err = d.group.do(ctx, func(tx *txn) error {
		res, err := tx.Exec(`INSERT INTO beacons (report_id, agent, received_at, verdict, sentence, report, view, addr)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (report_id) DO NOTHING`,
			b.ReportID, b.Agent, micros(b.ReceivedAt), b.Verdict, b.Sentence, report, view, b.Addr)
		if orphan(err) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if added = n > 0; err != nil || !added {
			return err
		}
		_, err = tx.Exec(`DELETE FROM beacons WHERE agent = ?1 AND seq <=
			(SELECT seq FROM beacons WHERE agent = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)`, b.Agent, KeepBeacons)
		return err
	})
	return added, err
}

func (d *database) Beacons(ctx context.Context, agent string, limit int) ([]operator.Beacon, error) {
	query, args := `SELECT b.report_id, b.agent, a.name, b.received_at, b.verdict, b.sentence, b.report, b.view, b.addr
		FROM beacons b JOIN agents a ON a.id = b.agent `, []any(nil)
	if agent != "" { // a query of its own, so that it has an index
		query, args = query+`WHERE b.agent = ? `, append(args, agent)
	}
	return list(ctx, d, func(r row) (b operator.Beacon, err error) {
		var (
			at     int64
			report []byte
			view   sql.NullString
		)
		if err := r.Scan(&b.ReportID, &b.Agent, &b.AgentName, &at, &b.Verdict, &b.Sentence, &report, &view, &b.Addr); err != nil {
			return b, err
		}
		b.ReceivedAt = timeOf(at)
		if view.Valid {
			b.View = new(wire.ServerView)
			if err := json.Unmarshal([]byte(view.String), b.View); err != nil {
				return b, err
			}
		}
		b.Report, err = unpack(report)
		return b, err
	}, query+`ORDER BY b.seq DESC LIMIT ?`, append(args, limited(limit))...)
}

// packers are used again: a new one costs most of a megabyte.
var packers = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// pack compresses a report: full of names that repeat, it shrinks to a tenth.
func pack(raw []byte) ([]byte, error) {
	var buf bytes.Buffer
	z := packers.Get().(*gzip.Writer)
	defer packers.Put(z)
	z.Reset(&buf)
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func unpack(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

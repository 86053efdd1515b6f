package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

func (d *database) CreateDirective(ctx context.Context, dir wire.Directive, by string, now time.Time) error {
	raw, err := json.Marshal(dir)
	if err != nil {
		return err
	}
	return d.group.do(ctx, func(tx *txn) error {
		_, err := tx.Exec(`INSERT INTO directives (id, agent, payload, created_by, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
			dir.ID, dir.Agent, string(raw), by, micros(now), micros(dir.ExpiresAt))
		switch {
		case orphan(err):
			return ErrNotFound
		case taken(err):
			return ErrConflict
		case err != nil:
			return err
		}
		tx.touch(TopicDirectives, dir.Agent)
		_, err = tx.Exec(`DELETE FROM directives WHERE agent = ?1 AND (ended_at IS NOT NULL OR expires_at <= ?2) AND created_at <
			(SELECT created_at FROM directives WHERE agent = ?1 ORDER BY created_at DESC LIMIT 1 OFFSET ?3)`, dir.Agent, micros(now), KeepDirectives)
		return err
	})
}

func (d *database) PendingDirectives(ctx context.Context, agent string, now, unheard time.Time) ([]wire.Directive, error) {
	return list(ctx, d, func(r row) (dir wire.Directive, err error) {
		var raw string
		if err := r.Scan(&raw); err != nil {
			return dir, err
		}
		err = json.Unmarshal([]byte(raw), &dir)
		return dir, err
	}, `SELECT payload FROM directives WHERE agent = ? AND ended_at IS NULL AND expires_at > ?
		AND accepted_at IS NULL AND coalesce(delivered_at, 0) <= ? ORDER BY created_at, id`, agent, micros(now), micros(unheard))
}

func (d *database) DirectivesDelivered(ctx context.Context, ids []string, at time.Time) error {
	return d.group.do(ctx, func(tx *txn) error {
		for _, id := range ids {
			if _, err := tx.Exec(`UPDATE directives SET delivered_at = ? WHERE id = ?`, micros(at), id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *database) AnswerDirective(ctx context.Context, agent string, a DirectiveAnswer) (changed bool, err error) {
	var report []byte
	if len(a.Report) > 0 {
		if report, err = pack(a.Report); err != nil {
			return false, err
		}
	}
	end := sql.NullInt64{Int64: micros(a.At), Valid: a.State != wire.DirectiveAccepted}
	err = d.group.do(ctx, func(tx *txn) error {
		changed = false
		var ended bool
		err := tx.QueryRow(`SELECT ended_at IS NOT NULL FROM directives WHERE id = ? AND agent = ?`, a.ID, agent).Scan(&ended)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil || ended {
			return err
		}
		// An endpoint's clock may be off: no answer was given before the order.
		_, err = tx.Exec(`UPDATE directives SET state = ?1, code = ?2, detail = ?3, report = ?4, ended_at = CASE WHEN ?5 < created_at THEN created_at ELSE ?5 END,
			accepted_at = coalesce(accepted_at, CASE WHEN ?6 < created_at THEN created_at ELSE ?6 END),
			delivered_at = coalesce(delivered_at, CASE WHEN ?6 < created_at THEN created_at ELSE ?6 END)
			WHERE id = ?7`, string(a.State), string(a.Code), a.Detail, report, end, micros(a.At), a.ID)
		changed = err == nil
		return err
	})
	return changed, err
}

const directiveColumns = `d.id, d.agent, a.name, d.payload, d.created_by, d.created_at, d.expires_at, d.delivered_at, d.accepted_at, d.ended_at,
	d.state, d.code, d.detail, d.report FROM directives d JOIN agents a ON a.id = d.agent `

func scanDirective(r row) (out operator.Directive, err error) {
	var (
		payload, state, code       string
		created, expires           int64
		delivered, accepted, ended sql.NullInt64
		report                     []byte
		order                      wire.Directive
	)
	if err := r.Scan(&out.ID, &out.Agent, &out.AgentName, &payload, &out.CreatedBy, &created, &expires, &delivered, &accepted, &ended,
		&state, &code, &out.Detail, &report); err != nil {
		return out, err
	}
	if err := json.Unmarshal([]byte(payload), &order); err != nil {
		return out, err
	}
	out.Kind, out.Reason, out.Endpoint, out.Only, out.Lift = order.Kind, order.Reason, order.Endpoint, order.Only, order.Lift
	if order.Build != nil {
		out.Version = order.Build.Version
	}
	out.CreatedAt, out.ExpiresAt = timeOf(created), timeOf(expires)
	out.DeliveredAt, out.AcceptedAt, out.EndedAt = timePtr(delivered), timePtr(accepted), timePtr(ended)
	out.State, out.Code = state, wire.Code(code)
	if len(report) > 0 {
		out.Report, err = unpack(report)
	}
	return out, err
}

func (d *database) Directive(ctx context.Context, id string) (operator.Directive, error) {
	return first(ctx, d, scanDirective, `SELECT `+directiveColumns+`WHERE d.id = ?`, id)
}

func (d *database) FindDirectives(ctx context.Context, ref string) ([]string, error) {
	return d.findIDs(ctx, "directives", ref)
}

// lightDirective are the columns without the report, which may be large.
var lightDirective = strings.Replace(directiveColumns, "d.report", "NULL", 1)

func (d *database) Directives(ctx context.Context, agent string, limit int) ([]operator.Directive, error) {
	return list(ctx, d, scanDirective, `SELECT `+lightDirective+`WHERE d.agent = ? ORDER BY d.created_at DESC, d.id DESC LIMIT ?`, agent, limited(limit))
}

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"gururmm/operator"
)

func saveRolloutAgent(tx *txn, id string, a operator.RolloutAgent) error {
	_, err := tx.Exec(`INSERT INTO rollout_agents (rollout, agent, ring, state, directive, ordered_at, ended_at, detail, attempts, not_before)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (rollout, agent) DO UPDATE SET state = excluded.state, directive = excluded.directive, ordered_at = excluded.ordered_at,
		ended_at = excluded.ended_at, detail = excluded.detail, attempts = excluded.attempts, not_before = excluded.not_before`,
		id, a.Agent, a.Ring, a.State, a.Directive, microsPtr(a.OrderedAt), microsPtr(a.EndedAt), a.Detail, a.Attempts, microsPtr(a.NotBefore))
	if orphan(err) {
		return ErrNotFound
	}
	return err
}

func (d *database) CreateRollout(ctx context.Context, r Rollout, members []operator.RolloutAgent) error {
	plan, err := json.Marshal(r.Plan)
	if err != nil {
		return err
	}
	return d.group.do(ctx, func(tx *txn) error {
		_, err := tx.Exec(`INSERT INTO rollouts (id, version, plan, state, created_by, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
			r.ID, r.Version, string(plan), r.State, r.CreatedBy, micros(r.CreatedAt))
		if taken(err) {
			return ErrConflict
		}
		for _, a := range members {
			if err == nil {
				err = saveRolloutAgent(tx, r.ID, a)
			}
		}
		return err
	})
}

func (d *database) SaveRollout(ctx context.Context, r Rollout, changed ...operator.RolloutAgent) error {
	plan, err := json.Marshal(r.Plan)
	if err != nil {
		return err
	}
	return d.group.do(ctx, func(tx *txn) error {
		err := one(tx.Exec(`UPDATE rollouts SET plan = ?, state = ?, reason = ?, ring = ?, soak_since = ?, resumed_at = ?, ended_at = ?, rev = rev + 1 WHERE id = ? AND rev = ?`,
			string(plan), r.State, r.Reason, r.Ring, microsPtr(r.SoakSince), microsPtr(r.ResumedAt), microsPtr(r.EndedAt), r.ID, r.Rev))
		if errors.Is(err, ErrNotFound) {
			var n int
			if err := tx.QueryRow(`SELECT count(*) FROM rollouts WHERE id = ?`, r.ID).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return ErrConflict
			}
		}
		for _, a := range changed {
			if err == nil {
				err = saveRolloutAgent(tx, r.ID, a)
			}
		}
		return err
	})
}

const rolloutColumns = `SELECT id, version, plan, state, reason, ring, soak_since, resumed_at, created_by, created_at, ended_at, rev FROM rollouts `

func scanRollout(r row) (out Rollout, err error) {
	var (
		plan                 string
		created              int64
		soak, resumed, ended sql.NullInt64
	)
	if err := r.Scan(&out.ID, &out.Version, &plan, &out.State, &out.Reason, &out.Ring, &soak, &resumed, &out.CreatedBy, &created, &ended, &out.Rev); err != nil {
		return out, err
	}
	out.SoakSince, out.ResumedAt, out.EndedAt, out.CreatedAt = timePtr(soak), timePtr(resumed), timePtr(ended), timeOf(created)
	return out, json.Unmarshal([]byte(plan), &out.Plan)
}

func (d *database) Rollout(ctx context.Context, id string) (Rollout, error) {
	return first(ctx, d, scanRollout, rolloutColumns+`WHERE id = ?`, id)
}

func (d *database) Rollouts(ctx context.Context, limit int) ([]Rollout, error) {
	return list(ctx, d, scanRollout, rolloutColumns+`ORDER BY created_at DESC, id DESC LIMIT ?`, limited(limit))
}

func (d *database) OpenRollouts(ctx context.Context) ([]Rollout, error) {
	return list(ctx, d, scanRollout, rolloutColumns+`WHERE state <> ? ORDER BY created_at, id`, operator.RolloutDone)
}

func (d *database) FindRollouts(ctx context.Context, ref string) ([]string, error) {
	return d.findIDs(ctx, "rollouts", ref)
}

func (d *database) RolloutAgents(ctx context.Context, id string) ([]operator.RolloutAgent, error) {
	return list(ctx, d, func(r row) (a operator.RolloutAgent, err error) {
		var ordered, ended, before sql.NullInt64
		err = r.Scan(&a.Agent, &a.AgentName, &a.Ring, &a.State, &a.Directive, &ordered, &ended, &a.Detail, &a.Attempts, &before)
		a.OrderedAt, a.EndedAt, a.NotBefore = timePtr(ordered), timePtr(ended), timePtr(before)
		return a, err
	}, `SELECT m.agent, a.name, m.ring, m.state, m.directive, m.ordered_at, m.ended_at, m.detail, m.attempts, m.not_before
		FROM rollout_agents m JOIN agents a ON a.id = m.agent WHERE m.rollout = ? ORDER BY m.ring, lower(a.name), m.agent`, id)
}

func (d *database) WithdrawDirective(ctx context.Context, dir DirectiveAnswer) error {
	return d.group.do(ctx, func(tx *txn) error {
		err := one(tx.Exec(`UPDATE directives SET state = ?1, detail = ?2, ended_at = CASE WHEN ?3 < created_at THEN created_at ELSE ?3 END
			WHERE id = ?4 AND delivered_at IS NULL AND ended_at IS NULL`, string(dir.State), dir.Detail, micros(dir.At), dir.ID))
		if errors.Is(err, ErrNotFound) {
			return ErrConflict
		}
		return err
	})
}

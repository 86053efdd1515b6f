package store

import (
	"context"

	"gururmm/operator"
)

// Tags are words that operators group agents by.
type Tags interface {
	// ChangeTags takes tags off agents and puts others on, of all of them or of none:
	// ErrNotFound if one is not there (any more), ErrNoRoom if one would have more than
	// operator.MaxTags. What is on already, or off, stays so.
	ChangeTags(ctx context.Context, agents, add, remove []string) error
	// AgentTags gives the tags of an agent, or of all (""), in order.
	AgentTags(ctx context.Context, agent string) (map[string][]string, error)
}

func (d *database) ChangeTags(ctx context.Context, agents, add, remove []string) error {
	return d.group.do(ctx, func(tx *txn) error {
		for _, agent := range agents {
			if err := changeTags(tx, agent, add, remove); err != nil {
				return err
			}
		}
		return nil
	})
}

func changeTags(tx *txn, agent string, add, remove []string) error {
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM agents WHERE id = ? AND removed_at IS NULL`, agent).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return ErrNotFound
	}
	for _, tag := range remove {
		if _, err := tx.Exec(`DELETE FROM agent_tags WHERE agent = ? AND tag = ?`, agent, tag); err != nil {
			return err
		}
	}
	for _, tag := range add {
		if _, err := tx.Exec(`INSERT INTO agent_tags (agent, tag) VALUES (?, ?) ON CONFLICT DO NOTHING`, agent, tag); err != nil {
			return err
		}
	}
	if err := tx.QueryRow(`SELECT count(*) FROM agent_tags WHERE agent = ?`, agent).Scan(&n); err != nil {
		return err
	}
	if n > operator.MaxTags {
		return ErrNoRoom
	}
	return nil
}

func (d *database) AgentTags(ctx context.Context, agent string) (map[string][]string, error) {
	type tagged struct{ agent, tag string }
	scan := func(r row) (t tagged, err error) { err = r.Scan(&t.agent, &t.tag); return t, err }
	query, args := `SELECT agent, tag FROM agent_tags ORDER BY agent, tag`, []any(nil)
	if agent != "" {
		query, args = `SELECT agent, tag FROM agent_tags WHERE agent = ? ORDER BY tag`, []any{agent}
	}
	all, err := list(ctx, d, scan, query, args...)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, t := range all {
		out[t.agent] = append(out[t.agent], t.tag)
	}
	return out, nil
}

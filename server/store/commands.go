package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

const commandColumns = `c.id, c.agent, a.name, c.shell, c.script, c.state, c.reason, c.attempts, c.channel, c.created_at, c.expires_at,
	c.timeout_ms, c.acked_at, c.ended_at, c.exit_code, c.stdout_bytes, c.stderr_bytes, c.stdout_lost, c.stderr_lost, c.orphans, c.created_by,
	c.max_output, coalesce(c.idem_key, ''), c.cancel_at, c.cancel_by, c.rev, c.owner`

// lightColumns are the same without the script, which may be large.
var lightColumns = strings.Replace(commandColumns, "c.script", "''", 1)

const fromCommands = ` FROM commands c JOIN agents a ON a.id = c.agent `

func scanCommand(r row) (c Command, err error) {
	var (
		created, expires      int64
		acked, ended, cancel  sql.NullInt64
		exit                  sql.NullInt64
		shell, state, channel string
	)
	err = r.Scan(&c.ID, &c.Agent, &c.AgentName, &shell, &c.Script, &state, &c.Reason, &c.Attempts, &channel, &created, &expires,
		&c.TimeoutMS, &acked, &ended, &exit, &c.StdoutBytes, &c.StderrBytes, &c.StdoutLost, &c.StderrLost, &c.Orphans, &c.CreatedBy,
		&c.MaxOutput, &c.IdempotencyKey, &cancel, &c.CancelBy, &c.Rev, &c.Owner)
	c.Shell, c.State, c.Channel = wire.Shell(shell), wire.State(state), wire.Channel(channel)
	c.CreatedAt, c.ExpiresAt = timeOf(created), timeOf(expires)
	c.AckedAt, c.EndedAt, c.CancelAt = timePtr(acked), timePtr(ended), timePtr(cancel)
	if exit.Valid {
		code := int(exit.Int64)
		c.ExitCode = &code
	}
	return c, err
}

func (d *database) CreateCommand(ctx context.Context, c Command, first ...Stage) (stored Command, created bool, err error) {
	trace, err := traced(c.ID, first)
	if err != nil {
		return Command{}, false, err
	}
	usual := &single{query: `INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, idem_key, state,
			attempts, channel, owner, trace)
			SELECT ?1, id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, nullif(?10, ''), ?11, ?12, ?13, ?14, ?15 FROM agents WHERE id = ?2 AND removed_at IS NULL AND NOT quarantined
			ON CONFLICT DO NOTHING RETURNING (SELECT name FROM agents WHERE id = agent)`,
		args: []any{c.ID, c.Agent, string(c.Shell), c.Script, c.TimeoutMS, c.MaxOutput, micros(c.CreatedAt), c.CreatedBy, micros(c.ExpiresAt),
			c.IdempotencyKey, string(c.State), c.Attempts, string(c.Channel), c.Owner, trace},
		many: `INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, idem_key, state,
			attempts, channel, owner, trace)
			SELECT a1, id, a3, a4, a5, a6, a7, a8, a9, nullif(a10, ''), a11, a12, a13, a14, a15 FROM g JOIN agents ON id = a2 WHERE removed_at IS NULL AND NOT quarantined
			ON CONFLICT DO NOTHING RETURNING id, (SELECT name FROM agents WHERE id = agent)`,
		key:   c.ID,
		topic: topic(TopicCommands, c.Agent),
		scan: func(r row) error {
			stored, created = c.fresh(), true
			return r.Scan(&stored.AgentName)
		}}
	err = d.group.doSingle(ctx, usual, func(tx *txn) error {
		stored, created = Command{}, false
		var quarantined bool
		var removed sql.NullInt64
		err := tx.QueryRow(`SELECT quarantined, removed_at FROM agents WHERE id = ?`, c.Agent).Scan(&quarantined, &removed)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case removed.Valid:
			return ErrRemoved
		case quarantined:
			return ErrQuarantined
		}
		if c.IdempotencyKey != "" {
			stored, err = scanCommand(tx.QueryRow(`SELECT `+commandColumns+fromCommands+`WHERE c.agent = ? AND c.idem_key = ?`, c.Agent, c.IdempotencyKey))
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		err = usual.scan(tx.QueryRow(usual.query, usual.args...))
		if errors.Is(err, sql.ErrNoRows) { // the id is there
			err = ErrConflict
		}
		if err != nil {
			return err
		}
		tx.touch(TopicCommands, c.Agent)
		return nil
	})
	if err != nil {
		return Command{}, false, err
	}
	return stored, created, nil
}

// fresh is c as it is stored at first.
func (c Command) fresh() Command {
	return Command{Command: operator.Command{
		ID: c.ID, Agent: c.Agent, Shell: c.Shell, Script: c.Script, TimeoutMS: c.TimeoutMS, State: c.State, CreatedBy: c.CreatedBy,
		CreatedAt: timeOf(micros(c.CreatedAt)), ExpiresAt: timeOf(micros(c.ExpiresAt)), Attempts: c.Attempts, Channel: c.Channel,
	}, MaxOutput: c.MaxOutput, IdempotencyKey: c.IdempotencyKey, Owner: c.Owner, Rev: 1}
}

func (d *database) Command(ctx context.Context, id string) (Command, error) {
	return first(ctx, d, scanCommand, `SELECT `+commandColumns+fromCommands+`WHERE c.id = ?`, id)
}

func (d *database) FindCommands(ctx context.Context, ref string) ([]string, error) {
	found, err := d.findIDs(ctx, "commands", ref)
	if err != nil || len(found) > 0 || !IsEnding(ref) {
		return found, err
	}
	// No index has the ends of ids. Ids are time-ordered: read in their order, the newest come first.
	id := func(r row) (id string, err error) { err = r.Scan(&id); return id, err }
	newest, err := list(ctx, d, id, `SELECT id FROM commands ORDER BY id DESC LIMIT ?`, EndingsAmong)
	end := strings.ToLower(ref)
	found = slices.DeleteFunc(newest, func(id string) bool { return !strings.HasSuffix(id, end) })
	slices.Sort(found)
	return found[:min(MaxFound, len(found))], err
}

// IsEnding reports whether ref may stand for a command by the end of its id.
func IsEnding(ref string) bool {
	return len(ref) >= MinEnding && strings.Trim(ref, "0123456789abcdefABCDEF-") == ""
}

func (d *database) Commands(ctx context.Context, f CommandFilter) ([]Command, error) {
	query, args := `SELECT `+commandColumns+fromCommands, []any(nil)
	if f.Agent != "" {
		query, args = query+`WHERE c.agent = ? `, append(args, f.Agent)
	}
	switch {
	case f.State != "" && f.Agent != "":
		query, args = query+`AND c.state = ? `, append(args, string(f.State))
	case f.State != "": // by age, whatever a planner thinks of how rare the state is
		query, args = query+`WHERE c.created_at > 0 AND c.state = ? `, append(args, string(f.State))
	}
	return list(ctx, d, scanCommand, query+`ORDER BY c.created_at DESC, c.id DESC LIMIT ?`, append(args, limited(f.Limit))...)
}

func (d *database) ActiveCommands(ctx context.Context, agent string) ([]Command, error) {
	return list(ctx, d, scanCommand, `SELECT `+lightColumns+fromCommands+
		`WHERE c.agent = ? AND c.state IN ('pending', 'running') ORDER BY c.created_at, c.id`, agent)
}

func (d *database) ActiveAgents(ctx context.Context) ([]string, error) {
	return list(ctx, d, func(r row) (id string, err error) { err = r.Scan(&id); return id, err },
		`SELECT DISTINCT agent FROM commands WHERE state IN ('pending', 'running')`)
}

func (d *database) SaveCommand(ctx context.Context, c Command, stages ...Stage) (rev int64, err error) {
	trace, err := traced(c.ID, stages)
	if err != nil {
		return c.Rev, err
	}
	var exit sql.NullInt64
	if c.ExitCode != nil {
		exit = sql.NullInt64{Int64: int64(*c.ExitCode), Valid: true}
	}
	usual := &single{query: `UPDATE commands SET state = ?1, reason = ?2, attempts = ?3, channel = ?4, acked_at = ?5, ended_at = ?6, exit_code = ?7,
			stdout_lost = ?8, stderr_lost = ?9, orphans = ?10, cancel_at = ?11, cancel_by = ?12, owner = ?13, trace = trace || ?14, rev = rev + 1
			WHERE id = ?15 AND rev = ?16 RETURNING rev`,
		args: []any{string(c.State), c.Reason, c.Attempts, string(c.Channel), microsPtr(c.AckedAt), microsPtr(c.EndedAt), exit,
			c.StdoutLost, c.StderrLost, c.Orphans, microsPtr(c.CancelAt), c.CancelBy, c.Owner, trace, c.ID, c.Rev},
		many: `UPDATE commands SET state = a1, reason = a2, attempts = a3, channel = a4, acked_at = a5, ended_at = a6, exit_code = a7,
			stdout_lost = a8, stderr_lost = a9, orphans = a10, cancel_at = a11, cancel_by = a12, owner = a13, trace = trace || a14, rev = rev + 1
			FROM g WHERE id = a15 AND rev = a16 RETURNING id, rev`,
		key:   c.ID,
		topic: topic(TopicCommands, c.Agent),
		scan:  func(r row) error { return r.Scan(&rev) }}
	err = d.group.doSingle(ctx, usual, func(tx *txn) error {
		err := usual.scan(tx.QueryRow(usual.query, usual.args...))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrConflict
		}
		if err != nil {
			return err
		}
		tx.touch(TopicCommands, c.Agent)
		return nil
	})
	return rev, err
}

func (d *database) LastResult(ctx context.Context, agent string) (*time.Time, error) {
	at, err := first(ctx, d, func(r row) (at sql.NullInt64, err error) { err = r.Scan(&at); return at, err },
		`SELECT max(ended_at) FROM commands WHERE agent = ? AND acked_at IS NOT NULL`, agent)
	return timePtr(at), err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"gururmm/wire"
)

// maxStages bounds the trace of one command: ten attempts of thirteen stages
// and their notes are well below; an agent that makes up notes fills no disk.
const maxStages = 400

const commandColumns = `c.id, c.agent, a.name, c.shell, c.script, c.state, c.reason, c.attempts, c.channel, c.created_at, c.expires_at,
	c.timeout_ms, c.acked_at, c.ended_at, c.exit_code, c.stdout_bytes, c.stderr_bytes, c.stdout_lost, c.stderr_lost, c.orphans, c.created_by,
	c.max_output, coalesce(c.idem_key, ''), c.cancel_at, c.cancel_by, c.rev`

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
		&c.MaxOutput, &c.IdempotencyKey, &cancel, &c.CancelBy, &c.Rev)
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
	err = d.group.do(ctx, func(tx *txn) error {
		stored, created = Command{}, false
		if c.IdempotencyKey != "" {
			stored, err = scanCommand(tx.QueryRow(`SELECT `+commandColumns+fromCommands+`WHERE c.agent = ? AND c.idem_key = ?`, c.Agent, c.IdempotencyKey))
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, idem_key, state)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?)`,
			c.ID, c.Agent, string(c.Shell), c.Script, c.TimeoutMS, c.MaxOutput, micros(c.CreatedAt), c.CreatedBy, micros(c.ExpiresAt), c.IdempotencyKey, string(c.State))
		switch {
		case orphan(err):
			return ErrNotFound // the agent
		case taken(err):
			return ErrConflict
		case err != nil:
			return err
		}
		created = true
		if err := addStages(tx, first); err != nil {
			return err
		}
		stored, err = scanCommand(tx.QueryRow(`SELECT `+commandColumns+fromCommands+`WHERE c.id = ?`, c.ID))
		return err
	})
	if err != nil {
		return Command{}, false, err
	}
	return stored, created, nil
}

func (d *database) Command(ctx context.Context, id string) (Command, error) {
	return first(ctx, d, scanCommand, `SELECT `+commandColumns+fromCommands+`WHERE c.id = ?`, id)
}

func (d *database) FindCommands(ctx context.Context, ref string) ([]string, error) {
	return d.findIDs(ctx, "commands", ref)
}

func (d *database) Commands(ctx context.Context, f CommandFilter) ([]Command, error) {
	return list(ctx, d, scanCommand, `SELECT `+commandColumns+fromCommands+
		`WHERE (?1 = '' OR c.agent = ?1) AND (?2 = '' OR c.state = ?2) ORDER BY c.created_at DESC, c.id DESC LIMIT ?3`,
		f.Agent, string(f.State), limited(f.Limit))
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
	var exit sql.NullInt64
	if c.ExitCode != nil {
		exit = sql.NullInt64{Int64: int64(*c.ExitCode), Valid: true}
	}
	err = d.group.do(ctx, func(tx *txn) error {
		err := one(tx.Exec(`UPDATE commands SET state = ?, reason = ?, attempts = ?, channel = ?, acked_at = ?, ended_at = ?, exit_code = ?,
			stdout_lost = ?, stderr_lost = ?, orphans = ?, cancel_at = ?, cancel_by = ?, rev = rev + 1 WHERE id = ? AND rev = ?`,
			string(c.State), c.Reason, c.Attempts, string(c.Channel), microsPtr(c.AckedAt), microsPtr(c.EndedAt), exit,
			c.StdoutLost, c.StderrLost, c.Orphans, microsPtr(c.CancelAt), c.CancelBy, c.ID, c.Rev))
		if errors.Is(err, ErrNotFound) {
			return ErrConflict
		}
		if err != nil {
			return err
		}
		return addStages(tx, stages)
	})
	return c.Rev + 1, err
}

func (d *database) AddStages(ctx context.Context, stages ...Stage) error {
	if len(stages) == 0 {
		return nil
	}
	return d.group.do(ctx, func(tx *txn) error { return addStages(tx, stages) })
}

func addStages(tx *txn, stages []Stage) error {
	for _, s := range stages {
		_, err := tx.Exec(`INSERT INTO stages (command, stage, attempt, side, channel, link, at, note)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE (SELECT count(*) FROM stages WHERE command = ?1) < ?9 ON CONFLICT DO NOTHING`,
			s.Command, string(s.Stage), s.Attempt, s.End, string(s.Channel), s.Link, micros(s.At), s.Note, maxStages)
		if orphan(err) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *database) Stages(ctx context.Context, command string, after int64) ([]Stage, error) {
	return list(ctx, d, func(r row) (s Stage, err error) {
		var (
			stage, channel string
			at             int64
		)
		err = r.Scan(&s.Seq, &s.Command, &stage, &s.Attempt, &s.End, &channel, &s.Link, &at, &s.Note)
		s.Stage, s.Channel, s.At = wire.Stage(stage), wire.Channel(channel), timeOf(at)
		return s, err
	}, `SELECT seq, command, stage, attempt, side, channel, link, at, note FROM stages WHERE command = ? AND seq > ? ORDER BY seq`, command, after)
}

func (d *database) LastResult(ctx context.Context, agent string) (*time.Time, error) {
	at, err := first(ctx, d, func(r row) (at sql.NullInt64, err error) { err = r.Scan(&at); return at, err },
		`SELECT max(ended_at) FROM commands WHERE agent = ? AND acked_at IS NOT NULL`, agent)
	return timePtr(at), err
}

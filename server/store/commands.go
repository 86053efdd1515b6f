package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// maxStages bounds the trace of one command: ten attempts of thirteen stages
// and their notes are well below; an agent that makes up notes fills no disk.
const maxStages = 400

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
	usual := &single{query: `WITH made AS (
			INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, idem_key, state)
			SELECT ?8, id, ?10, ?11, ?12, ?13, ?14, ?15, ?16, nullif(?17, ''), ?18 FROM agents WHERE id = ?9 AND removed_at IS NULL
			ON CONFLICT DO NOTHING RETURNING id, agent
		), traced AS (
			INSERT INTO stages (command, stage, attempt, side, channel, link, at, note)
			SELECT made.id, s.stage, s.attempt, s.side, s.channel, s.link, s.at, s.note FROM made, ` + givenStages + ` ORDER BY s.n ON CONFLICT DO NOTHING
		) SELECT a.name FROM made JOIN agents a ON a.id = made.agent`,
		args: append(stageArgs(first), c.ID, c.Agent, string(c.Shell), c.Script, c.TimeoutMS, c.MaxOutput, micros(c.CreatedAt), c.CreatedBy, micros(c.ExpiresAt),
			c.IdempotencyKey, string(c.State)),
		topic: topic(TopicCommands, c.Agent),
		scan: func(r row) error {
			stored, created = c.fresh(), true
			return r.Scan(&stored.AgentName)
		},
		steps: func(tx *txn) (bool, error) {
			stored, created = c.fresh(), true
			err := tx.QueryRow(`INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, idem_key, state)
				SELECT ?, id, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ? FROM agents WHERE id = ? AND removed_at IS NULL
				ON CONFLICT DO NOTHING RETURNING (SELECT name FROM agents WHERE id = agent)`,
				c.ID, string(c.Shell), c.Script, c.TimeoutMS, c.MaxOutput, micros(c.CreatedAt), c.CreatedBy, micros(c.ExpiresAt), c.IdempotencyKey,
				string(c.State), c.Agent).Scan(&stored.AgentName)
			if errors.Is(err, sql.ErrNoRows) {
				return false, nil
			}
			return err == nil, errors.Join(err, traceAll(tx, c.ID, first))
		}}
	if !together(c.ID, first) {
		usual = nil
	}
	err = d.group.doSingle(ctx, usual, func(tx *txn) error {
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
		tx.touch(TopicCommands, c.Agent)
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

// fresh is c as it is stored at first.
func (c Command) fresh() Command {
	return Command{Command: operator.Command{
		ID: c.ID, Agent: c.Agent, Shell: c.Shell, Script: c.Script, TimeoutMS: c.TimeoutMS, State: c.State, CreatedBy: c.CreatedBy,
		CreatedAt: timeOf(micros(c.CreatedAt)), ExpiresAt: timeOf(micros(c.ExpiresAt)),
	}, MaxOutput: c.MaxOutput, IdempotencyKey: c.IdempotencyKey, Rev: 1}
}

func (d *database) Command(ctx context.Context, id string) (Command, error) {
	return first(ctx, d, scanCommand, `SELECT `+commandColumns+fromCommands+`WHERE c.id = ?`, id)
}

func (d *database) FindCommands(ctx context.Context, ref string) ([]string, error) {
	return d.findIDs(ctx, "commands", ref)
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
	var exit sql.NullInt64
	if c.ExitCode != nil {
		exit = sql.NullInt64{Int64: int64(*c.ExitCode), Valid: true}
	}
	usual := &single{query: `WITH saved AS (
			UPDATE commands SET state = ?8, reason = ?9, attempts = ?10, channel = ?11, acked_at = ?12, ended_at = ?13, exit_code = ?14,
			stdout_lost = ?15, stderr_lost = ?16, orphans = ?17, cancel_at = ?18, cancel_by = ?19, owner = ?22, rev = rev + 1 WHERE id = ?20 AND rev = ?21 RETURNING id
		), traced AS (` + traceStages + `) SELECT 1 FROM saved`,
		args: append(stageArgs(stages), string(c.State), c.Reason, c.Attempts, string(c.Channel), microsPtr(c.AckedAt), microsPtr(c.EndedAt), exit,
			c.StdoutLost, c.StderrLost, c.Orphans, microsPtr(c.CancelAt), c.CancelBy, c.ID, c.Rev, c.Owner),
		topic: topic(TopicCommands, c.Agent), scan: scanDone}
	save := func(tx *txn) error {
		return one(tx.Exec(`UPDATE commands SET state = ?, reason = ?, attempts = ?, channel = ?, acked_at = ?, ended_at = ?, exit_code = ?,
			stdout_lost = ?, stderr_lost = ?, orphans = ?, cancel_at = ?, cancel_by = ?, owner = ?, rev = rev + 1 WHERE id = ? AND rev = ?`,
			string(c.State), c.Reason, c.Attempts, string(c.Channel), microsPtr(c.AckedAt), microsPtr(c.EndedAt), exit,
			c.StdoutLost, c.StderrLost, c.Orphans, microsPtr(c.CancelAt), c.CancelBy, c.Owner, c.ID, c.Rev))
	}
	usual.steps = func(tx *txn) (bool, error) {
		err := save(tx)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		return err == nil, errors.Join(err, traceAll(tx, c.ID, stages))
	}
	if !together(c.ID, stages) {
		usual = nil
	}
	err = d.group.doSingle(ctx, usual, func(tx *txn) error {
		err := save(tx)
		if errors.Is(err, ErrNotFound) {
			return ErrConflict
		}
		if err != nil {
			return err
		}
		tx.touch(TopicCommands, c.Agent)
		return addStages(tx, stages)
	})
	return c.Rev + 1, err
}

func (d *database) AddStages(ctx context.Context, stages ...Stage) error {
	if len(stages) == 0 {
		return nil
	}
	var usual *single
	if id := stages[0].Command; together(id, stages) {
		usual = &single{query: `WITH saved AS (SELECT id FROM commands WHERE id = ?8), traced AS (` + traceStages + `) SELECT 1 FROM saved`,
			args: append(stageArgs(stages), id), scan: scanDone,
			steps: func(tx *txn) (bool, error) { return true, traceAll(tx, id, stages) }}
	}
	return d.group.doSingle(ctx, usual, func(tx *txn) error { return addStages(tx, stages) })
}

// givenStages are the stages of [stageArgs] as rows, for a single statement.
const givenStages = `unnest(CAST(?1 AS TEXT[]), CAST(?2 AS BIGINT[]), CAST(?3 AS TEXT[]), CAST(?4 AS TEXT[]), CAST(?5 AS TEXT[]), CAST(?6 AS BIGINT[]), CAST(?7 AS TEXT[]))
	WITH ORDINALITY AS s (stage, attempt, side, channel, link, at, note, n)`

// traceStages adds them to the command in "saved", within the bound.
var traceStages = `INSERT INTO stages (command, stage, attempt, side, channel, link, at, note)
	SELECT saved.id, s.stage, s.attempt, s.side, s.channel, s.link, s.at, s.note FROM saved, ` + givenStages + `
	WHERE (SELECT count(*) FROM stages t WHERE t.command = saved.id) + s.n <= ` + strconv.Itoa(maxStages) + ` ORDER BY s.n ON CONFLICT DO NOTHING`

func stageArgs(stages []Stage) []any {
	n := len(stages)
	names, attempts, ends, channels, links, times, notes := make([]string, n), make([]int64, n), make([]string, n), make([]string, n), make([]string, n), make([]int64, n), make([]string, n)
	for i, s := range stages {
		names[i], attempts[i], ends[i], channels[i], links[i], times[i], notes[i] = string(s.Stage), int64(s.Attempt), s.End, string(s.Channel), s.Link, micros(s.At), s.Note
	}
	return []any{names, attempts, ends, channels, links, times, notes}
}

// together reports whether all stages are of one command.
func together(command string, stages []Stage) bool {
	return !slices.ContainsFunc(stages, func(s Stage) bool { return s.Command != command })
}

// scanDone reads the row of a statement that has nothing to tell but that it is done.
func scanDone(r row) error {
	var n int
	return r.Scan(&n)
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

// traceAll adds stages of one command by one statement, within the bound.
func traceAll(tx *txn, command string, stages []Stage) error {
	if len(stages) == 0 {
		return nil
	}
	var query strings.Builder
	query.WriteString(`INSERT INTO stages (command, stage, attempt, side, channel, link, at, note)
		SELECT ?1, s.column1, s.column2, s.column3, s.column4, s.column5, s.column6, s.column7 FROM (VALUES `)
	args := []any{command}
	for i, s := range stages {
		if i > 0 {
			query.WriteString(", ")
		}
		query.WriteString("(?, ?, ?, ?, ?, ?, ?, " + strconv.Itoa(i+1) + ")")
		args = append(args, string(s.Stage), s.Attempt, s.End, string(s.Channel), s.Link, micros(s.At), s.Note)
	}
	query.WriteString(`) s WHERE (SELECT count(*) FROM stages WHERE command = ?1) + s.column8 <= ` + strconv.Itoa(maxStages) + ` ON CONFLICT DO NOTHING`)
	_, err := tx.Exec(query.String(), args...)
	return err
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

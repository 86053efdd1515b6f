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

// Jobs are one script for many agents each. What became of an agent's part is read from its
// command; there is no second book of it.
type Jobs interface {
	// CreateJob stores j and its members, in one write. If its idempotency key was seen
	// before, the first one's job is returned and created is false.
	CreateJob(ctx context.Context, j Job, members []JobMember) (stored Job, created bool, err error)
	Job(ctx context.Context, id string) (Job, error)
	// JobOfKey gives the one that was made with an idempotency key.
	JobOfKey(ctx context.Context, key string) (Job, error)
	// Jobs lists newest first; limit as in CommandFilter.
	Jobs(ctx context.Context, limit int) ([]Job, error)
	// OpenJobs lists those that have not ended, oldest first.
	OpenJobs(ctx context.Context) ([]Job, error)
	// FindJobs gives ids as FindCommands does.
	FindJobs(ctx context.Context, ref string) (ids []string, err error)
	// CountJob counts a job's agents by state.
	CountJob(ctx context.Context, id string) (operator.JobCounts, error)
	// JobAgents lists the parts of a job's agents by their place.
	JobAgents(ctx context.Context, id string, f operator.JobAgentFilter) ([]operator.JobAgent, error)
	// WaitingMembers gives up to limit of a running job's members behind a place that have
	// neither a command nor a reason.
	WaitingMembers(ctx context.Context, id string, after, limit int) ([]JobMember, error)
	// OpenMembers gives up to limit of a job's members whose command has not ended and was
	// not cancelled; pending: only where no agent has it.
	OpenMembers(ctx context.Context, id string, pending bool, limit int) ([]JobMember, error)
	// LeaveOut stores why members get no command; one that has a reason keeps it.
	LeaveOut(ctx context.Context, id string, members ...JobMember) error
	// StopJob has a job that has not ended begin nothing more; cancelled: what has begun is
	// to be stopped as well. The first reason stays. changed is false if there was nothing to change.
	StopJob(ctx context.Context, id, reason string, cancelled bool) (changed bool, err error)
	// EndJob ends a job.
	EndJob(ctx context.Context, id string, at time.Time) error
}

// Job as stored: without counts. Cancelled and Key are the service's own.
type Job struct {
	operator.Job
	Cancelled      bool // what has begun is to be stopped, too
	IdempotencyKey string
}

// JobMember is an agent of a job, and the id that its command has or would have.
type JobMember struct {
	N       int
	Agent   string
	Command string
	Reason  string // why it gets no command
}

// membersAtOnce bounds the rows of one statement.
const membersAtOnce = 100

func (d *database) CreateJob(ctx context.Context, j Job, members []JobMember) (stored Job, created bool, err error) {
	pick, err := json.Marshal(j.Pick)
	if err != nil {
		return Job{}, false, err
	}
	err = d.group.do(ctx, func(tx *txn) error {
		stored, created = Job{}, false
		tx.touch(TopicJob, j.ID)
		if j.IdempotencyKey != "" {
			stored, err = scanJob(tx.QueryRow(jobColumns+`WHERE idem_key = ?`, j.IdempotencyKey))
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		key := sql.NullString{String: j.IdempotencyKey, Valid: j.IdempotencyKey != ""}
		_, err := tx.Exec(`INSERT INTO jobs (id, pick, shell, script, timeout_ms, max_output, at_once, stop_after, idem_key, state, created_by, created_at, expires_at, members)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			j.ID, string(pick), string(j.Shell), j.Script, j.TimeoutMS, j.MaxOutput, j.AtOnce, j.StopAfterFailures, key, j.State, j.CreatedBy,
			micros(j.CreatedAt), micros(j.ExpiresAt), len(members))
		if taken(err) {
			return ErrConflict
		}
		if err != nil {
			return err
		}
		for left := members; len(left) > 0; {
			some := left[:min(len(left), membersAtOnce)]
			if err := addMembers(tx, j.ID, some); err != nil {
				return err
			}
			left = left[len(some):]
		}
		created = true
		stored, err = scanJob(tx.QueryRow(jobColumns+`WHERE id = ?`, j.ID))
		return err
	})
	if err != nil {
		return Job{}, false, err
	}
	return stored, created, nil
}

func addMembers(tx *txn, job string, members []JobMember) error {
	query := `INSERT INTO job_agents (job, n, agent, command) VALUES ` + strings.Repeat(`(?, ?, ?, ?), `, len(members)-1) + `(?, ?, ?, ?)`
	args := make([]any, 0, 4*len(members))
	for _, m := range members {
		args = append(args, job, m.N, m.Agent, m.Command)
	}
	_, err := tx.Exec(query, args...)
	switch {
	case orphan(err):
		return ErrNotFound
	case taken(err):
		return ErrConflict
	}
	return err
}

const jobColumns = `SELECT id, pick, shell, script, timeout_ms, max_output, at_once, stop_after, coalesce(idem_key, ''), state, reason, cancelled,
	created_by, created_at, expires_at, ended_at, members FROM jobs `

func scanJob(r row) (j Job, err error) {
	var (
		pick, shell      string
		cancelled        int
		created, expires int64
		ended            sql.NullInt64
	)
	if err := r.Scan(&j.ID, &pick, &shell, &j.Script, &j.TimeoutMS, &j.MaxOutput, &j.AtOnce, &j.StopAfterFailures, &j.IdempotencyKey, &j.State, &j.Reason, &cancelled,
		&j.CreatedBy, &created, &expires, &ended, &j.Endpoints); err != nil {
		return j, err
	}
	j.Shell, j.Cancelled = wire.Shell(shell), cancelled != 0
	j.CreatedAt, j.ExpiresAt, j.EndedAt = timeOf(created), timeOf(expires), timePtr(ended)
	return j, json.Unmarshal([]byte(pick), &j.Pick)
}

func (d *database) Job(ctx context.Context, id string) (Job, error) {
	return first(ctx, d, scanJob, jobColumns+`WHERE id = ? AND deleting = 0`, id)
}

func (d *database) JobOfKey(ctx context.Context, key string) (Job, error) {
	return first(ctx, d, scanJob, jobColumns+`WHERE idem_key = ?`, key)
}

func (d *database) Jobs(ctx context.Context, limit int) ([]Job, error) {
	return list(ctx, d, scanJob, jobColumns+`WHERE deleting = 0 ORDER BY created_at DESC, id DESC LIMIT ?`, limited(limit))
}

func (d *database) OpenJobs(ctx context.Context) ([]Job, error) {
	return list(ctx, d, scanJob, jobColumns+`WHERE ended_at IS NULL ORDER BY created_at, id`)
}

func (d *database) FindJobs(ctx context.Context, ref string) ([]string, error) {
	return d.findIDs(ctx, "jobs", ref)
}

// What an agent's part is: its command, if it has one; else whether it may still get one.
const (
	jobAgentState = `CASE WHEN c.id IS NOT NULL THEN c.state WHEN m.reason <> '' OR j.state <> '` + operator.JobRunning + `' THEN '` +
		operator.JobAgentLeftOut + `' ELSE '` + operator.JobAgentWaiting + `' END`
	fromJobAgents = ` FROM job_agents m JOIN jobs j ON j.id = m.job LEFT JOIN commands c ON c.id = m.command `
)

func (d *database) CountJob(ctx context.Context, id string) (counts operator.JobCounts, err error) {
	type counted struct {
		state string
		n     int
	}
	all, err := list(ctx, d, func(r row) (c counted, err error) { err = r.Scan(&c.state, &c.n); return c, err },
		`SELECT `+jobAgentState+` AS part, count(*)`+fromJobAgents+`WHERE m.job = ? GROUP BY 1`, id)
	for _, c := range all {
		*counts.Of(c.state) += c.n
	}
	return counts, err
}

func (d *database) JobAgents(ctx context.Context, id string, f operator.JobAgentFilter) ([]operator.JobAgent, error) {
	const columns = `SELECT m.n, m.agent, a.name, CASE WHEN c.id IS NULL THEN '' ELSE c.id END, ` + jobAgentState + `,
		CASE WHEN c.id IS NOT NULL THEN c.reason WHEN m.reason <> '' THEN m.reason ELSE j.reason END,
		c.exit_code, c.ended_at, coalesce(c.stdout_bytes, 0), coalesce(c.stderr_bytes, 0)` + fromJobAgents + `JOIN agents a ON a.id = m.agent WHERE m.job = ? AND m.n > ? `
	query := columns
	if f.Unwell {
		query += `AND ` + jobAgentState + ` NOT IN ('` + operator.JobAgentWaiting + `', '` + string(wire.StatePending) + `', '` + string(wire.StateRunning) + `', '` + string(wire.StateCompleted) + `') `
	}
	return list(ctx, d, func(r row) (a operator.JobAgent, err error) {
		var exit, ended sql.NullInt64
		err = r.Scan(&a.N, &a.Agent, &a.AgentName, &a.Command, &a.State, &a.Reason, &exit, &ended, &a.StdoutBytes, &a.StderrBytes)
		if exit.Valid {
			a.ExitCode = new(int(exit.Int64))
		}
		a.EndedAt = timePtr(ended)
		return a, err
	}, query+`ORDER BY m.n LIMIT ?`, id, f.After, limited(f.Limit))
}

func scanMember(r row) (m JobMember, err error) {
	err = r.Scan(&m.N, &m.Agent, &m.Command)
	return m, err
}

func (d *database) WaitingMembers(ctx context.Context, id string, after, limit int) ([]JobMember, error) {
	return list(ctx, d, scanMember, `SELECT m.n, m.agent, m.command`+fromJobAgents+
		`WHERE m.job = ? AND m.n > ? AND m.reason = '' AND j.state = '`+operator.JobRunning+`' AND c.id IS NULL ORDER BY m.n LIMIT ?`, id, after, limit)
}

func (d *database) OpenMembers(ctx context.Context, id string, pending bool, limit int) ([]JobMember, error) {
	states := `'` + string(wire.StatePending) + `'`
	if !pending {
		states += `, '` + string(wire.StateRunning) + `'`
	}
	return list(ctx, d, scanMember, `SELECT m.n, m.agent, m.command FROM job_agents m JOIN commands c ON c.id = m.command
		WHERE m.job = ? AND c.state IN (`+states+`) AND c.cancel_at IS NULL ORDER BY m.n LIMIT ?`, id, limit)
}

func (d *database) LeaveOut(ctx context.Context, id string, members ...JobMember) error {
	return d.group.do(ctx, func(tx *txn) error {
		for _, m := range members {
			if _, err := tx.Exec(`UPDATE job_agents SET reason = ? WHERE job = ? AND n = ? AND reason = ''`, m.Reason, id, m.N); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *database) StopJob(ctx context.Context, id, reason string, cancelled bool) (changed bool, err error) {
	err = d.group.do(ctx, func(tx *txn) error {
		tx.touch(TopicJob, id)
		also := 0
		if cancelled {
			also = 1
		}
		err := one(tx.Exec(`UPDATE jobs SET state = ?, reason = CASE WHEN reason = '' THEN ? ELSE reason END, cancelled = ?
			WHERE id = ? AND ended_at IS NULL AND (state = ? OR cancelled < ?)`, operator.JobStopping, reason, also, id, operator.JobRunning, also))
		changed = err == nil
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
	return changed, err
}

func (d *database) EndJob(ctx context.Context, id string, at time.Time) error {
	return d.group.do(ctx, func(tx *txn) error {
		return one(tx.Exec(`UPDATE jobs SET state = ?, ended_at = ? WHERE id = ? AND ended_at IS NULL`, operator.JobDone, micros(at), id))
	})
}

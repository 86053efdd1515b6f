package operator

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"gururmm/wire"
)

// MaxJobAgents is how many endpoints one job may have.
const MaxJobAgents = 50_000

// NewJob asks for one script on many endpoints (POST /v1/jobs). They are chosen once, now.
type NewJob struct {
	Pick
	Shell     wire.Shell `json:"shell,omitempty"`
	Script    string     `json:"script"`
	TimeoutMS int64      `json:"timeout_ms,omitempty"` // of each, default 10 min
	// ExpiresInMS counts from now, for all: what has not begun by then never runs. Default 10 min.
	ExpiresInMS int64 `json:"expires_in_ms,omitempty"`
	MaxOutput   int64 `json:"max_output,omitempty"` // bytes a stream of each, default 1 MiB
	// AtOnce is how many endpoints may have the script at the same time; 0: all. Then only
	// those that are there get it: one that is away gets it when it comes back.
	AtOnce int `json:"at_once,omitempty"`
	// StopAfterFailures ends the job for those that have not begun, once so many failed: a
	// number ("3") or a share ("5%"), rounded up. Empty: never.
	StopAfterFailures string `json:"stop_after_failures,omitempty"`
	// IdempotencyKey: a second request with the same key gets the first one's job; if it
	// asks for something else, a conflict.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	// Expect refuses the job if another number of endpoints is chosen; absent: any.
	Expect *int `json:"expect,omitempty"`
	// Preview begins nothing: the answer says whom the job would have.
	Preview bool `json:"preview,omitempty"`
}

// States of a job.
const (
	JobRunning  = "running"
	JobStopping = "stopping" // nothing more begins, see Reason; what has begun has not ended
	JobDone     = "done"
)

// Job is one script for many endpoints, as it stands (GET /v1/jobs/{id}).
type Job struct {
	ID                string     `json:"id,omitempty"` // absent: a preview
	Pick              Pick       `json:"pick"`
	Shell             wire.Shell `json:"shell,omitempty"`
	Script            string     `json:"script"`
	TimeoutMS         int64      `json:"timeout_ms"`
	MaxOutput         int64      `json:"max_output"`
	AtOnce            int        `json:"at_once,omitempty"`
	StopAfterFailures string     `json:"stop_after_failures,omitempty"`
	State             string     `json:"state"`
	Reason            string     `json:"reason,omitempty"` // why it was stopped
	CreatedBy         string     `json:"created_by,omitempty"`
	CreatedAt         time.Time  `json:"created_at"`
	ExpiresAt         time.Time  `json:"expires_at"`
	EndedAt           *time.Time `json:"ended_at,omitempty"`
	Endpoints         int        `json:"endpoints"`
	Counts            JobCounts  `json:"counts"`
	// Names are the first of the endpoints, in a preview alone.
	Names []string `json:"names,omitempty"`
}

// JobCounts counts a job's endpoints by state; they add up to all of them.
type JobCounts struct {
	Waiting       int `json:"waiting"` // for their turn: they have no command yet
	Pending       int `json:"pending"`
	Running       int `json:"running"`
	Completed     int `json:"completed"`
	Failed        int `json:"failed"`
	Cancelled     int `json:"cancelled"`
	Expired       int `json:"expired"`
	Interrupted   int `json:"interrupted"`
	Undeliverable int `json:"undeliverable"`
	LeftOut       int `json:"left_out"` // they get no command, for a reason
}

// Of is the count of one state.
func (c *JobCounts) Of(state string) *int {
	switch state {
	case JobAgentWaiting:
		return &c.Waiting
	case JobAgentLeftOut:
		return &c.LeftOut
	}
	switch wire.State(state) {
	case wire.StatePending:
		return &c.Pending
	case wire.StateRunning:
		return &c.Running
	case wire.StateCompleted:
		return &c.Completed
	case wire.StateFailed:
		return &c.Failed
	case wire.StateCancelled:
		return &c.Cancelled
	case wire.StateExpired:
		return &c.Expired
	case wire.StateInterrupted:
		return &c.Interrupted
	case wire.StateUndeliverable:
		return &c.Undeliverable
	}
	return new(int)
}

// Out are those that have a command which has not ended.
func (c JobCounts) Out() int { return c.Pending + c.Running }

// Open are those whose part has not ended.
func (c JobCounts) Open() int { return c.Waiting + c.Out() }

// Total are all.
func (c JobCounts) Total() int {
	return c.Open() + c.Completed + c.Failed + c.Cancelled + c.Expired + c.Interrupted + c.Undeliverable + c.LeftOut
}

// States of an endpoint in a job, beside those of its command.
const (
	JobAgentWaiting = "waiting"
	JobAgentLeftOut = "left_out"
)

// JobAgent is one endpoint's part (GET /v1/jobs/{id}/agents).
type JobAgent struct {
	N         int    `json:"n"` // its place, from 1
	Agent     string `json:"agent"`
	AgentName string `json:"agent_name"`
	// Command is its command's id; it is there unless State is waiting or left_out.
	Command     string     `json:"command"`
	State       string     `json:"state"`
	Reason      string     `json:"reason,omitempty"`
	ExitCode    *int       `json:"exit_code,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	StdoutBytes int64      `json:"stdout_bytes"`
	StderrBytes int64      `json:"stderr_bytes"`
}

// JobAgentFilter narrows a list of a job's endpoints. Zero fields do not.
type JobAgentFilter struct {
	After int // those behind that place
	// Unwell: only those that have ended, or were left out, and have not completed.
	Unwell bool
	Limit  int // default 50, at most [MaxJobPage]
}

// MaxJobPage is how many endpoints one page of a job has at most.
const MaxJobPage = 500

func jobPath(id, rest string) string { return "/v1/jobs/" + url.PathEscape(id) + rest }

// Run begins a job, or previews it. Words that are not UTF-8 are a [NotUTF8Error], and
// nothing is sent.
func (c *Client) Run(ctx context.Context, n NewJob) (Job, error) {
	if err := checkUTF8("script", n.Script); err != nil {
		return Job{}, err
	}
	if err := checkUTF8("idempotency key", n.IdempotencyKey); err != nil {
		return Job{}, err
	}
	return call[Job](c, ctx, http.MethodPost, "/v1/jobs", nil, n)
}

// Jobs lists them, the newest first.
func (c *Client) Jobs(ctx context.Context, limit int) ([]Job, error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return list[Job](c, ctx, "/v1/jobs", q)
}

// Job gives one by id, or an id's unique beginning, as do all that take one.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	return call[Job](c, ctx, http.MethodGet, jobPath(id, ""), nil, nil)
}

// JobAgents gives a page of a job's endpoints, in their order.
func (c *Client) JobAgents(ctx context.Context, id string, f JobAgentFilter) ([]JobAgent, error) {
	q := url.Values{}
	if f.After > 0 {
		q.Set("after", strconv.Itoa(f.After))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if f.Unwell {
		q.Set("unwell", "true")
	}
	return list[JobAgent](c, ctx, jobPath(id, "/agents"), q)
}

// CancelJob begins nothing more of a job, and asks to stop what has begun.
func (c *Client) CancelJob(ctx context.Context, id string) (Job, error) {
	return call[Job](c, ctx, http.MethodPost, jobPath(id, "/cancel"), nil, nil)
}

package operator

import "time"

// RolloutPlan is how a version reaches the fleet. Zero fields: defaults.
type RolloutPlan struct {
	// Rings are shares of the endpoints, in percent, each including those before it,
	// each larger than the one before; default 1, 10, 100.
	Rings []float64 `json:"rings,omitempty"`
	// MaxFailures of a ring, a number ("3") or a share of it ("5%", the default):
	// one more, and the rollout stops by itself. Endpoints that could not be tried are
	// no part of it.
	MaxFailures string `json:"max_failures,omitempty"`
	// SoakMS is how long a ring is watched before the next; default 10 min, -1: not at all.
	SoakMS int64 `json:"soak_ms,omitempty"`
	// Parallel bounds the endpoints that are ordered and have not ended; default 50.
	Parallel       int   `json:"parallel,omitempty"`
	AllowDowngrade bool  `json:"allow_downgrade,omitempty"`
	GraceMS        int64 `json:"grace_ms,omitempty"` // see wire.Build; 0: the endpoint's default
	// OfAgents and OfSite say what narrowed it, ids and a site; the server's to fill in.
	OfAgents []string `json:"of_agents,omitempty"`
	OfSite   string   `json:"of_site,omitempty"`
}

// NewRollout asks for one (POST /v1/rollouts). Agents or Site narrow it; not both.
type NewRollout struct {
	Version string   `json:"version"`
	Agents  []string `json:"agents,omitempty"` // names or ids
	Site    string   `json:"site,omitempty"`
	RolloutPlan
	// Expect refuses it if another number of endpoints would be ordered; absent: any.
	Expect *int `json:"expect,omitempty"`
	// Preview begins nothing: the answer says how many endpoints each ring would have.
	Preview bool `json:"preview,omitempty"`
}

// States of a rollout.
const (
	RolloutActive  = "active"
	RolloutStopped = "stopped" // by an operator or by itself, see Reason; it can be resumed
	RolloutDone    = "done"
)

// States of an endpoint in a rollout.
const (
	RollWaiting = "waiting" // for its ring, its turn, or to come back
	RollOrdered = "ordered"
	RollRunning = "running" // the endpoint has taken it up
	RollDone    = "done"
	RollFailed  = "failed"
	// RollUntried: the order was put off too often, or never answered; nothing is
	// known of the version there, and it does not count as a failure.
	RollUntried = "untried"
	RollSkipped = "skipped" // needs nothing of it: it runs the version, or a newer one
)

// Rollout as it stands (GET /v1/rollouts/{id}).
type Rollout struct {
	ID      string      `json:"id,omitempty"` // absent: a preview
	Version string      `json:"version"`
	Plan    RolloutPlan `json:"plan"`
	State   string      `json:"state"`
	Reason  string      `json:"reason,omitempty"` // why it stopped
	// Resumable: it is stopped, and can go on as it is; else not without ResumeRollout's fields.
	Resumable bool `json:"resumable,omitempty"`
	// Now says in a sentence what it is at, or waits for.
	Now      string         `json:"now"`
	Ring     int            `json:"ring"` // the one under way, from 0
	Rings    []RolloutRing  `json:"rings,omitempty"`
	Failures []RolloutAgent `json:"failures,omitempty"` // in listings left out, as rings are
	// Open are those that were not ordered in vain yet, and those that could not be
	// tried: what there is to look at beside the failures. At most MaxRolloutOpen;
	// OpenMore counts the others.
	Open      []RolloutAgent `json:"open,omitempty"`
	OpenMore  int            `json:"open_more,omitempty"`
	CreatedBy string         `json:"created_by"` // token name
	CreatedAt time.Time      `json:"created_at"`
	ResumedAt *time.Time     `json:"resumed_at,omitempty"` // the last time
	EndedAt   *time.Time     `json:"ended_at,omitempty"`
	// NoProgram are endpoints left out because the version is not published for their
	// platform; in the answer to its creation only.
	NoProgram []string `json:"no_program,omitempty"`
}

// Wanted is how many endpoints it has that needed something when it began.
func (r Rollout) Wanted() (n int) {
	for _, ring := range r.Rings {
		n += ring.Wanted - ring.Skipped
	}
	return n
}

// RolloutRing counts the endpoints of one ring.
type RolloutRing struct {
	Percent float64 `json:"percent"` // of all endpoints, with the rings before it
	Wanted  int     `json:"wanted"`
	Waiting int     `json:"waiting"`
	Away    int     `json:"away"`  // of those waiting: not there now, ordered when they come back
	Later   int     `json:"later"` // of those waiting: they put the order off, and are ordered again
	Ordered int     `json:"ordered"`
	Running int     `json:"running"`
	Done    int     `json:"done"`
	Failed  int     `json:"failed"`
	Untried int     `json:"untried"`
	Skipped int     `json:"skipped"`
}

// Whether an endpoint is there. Unknown is who was not heard of since the server's
// start just now.
const (
	RollPresent         = "present"
	RollAway            = "away"
	RollPresenceUnknown = "unknown"
)

// RolloutAgent is one endpoint's part.
type RolloutAgent struct {
	Agent     string     `json:"agent"`
	AgentName string     `json:"agent_name"`
	Ring      int        `json:"ring"`
	State     string     `json:"state"`
	Directive string     `json:"directive,omitempty"`
	OrderedAt *time.Time `json:"ordered_at,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	// Standing is RollPresent, RollAway or RollPresenceUnknown, now; "": not asked.
	Standing string `json:"standing,omitempty"`
	// Attempts are the orders it has put off so far, NotBefore is when it gets the next.
	Attempts  int        `json:"attempts,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
}

// MaxRolloutOpen bounds Rollout.Open.
const MaxRolloutOpen = 100

// ResumeRollout lets a stopped rollout go on (POST /v1/rollouts/{id}/resume). With
// Retry one that is active is taken as well.
type ResumeRollout struct {
	Retry bool `json:"retry,omitempty"` // order those that failed, or could not be tried, once more
	// MaxFailures takes the place of the plan's; "": as it is.
	MaxFailures string `json:"max_failures,omitempty"`
}

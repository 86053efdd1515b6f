// Package local is the door of a guardian on its own machine: who holds the state
// directory, where its guardian answers, what may be asked and ordered there, and the
// client that does. Whatever asks on this machine asks here, and knows no guardian.
//
// Rules that hold here:
//   - one guardian for a state directory: a lock that the kernel holds, and a socket
//     that is taken over only from the dead;
//   - the group may look; what shows the processes from inside, or acts, is for root
//     and the account that the agent runs as;
//   - requests are few, small and short: they cost a process that must outlive trouble.
package local

import (
	"time"

	"gururmm/agent/versions"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Mode says what the answering process is about.
type Mode string

// The modes.
const (
	ModeGuarding    Mode = "guarding"
	ModeStopping    Mode = "stopping"
	ModeNotEnrolled Mode = "not_enrolled" // waits for `enroll`; all but the process facts is unknown
)

// Enrollment says what an endpoint that waits for its identity does about it.
type Enrollment string

// The ways to wait.
const (
	EnrollNone    Enrollment = ""        // it was given nothing to enroll with
	EnrollTrying  Enrollment = "trying"  // to carry out the order to enroll that it was given
	EnrollRefused Enrollment = "refused" // that order can't be carried out: Detail says why
)

// Status is what GET /status answers. It comes from the guardian, so it comes
// whatever the worker does. All ages are as of At.
type Status struct {
	At      time.Time `json:"at"`
	Mode    Mode      `json:"mode"`
	Detail  string    `json:"detail,omitempty"` // of the mode, for people
	Agent   string    `json:"agent,omitempty"`
	Server  string    `json:"server,omitempty"`
	Version string    `json:"version"`
	// Enrollment is of an endpoint that is not enrolled.
	Enrollment Enrollment `json:"enrollment,omitempty"`

	Verdict  selfcheck.Verdict   `json:"verdict"`
	Findings []selfcheck.Finding `json:"findings,omitempty"`
	Snapshot selfcheck.Snapshot  `json:"snapshot"`

	// PolicySource is where the policy in force came from: default, server or directive.
	PolicySource  string                 `json:"policy_source,omitempty"`
	PolicyVersion int64                  `json:"policy_version"`
	Policy        wire.Policy            `json:"policy"`
	Budgets       selfcheck.Budgets      `json:"budgets"`
	Steps         []selfcheck.StepRecord `json:"steps,omitempty"`
	Next          NextStep               `json:"next"`
	LastBeacon    *BeaconStatus          `json:"last_beacon,omitempty"`
	NextBeacon    *time.Duration         `json:"next_beacon_ns,omitempty"` // from At; absent: no second door

	Guardian ProcessStatus `json:"guardian"`
	Worker   ProcessStatus `json:"worker"`
	// Update tells which program runs and why; nil: this agent does not update itself.
	Update *UpdateStatus `json:"update,omitempty"`
	// OrdersDropped counts orders that this worker did not read.
	OrdersDropped int64 `json:"orders_dropped,omitempty"`
}

// NextStep is what the guardian will do next if nothing happens.
type NextStep struct {
	What string         `json:"what"`
	In   *time.Duration `json:"in_ns,omitempty"`
}

// BeaconStatus tells of the last report that was sent, or tried.
type BeaconStatus struct {
	At       time.Time `json:"at"`
	ReportID string    `json:"report_id"`
	Cause    string    `json:"cause"`
	Door     string    `json:"door,omitempty"` // that answered or failed, where known
	OK       bool      `json:"ok"`
	Error    string    `json:"error,omitempty"`
}

// ProcessStatus tells of guardian or worker.
type ProcessStatus struct {
	PID   int       `json:"pid,omitempty"` // 0: not running
	Since time.Time `json:"since,omitzero"`
	// Instance is fresh for each start of the guardian, Generation counts its workers.
	Instance   string `json:"instance,omitempty"`
	Generation int    `json:"generation,omitempty"`
}

// Frames is what GET /frames answers.
type Frames struct {
	// At is what the frames' ages count back from.
	At     time.Time               `json:"at"`
	Frames []selfcheck.FrameHeader `json:"frames"`
	// Stale: the worker did not answer; these are from its last report.
	Stale bool `json:"stale,omitempty"`
}

// Stacks is what GET /stacks answers: the goroutines of both processes.
type Stacks struct {
	Guardian  string `json:"guardian"`
	Worker    string `json:"worker,omitempty"`
	WorkerWhy string `json:"worker_why,omitempty"` // why there are none
}

// Traces is what GET /trace answers: runtime traces (go tool trace) of both
// processes, of the same moment.
type Traces struct {
	Guardian    []byte `json:"guardian,omitempty"`
	GuardianWhy string `json:"guardian_why,omitempty"` // why there is none, or not all of it
	Worker      []byte `json:"worker,omitempty"`
	WorkerWhy   string `json:"worker_why,omitempty"`
}

// ReconnectRequest is the body of POST /reconnect.
type ReconnectRequest struct {
	Reason string `json:"reason,omitempty"`
	// Alternative: another endpoint, or the other IP family.
	Alternative bool `json:"alternative,omitempty"`
}

// Acted answers an order given at the socket.
type Acted struct {
	// Link is what was in place when the order was given; 0: none.
	Link wire.LinkID `json:"link,omitempty"`
	// Refused says why nothing is done; "": it is under way.
	Refused string `json:"refused,omitempty"`
}

// UpdateStep is where an update stands.
type UpdateStep string

// The steps, in order.
const (
	UpdateNone     UpdateStep = ""
	UpdateFetch    UpdateStep = "fetching"
	UpdateDrain    UpdateStep = "draining" // the old worker, before the trial
	UpdateTrial    UpdateStep = "trial"
	UpdateCommit   UpdateStep = "committing"
	UpdateHandover UpdateStep = "handing over"
	UpdateConfirm  UpdateStep = "confirming" // this process is the new program
)

// Where the running program comes from.
const (
	SourceInstalled = "installed" // by package or by hand
	SourceUpdated   = "updated"
)

// UpdateStatus tells which program runs, why, and what becomes of it.
type UpdateStatus struct {
	Source    string            `json:"source"` // SourceInstalled or SourceUpdated
	Path      string            `json:"path"`
	Why       string            `json:"why,omitempty"`
	Installed string            `json:"installed,omitempty"` // version of the installed program
	Previous  string            `json:"previous,omitempty"`  // what a rollback goes to
	Keys      int               `json:"release_keys"`        // that are trusted
	Step      UpdateStep        `json:"step,omitempty"`
	Version   string            `json:"version,omitempty"` // of the step
	Since     time.Time         `json:"since,omitzero"`    // of the step
	Last      *versions.Outcome `json:"last,omitempty"`
	// BackAfter is how long after the start of a trial that failed the old worker
	// was verified again.
	BackAfter *time.Duration `json:"back_after_ns,omitempty"`
}

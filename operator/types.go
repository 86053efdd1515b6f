package operator

import (
	"encoding/json"
	"fmt"
	"time"

	"gururmm/wire"
)

// Agent is an endpoint as the operator sees it. Times that never were are absent.
type Agent struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"` // host name
	Site       string        `json:"site"`
	Tags       []string      `json:"tags,omitempty"` // in order
	Platform   wire.Platform `json:"platform"`
	Version    string        `json:"version"`
	EnrolledAt time.Time     `json:"enrolled_at"`

	// Presence is verified, degraded, out-of-band, connecting, silent, offline, quarantined, duplicate or removed.
	Presence string `json:"presence"`
	Verdict  string `json:"verdict,omitempty"` // code, agent's last word
	Sentence string `json:"sentence,omitempty"`
	// Stopped: it is offline, and the last it said was that it stops.
	Stopped bool `json:"stopped,omitempty"`
	// VerdictAt is when the agent gave the verdict; absent if it is the server's own.
	VerdictAt *time.Time `json:"verdict_at,omitempty"`
	// Findings stand beside the verdict, as of its last beacon.
	Findings []Finding `json:"findings,omitempty"`
	// VerifiedAt is when text last provably went both ways.
	VerifiedAt *time.Time      `json:"verified_at,omitempty"`
	LastSeen   *time.Time      `json:"last_seen,omitempty"`
	LastVia    string          `json:"last_via,omitempty"` // text or ping (the link), beacon or poll (the second door)
	Links      []wire.LinkView `json:"links,omitempty"`
	Owed       int             `json:"owed"`
	Metrics    *wire.Metrics   `json:"metrics,omitempty"`
	ClockSkew  *int64          `json:"clock_skew_ms,omitempty"` // server minus endpoint
	Addr       string          `json:"addr,omitempty"`
	// Copies are the machines that hold the identity, where that is not one alone.
	Copies []Copy `json:"copies,omitempty"`
	// RemovedAt is when an operator removed it, RemovedBy which one; absent: it is there.
	RemovedAt *time.Time `json:"removed_at,omitempty"`
	RemovedBy string     `json:"removed_by,omitempty"`
	Was       string     `json:"was,omitempty"` // the agent whose copy it was before it took this identity
}

// Finding is what an agent reports beside its verdict: no fault by itself.
type Finding struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
}

// NewCommand asks for a command (POST /v1/agents/{id or name}/commands).
type NewCommand struct {
	Shell       wire.Shell `json:"shell,omitempty"`
	Script      string     `json:"script"`
	TimeoutMS   int64      `json:"timeout_ms,omitempty"`    // default 10 min
	ExpiresInMS int64      `json:"expires_in_ms,omitempty"` // default 10 min
	MaxOutput   int64      `json:"max_output,omitempty"`    // bytes a stream, default 1 MiB
	// IdempotencyKey: a second request with the same key and agent gets the first
	// one's command; if it asks for another (shell, script, timeout or output), a conflict.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
}

// Command as stored.
type Command struct {
	ID        string       `json:"id"`
	Agent     string       `json:"agent"`
	AgentName string       `json:"agent_name"`
	Shell     wire.Shell   `json:"shell,omitempty"`
	Script    string       `json:"script"`
	State     wire.State   `json:"state"`
	Reason    string       `json:"reason,omitempty"`
	Attempts  int          `json:"attempts"`
	Channel   wire.Channel `json:"channel,omitempty"` // of the last claim
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt time.Time    `json:"expires_at"`
	TimeoutMS int64        `json:"timeout_ms"`
	AckedAt   *time.Time   `json:"acked_at,omitempty"`
	EndedAt   *time.Time   `json:"ended_at,omitempty"`
	ExitCode  *int         `json:"exit_code,omitempty"`
	// Output as far as it is held without a gap.
	StdoutBytes int64  `json:"stdout_bytes"`
	StderrBytes int64  `json:"stderr_bytes"`
	StdoutLost  int64  `json:"stdout_lost,omitempty"`
	StderrLost  int64  `json:"stderr_lost,omitempty"`
	Orphans     bool   `json:"orphans,omitempty"`    // it left processes behind whose output is not kept
	CreatedBy   string `json:"created_by,omitempty"` // token name
}

// Event is one line (NDJSON) of GET /v1/commands/{id}/events: first the state
// and output so far, then what happens, until the command has ended.
type Event struct {
	Kind string    `json:"kind"` // state, stage, output, notice or end
	At   time.Time `json:"at"`
	// Command rides with state and end.
	Command *Command    `json:"command,omitempty"`
	Stage   *TraceEntry `json:"stage,omitempty"`
	Stream  wire.Stream `json:"stream,omitempty"`
	Offset  int64       `json:"offset,omitempty"`
	Data    []byte      `json:"data,omitempty"`
	// Notice is a sentence for a waiting person: "not acknowledged in 5 s; …".
	Notice string `json:"notice,omitempty"`
}

// TraceEntry is one stage of one attempt.
type TraceEntry struct {
	Stage wire.Stage `json:"stage"`
	At    time.Time  `json:"at"` // by the server's clock
	// Told is the agent's own time of it, where At is that set right.
	Told    *time.Time   `json:"told,omitempty"`
	End     string       `json:"end"` // server or agent
	Attempt int          `json:"attempt"`
	Channel wire.Channel `json:"channel,omitempty"`
	Link    string       `json:"link,omitempty"`
	Note    string       `json:"note,omitempty"` // in words, of what is no stage: why an attempt was given back
	// Proof is what shows that the attempt was lost, counted; absent: Note says all there is.
	Proof *Proof `json:"proof,omitempty"`
}

// Proof is the count by which texts to an agent were lost: later pings tell of them, and they
// were not read. One WebSocket is one ordered stream.
type Proof struct {
	Verdict string `json:"verdict"`
	End     string `json:"end"`            // server or agent: which of them compared the counts
	Text    uint64 `json:"text,omitempty"` // the command's number on the link; 0: not known
	Written uint64 `json:"written"`        // texts on the link before those pings
	Read    uint64 `json:"read"`           // of them
	// Pings and Heartbeats that have shown it, and when the first and the last of them came,
	// by the server's clock.
	Pings      uint32    `json:"pings,omitempty"`
	Heartbeats uint32    `json:"heartbeats,omitempty"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// Later counts what proves it in words: "2 later pings and 1 later heartbeat"; "" if nothing is counted.
func (p Proof) Later() string {
	count := func(n uint32, what string) string {
		switch n {
		case 0:
			return ""
		case 1:
			return "1 later " + what
		}
		return fmt.Sprintf("%d later %ss", n, what)
	}
	pings, beats := count(p.Pings, "ping"), count(p.Heartbeats, "heartbeat")
	if pings != "" && beats != "" {
		return pings + " and " + beats
	}
	return pings + beats
}

// Trace is a command's way, like a route.
type Trace struct {
	Command Command      `json:"command"`
	Entries []TraceEntry `json:"entries"` // in order of time
	// AgentClockUS is how much the agent's times were moved to fit between the server's.
	AgentClockUS int64 `json:"agent_clock_us,omitempty"`
	// Stopped says where it is or ended, in one sentence.
	Stopped string `json:"stopped"`
}

// Beacon as recorded, both views side by side.
type Beacon struct {
	ReportID   string           `json:"report_id"`
	Agent      string           `json:"agent"`
	AgentName  string           `json:"agent_name"`
	ReceivedAt time.Time        `json:"received_at"`
	Verdict    string           `json:"verdict"`
	Sentence   string           `json:"sentence"`
	Report     json.RawMessage  `json:"report"` // oob.Report
	View       *wire.ServerView `json:"view"`   // the server's, at that moment
	Addr       string           `json:"addr,omitempty"`
}

// Kinds of an agent's events.
const (
	EventPresence = "presence"
	EventVerdict  = "verdict"  // the agent's own word on itself
	EventLink     = "link"     // verified, degraded, recovered, ended
	EventInstance = "instance" // its guardian has started anew
	EventVersion  = "version"
	EventFinding  = "finding" // what stands beside its verdict: codes in order, or NoFinding
	EventProcess  = "process" // of its worker: a process id, or NoProcess
	EventStep     = "step"    // of its own ladder: what it does against its verdict
	EventOutcome  = "outcome" // of such a step: StepHelped or StepNoBetter
	EventProbe    = "probe"   // of the way of commands: From is the channel, To what it came to, see [Outcome]
)

// What a step has come to.
const (
	StepHelped   = "helped"
	StepNoBetter = "no better"
)

// NoProcess is the end of a worker, until the next is started.
const NoProcess = "none"

// NoFinding is the end of all findings.
const NoFinding = "none"

// AgentEvent is one change of an agent, as the server saw it.
type AgentEvent struct {
	Seq       int64     `json:"seq"` // rises in order of writing; never used again
	Agent     string    `json:"agent"`
	AgentName string    `json:"agent_name"`
	At        time.Time `json:"at"`
	Kind      string    `json:"kind"`
	From      string    `json:"from,omitempty"` // absent: nothing was known
	To        string    `json:"to"`
	Reason    string    `json:"reason,omitempty"`
	Link      string    `json:"link,omitempty"` // id of the link it is of
	// Verdict is the code of what was proven of a link, or of what a step is taken for.
	Verdict string `json:"verdict,omitempty"`
	// Told is when a step was taken by the agent's own clock; At is that set right. An outcome
	// has the Told of its step.
	Told *time.Time `json:"told,omitempty"`
}

// NewEnrollToken asks for an enrollment token.
type NewEnrollToken struct {
	Site        string `json:"site,omitempty"`          // default "default"
	Uses        int    `json:"uses,omitempty"`          // default 1
	ExpiresInMS int64  `json:"expires_in_ms,omitempty"` // default 1 h
}

// EnrollToken as listed. Token is present in the answer to its creation only.
type EnrollToken struct {
	ID        string    `json:"id"`
	Token     string    `json:"token,omitempty"`
	Site      string    `json:"site"`
	UsesLeft  int       `json:"uses_left"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Pin of the server's certificate, "sha256/…", to print into the enrollment line.
	Pin string `json:"pin,omitempty"`
	URL string `json:"url,omitempty"`
}

// NewDirective orders something of an endpoint's guardian (POST /v1/agents/{id}/directives).
type NewDirective struct {
	Kind     wire.DirectiveKind `json:"kind"`
	Endpoint string             `json:"endpoint,omitempty"`
	Policy   *wire.Policy       `json:"policy,omitempty"`
	Only     []string           `json:"only,omitempty"` // of run_probes: names; empty: all
	Lift     bool               `json:"lift,omitempty"` // of quarantine: end it
	Reason   string             `json:"reason,omitempty"`
}

// States of a directive beside those that the agent tells ([wire.DirectiveState]).
const (
	DirectiveWaiting   = "waiting"   // for the agent's next beacon or poll
	DirectiveDelivered = "delivered" // written to the agent, which has not answered yet
	DirectiveExpired   = "expired"   // never fetched in time, or never answered
)

// Directive as recorded (GET /v1/directives/{id}). A token or program that it carries is not shown.
type Directive struct {
	ID        string             `json:"id"`
	Agent     string             `json:"agent"`
	AgentName string             `json:"agent_name"`
	Kind      wire.DirectiveKind `json:"kind"`
	Reason    string             `json:"reason,omitempty"`
	Endpoint  string             `json:"endpoint,omitempty"` // of use_endpoint
	Only      []string           `json:"only,omitempty"`     // of run_probes
	Lift      bool               `json:"lift,omitempty"`     // of quarantine
	Version   string             `json:"version,omitempty"`  // of update
	// State is waiting, delivered, accepted, done, failed or expired.
	State       string     `json:"state"`
	CreatedBy   string     `json:"created_by,omitempty"` // token name
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	DeliveredAt *time.Time `json:"delivered_at,omitempty"` // last time
	AcceptedAt  *time.Time `json:"accepted_at,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	Code        wire.Code  `json:"code,omitempty"`   // of a refusal, or of a failure whose cause is of the moment
	Detail      string     `json:"detail,omitempty"` // the agent's words
	// Report is what was asked for; in listings it is left out.
	Report json.RawMessage `json:"report,omitempty"`
}

// Ended reports whether no further change can follow.
func (d Directive) Ended() bool { return d.EndedAt != nil || d.State == DirectiveExpired }

// Build is a published program (GET /v1/builds).
type Build struct {
	wire.Build
	PublishedBy string    `json:"published_by"` // token name
	PublishedAt time.Time `json:"published_at"`
}

// Bundle is a support bundle of an endpoint (GET /v1/agents/{agent}/bundles).
type Bundle struct {
	ID     string `json:"id"`
	Agent  string `json:"agent"`
	SHA256 string `json:"sha256"` // hex, of the whole
	Size   int64  `json:"size"`   // bytes, of the whole
	// Held counts the bytes that have come; of a complete bundle it is Size.
	Held     int64  `json:"held"`
	Complete bool   `json:"complete"` // all is there, and its hash was checked
	Reason   string `json:"reason,omitempty"`
	// MadeAt is by the endpoint's clock; absent: it did not say.
	MadeAt      *time.Time `json:"made_at,omitempty"`
	BeganAt     time.Time  `json:"began_at"` // its first part came
	CompletedAt *time.Time `json:"completed_at,omitempty"`
}

// HeaderSignature carries a minisign signature file, base64, with a program that is
// published (PUT /v1/builds/{sha256}).
const HeaderSignature = "Gururmm-Signature"

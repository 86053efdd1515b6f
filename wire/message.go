package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// All durations on the wire are milliseconds (suffix _ms), all times RFC 3339,
// all byte strings base64, unless a field says otherwise.

// Platform says what the endpoint is.
type Platform struct {
	OS       string `json:"os"`   // runtime.GOOS
	Arch     string `json:"arch"` // runtime.GOARCH
	Hostname string `json:"hostname"`
	Release  string `json:"release,omitempty"` // for people: "Debian GNU/Linux 12"
}

// Presence of an agent instance: who it is among copies of the same identity.
type Presence struct {
	Instance    string   `json:"instance"`    // fresh id of each guardian start
	BootID      string   `json:"boot_id"`     // of the machine's boot
	Fingerprint string   `json:"fingerprint"` // of the machine, hex
	Version     string   `json:"version"`     // of the agent's program
	Platform    Platform `json:"platform"`
}

// Auth opens a link (agent → server). The JWT of the upgrade has said who; this
// says which copy, and what became of the previous link.
type Auth struct {
	Presence
	Capabilities []string      `json:"capabilities"`
	Previous     *PreviousLink `json:"previous,omitempty"`
	// Attempts counts connection attempts since the last verified link.
	Attempts int       `json:"attempts"`
	Clock    time.Time `json:"clock"`
}

// Capability names, negotiated in auth and auth_ack. What was not named by both is not used.
const (
	CapLedger = "ledger.1" // pings and heartbeats carry ledgers; flagged pings are answered
	CapOOB    = "oob.1"
	CapCall   = "call.1" // the agent understands call
)

// PreviousLink tells what was received on the link before this one.
type PreviousLink struct {
	Link   LinkID `json:"link"`
	Read   uint64 `json:"read"` // text messages
	Reason string `json:"reason"`
}

// AuthAck accepts a link (server → agent).
type AuthAck struct {
	Link         LinkID    `json:"link"`
	ServerTime   time.Time `json:"server_time"`
	Capabilities []string  `json:"capabilities"`
}

// ConfigUpdate carries the policy (server → agent, signed).
type ConfigUpdate struct {
	Agent  string `json:"agent"`
	Policy Policy `json:"policy"`
}

// ConfigAck answers a ConfigUpdate with what is now in force.
type ConfigAck struct {
	Version int64 `json:"version"`
	// Hash is the hex SHA-256 of the raw config_update payload.
	Hash string `json:"hash"`
}

// Shell names how a command's script is run.
type Shell string

// The shells. The empty string means [ShellDefault]. Each runs the script from a
// private file, never from its argument list: scripts are long and may hold secrets.
const (
	ShellDefault    Shell = "" // sh, on Windows cmd
	ShellSh         Shell = "sh"
	ShellBash       Shell = "bash"
	ShellPowerShell Shell = "powershell" // not interactive; pwsh where that is what there is
	ShellCmd        Shell = "cmd"        // as a batch file: %%i in a for
	ShellPython     Shell = "python"     // python3, else python
)

// Command orders one script to be run, at most once (server → agent, signed).
// A probe is a Command of type "probe": it takes the very same path (read,
// decode, verify, journal, ack) but has no script and is not run.
type Command struct {
	ID    string `json:"id"`
	Agent string `json:"agent"`
	Shell Shell  `json:"shell,omitempty"`
	// Script is at most [MaxScript] bytes.
	Script    string `json:"script"`
	TimeoutMS int64  `json:"timeout_ms"` // of the run, from its start
	// ExpiresAt: not begun by then, it never runs. Server's clock.
	ExpiresAt time.Time `json:"expires_at"`
	IssuedAt  time.Time `json:"issued_at"`
	// MaxOutput bounds each of stdout and stderr, in bytes.
	MaxOutput int64 `json:"max_output"`
	// Pad fills a probe up to the size of frame it is to test.
	Pad string `json:"pad,omitempty"`
}

// MaxScript bounds a command's script in bytes.
const MaxScript = 256 << 10

// DefaultMaxOutput bounds stdout and stderr each, in bytes, unless the command says otherwise.
const DefaultMaxOutput = 1 << 20

// ProbeSizes are the frame sizes, in bytes, that must pass before a link is verified.
var ProbeSizes = []int{80, 1 << 10, 8 << 10}

// Stage is a station in a command's life, in this order.
type Stage string

// The stages. Server stages are timed by the server's clock, agent stages by
// the agent's, corrected by its known offset.
const (
	StageAccepted      Stage = "accepted"       // server: stored
	StageClaimed       Stage = "claimed"        // server: taken for a link or poll, attempt n
	StageWritten       Stage = "written"        // server: given to the connection to its last byte; timed when that began, for the agent may read it before the write returns
	StageRead          Stage = "read"           // agent
	StageDecoded       Stage = "decoded"        // agent
	StageVerified      Stage = "verified"       // agent: signature, addressee, expiry
	StageJournaled     Stage = "journaled"      // agent: on disk
	StageAcked         Stage = "acked"          // agent: ack handed to the writer
	StageAckRead       Stage = "ack_read"       // server
	StageStarted       Stage = "started"        // agent
	StageFinished      Stage = "finished"       // agent
	StageResultWritten Stage = "result_written" // agent
	StageResultStored  Stage = "result_stored"  // server
)

// Stages lists all stages in the order of a command's life.
var Stages = []Stage{
	StageAccepted, StageClaimed, StageWritten, StageRead, StageDecoded, StageVerified,
	StageJournaled, StageAcked, StageAckRead, StageStarted, StageFinished,
	StageResultWritten, StageResultStored,
}

// StageTimes are the times an end has seen, agent's server-corrected clock.
type StageTimes map[Stage]time.Time

// Channel says by which door something went.
type Channel string

// The two doors.
const (
	ChannelLink Channel = "link"
	ChannelOOB  Channel = "oob"
)

// CommandAck says that a command (or probe) is journaled, before it runs.
type CommandAck struct {
	ID     string     `json:"id"`
	Stages StageTimes `json:"stages,omitempty"`
	Pad    string     `json:"pad,omitempty"` // a probe's pad, sent back: the size is tested both ways
}

// Code classifies a refusal.
type Code string

// The nack codes.
const (
	CodeUnparseable  Code = "unparseable"
	CodeUnsupported  Code = "unsupported"
	CodeBadSignature Code = "bad_signature"
	CodeWrongAgent   Code = "wrong_agent"
	CodeExpired      Code = "expired"
	CodeDuplicate    Code = "duplicate" // the known outcome follows as a command_ack or command_result
	CodeBusy         Code = "busy"
	CodeTooLarge     Code = "too_large"
	CodeDraining     Code = "draining"
	CodeJournal      Code = "journal"     // the journal can't be written: disk full, read-only
	CodeQuarantined  Code = "quarantined" // an operator wants no command run on this endpoint
)

// Codes of a directive that was accepted and then failed for a cause of the moment, as
// [CodeJournal] may be too. See [DirectiveResult].
const (
	CodeUnreachable Code = "unreachable" // the server, for too long
	CodeInterrupted Code = "interrupted" // the agent or the machine was stopped or exchanged meanwhile
	CodeStarved     Code = "starved"     // the machine has no time, memory or processes left for it
)

// Nack refuses a message. As command_nack ID is set.
type Nack struct {
	Code   Code   `json:"code"`
	ID     string `json:"id,omitempty"`   // of the command, where known
	Type   Type   `json:"type,omitempty"` // of the refused message, where known
	Seq    uint64 `json:"seq,omitempty"`  // of the refused message, where known
	Detail string `json:"detail,omitempty"`
	// Result is the known outcome of a duplicate that has ended.
	Result *CommandResult `json:"result,omitempty"`
}

// CancelCommand asks to stop a command and its whole process tree (signed).
type CancelCommand struct {
	ID        string    `json:"id"`
	Agent     string    `json:"agent"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Stream is stdout or stderr.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// MaxChunk bounds the data of one CommandOutput, in bytes.
const MaxChunk = 32 << 10

// CommandOutput is a piece of a command's output. Pieces may repeat; Offset
// says where they belong.
type CommandOutput struct {
	ID     string `json:"id"`
	Stream Stream `json:"stream"`
	Offset int64  `json:"offset"` // bytes
	Data   []byte `json:"data"`
}

// State of a command. See docs/protocol.md, "Delivery".
type State string

// The states; all but the first two are terminal.
const (
	StatePending       State = "pending"
	StateRunning       State = "running" // claimed by a channel
	StateCompleted     State = "completed"
	StateFailed        State = "failed"
	StateCancelled     State = "cancelled"
	StateExpired       State = "expired"
	StateInterrupted   State = "interrupted"
	StateUndeliverable State = "undeliverable"
)

// Terminal reports whether no further change can follow.
func (s State) Terminal() bool { return s != StatePending && s != StateRunning && s != "" }

// CommandResult ends a command. It is repeated on either channel until
// acknowledged. Output of up to [InlineOutput] bytes in all rides along;
// more is sent as CommandOutput pieces, before and, where the answer says that
// some are missing, after the result.
type CommandResult struct {
	ID          string `json:"id"`
	State       State  `json:"state"`               // completed, failed, cancelled, expired or interrupted
	ExitCode    *int   `json:"exit_code,omitempty"` // absent: it never exited by itself
	Reason      string `json:"reason,omitempty"`    // for people: why it is not completed, and what was left out of its output
	StdoutBytes int64  `json:"stdout_bytes"`        // kept bytes
	StderrBytes int64  `json:"stderr_bytes"`
	StdoutLost  int64  `json:"stdout_lost,omitempty"` // bytes cut off, by MaxOutput or a full disk; Reason says by which
	StderrLost  int64  `json:"stderr_lost,omitempty"`
	// Orphans: processes it left behind still held its output; what they write later is not kept.
	Orphans bool       `json:"orphans,omitempty"`
	Stdout  []byte     `json:"stdout,omitempty"` // whole, if inline
	Stderr  []byte     `json:"stderr,omitempty"`
	Stages  StageTimes `json:"stages,omitempty"`
}

// InlineOutput is how many bytes of output (both streams) ride in a result.
const InlineOutput = 16 << 10

// ResultAck answers a result, or says which output is missing.
type ResultAck struct {
	ID string `json:"id"`
	// Stored: result and all output are on the server's disk; the agent may forget them.
	Stored bool `json:"stored"`
	// HaveStdout and HaveStderr are the bytes held without a gap from offset 0.
	HaveStdout int64 `json:"have_stdout,omitempty"`
	HaveStderr int64 `json:"have_stderr,omitempty"`
}

// Heartbeat carries the ledger a second way, for paths that rewrite pings.
type Heartbeat struct {
	Ledger  Ledger        `json:"ledger"`
	Stages  StageCounters `json:"stages"`
	Running []string      `json:"running,omitempty"` // ids of commands running
	Verdict string        `json:"verdict,omitempty"` // as last judged by the guardian
}

// StageCounters count what passed each stage inside the agent on this link.
type StageCounters struct {
	Read       uint64 `json:"read"`
	Decoded    uint64 `json:"decoded"`
	Verified   uint64 `json:"verified"`
	Journaled  uint64 `json:"journaled"`
	Acked      uint64 `json:"acked"`
	Started    uint64 `json:"started"`
	Finished   uint64 `json:"finished"`
	Results    uint64 `json:"results"`
	Undecoded  uint64 `json:"undecoded"`  // nacked unparseable
	Rejected   uint64 `json:"rejected"`   // nacked for any other reason but duplicate
	Duplicates uint64 `json:"duplicates"` // recognised repeats, not run again
}

// HeartbeatAck answers a heartbeat.
type HeartbeatAck struct {
	Ledger Ledger `json:"ledger"`
	// Heartbeat is the seq of the heartbeat this answers: the server has read that far.
	Heartbeat  uint64    `json:"heartbeat"`
	ServerTime time.Time `json:"server_time"`
	// Verified is the server's own judgement: auth, policy and all probes were acknowledged on this link.
	Verified bool `json:"verified"`
}

// Metrics are the endpoint's vital signs. Absent means not known.
type Metrics struct {
	At            time.Time `json:"at"`
	CPUPercent    *float64  `json:"cpu_percent,omitempty"` // 0–100, of all cores, since the last report
	MemTotal      *uint64   `json:"mem_total,omitempty"`   // bytes
	MemUsed       *uint64   `json:"mem_used,omitempty"`
	DiskTotal     *uint64   `json:"disk_total,omitempty"` // bytes, of the state directory's file system
	DiskFree      *uint64   `json:"disk_free,omitempty"`
	Load1         *float64  `json:"load1,omitempty"`
	UptimeSeconds *uint64   `json:"uptime_s,omitempty"`
	NetRx         *uint64   `json:"net_rx,omitempty"` // bytes since boot, all but loopback
	NetTx         *uint64   `json:"net_tx,omitempty"`
	AgentRSS      *uint64   `json:"agent_rss,omitempty"` // bytes, of the worker
}

// Echo asks for a text of Size bytes of pad back; EchoReply is that.
type Echo struct {
	ID   string `json:"id"`
	Size int    `json:"size"` // bytes, at most MaxEcho
	Pad  string `json:"pad,omitempty"`
}

// MaxEcho bounds an echo's pad in bytes.
const MaxEcho = 256 << 10

// EchoReply answers an Echo.
type EchoReply struct {
	ID  string `json:"id"`
	Got int    `json:"got"` // bytes of pad that arrived
	Pad string `json:"pad,omitempty"`
}

// DirectiveKind names what a directive orders.
type DirectiveKind string

// The closed list of directives.
const (
	DirectiveReconnect      DirectiveKind = "reconnect"
	DirectiveUseEndpoint    DirectiveKind = "use_endpoint"
	DirectiveRestartWorker  DirectiveKind = "restart_worker"
	DirectiveRestartService DirectiveKind = "restart_service"
	DirectivePoll           DirectiveKind = "poll"    // enter OOB delivery
	DirectiveRelease        DirectiveKind = "release" // leave it
	DirectiveSetPolicy      DirectiveKind = "set_policy"
	DirectiveRunProbes      DirectiveKind = "run_probes"
	DirectiveSendBundle     DirectiveKind = "send_bundle"
	DirectiveUpdate         DirectiveKind = "update"
	DirectiveRollback       DirectiveKind = "rollback"
	// DirectiveQuarantine: run no commands until the operator lifts it (Lift). The
	// second door, status, doctor and bundle go on.
	DirectiveQuarantine DirectiveKind = "quarantine"
	// DirectiveReenroll: this machine is a copy; it takes a new identity.
	DirectiveReenroll DirectiveKind = "reenroll"
)

// Directive orders something of the guardian (signed, OOB). One that the agent
// can't do yet is nacked "unsupported", never ignored; each one else is answered
// with a [DirectiveResult].
type Directive struct {
	ID        string        `json:"id"`
	Agent     string        `json:"agent"`
	Kind      DirectiveKind `json:"kind"`
	Endpoint  string        `json:"endpoint,omitempty"` // of use_endpoint: a link URL
	Policy    *Policy       `json:"policy,omitempty"`   // of set_policy
	Build     *Build        `json:"build,omitempty"`    // of update
	Only      []string      `json:"only,omitempty"`     // of run_probes: names; empty: all
	Lift      bool          `json:"lift,omitempty"`     // of quarantine: end it
	Reenroll  *Reenroll     `json:"reenroll,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// Build is one released program for one platform. It is trusted for its
// minisign signature by a release key that the server does not hold, never for
// having come from the server.
type Build struct {
	Version string `json:"version"` // semantic version, "v1.2.3"
	OS      string `json:"os"`      // runtime.GOOS
	Arch    string `json:"arch"`    // runtime.GOARCH
	Size    int64  `json:"size"`    // bytes, at most MaxBuild
	SHA256  string `json:"sha256"`  // hex, of the program; names it at GET /v1/oob/builds/{sha256}
	// Signature is a whole minisign signature file. Its trusted comment, which is
	// signed too, must say "gururmm-agent VERSION OS/ARCH".
	Signature string `json:"signature"`
	// AllowDowngrade: the operator wants an older version than the one that runs.
	AllowDowngrade bool `json:"allow_downgrade,omitempty"`
	// GraceMS is how long the new worker must hold a verified link; 0: [DefaultGrace].
	// See [CheckGrace].
	GraceMS int64 `json:"grace_ms,omitempty"`
}

// How long a new program must hold a verified link before it is trusted, by default
// and at the least and most: one that fails in its first second would pass a shorter
// trial, and a longer one holds up its endpoint's next orders.
const (
	DefaultGrace = 20 * time.Second
	MinGrace     = time.Second
	MaxGrace     = 10 * time.Minute
)

// CheckGrace says why d can't be the grace of an update; nil: it can.
func CheckGrace(d time.Duration) error {
	if d < MinGrace || d > MaxGrace {
		return fmt.Errorf("a grace of %v is not possible: allowed are %v to %v", d, MinGrace, MaxGrace)
	}
	return nil
}

// MaxBuild bounds a program in bytes.
const MaxBuild = 128 << 20

// Reenroll orders exactly one machine of those that share an identity to take a
// new one. Who does not fit Instance or Fingerprint refuses it: wrong_agent.
type Reenroll struct {
	Instance    string `json:"instance"` // of the guardian that is meant
	Fingerprint string `json:"fingerprint"`
	Token       string `json:"token"` // enrollment token for one use
}

// DirectiveState says how far a directive has come.
type DirectiveState string

// The states. A directive that takes long is accepted first, then done or failed.
const (
	DirectiveAccepted DirectiveState = "accepted"
	DirectiveDone     DirectiveState = "done"
	DirectiveFailed   DirectiveState = "failed"
)

// DirectiveResult tells what became of a directive (agent → server, OOB). It is
// repeated until an exchange that carried it has succeeded, so it may come twice.
type DirectiveResult struct {
	ID     string         `json:"id"`
	Kind   DirectiveKind  `json:"kind"`
	State  DirectiveState `json:"state"`
	At     time.Time      `json:"at"`               // server-corrected clock
	Detail string         `json:"detail,omitempty"` // for people
	// Code, of a failure: it is of the moment, and says nothing of what was ordered,
	// which may be ordered again. Empty: no such cause is known.
	Code Code `json:"code,omitempty"`
	// Report is what was asked for: of run_probes the doctor's report, of
	// send_bundle the bundle's id and size. At most MaxDirectiveReport bytes.
	Report json.RawMessage `json:"report,omitempty"`
}

// MaxDirectiveReport bounds the report of a DirectiveResult in bytes.
const MaxDirectiveReport = 256 << 10

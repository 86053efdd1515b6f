// Package pipe is what guardian and worker say to each other: one JSON object a
// line, at most [MaxLine] bytes, orders down the worker's standard input, facts
// up its standard output. The worker's standard error is the log.
package pipe

import (
	"gururmm/selfcheck"
	"gururmm/wire"
)

// MaxLine bounds one line of the pipe in bytes.
const MaxLine = 4 << 20

// Order is one line from the guardian. Exactly one field is set.
type Order struct {
	// Reconnect ends the link (or back-off) now and dials again.
	Reconnect *ReconnectOrder `json:"reconnect,omitempty"`
	// Deliver hands in server → agent messages that came by the second door. They
	// go the same way as those from the link: verify, journal, ack.
	Deliver []wire.Envelope `json:"deliver,omitempty"`
	// OOB: the link is not trusted (true): acks, output and results go up the pipe
	// for the second door; or it is again (false).
	OOB    *bool          `json:"oob,omitempty"`
	Policy *wire.Envelope `json:"policy,omitempty"` // a verified config_update to put in force
	// Ping asks for a ledger ping at once.
	Ping bool `json:"ping,omitempty"`
	// Report asks for a snapshot at once, whoever should have sent one.
	Report bool `json:"report,omitempty"`
	// Frames asks for the ring of the last 512 frame headers.
	Frames bool `json:"frames,omitempty"`
	// Stacks asks for the stacks of all goroutines.
	Stacks bool `json:"stacks,omitempty"`
	// TraceMS asks for a runtime trace of so many milliseconds, at most MaxTraceMS.
	TraceMS int64 `json:"trace_ms,omitempty"`
	// RestartStage names a loop to be started afresh: reader, writer, dispatcher,
	// executor, metrics. Where that can't be, the worker says so with Fact.Stage.
	RestartStage string `json:"restart_stage,omitempty"`
	// OffsetNS: the server's clock minus ours as the guardian learnt it.
	OffsetNS *int64 `json:"offset_ns,omitempty"`
	// Verdict as last judged, to ride in heartbeats.
	Verdict *string `json:"verdict,omitempty"`
	// Drain: finish or interrupt jobs, close the link, exit 0.
	Drain *DrainOrder `json:"drain,omitempty"`
}

// ReconnectOrder says how to dial.
type ReconnectOrder struct {
	Reason string `json:"reason"`
	// Alternative: another endpoint, or the other IP family.
	Alternative bool   `json:"alternative,omitempty"`
	URL         string `json:"url,omitempty"` // of use_endpoint
	// Probe: a retry during OOB delivery.
	Probe bool `json:"probe,omitempty"`
	// Link is the one that was judged: a later one is left alone. 0: whichever there is.
	Link wire.LinkID `json:"link,omitempty"`
}

// DrainOrder bounds a shutdown.
type DrainOrder struct {
	GraceMS int64  `json:"grace_ms"`
	Reason  string `json:"reason"`
}

// Fact is one line from the worker. Exactly one field is set; a line with none that is
// known is of a later version, and stepped over.
type Fact struct {
	// Snapshot: at once on a change, and at least every half minute; in between, every
	// few seconds, Same: nothing but ages has changed since the last one.
	Snapshot *selfcheck.Snapshot `json:"snapshot,omitempty"`
	Same     bool                `json:"same,omitempty"`
	// Upstream: agent → server messages for the second door.
	Upstream []wire.Envelope `json:"upstream,omitempty"`
	// Policy: a config_update that came by the link, verified, for the guardian to store.
	Policy *wire.Envelope `json:"policy,omitempty"`
	// Frames are the ring as asked for; empty: nothing is in it, or there is no link.
	Frames *[]selfcheck.FrameHeader `json:"frames,omitempty"`
	Stacks string                   `json:"stacks,omitempty"`
	// Trace is a runtime trace (go tool trace), as asked for. One that can't be made is
	// logged, and not answered.
	Trace []byte `json:"trace,omitempty"`
	// Stage says what came of RestartStage.
	Stage *StageFact `json:"stage,omitempty"`
	// Call: the server asks, by the link, that the second door be called now.
	Call bool `json:"call,omitempty"`
	// Fatal: the worker can't go on, and why; it exits after this.
	Fatal string `json:"fatal,omitempty"`
}

// MaxTraceMS and MaxTrace (bytes) bound a runtime trace: it must fit a line of
// the pipe, where it is a third longer.
const (
	MaxTraceMS = 2000
	MaxTrace   = MaxLine / 8 * 5
)

// StageFact tells what came of the restart of one loop.
type StageFact struct {
	Stage     string `json:"stage"`
	Restarted bool   `json:"restarted"`
	Detail    string `json:"detail,omitempty"`
}

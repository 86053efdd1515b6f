package selfcheck

import (
	"time"

	"gururmm/wire"
)

// Snapshot is every fact the worker knows of itself and its link at one
// moment, as sent up the pipe, completed by the guardian. Ages are relative to
// Taken, so that no step of the wall clock can bend them.
type Snapshot struct {
	// Taken is when the guardian received it (monotonic). Not sent.
	Taken time.Time `json:"-"`

	Worker WorkerFacts `json:"worker"`
	Link   LinkFacts   `json:"link"`

	Stages wire.StageCounters `json:"stages"`
	// UndecodedAge and RejectedAge: since the last message so counted; nil: none yet.
	UndecodedAge *time.Duration `json:"undecoded_age_ns,omitempty"`
	RejectedAge  *time.Duration `json:"rejected_age_ns,omitempty"`
	// RejectedCode is the nack code of the last rejected message.
	RejectedCode wire.Code `json:"rejected_code,omitempty"`
	// Loops by name: reader, dispatcher, writer, executor, metrics, orders, monitor.
	Loops   map[string]LoopFacts `json:"loops,omitempty"`
	Jobs    JobFacts             `json:"jobs"`
	Clock   ClockFacts           `json:"clock"`
	OOB     OOBFacts             `json:"oob"`            // filled in by the guardian
	Disk    *DiskFacts           `json:"disk,omitempty"` // filled in by the guardian
	Suspend *SuspendFacts        `json:"suspend,omitempty"`
}

// DiskFacts tell of the disk below the state directory.
type DiskFacts struct {
	Free  uint64 `json:"free"`  // bytes, for the agent
	Total uint64 `json:"total"` // bytes
	// SetAside names damaged files that were kept aside in the state directory.
	SetAside []string `json:"set_aside,omitempty"`
}

// WorkerFacts describe the worker process; the guardian fills in what the
// worker can't know.
type WorkerFacts struct {
	PID     int    `json:"pid,omitempty"` // 0: no process
	Version string `json:"version,omitempty"`
	// Instance is ours among copies of the same identity (guardian).
	Instance string `json:"instance,omitempty"`
	// Running is false between an exit and the next start (guardian).
	Running bool `json:"running"`
	// Silent is how long no report came up the pipe (guardian); nil: never one.
	Silent *time.Duration `json:"silent_ns,omitempty"`
	// Kernel is the state of the process and Unread the bytes that wait in the kernel
	// for it to read its link, both seen from outside while it is silent (guardian,
	// Linux); "" and nil: not known.
	Kernel string  `json:"kernel_state,omitempty"`
	Unread *uint64 `json:"unread_bytes,omitempty"`
	// Exits within the last ten minutes (guardian).
	Exits    int    `json:"exits"`
	LastExit string `json:"last_exit,omitempty"`
	// NextStart is in how long a worker that is not there is started again (guardian); nil: one is there.
	NextStart *time.Duration `json:"next_start_ns,omitempty"`
}

// Phase of the link session.
type Phase string

// The phases, in order.
const (
	PhaseUnknown     Phase = ""        // not told; or no link is kept, since the worker ends
	PhaseWaiting     Phase = "waiting" // backing off; NextDial says until when
	PhaseDialing     Phase = "dialing"
	PhaseAuth        Phase = "authenticating" // upgraded; auth sent
	PhaseConfiguring Phase = "configuring"
	PhaseProbing     Phase = "probing"
	PhaseVerified    Phase = "verified" // text and probes of all sizes went both ways
)

// LinkFacts describe the current link, or the attempt at one.
type LinkFacts struct {
	Phase    Phase          `json:"phase"`
	PhaseAge *time.Duration `json:"phase_age_ns,omitempty"`
	ID       wire.LinkID    `json:"id,omitempty"`
	URL      string         `json:"url,omitempty"`
	Remote   string         `json:"remote,omitempty"` // address dialed
	// Attempts since the last verified link; Failure is the last one's error.
	Attempts int            `json:"attempts"`
	Failure  *NetworkError  `json:"failure,omitempty"`
	NextDial *time.Duration `json:"next_dial_ns,omitempty"`
	// Alternatives counts other endpoints or IP families that could be tried.
	Alternatives int `json:"alternatives"`
	// Drops within the last ten minutes: links that ended after they were verified, not by our own order.
	Drops int `json:"drops"`
	// Dropped are the last few of them, oldest first.
	Dropped []Drop `json:"dropped,omitempty"`
	// Asked is why the server has us wait until the next dial, in its words or ours; empty: the
	// wait, if any, is our own back-off.
	Asked string `json:"asked,omitempty"`
	// HeartbeatPending is how long the oldest heartbeat that was written on this
	// link has not been acknowledged, HeartbeatSeq its number; nil: none is
	// outstanding, or it is not known.
	HeartbeatPending *time.Duration `json:"heartbeat_pending_ns,omitempty"`
	HeartbeatSeq     uint64         `json:"heartbeat_seq,omitempty"`
	// Plain: the peer did not name the ledger as a capability, so that its pings
	// carry none, rightly.
	Plain bool `json:"plain,omitempty"`
	// VerifiedAge is how long this link has been verified; nil: it is not.
	VerifiedAge *time.Duration `json:"verified_age_ns,omitempty"`
	// TextTripAge is since the writing of the last heartbeat that the server has
	// answered: text has gone both ways after that; nil: not on this link yet.
	TextTripAge *time.Duration `json:"text_trip_age_ns,omitempty"`

	Ledger LedgerView `json:"ledger"`
	In     TapView    `json:"in"`
	Out    TapView    `json:"out"`
	// TCP is what the kernel says; nil: this platform, or connection, does not tell.
	TCP *TCPFacts `json:"tcp,omitempty"`
	// Recent are the headers of the last frames, oldest first, never payloads.
	Recent []FrameHeader `json:"recent,omitempty"`
}

// Drop is the silence in which a verified link ended: since the last frame that came,
// and since the last one that was sent; nil: there was none.
type Drop struct {
	InMS  *int64 `json:"in_ms,omitempty"`
	OutMS *int64 `json:"out_ms,omitempty"`
}

// NetworkError uses the vocabulary of W3C Network Error Logging: Phase is dns,
// connection or application; Type such as dns.name_not_resolved, tcp.refused,
// tls.cert.authority_invalid, http.error, and our own ws.* types.
type NetworkError struct {
	Phase  string `json:"phase"`
	Type   string `json:"type"`
	Detail string `json:"detail,omitempty"`
	Status int    `json:"status,omitempty"` // of HTTP, if it got that far
	// Code is that of the server's problem document, if its answer was one.
	Code string `json:"code,omitempty"`
}

// LoopFacts tell of one long-lived loop and its token.
type LoopFacts struct {
	// Pending is how long the loop has left a token undrained; nil: none is
	// outstanding and the loop turns (or waits, rightly, for input).
	Pending *time.Duration `json:"pending_ns,omitempty"`
	// Waits: it is in a call that has a deadline of its own, a write to the network.
	Waits bool `json:"waits,omitempty"`
}

// JobFacts describe the executor.
type JobFacts struct {
	Running     int       `json:"running"`
	Limit       int       `json:"limit"`
	Unacked     int       `json:"unacked"` // results not yet stored by the server
	Jobs        []JobFact `json:"jobs,omitempty"`
	Journal     string    `json:"journal,omitempty"`     // error of the journal, if it can't be written
	Quarantined string    `json:"quarantined,omitempty"` // file set aside at start
}

// JobFact is one running job.
type JobFact struct {
	ID  string        `json:"id"`
	PID int           `json:"pid"`
	Age time.Duration `json:"age_ns"`
}

// ClockFacts: server clock minus ours; nil: never compared.
type ClockFacts struct {
	Offset *time.Duration `json:"offset_ns,omitempty"`
}

// OOBFacts are what the guardian knows of the second door; its ages are as of
// the judgement, not of Taken.
type OOBFacts struct {
	Configured bool           `json:"configured"`
	LastOK     *time.Duration `json:"last_ok_ns,omitempty"` // age
	Failures   int            `json:"failures"`             // in a row
	Failure    *NetworkError  `json:"failure,omitempty"`
	Delivering bool           `json:"delivering"` // OOB delivery is on
	// View is the server's side as of the last answer, ViewAge old.
	View    *wire.ServerView `json:"view,omitempty"`
	ViewAge *time.Duration   `json:"view_age_ns,omitempty"`
	Spooled int              `json:"spooled"`
	Dropped int              `json:"dropped"`
}

// SuspendFacts tell of the last time this machine did not run.
type SuspendFacts struct {
	Length time.Duration `json:"length_ns"`
	Age    time.Duration `json:"age_ns"` // since it resumed
}

// LedgerView is one end's account of one link, and what follows from the
// peer's. Facts with a nil pointer are not known.
type LedgerView struct {
	Local wire.Ledger `json:"local"` // Written/Read as of now; Owed, Clock and Answer unused
	// Peer is the peer's last ledger as it arrived.
	Peer    *wire.Ledger   `json:"peer,omitempty"`
	PeerAge *time.Duration `json:"peer_age_ns,omitempty"`
	PeerVia string         `json:"peer_via,omitempty"` // ping or text
	RTT     *time.Duration `json:"rtt_ns,omitempty"`

	// Down: texts the peer has written that were not read here.
	Down *Gap `json:"down,omitempty"`
	// Up: texts written here that the peer had not read when it had read a later ping.
	Up *Gap `json:"up,omitempty"`
	// Excess: texts read here that the peer has not written.
	Excess *Gap `json:"excess,omitempty"`
	// Altered: at equal counts the digests differ, in that direction ("down", "up").
	Altered    string         `json:"altered,omitempty"`
	AlteredAge *time.Duration `json:"altered_age_ns,omitempty"`
	// Closed counts gaps that closed within their grace or later: text was delayed, not lost.
	Closed    uint64         `json:"closed,omitempty"`
	ClosedAge *time.Duration `json:"closed_age_ns,omitempty"`

	// Owed is the peer's count of commands owed, OwedAge how long it has not fallen
	// while above 0.
	Owed    uint32         `json:"owed,omitempty"`
	OwedAge *time.Duration `json:"owed_age_ns,omitempty"`

	// Foreign counts pings without a ledger (or of another link), Stripped
	// pongs whose payload is not what was sent, Unanswered flagged pings that were
	// ponged faithfully but not answered with a ledger.
	Foreign       uint64         `json:"foreign,omitempty"`
	Stripped      uint64         `json:"stripped,omitempty"`
	UnansweredAge *time.Duration `json:"unanswered_age_ns,omitempty"` // since the oldest pong so
	PongAge       *time.Duration `json:"pong_age_ns,omitempty"`
	// PingPending is since when the oldest ping awaits its pong, on a link that has
	// answered one before.
	PingPending *time.Duration `json:"ping_pending_ns,omitempty"`
}

// Gap is a difference between the two ends' counts.
type Gap struct {
	Missing uint64        `json:"missing"` // messages
	Age     time.Duration `json:"age_ns"`  // since it was first seen
	// Pings and Heartbeats count the peer's ledgers that have shown it, by how they came.
	Pings      uint32 `json:"pings,omitempty"`
	Heartbeats uint32 `json:"heartbeats,omitempty"`
}

// FrameClass sorts frames for the tap.
type FrameClass uint8

// The classes (RFC 6455 §5.2 opcodes).
const (
	FrameOther FrameClass = iota
	FrameText
	FrameBinary
	FrameContinuation
	FramePing
	FramePong
	FrameClose
	frameClasses
)

// FrameHeader is one frame as it went by.
type FrameHeader struct {
	Class FrameClass    `json:"class"`
	Fin   bool          `json:"fin"`
	Out   bool          `json:"out,omitempty"`
	Size  uint64        `json:"size"` // payload bytes
	Age   time.Duration `json:"age_ns"`
}

// TapView sums up one direction of a tapped connection.
type TapView struct {
	Frames  map[string]ClassView `json:"frames,omitempty"` // by FrameClass.String()
	AnyAge  *time.Duration       `json:"any_age_ns,omitempty"`
	TextAge *time.Duration       `json:"text_age_ns,omitempty"`
	PingAge *time.Duration       `json:"ping_age_ns,omitempty"`
	PongAge *time.Duration       `json:"pong_age_ns,omitempty"`
	// OpenFragment: a data message was begun (FIN=0) this long ago and is not finished.
	OpenFragment *time.Duration `json:"open_fragment_ns,omitempty"`
	// PartialFrame: a frame's header or payload has been incomplete this long.
	PartialFrame *time.Duration `json:"partial_frame_ns,omitempty"`
	// FragmentIdle is how long the open fragment has not gained a byte.
	FragmentIdle *time.Duration `json:"fragment_idle_ns,omitempty"`
	Bytes        uint64         `json:"bytes"`
	// Broken: the bytes are not frames any more (reserved opcode, oversize).
	Broken string `json:"broken,omitempty"`
}

// ClassView counts frames of one class; Sizes is a histogram of payload bytes,
// upper bounds in SizeBuckets, the last one unbounded.
type ClassView struct {
	Count uint64   `json:"count"`
	Bytes uint64   `json:"bytes"`
	Sizes []uint64 `json:"sizes,omitempty"`
}

// SizeBuckets are the upper bounds, in bytes, of [ClassView.Sizes].
var SizeBuckets = []uint64{0, 64, 125, 512, 1 << 10, 4 << 10, 8 << 10, 64 << 10, 1 << 20}

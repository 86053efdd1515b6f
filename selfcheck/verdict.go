package selfcheck

import (
	"time"
)

// Code is a verdict's or finding's stable name.
type Code string

// The verdicts. See docs/protocol.md for what proves each.
const (
	CodeUnknown Code = "" // nothing is known yet

	CodeOK     Code = "ok"      // verified, text went lately
	CodeOKIdle Code = "ok.idle" // verified, nothing to say

	CodeLinkConnecting    Code = "link.connecting" // no fault: under way for less than its grace
	CodeLinkSilent        Code = "link.silent"
	CodeLinkHandshake     Code = "link.handshake"
	CodeLinkTextLost      Code = "link.text.lost"
	CodeLinkTextDelayed   Code = "link.text.delayed"
	CodeLinkTextAltered   Code = "link.text.altered"
	CodeLinkStuckFragment Code = "link.text.stuck_fragment"
	CodeLinkTextSilent    Code = "link.text.silent"
	CodeLinkUplinkLost    Code = "link.uplink.lost"
	CodeLinkPingForeign   Code = "link.ping.foreign"
	CodeLinkFlapping      Code = "link.flapping"
	CodeLinkQuarantined   Code = "link.quarantined" // refused on an operator's word

	CodeRouteStale     Code = "route.stale"
	CodeRouteDuplicate Code = "route.duplicate"
	CodeRouteUnwritten Code = "route.unwritten"

	CodeAgentDecode       Code = "agent.decode"
	CodeAgentRejected     Code = "agent.rejected"
	CodeAgentStalled      Code = "agent.stalled" // ".<stage>" follows
	CodeAgentExecutorFull Code = "agent.executor_full"
	CodeAgentHung         Code = "agent.hung"
	CodeAgentCrashloop    Code = "agent.crashloop"
	CodeAgentRemoved      Code = "agent.removed"
	CodeAgentJournal      Code = "agent.journal"

	CodeOOBUnreachable Code = "oob.unreachable"
	CodeOOBRejected    Code = "oob.rejected"
)

// Finding codes, beside a verdict.
const (
	FindClockSkew      Code = "clock.skew"
	FindPingsRewritten Code = "path.pings_rewritten"
	FindSuspendResumed Code = "suspend.resumed"
	FindClockStep      Code = "clock.step" // it was set by much, a while ago (guardian)
	FindRefused        Code = "messages.refused"
	FindJournal        Code = "journal.unwritable" // a state file beside the commands' journal (guardian)
	FindQuarantined    Code = "state.quarantined"
	FindDiskFull       Code = "disk.full"
	FindRenewed        Code = "identity.renewed"
	// FindUpdateRolledBack: a new version was tried, and the one before is back (guardian).
	FindUpdateRolledBack Code = "update.rolled_back"
	FindIsolated         Code = "agent.quarantined"
)

// Severity of a verdict.
type Severity string

// The severities; the zero value is unknown, not well.
const (
	SeverityUnknown Severity = ""
	SeverityWell    Severity = "well"
	SeverityNotice  Severity = "notice" // transient: connecting
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error"
)

// Evidence is one fact behind a verdict: a name from the snapshot, what was
// seen, and what was expected.
type Evidence struct {
	Fact     string `json:"fact"`
	Seen     string `json:"seen"`
	Expected string `json:"expected,omitempty"`
}

// Verdict is the judgement of one moment.
type Verdict struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	// Sentence is for people: what is so, with the figures that show it.
	Sentence string `json:"sentence"`
	// Suspected: the grace has not passed, nothing is proven yet.
	Suspected bool       `json:"suspected,omitempty"`
	Evidence  []Evidence `json:"evidence,omitempty"`
	// Masks are the symptoms that this root cause explains and hides.
	Masks []Code `json:"masks,omitempty"`
	// Action is what a human would do.
	Action string `json:"action,omitempty"`
}

// Finding stands beside a verdict.
type Finding struct {
	Code     Code   `json:"code"`
	Sentence string `json:"sentence"`
}

// Judgement is a verdict, what stands beside it, and when to look again.
type Judgement struct {
	Verdict  Verdict   `json:"verdict"`
	Findings []Finding `json:"findings,omitempty"`
	// Recheck: the verdict can change by time alone after so long; 0: it can't.
	Recheck time.Duration `json:"-"`
	// Ping: a fresh ledger of the peer would settle a suspicion; ask for it.
	Ping bool `json:"-"`
}

// StepKind is a rung of the ladder.
type StepKind string

// The steps.
const (
	StepReconnect      StepKind = "reconnect"     // at once, fresh DNS
	StepAlternative    StepKind = "alternative"   // other endpoint or IP family
	StepOOB            StepKind = "oob"           // commands go by the second door
	StepRetryLink      StepKind = "retry_link"    // in OOB delivery: try the link again
	StepRelease        StepKind = "release"       // the link is trusted again
	StepRestartStage   StepKind = "restart_stage" // of the verdict agent.stalled.<stage>: one loop afresh, in place
	StepRestartWorker  StepKind = "restart_worker"
	StepRestartService StepKind = "restart_service"
	StepHold           StepKind = "hold" // nothing is to be done yet: wait, beacon, tell
)

// StepRecord is one step taken, kept for status, beacon and events.
type StepRecord struct {
	At       time.Time `json:"at"`
	Kind     StepKind  `json:"kind"`
	Verdict  Code      `json:"verdict"`
	Reason   string    `json:"reason"`
	Expected string    `json:"expected"`
	Outcome  string    `json:"outcome,omitempty"` // filled in once known: "helped: …" or "no better: …"
}

// Budgets are what is left this hour.
type Budgets struct {
	Reconnects int `json:"reconnects"` // of the current verdict
	Restarts   int `json:"restarts"`
}

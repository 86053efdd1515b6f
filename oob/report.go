// Package oob is the endpoint's second door: beacons, directives, commands and
// results over plain HTTPS, for when the link is the thing that is broken.
//
// Rules that hold here:
//   - it never imports the link, its dialer or the WebSocket library: recovery
//     does not share the path it repairs;
//   - its endpoints are pinned and tried in order; every request has a deadline;
//   - a report that could not be sent is kept on disk, bounded, and what had to
//     be dropped is counted and said.
package oob

import (
	"time"

	"gururmm/selfcheck"
	"gururmm/wire"
)

// CauseStop is the cause of the last beacon before an orderly stop: who sent it is
// away on purpose, until it starts again.
const CauseStop = "stop"

// Report is one beacon, POST /v1/oob/beacon, gzip, at most [MaxReport] bytes compressed.
type Report struct {
	Schema   int       `json:"schema"` // SchemaVersion
	ReportID string    `json:"report_id"`
	Agent    string    `json:"agent"`
	At       time.Time `json:"at"`    // endpoint's clock, corrected
	Cause    string    `json:"cause"` // start, [CauseStop], verdict, schedule or request
	wire.Presence

	Verdict  selfcheck.Verdict   `json:"verdict"`
	Findings []selfcheck.Finding `json:"findings,omitempty"`
	Snapshot selfcheck.Snapshot  `json:"snapshot"`
	// Steps are what the ladder did lately: expected, and what came of it.
	Steps   []selfcheck.StepRecord `json:"steps,omitempty"`
	Budgets selfcheck.Budgets      `json:"budgets"`
	// Dropped counts reports lost from the spool since the last one that arrived.
	Dropped int `json:"dropped"`
}

// SchemaVersion of Report.
const SchemaVersion = 1

// MaxReport bounds a compressed report in bytes; MaxReportRaw what it may unpack to.
const (
	MaxReport    = 256 << 10
	MaxReportRaw = 4 << 20
)

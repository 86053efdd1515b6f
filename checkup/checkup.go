// Package checkup is a doctor's report: what each probe saw, in types that both
// ends know, and as the page that people read.
//
// Rules that hold here:
//   - a result that nobody filled in is unknown, and unknown is never healthy;
//   - there is one report and one place that renders it: the endpoint's console,
//     the operator's and the JSON can't disagree;
//   - a report may come from an endpoint that lies: it is bounded where it is
//     read, and no control character of it reaches a terminal.
package checkup

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Schema is the version of the report's form.
const Schema = 1

// Status is a probe's outcome.
type Status string

// The outcomes. The zero value says that there is none.
const (
	Unknown Status = ""
	Pass    Status = "pass"
	Warn    Status = "warn" // works, but somebody should know
	Fail    Status = "fail"
	Skip    Status = "skip" // not tried; Result.Seen says why
)

// MarshalText writes the zero value as "unknown".
func (s Status) MarshalText() ([]byte, error) {
	if s == Unknown {
		return []byte("unknown"), nil
	}
	return []byte(s), nil
}

// UnmarshalText reads what is none of the outcomes as unknown.
func (s *Status) UnmarshalText(b []byte) error {
	switch v := Status(b); v {
	case Pass, Warn, Fail, Skip:
		*s = v
	default:
		*s = Unknown
	}
	return nil
}

// Good reports whether what builds on it can be tried.
func (s Status) Good() bool { return s == Pass || s == Warn }

// Result is what one probe saw.
type Result struct {
	Group  string `json:"group"`  // "link wss://…", "second door https://…", "this machine"
	Name   string `json:"name"`   // of the probe
	Target string `json:"target"` // what was looked at: a host, a URL, a directory
	Status Status `json:"status"`
	Seen   string `json:"seen"` // a sentence or two, for people
	// Notes are further facts, one a line.
	Notes  []string `json:"notes,omitempty"`
	TookMS float64  `json:"took_ms"`
	// Phase and Type name a network error as W3C Network Error Logging does.
	Phase string `json:"phase,omitempty"`
	Type  string `json:"type,omitempty"`
	// Do is what a person should do.
	Do string `json:"do,omitempty"`
	// Figures are for programs; their names carry the unit.
	Figures map[string]any `json:"figures,omitempty"`
}

// Report is one check-up. Results are in the order of the plan.
type Report struct {
	Schema  int       `json:"schema"`
	At      time.Time `json:"at"` // begun, by this machine's clock
	Host    string    `json:"host,omitempty"`
	Agent   string    `json:"agent,omitempty"` // id; empty: not enrolled
	Version string    `json:"version"`         // of the program that looked
	TookMS  float64   `json:"took_ms"`
	Verdict Status    `json:"verdict"` // the worst of all
	Results []Result  `json:"results"`
}

// Exit codes of a check-up.
const (
	ExitWell   = 0 // all pass or warn
	ExitFailed = 1 // any fails, or its outcome is unknown
	ExitNotRun = 2 // nothing could be tried
)

// Worst is the worst outcome of all: fail, unknown, warn, pass, and skip only if
// there is nothing else.
func (r Report) Worst() Status {
	n := r.counts()
	for _, s := range []Status{Fail, Unknown, Warn, Pass} {
		if n[s] > 0 {
			return s
		}
	}
	return Skip
}

// ExitCode sums the report up for scripts.
func (r Report) ExitCode() int {
	switch r.Worst() {
	case Pass, Warn:
		return ExitWell
	case Skip:
		return ExitNotRun
	}
	return ExitFailed
}

func (r Report) counts() map[Status]int {
	n := map[Status]int{}
	for _, one := range r.Results {
		n[one.Status]++
	}
	return n
}

// maxResults bounds the results of a report that comes from elsewhere.
const maxResults = 1000

// ErrForeign says that something is no report of this form.
var ErrForeign = errors.New("not a doctor's report that can be read here")

// Parse reads a report that came from elsewhere; its verdict is worked out anew.
func Parse(raw []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if r.Schema != Schema || len(r.Results) > maxResults {
		return Report{}, fmt.Errorf("%w: schema %d, %d results", ErrForeign, r.Schema, len(r.Results))
	}
	r.Verdict = r.Worst()
	return r, nil
}

// MS gives a duration in milliseconds to three decimals, as reports carry it.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Package history keeps what happened on this endpoint, for whoever sits before
// it: verdicts with their evidence, steps and what came of them, ends of workers,
// directives. One line of JSON an event, in the state directory.
//
// Rules that hold here:
//   - one process writes (the guardian, through its keeper), anybody who may read
//     the directory reads, whether the service runs or not;
//   - lines are only ever appended: what comes later (a step's outcome, a count)
//     is a line of its own that names the event, and is joined by the reader;
//   - the two files together are bounded, and so is what one flapping event may
//     write: its repeats are counted, not written.
package history

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gururmm/selfcheck"
)

// Kind says what an event is about.
type Kind string

// The kinds.
const (
	KindVerdict   Kind = "verdict"
	KindStep      Kind = "step"      // of the ladder, or ordered
	KindOutcome   Kind = "outcome"   // of the event that Of names
	KindRepeat    Kind = "repeat"    // the event that Of names happened again: Count, Last
	KindWorker    Kind = "worker"    // started, ended
	KindGuardian  Kind = "guardian"  // started, stopped
	KindDirective Kind = "directive" // accepted, refused
	KindPolicy    Kind = "policy"
	KindDoor      Kind = "door"  // the second door: up, down
	KindClock     Kind = "clock" // suspended, stepped
	KindUpdate    Kind = "update"
)

// Kinds lists those that a reader meets after the join.
func Kinds() []Kind {
	return []Kind{KindVerdict, KindStep, KindWorker, KindGuardian, KindDirective, KindPolicy, KindDoor, KindClock, KindUpdate}
}

// Event is one thing that happened. Its JSON is stable: fields are added, never
// renamed.
type Event struct {
	ID   string    `json:"id"` // [Log.Add] gives one if there is none
	At   time.Time `json:"at"` // this machine's clock
	Kind Kind      `json:"kind"`
	// Code within the kind: a verdict's code, a step's or directive's kind, or a
	// word such as started, ended, up, down.
	Code     string               `json:"code,omitempty"`
	Severity selfcheck.Severity   `json:"severity,omitempty"`
	Title    string               `json:"title,omitempty"`
	Sentence string               `json:"sentence,omitempty"` // for people
	Evidence []selfcheck.Evidence `json:"evidence,omitempty"`
	// Verdict is the code that a step was taken for.
	Verdict selfcheck.Code `json:"verdict,omitempty"`
	// Step is the rung of the ladder, of kind step.
	Step selfcheck.StepKind `json:"step,omitempty"`
	// Of names the event that an outcome or a repeat belongs to.
	Of string `json:"of,omitempty"`
	// Outcome, once known; a reader finds it in the event itself.
	Outcome string `json:"outcome,omitempty"`
	// OutcomeAt is when it became known.
	OutcomeAt time.Time `json:"outcome_at,omitzero"`
	Detail    string    `json:"detail,omitempty"`
	// Count is how often it happened, Last when it last did; 0 and 1: once, at At.
	Count int       `json:"count,omitempty"`
	Last  time.Time `json:"last,omitzero"`
}

// Bounds of one event, in bytes and pieces: a line stays well below maxLine.
const (
	maxText     = 1 << 10
	maxEvidence = 24
	maxFact     = 256
	maxLine     = 64 << 10 // of the reader
)

// NewID gives a fresh event id.
func NewID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// StepID names the event of a step by the step itself, so that its outcome finds
// it even after a restart.
func StepID(s selfcheck.StepRecord) string {
	return "s" + strconv.FormatInt(s.At.UnixNano(), 36)
}

// bounded gives e as it may be written.
func (e Event) bounded() Event {
	for _, s := range []*string{&e.Title, &e.Sentence, &e.Outcome, &e.Detail} {
		*s = cut(*s, maxText)
	}
	for _, s := range []*string{&e.ID, &e.Of, &e.Code} {
		*s = cut(*s, maxFact)
	}
	evidence := e.Evidence[:min(len(e.Evidence), maxEvidence)]
	e.Evidence = nil
	for _, v := range evidence {
		e.Evidence = append(e.Evidence, selfcheck.Evidence{
			Fact: cut(v.Fact, maxFact), Seen: cut(v.Seen, maxFact), Expected: cut(v.Expected, maxFact),
		})
	}
	return e
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = " …"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.TrimRight(s[:n], " ") + mark
}

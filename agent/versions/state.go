// Package versions keeps the programs that an endpoint has beside its installed
// one, and decides which of them runs.
//
// Rules that hold here:
//   - the installed program belongs to the package manager and is never touched;
//     others lie in directories of their own, each whole and verified or not there;
//   - where an update stands is one small file, [State], written whole before the
//     step it announces is taken: after a crash at any point it says what to do;
//   - a start of a program that has not proven itself is counted before it happens:
//     one that dies each time is left after [maxStarts];
//   - a program is verified by its signature each time before it is started;
//   - fields that a version does not know are ignored, and none ever changes its
//     meaning: older programs read what newer ones wrote, and the other way round.
package versions

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gururmm/release"
	"gururmm/wire"
)

// Phase is the step of a change of programs that is under way.
type Phase string

// The phases. A start that finds one of them does what stands beside it.
const (
	PhaseNone  Phase = ""
	PhaseFetch Phase = "fetch" // Next is being fetched: go on with it
	PhaseTrial Phase = "trial" // Next runs as a worker: it is over, the old program stays
	// PhaseHandover: Current has been given the endpoint and has yet to confirm.
	PhaseHandover Phase = "handover"
)

// Entry is a program in the store.
type Entry struct {
	Build wire.Build `json:"build"`
	At    time.Time  `json:"at,omitzero"` // when it was committed
}

// Version names e's version; of nil, the installed program.
func (e *Entry) Version() string {
	if e == nil {
		return ""
	}
	return e.Build.Version
}

// Is reports whether e and other are the same program; nil is the installed one.
func (e *Entry) Is(other *Entry) bool {
	if e == nil || other == nil {
		return e == other
	}
	return e.Build.SHA256 == other.Build.SHA256 && e.Build.Version == other.Build.Version
}

// Order is the directive that a change was ordered by.
type Order struct {
	ID        string             `json:"id"`
	Kind      wire.DirectiveKind `json:"kind"`
	ExpiresAt time.Time          `json:"expires_at,omitzero"`
	// Resumed counts starts of the guardian that went on with it.
	Resumed int `json:"resumed,omitempty"`
	// ByDoor: no link could be verified when the trial began, for reasons that are
	// not the new program's, so the second door stood for it.
	ByDoor bool `json:"by_door,omitempty"`
	// GraceMS is for what has none of its own, the installed program: that of the version
	// which is left for it; 0: the default.
	GraceMS int64 `json:"grace_ms,omitempty"`
}

// Outcome is what became of an order, or of a program that did not last.
type Outcome struct {
	Order      *Order `json:"order,omitempty"` // nil: nobody ordered it
	Version    string `json:"version"`         // that was to run, or did not last
	SHA256     string `json:"sha256,omitempty"`
	Done       bool   `json:"done,omitempty"`
	RolledBack bool   `json:"rolled_back,omitempty"` // it had begun to run
	Reason     string `json:"reason,omitempty"`
	// Code is set if Reason is of the moment and says nothing of the program.
	Code wire.Code `json:"code,omitempty"`
	At   time.Time `json:"at"`
	Told bool      `json:"told,omitempty"` // the server has it
}

// State is current.json.
type State struct {
	Phase Phase `json:"phase,omitempty"`
	// Current is the program that shall run, Previous the one before; nil: the installed one.
	Current  *Entry `json:"current,omitempty"`
	Previous *Entry `json:"previous,omitempty"`
	Next     *Entry `json:"next,omitempty"` // of fetch and trial
	Order    *Order `json:"order,omitempty"`
	// Starts of Current, counted before each, back to 0 once one has lasted.
	Starts int `json:"starts,omitempty"`
	// Installed is the installed program's version as of the commit of Current: a
	// newer one than Current comes from a package upgrade only if it is not this.
	Installed string `json:"installed,omitempty"`
	// Failed are the programs that did not last, newest last.
	Failed []Outcome `json:"failed,omitempty"`
	// Last is what became of the last order.
	Last *Outcome `json:"last,omitempty"`
}

const (
	// maxStarts: one crash may be chance, three are none.
	maxStarts = 3
	// Lasting is how long a start must have lasted to be no failed one.
	Lasting = time.Minute
	// maxFailed bounds the programs remembered as failed.
	maxFailed = 8
	// MaxResumes bounds how often an interrupted download is gone on with.
	MaxResumes = 3
)

// Fetch begins an order.
func (s State) Fetch(b wire.Build, o Order) State {
	s.Phase, s.Next, s.Order = PhaseFetch, &Entry{Build: b}, &o
	return s
}

// Trial follows Fetch: Next is there and verified.
func (s State) Trial(byDoor bool) State {
	o := *s.Order
	o.ByDoor = byDoor
	s.Phase, s.Order = PhaseTrial, &o
	return s
}

// Commit follows Trial: Next becomes Current, unconfirmed.
func (s State) Commit(installed string, now time.Time) State {
	next := *s.Next
	next.At = now
	s.Phase, s.Previous, s.Current, s.Next = PhaseHandover, s.Current, &next, nil
	s.Starts, s.Installed = 0, installed
	return s
}

// Confirm ends a handover well.
func (s State) Confirm(version string, now time.Time) State {
	s.Last = &Outcome{Order: s.Order, Version: version, Done: true, At: now}
	s.Phase, s.Next, s.Order, s.Starts = PhaseNone, nil, nil, 0
	return s
}

// Fail ends an order before anything of the new program ran, or was to blame for it.
func (s State) Fail(reason string, now time.Time) State {
	s.Last = &Outcome{Order: s.Order, Version: s.Next.Version(), Reason: reason, At: now}
	if s.Next != nil {
		s.Last.SHA256 = s.Next.Build.SHA256
	}
	s.Phase, s.Next, s.Order = PhaseNone, nil, nil
	return s
}

// GiveUp is Fail for a cause of the moment, which code names.
func (s State) GiveUp(code wire.Code, reason string, now time.Time) State {
	s = s.Fail(reason, now)
	s.Last.Code = code
	return s
}

// RollBack ends a trial that went wrong: the old program goes on.
func (s State) RollBack(reason string, now time.Time) State {
	s = s.Fail(reason, now)
	s.Last.RolledBack = true
	s.remember(*s.Last)
	return s
}

// GoBack hands over to the program before, by order.
func (s State) GoBack(o Order) State {
	if s.Current != nil {
		o.GraceMS = s.Current.Build.GraceMS
	}
	s.Phase, s.Order, s.Next = PhaseHandover, &o, nil
	s.Current, s.Previous, s.Starts = s.Previous, nil, 0
	return s
}

// FallBack leaves Current, which did not last, for the program before it.
func (s State) FallBack(reason string, now time.Time) State {
	s.Last = &Outcome{Order: s.Order, Version: s.Current.Version(), RolledBack: true, Reason: reason, At: now}
	if s.Current != nil {
		s.Last.SHA256 = s.Current.Build.SHA256
	}
	s.remember(*s.Last)
	s.Phase, s.Next, s.Order = PhaseNone, nil, nil
	s.Current, s.Previous, s.Starts = s.Previous, nil, 0
	return s
}

func (s *State) remember(o Outcome) {
	s.Failed = append(slices.Clone(s.Failed), o)
	s.Failed = s.Failed[max(0, len(s.Failed)-maxFailed):]
}

// Tell notes that the server has the last outcome.
func (s State) Tell() State {
	if s.Last != nil {
		last := *s.Last
		last.Told = true
		s.Last = &last
	}
	return s
}

// Choose decides what starts now, given the installed program's version: state is
// what must be on disk before it does, entry is nil for the installed program, why
// is for people. Check verifies an entry's program; an error of it that wraps
// [ErrUnjudged] is given back, and no program is blamed for it: state is then s.
func Choose(s State, installed string, check func(Entry) error, now time.Time) (state State, entry *Entry, why string, err error) {
	was := s
	for s.Current != nil {
		v := s.Current.Build.Version
		switch {
		case installed == v || release.Compare(installed, v) > 0 && installed != s.Installed:
			// The package manager brought it, and may have removed what v relied on.
			why = "the installed program is " + installed + ", and so takes the place of the update to " + v
			if s.Phase != PhaseHandover || installed != v {
				if s.Phase != PhaseNone && s.Order != nil {
					s = s.GiveUp(wire.CodeInterrupted, why, now)
				}
				s.Phase = PhaseNone
			}
			s.Current, s.Previous, s.Starts = nil, nil, 0
			return s, nil, why, nil
		case s.Starts >= maxStarts:
			reason := fmt.Sprintf("%s died %d times in a row within %v of its start", v, s.Starts, Lasting)
			if s.Phase == PhaseHandover {
				reason = fmt.Sprintf("%s was started %d times and did not confirm", v, s.Starts)
			}
			s = s.FallBack(reason, now)
			why = s.Last.Reason
			continue
		}
		if err := check(*s.Current); errors.Is(err, ErrUnjudged) {
			return was, nil, "", err
		} else if err != nil {
			s = s.FallBack(v+" was not started: "+err.Error(), now)
			why = s.Last.Reason
			continue
		}
		s.Starts++
		if why == "" {
			why = "update to " + v
		} else {
			why = "went back: " + why
		}
		return s, s.Current, why, nil
	}
	if why != "" {
		why = "went back: " + why
	}
	return s, nil, why, nil
}

// FailedOrder gives why the order with this id failed.
func (s State) FailedOrder(id string) (Outcome, bool) {
	for _, f := range slices.Backward(s.Failed) {
		if f.Order != nil && f.Order.ID == id {
			return f, true
		}
	}
	return Outcome{}, false
}

// validate refuses what no version of this program writes.
func (s State) validate() error {
	for _, e := range []*Entry{s.Current, s.Previous, s.Next} {
		if e == nil {
			continue
		}
		if err := release.CheckVersion(e.Build.Version); err != nil {
			return err
		}
		if len(e.Build.SHA256) != 64 {
			return errors.New("a program without its SHA-256")
		}
		for _, r := range e.Build.SHA256 {
			if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
				return errors.New("a SHA-256 that is none")
			}
		}
	}
	switch {
	case (s.Phase == PhaseFetch || s.Phase == PhaseTrial) && (s.Next == nil || s.Order == nil):
		return fmt.Errorf("phase %s without a program or an order", s.Phase)
	case s.Starts < 0:
		return errors.New("starts below zero")
	}
	return nil
}

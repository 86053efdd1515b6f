package selfcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrBadState says that what should be restored is not what State wrote.
var ErrBadState = errors.New("the ladder's state is damaged")

const (
	// maxState bounds a state in bytes, maxSpent the verdicts and the times of each in it.
	maxState     = 64 << 10
	maxSpent     = 64
	stateVersion = 1
)

// Uptime is how long this machine has been up, sleep included, and since which
// boot: unlike the wall clock nobody can set it. Zero: not known.
type Uptime struct {
	Boot string        `json:"boot,omitempty"`
	Up   time.Duration `json:"up_ns,omitempty"`
}

// Dated says when something was written down, by both clocks.
type Dated struct {
	Saved  time.Time `json:"saved,omitzero"`
	Uptime Uptime    `json:"uptime,omitzero"`
}

// ladderState is what survives a restart: budgets and back-off, by the wall clock
// as of Saved. Of what was under way only a restart of the service is: what it
// came to is known by the next guardian alone.
type ladderState struct {
	Version int `json:"v"`
	Dated
	Spent       map[Code][]time.Time `json:"spent,omitempty"`
	Restarts    []time.Time          `json:"restarts,omitempty"`
	Services    []time.Time          `json:"services,omitempty"`
	Stages      []time.Time          `json:"stages,omitempty"`
	Service     *StepRecord          `json:"service,omitempty"` // under way
	Ordered     *StepRecord          `json:"ordered,omitempty"` // the same, ordered by somebody else
	LinkRung    linkRung             `json:"link_rung,omitempty"`
	LinkLevel   int                  `json:"link_level,omitempty"`
	LinkRetry   time.Time            `json:"link_retry,omitzero"`
	WorkerLevel int                  `json:"worker_level,omitempty"`
	WorkerRetry time.Time            `json:"worker_retry,omitzero"`
}

// State encodes what must survive a restart, as of now.
func (l *Ladder) State(now time.Time, up Uptime) ([]byte, error) {
	s := ladderState{
		Version: stateVersion, Dated: Date(now, up), Spent: map[Code][]time.Time{},
		Restarts: last(l.worker.restarts), Services: last(l.worker.services), Stages: last(l.worker.stages),
		LinkRung: l.link.rung, LinkLevel: l.link.level, LinkRetry: l.link.retryAt,
		WorkerLevel: l.worker.level, WorkerRetry: l.worker.retryAt,
	}
	for code, times := range l.link.spent {
		s.Spent[code] = last(times)
	}
	s.Service = l.restart(l.worker.step)
	for _, w := range l.ordered {
		if r := l.restart(w); r != nil {
			s.Ordered = r
		}
	}
	s.each(func(t time.Time) time.Time { return Wall(t, now) })
	return json.Marshal(s)
}

// restart is the record of w as it is written down, if that is a restart of the service
// under way. Its time names it, and so stays as the wall clock showed it.
func (l *Ladder) restart(w *waiting) *StepRecord {
	if w == nil || w.kind != StepRestartService {
		return nil
	}
	for _, r := range l.recent {
		if r.Kind == w.kind && r.At.Equal(w.at) {
			r.At = r.At.Round(0)
			return &r
		}
	}
	return nil
}

// each replaces each time but Saved and a step's, unless it is zero, by what change makes of it.
func (s *ladderState) each(change func(time.Time) time.Time) {
	all := func(times []time.Time) []time.Time {
		out := make([]time.Time, len(times))
		for i, t := range times {
			out[i] = change(t)
		}
		return out
	}
	for code, times := range s.Spent {
		s.Spent[code] = all(times)
	}
	s.Restarts, s.Services, s.Stages = all(s.Restarts), all(s.Services), all(s.Stages)
	for _, t := range []*time.Time{&s.LinkRetry, &s.WorkerRetry} {
		if !t.IsZero() {
			*t = change(*t)
		}
	}
}

// Date dates what is written down now.
func Date(now time.Time, up Uptime) Dated { return Dated{now.Round(0), up} }

// Wall is t as it is written down at now: by the monotonic clock, since the wall clock may
// have been set since t.
func Wall(t, now time.Time) time.Time { return now.Add(t.Sub(now)).Round(0) }

// Then is what was written down as t, as of now.
func (d Dated) Then(t, now time.Time, up Uptime) time.Time {
	if d.Saved.IsZero() {
		return t
	}
	return now.Add(t.Sub(d.Saved) - d.elapsed(now, up))
}

// elapsed is how long ago d was, as far as that is sure. Within one boot no
// setting of the clock changes it. Over a reboot the time since that boot is sure;
// how long the machine was off only the wall clock could tell, and a clock set ahead
// must not refill a budget. Where nobody knows of boots the wall clock is all there is,
// and one that was set back counts as no time at all.
func (d Dated) elapsed(now time.Time, up Uptime) time.Duration {
	wall := max(0, now.Sub(d.Saved))
	switch {
	case up.Boot == "":
		return wall
	case d.Uptime.Boot == "", up.Boot == d.Uptime.Boot && up.Up < d.Uptime.Up: // a machine put back to an earlier moment
		return min(wall, up.Up)
	case up.Boot == d.Uptime.Boot:
		return up.Up - d.Uptime.Up
	}
	return up.Up
}

// last keeps as many times as a state may hold.
func last(times []time.Time) []time.Time { return times[max(0, len(times)-maxSpent):] }

// Restore takes in what State wrote. The error is [ErrBadState]; the ladder is
// then unchanged.
func (l *Ladder) Restore(state []byte, now time.Time, up Uptime) error {
	s, err := parseState(state)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadState, err)
	}
	s.each(func(t time.Time) time.Time { return s.Then(t, now, up) })
	spent := map[Code][]time.Time{}
	for code, times := range s.Spent {
		spent[code] = times
	}
	l.link.spent, l.link.rung, l.link.level, l.link.retryAt = spent, s.LinkRung, s.LinkLevel, s.LinkRetry
	l.worker.restarts, l.worker.services, l.worker.stages = s.Restarts, s.Services, s.Stages
	l.worker.level, l.worker.retryAt = s.WorkerLevel, s.WorkerRetry
	if r := s.Service; r != nil {
		l.record(*r)
		l.worker.step = &waiting{kind: r.Kind, code: r.Verdict, at: r.At, after: s.Then(r.At, now, up), since: now}
	}
	if r := s.Ordered; r != nil {
		l.record(*r)
		l.ordered = append(l.ordered, &waiting{kind: r.Kind, code: r.Verdict, at: r.At, after: s.Then(r.At, now, up), since: now})
	}
	l.prune(now)
	if !l.link.retryAt.After(now) {
		l.link.rung = rungGround // its back-off is over: what did not help may be tried again
	}
	return nil
}

// parseState takes what this version knows of a state. A later version, from before a
// rollback, may have added fields, verdicts and steps: they are passed over.
func parseState(raw []byte) (s ladderState, err error) {
	if len(raw) > maxState {
		return s, fmt.Errorf("%d bytes, at most %d are allowed", len(raw), maxState)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, err
	}
	switch {
	case s.Version != stateVersion:
		return s, fmt.Errorf("version %d is not known", s.Version)
	case s.LinkRung > rungAlternative || s.LinkLevel < 0 || s.LinkLevel > maxLevel || s.WorkerLevel < 0 || s.WorkerLevel > maxLevel:
		return s, errors.New("a level is out of range")
	case len(s.Spent) > maxSpent || len(s.Restarts) > maxSpent || len(s.Services) > maxSpent || len(s.Stages) > maxSpent:
		return s, errors.New("too many entries")
	}
	for _, r := range []**StepRecord{&s.Service, &s.Ordered} {
		if *r != nil && ((*r).Kind != StepRestartService || ruleOf((*r).Verdict) == nil) {
			*r = nil
		}
	}
	for code, times := range s.Spent {
		if len(times) > maxSpent {
			return s, fmt.Errorf("%d reconnects for %s", len(times), code)
		}
		if ruleOf(code) == nil {
			delete(s.Spent, code)
		}
	}
	return s, nil
}

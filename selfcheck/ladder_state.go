package selfcheck

import (
	"bytes"
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

// ladderState is what survives a restart: budgets and back-off, by wall clock.
// What was under way does not: it is judged afresh.
type ladderState struct {
	Version     int                  `json:"v"`
	Spent       map[Code][]time.Time `json:"spent,omitempty"`
	Restarts    []time.Time          `json:"restarts,omitempty"`
	Services    []time.Time          `json:"services,omitempty"`
	LinkRung    linkRung             `json:"link_rung,omitempty"`
	LinkLevel   int                  `json:"link_level,omitempty"`
	LinkRetry   time.Time            `json:"link_retry,omitzero"`
	WorkerLevel int                  `json:"worker_level,omitempty"`
	WorkerRetry time.Time            `json:"worker_retry,omitzero"`
}

// State encodes what must survive a restart.
func (l *Ladder) State() ([]byte, error) {
	spent := map[Code][]time.Time{}
	for code, times := range l.link.spent {
		spent[code] = last(times)
	}
	return json.Marshal(ladderState{
		Version: stateVersion, Spent: spent,
		Restarts: last(l.worker.restarts), Services: last(l.worker.services),
		LinkRung: l.link.rung, LinkLevel: l.link.level, LinkRetry: l.link.retryAt,
		WorkerLevel: l.worker.level, WorkerRetry: l.worker.retryAt,
	})
}

// last keeps as many times as a state may hold.
func last(times []time.Time) []time.Time { return times[max(0, len(times)-maxSpent):] }

// Restore takes in what State wrote. The error is [ErrBadState]; the ladder is
// then unchanged.
func (l *Ladder) Restore(state []byte, now time.Time) error {
	s, err := parseState(state)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadState, err)
	}
	spent := map[Code][]time.Time{}
	for code, times := range s.Spent {
		spent[code] = times
	}
	l.link.spent, l.link.rung, l.link.level, l.link.retryAt = spent, s.LinkRung, s.LinkLevel, s.LinkRetry
	l.worker.restarts, l.worker.services = s.Restarts, s.Services
	l.worker.level, l.worker.retryAt = s.WorkerLevel, s.WorkerRetry
	l.prune(now)
	if !l.link.retryAt.After(now) {
		l.link.rung = rungGround // its back-off is over: what did not help may be tried again
	}
	return nil
}

func parseState(raw []byte) (s ladderState, err error) {
	if len(raw) > maxState {
		return s, fmt.Errorf("%d bytes, at most %d are allowed", len(raw), maxState)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	switch {
	case d.More():
		return s, errors.New("something follows it")
	case s.Version != stateVersion:
		return s, fmt.Errorf("version %d is not known", s.Version)
	case s.LinkRung > rungAlternative || s.LinkLevel < 0 || s.LinkLevel > maxLevel || s.WorkerLevel < 0 || s.WorkerLevel > maxLevel:
		return s, errors.New("a level is out of range")
	case len(s.Spent) > maxSpent || len(s.Restarts) > maxSpent || len(s.Services) > maxSpent:
		return s, errors.New("too many entries")
	}
	for code, times := range s.Spent {
		if ruleOf(code) == nil {
			return s, fmt.Errorf("verdict %q is not known", code)
		}
		if len(times) > maxSpent {
			return s, fmt.Errorf("%d reconnects for %s", len(times), code)
		}
	}
	return s, nil
}

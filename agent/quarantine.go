package agent

import (
	"fmt"
	"time"

	"gururmm/agent/state"
	"gururmm/internal/moment"
)

// setQuarantine is remembered by this endpoint itself: it holds also against a server
// that has forgotten it, restored from an older backup say.
func (s *Setup) setQuarantine(on bool, reason string) error {
	if !on {
		err := s.Dir.SetQuarantine(nil)
		s.readQuarantine()
		return err
	}
	q := state.Quarantine{Since: time.Now().UTC(), Reason: reason}
	if was := s.Dir.QuarantineReason(); !was.Since.IsZero() {
		q.Since = was.Since
	}
	err := s.Dir.SetQuarantine(&q)
	s.readQuarantine()
	return err
}

// readQuarantine takes up what is on disk.
func (s *Setup) readQuarantine() { s.isolated.Store(new(s.quarantine())) }

// isolation tells of a quarantine in force, as last read; "": none.
func (s *Setup) isolation() string {
	if said := s.isolated.Load(); said != nil {
		return *said
	}
	return ""
}

// quarantine tells of one in force.
func (s *Setup) quarantine() string {
	if !s.Dir.Quarantined() {
		return ""
	}
	q := s.Dir.QuarantineReason()
	said := "An operator has quarantined this endpoint: no command is run until they lift it"
	if !q.Since.IsZero() {
		said += fmt.Sprintf(" (since %s: %s)", moment.UTC(q.Since), q.Reason)
	}
	return said + "."
}

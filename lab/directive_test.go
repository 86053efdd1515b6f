package lab_test

import (
	"fmt"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// TestAnOrderToAHealthyGuardianIsAnsweredAtOnce: its next beacon would come in a
// quarter of an hour; it is called by the link instead.
func TestAnOrderToAHealthyGuardianIsAnsweredAtOnce(t *testing.T) {
	s := newScene(t)
	before := s.status().Worker.PID
	ordered := time.Now()
	d, err := s.Client().Direct(t.Context(), s.agent.ID, operator.NewDirective{Kind: wire.DirectiveRestartWorker, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("the receipt", func() (bool, error) {
		d, err = s.Client().Directive(t.Context(), d.ID)
		return err == nil && d.State == string(wire.DirectiveDone), fmt.Errorf("it is %s: %s (%v)", d.State, d.Detail, err)
	})
	t.Logf("receipt after %v, seen after %v", d.EndedAt.Sub(d.CreatedAt), time.Since(ordered))
	s.eventually("another worker", func() (bool, error) {
		now := s.status().Worker.PID
		return now != 0 && now != before, fmt.Errorf("worker %d, before %d", now, before)
	})
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
}

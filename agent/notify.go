package agent

import (
	"fmt"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
)

// stopMargin is what a stop may take beyond what the guardian promises: the lock, the logs.
const stopMargin = guardian.StopWithin / 2

// teller lets the service manager know how the guardian does. turn is called by
// the guardian's loop itself and does not block; end is called once, after the last turn, with what Run returns.
type teller interface {
	turn(guardian.Turn)
	end(error)
}

// told is a turn in a line.
func told(t guardian.Turn) string {
	what := t.Verdict.Sentence
	if what == "" {
		what = t.Verdict.Title
	}
	switch {
	case t.Mode == local.ModeNotEnrolled:
		return what
	case t.Verdict.Code == "":
		return fmt.Sprintf("%s: nothing is known yet", t.Mode)
	}
	return fmt.Sprintf("%s, %s: %s", t.Mode, t.Verdict.Code, what)
}

package delivery

import (
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

func TestTheLastSentenceSaysNothingTwice(t *testing.T) {
	three, nine := 3, 9
	for want, c := range map[string]operator.Command{
		"Ended as failed with exit code 3.":                    {State: wire.StateFailed, ExitCode: &three, Reason: "exit code 3"},
		"Ended as cancelled.":                                  {State: wire.StateCancelled, Reason: "cancelled"},
		"Ended as cancelled: cancelled before it was offered.": {State: wire.StateCancelled, Reason: "cancelled before it was offered"},
		"Ended as failed with exit code 9: timed out.":         {State: wire.StateFailed, ExitCode: &nine, Reason: "timed out"},
		"Ended as expired.":                                    {State: wire.StateExpired},
	} {
		if got := stopped(operator.Trace{Command: c}, time.Now(), ""); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

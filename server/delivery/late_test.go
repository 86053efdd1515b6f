package delivery

import (
	"errors"
	"testing"

	"gururmm/wire"
)

// A result that the server can do nothing with any more must not come for ever: of a
// command that was deleted, and alike of one that is another agent's.
func TestAResultThatNobodyWaitsForIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		first := r.agent
		r.agent = r.enroll("other")
		foreign := r.submit()
		r.agent = first
		for name, id := range map[string]string{"deleted": wire.NewID(), "another's": foreign} {
			out, err := r.from(l, wire.TypeCommandResult, completed(id, "late"))
			if !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v", name, err)
			}
			if ack := resultAck(t, out); len(out) != 1 || ack.ID != id || !ack.Stored {
				t.Errorf("%s: answered %+v", name, ack)
			}
		}
		r.expect(foreign, wire.StatePending, 0)
	})
}

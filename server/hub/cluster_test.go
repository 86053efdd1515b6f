package hub

import (
	"testing"
	"time"
)

// A view that was taken as a link was verified is written again once that is known of the agent
// too; later signs of life are no reason to.
func TestAViewIsWrittenAgainOnceTheAgentIsVerified(t *testing.T) {
	mark := func(verified time.Time) string {
		t.Helper()
		m, err := view{SeenAt: time.Now(), VerifiedAt: verified}.mark()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	now := time.Now()
	if mark(time.Time{}) == mark(now) {
		t.Error("other nodes are not told that text went both ways")
	}
	if mark(now) != mark(now.Add(time.Minute)) {
		t.Error("each heartbeat is a write")
	}
}

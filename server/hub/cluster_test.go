package hub

import (
	"context"
	"testing"
	"time"

	"gururmm/server/delivery"
)

// leasing is a cluster in which the lease is lost while the first view is written.
type leasing struct {
	Cluster
	h     *Hub
	saved int
}

func (c *leasing) SaveViews(context.Context, map[string]string) error {
	if c.saved++; c.saved == 1 {
		c.h.LeaseLost()
	}
	return nil
}

// What was written under a lease goes with it: under the next one it is written again.
func TestAViewIsWrittenAgainUnderTheNextLease(t *testing.T) {
	c := &leasing{}
	c.h = New(Options{Cluster: c, Delivery: new(delivery.Service)})
	for range 3 {
		if err := c.h.shareNow(t.Context(), []string{"alpha"}); err != nil {
			t.Fatal(err)
		}
	}
	if c.saved != 2 {
		t.Errorf("written %d times, want once under each lease", c.saved)
	}
}

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

package guardian_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/internal/tcpinfo"
	"gururmm/oob"
	"gururmm/selfcheck"
)

func TestASilentWorkerIsLookedAtFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start.Link.Remote = "192.0.2.1:443"
		var looks atomic.Int32
		b.cfg.Spawn = func(ctx context.Context) (guardian.Child, error) {
			c, err := b.spawn(ctx)
			c.Outside = func() (tcpinfo.Process, error) {
				looks.Add(1)
				return tcpinfo.Process{State: "stopped", Queues: []tcpinfo.Queue{
					{Remote: "192.0.2.1:443", Unread: 40}, {Remote: "192.0.2.1:443", Unread: 2}, {Remote: "203.0.113.9:53", Unread: 1000},
				}}, nil
			}
			return c, err
		}
		b.run()
		pass(time.Minute)
		if n := looks.Load(); n != 0 {
			t.Fatalf("a worker that reports was looked at %d times", n)
		}
		close(b.child().frozen)
		pass(selfcheck.ReportMissed + 2500*time.Millisecond)
		var r oob.Report
		b.door.set(func() {
			for _, report := range b.door.reports {
				if report.Verdict.Code == selfcheck.CodeAgentHung {
					r = report
				}
			}
		})
		seen := map[string]string{}
		for _, e := range r.Verdict.Evidence {
			seen[e.Fact] = e.Seen
		}
		if seen["worker.unread"] != "42 bytes" || seen["worker.kernel_state"] != "stopped" {
			t.Errorf("evidence %+v", r.Verdict.Evidence)
		}
		if n := looks.Load(); n != 1 {
			t.Errorf("looked %d times before it was judged", n)
		}
		b.end()
	})
}

package guardian_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/selfcheck"
)

// held runs a guardian whose loop is held up once, for so long, while its worker does
// not report either and goes on to be silent for more; gives how many workers it took.
func held(t *testing.T, hold, more time.Duration) (workers int, said selfcheck.Verdict) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var next atomic.Int64
		b.cfg.Gate = func() {
			if d := time.Duration(next.Swap(0)); d > 0 {
				time.Sleep(d)
			}
		}
		ask := b.status()
		b.run()
		pass(20 * time.Second)
		c := b.child()
		next.Store(int64(hold))
		pass(2 * time.Second) // a turn comes by: a worker's report at the latest
		c.silent.Store(true)
		pass(hold - 2*time.Second)
		pass(more)
		said = ask().Verdict
		c.silent.Store(false)
		pass(30 * time.Second)
		workers = b.spawned()
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
	return workers, said
}

// Whatever holds up the guardian, a machine that swaps, most likely holds up its worker
// too: its silence is counted from when the guardian goes on.
func TestSilenceWhileTheGuardianIsHeldUpIsNotJudged(t *testing.T) {
	for hold := 3 * time.Second; hold <= 10*time.Second; hold += 500 * time.Millisecond {
		t.Run(fmt.Sprint(hold), func(t *testing.T) {
			if workers, said := held(t, hold, 3*time.Second); workers != 1 || said.Code == selfcheck.CodeAgentHung {
				t.Errorf("%d workers, verdict %s: %s", workers, said.Code, said.Sentence)
			}
		})
	}
	// The same silence of a worker alone is judged.
	if workers, _ := held(t, 0, 13*time.Second); workers != 2 {
		t.Errorf("%d workers after a silence that nothing excuses", workers)
	}
}

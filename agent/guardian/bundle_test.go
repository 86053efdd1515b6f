package guardian_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/selfcheck"
)

// bundler makes nothing, and notes what it should have made and when.
type bundler struct {
	mu        sync.Mutex
	reasons   []string
	at        []time.Time
	takes     time.Duration
	fail      error
	uploading atomic.Bool
}

func (b *bundler) Make(ctx context.Context, reason string) (string, error) {
	b.mu.Lock()
	b.reasons, b.at = append(b.reasons, reason), append(b.at, time.Now())
	takes, fail := b.takes, b.fail
	b.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return "made", fail
}

func (b *bundler) Upload(ctx context.Context) {
	b.uploading.Store(true)
	<-ctx.Done()
	b.uploading.Store(false)
}

func (b *bundler) made() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.reasons)
}

// ill lets the worker's loop stand still until the verdict has settled, then makes it well.
func ill(b *bench, loop string) {
	s := well()
	s.Loops = map[string]selfcheck.LoopFacts{loop: {Pending: new(time.Minute)}}
	b.start = s
	b.child().be(s)
	pass(15 * time.Second)
	b.start = well()
	b.child().be(well())
	pass(3 * time.Minute)
}

func TestABundleIsMadeByItselfOnAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		bundles := &bundler{takes: 2 * time.Second}
		b.cfg.Bundles = bundles
		b.run()
		pass(time.Minute)
		if n := bundles.made(); len(n) != 0 || !bundles.uploading.Load() {
			t.Fatalf("while all is well: made %q, uploading %v", n, bundles.uploading.Load())
		}
		began := time.Now()
		ill(b, "reader")
		if n := bundles.made(); len(n) != 1 || n[0] != "verdict agent.stalled.reader" {
			t.Fatalf("made %q", n)
		}
		if after := bundles.at[0].Sub(began); after < 5*time.Second || after > 30*time.Second {
			t.Errorf("made after %v", after)
		}
		ill(b, "reader")
		if n := bundles.made(); len(n) != 1 {
			t.Fatalf("the same within an hour: %q", n)
		}
		ill(b, "writer")
		if n := bundles.made(); len(n) != 2 || n[1] == n[0] {
			t.Fatalf("another verdict: %q", n)
		}
		b.end() // the budget outlives the process
		if bundles.uploading.Load() {
			t.Error("it still uploads after the end")
		}
		b.run()
		pass(10 * time.Second)
		ill(b, "writer")
		if n := bundles.made(); len(n) != 2 {
			t.Fatalf("after a restart: %q", n)
		}
		for what, c := range map[string]struct {
			ages []time.Duration
			want int
		}{
			"an hour later":          {[]time.Duration{61 * time.Minute}, 1},
			"eight in a day":         {[]time.Duration{2 * time.Hour, 3 * time.Hour, 5 * time.Hour, 7 * time.Hour, 9 * time.Hour, 11 * time.Hour, 13 * time.Hour, 23 * time.Hour}, 0},
			"seven in a day":         {[]time.Duration{2 * time.Hour, 3 * time.Hour, 5 * time.Hour, 7 * time.Hour, 9 * time.Hour, 11 * time.Hour, 13 * time.Hour, 25 * time.Hour}, 1},
			"the clock was set back": {[]time.Duration{-48 * time.Hour}, 1},
		} {
			b.end()
			m := b.stateFile()
			var made []string
			for _, age := range c.ages {
				made = append(made, fmt.Sprintf(`{"at":%q,"code":"agent.stalled.writer"}`, time.Now().Add(-age).UTC().Format(time.RFC3339)))
			}
			m["bundles"] = json.RawMessage("[" + strings.Join(made, ",") + "]")
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.cfg.StateFile, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			before := len(bundles.made())
			bundles.mu.Lock()
			bundles.fail = errors.New("disk full") // it counts all the same
			bundles.mu.Unlock()
			b.run()
			pass(10 * time.Second)
			ill(b, "writer")
			if n := len(bundles.made()) - before; n != c.want {
				t.Errorf("%s: %d made, want %d", what, n, c.want)
			}
		}
		b.end()
	})
}

// Two errors that settle before the bundle is begun make one, which says both; each has
// spent its own budget, and the day's is spent once.
func TestOneBundleForTwoVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		bundles := &bundler{takes: 2 * time.Second}
		b.cfg.Bundles = bundles
		status := b.status()
		b.run()
		pass(10 * time.Second)
		stalled := func(loop string) selfcheck.Snapshot {
			s := well()
			s.Loops = map[string]selfcheck.LoopFacts{loop: {Pending: new(time.Minute)}}
			return s
		}
		// both shows one error, and another one as soon as the first one is recorded.
		both := func(first, second string) {
			b.start = stalled(first)
			b.child().be(b.start)
			for range 600 {
				if v := status().Verdict; v.Code == selfcheck.Code("agent.stalled."+first) && !v.Suspected {
					break
				}
				pass(100 * time.Millisecond)
			}
			b.start = stalled(second)
			b.child().be(b.start)
			pass(15 * time.Second)
			b.start = well()
			b.child().be(well())
			pass(3 * time.Minute)
		}
		both("reader", "writer")
		if n := bundles.made(); len(n) != 1 || n[0] != "verdict agent.stalled.reader, then agent.stalled.writer" {
			t.Fatalf("made %q", n)
		}
		var made []struct {
			At   time.Time
			Code selfcheck.Code
		}
		if err := json.Unmarshal(b.stateFile()["bundles"], &made); err != nil || len(made) != 2 || made[0].At != made[1].At {
			t.Errorf("recorded: %+v, %v", made, err)
		}
		both("writer", "dispatcher")
		if n := bundles.made(); len(n) != 2 || n[1] != "verdict agent.stalled.dispatcher" {
			t.Fatalf("one of two within its hour: %q", n)
		}
		both("reader", "writer")
		if n := bundles.made(); len(n) != 2 {
			t.Fatalf("both within their hour: %q", n)
		}
		b.end()
		m := b.stateFile()
		var entries []string // seven bundles of two verdicts each
		for i := range 7 {
			at := time.Now().Add(-time.Duration(2*i+2) * time.Hour).UTC().Format(time.RFC3339)
			entries = append(entries, fmt.Sprintf(`{"at":%q,"code":"agent.stalled.reader"},{"at":%q,"code":"agent.stalled.writer"}`, at, at))
		}
		m["bundles"] = json.RawMessage("[" + strings.Join(entries, ",") + "]")
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.cfg.StateFile, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		b.cfg.Status = nil
		b.run()
		pass(10 * time.Second)
		ill(b, "reader")
		ill(b, "dispatcher")
		if n := bundles.made(); len(n) != 3 {
			t.Errorf("after seven in a day: %q", n[2:])
		}
		b.end()
	})
}

func TestNoBundleIsMadeWhereNoneIsWanted(t *testing.T) {
	for name, change := range map[string]func(b *bench){
		"the policy says so":  func(b *bench) { b.cfg.Policy.NoBundles = true },
		"an outage for all":   func(b *bench) { b.cfg.Policy.HoldRecovery = true },
		"without second door": func(b *bench) { b.cfg.Door, b.cfg.Spool = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				bundles := &bundler{}
				b.cfg.Bundles = bundles
				change(b)
				b.run()
				pass(10 * time.Second)
				ill(b, "reader")
				if n := bundles.made(); len(n) != 0 {
					t.Errorf("made %q", n)
				}
				b.end()
			})
		})
	}
}

// A stop does not wait for a bundle.
func TestAStopCutsABundleOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		bundles := &bundler{takes: 24 * time.Hour}
		b.cfg.Bundles = bundles
		b.run()
		pass(10 * time.Second)
		s := well()
		s.Loops = map[string]selfcheck.LoopFacts{"reader": {Pending: new(time.Minute)}}
		b.start = s
		b.child().be(s)
		for range 60 {
			if len(bundles.made()) == 1 {
				break
			}
			pass(time.Second)
		}
		if len(bundles.made()) != 1 {
			t.Fatal("none was begun")
		}
		began := time.Now()
		if err := b.end(); err != nil || time.Since(began) > 12*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

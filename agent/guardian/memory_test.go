package guardian_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/history"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// After a rollback the state is one that a later version wrote: what of it this one
// can't use costs nothing of the rest, least of all what keeps a directive from running twice.
func TestAPartOfTheStateThatCantBeUsedCostsNoOther(t *testing.T) {
	for name, tt := range map[string]struct{ part, lost string }{
		"a later ladder":   {`"ladder":{"v":1,"worker_rung":3,"spent":{"no.such":["2000-01-01T00:00:00Z"]}}`, ""},
		"a ladder unknown": {`"ladder":{"v":2,"rungs":[]}`, "begin anew"},
		"a damaged ladder": {`"ladder":"what"`, "begin anew"},
		"a policy unknown": {`"policy":{"ping_ms":-1}`, "The policy that a directive set can't be used"},
		"a later field":    {`"no_such":{"x":1}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				until := time.Now().Add(time.Hour)
				file := `{` + tt.part + `,"directives":{"d1":"` + until.Format(time.RFC3339) + `"},"forced_oob":true}`
				if err := os.WriteFile(b.cfg.StateFile, []byte(file), 0o600); err != nil {
					t.Fatal(err)
				}
				ask := b.status()
				b.run()
				pass(2 * time.Second)
				s := ask()
				switch {
				case tt.lost == "" && len(s.Findings) != 0,
					tt.lost != "" && (len(s.Findings) != 1 || s.Findings[0].Code != selfcheck.FindJournal || !strings.Contains(s.Findings[0].Sentence, tt.lost)):
					t.Errorf("findings %+v", s.Findings)
				}
				if !s.Snapshot.OOB.Delivering {
					t.Error("the order to poll is forgotten")
				}
				b.send(b.directive(wire.Directive{ID: "d1", Kind: wire.DirectiveRestartWorker, ExpiresAt: until}))
				if nacks := b.door.nacks(t); len(nacks) != 1 || nacks[0].Code != wire.CodeDuplicate || b.spawned() != 1 {
					t.Errorf("a directive ran again: %+v, %d workers", nacks, b.spawned())
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				kept, err := filepath.Glob(b.cfg.StateFile + ".corrupt-*")
				if err != nil || len(kept) != 0 {
					t.Errorf("set aside: %q, %v", kept, err)
				}
			})
		})
	}
}

// A disk that was full for a moment is tried again, though nothing has changed since.
func TestAStateThatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		away := filepath.Join(filepath.Dir(b.cfg.StateFile), "away")
		b.cfg.StateFile = filepath.Join(away, "guardian.json")
		ask := b.status()
		b.run()
		pass(5 * time.Minute)
		if s := ask(); len(s.Findings) != 1 || s.Findings[0].Code != selfcheck.FindJournal {
			t.Fatalf("findings %+v", s.Findings)
		}
		if err := os.Mkdir(away, 0o700); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Second)
		if _, err := os.Stat(b.cfg.StateFile); err != nil {
			t.Error(err)
		}
		if s := ask(); len(s.Findings) != 0 {
			t.Errorf("findings %+v", s.Findings)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// A restart of the agent, or one each time that its worker has crashed, is no way out of
// the back-off; the time that a machine was off, or its clock set ahead by, does not count.
func TestACrashLoopIsKnownAfterARestart(t *testing.T) {
	for name, tt := range map[string]struct {
		wall, up time.Duration // from one run to the next
		boot     string
		known    bool
	}{
		"at once":              {time.Second, time.Second, "boot", true},
		"the clock is ahead":   {26 * time.Hour, time.Second, "boot", true},
		"an hour later":        {time.Hour, time.Hour, "boot", false},
		"after a night off":    {9 * time.Hour, -time.Hour + 20*time.Second, "another", true},
		"an hour after a boot": {9 * time.Hour, time.Hour, "another", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				booted := time.Now().Add(-time.Hour)
				b.cfg.Uptime = func() (time.Duration, bool) { return time.Since(booted), true }
				b.dies = func(int) error { return errors.New("exit status 2") }
				b.run()
				pass(5 * time.Minute)
				if r := b.door.last(); r.Verdict.Code != selfcheck.CodeAgentCrashloop {
					t.Fatalf("beaconed %s, want agent.crashloop", r.Verdict.Code)
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				up := time.Since(booted) + tt.up
				time.Sleep(tt.wall)
				booted, b.cfg.Presence.BootID = time.Now().Add(-up), tt.boot

				before := b.spawned()
				ask := b.status()
				b.run()
				pass(500 * time.Millisecond)
				s := ask()
				if known := s.Verdict.Code == selfcheck.CodeAgentCrashloop; known != tt.known {
					t.Errorf("the verdict is %s: %s", s.Verdict.Code, s.Verdict.Sentence)
				}
				if tt.known && !strings.Contains(s.Verdict.Sentence, "exit status 2") {
					t.Errorf("it says %q", s.Verdict.Sentence)
				}
				if b.spawned() == before {
					t.Error("what may have been mended is not tried")
				}
				wait := time.Duration(0) // of the second start
				for ; b.spawned() == before+1; wait += time.Second {
					pass(time.Second)
				}
				if tt.known && wait < 3*time.Second {
					t.Errorf("the wait begins small again, at %v", wait)
				}
				b.mu.Lock()
				b.dies = nil
				b.mu.Unlock()
				pass(3 * time.Minute)
				if s := ask(); s.Verdict.Severity != selfcheck.SeverityWell {
					t.Errorf("the loop is over, the verdict is %s", s.Verdict.Code)
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				if c, known := b.stateFile()["crashes"]; known {
					t.Errorf("still remembered: %s", c)
				}
			})
		})
	}
}

// A run that was killed is told of by the next one, one that ended in order is not.
func TestARunThatWasCutOffIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		b.run()
		pass(5 * time.Second)
		killed, err := os.ReadFile(b.cfg.StateFile) // as a kill would leave it
		if err != nil {
			t.Fatal(err)
		}
		first := b.cfg.Presence.Instance
		b.end()
		again := func(state []byte) int {
			if state != nil {
				if err := os.WriteFile(b.cfg.StateFile, state, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b.cfg.Presence.Instance = wire.NewID()
			events = b.remember()
			b.run()
			pass(5 * time.Second)
			b.end()
			return count(events(), history.KindGuardian, "cut_off")
		}
		if n := again(nil); n != 0 {
			t.Errorf("after an orderly end: told %d times", n)
		}
		if n := again(killed); n != 1 {
			t.Fatalf("after a kill: told %d times", n)
		}
		if e := find(t, events(), history.KindGuardian, "cut_off"); !strings.Contains(e.Detail, first) {
			t.Errorf("kept as %+v", e)
		}
	})
}

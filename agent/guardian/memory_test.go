package guardian_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

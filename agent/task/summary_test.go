//go:build unix

package task

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

func TestSummaryTellsOfJobsAndNeverWhatTheyRan(t *testing.T) {
	dir := t.TempDir()
	if _, err := Summarize(dir, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("of a directory without a journal: %v", err)
	}
	e, u := openAt(t, dir)
	order(t, e, command("done", "echo CANARY-output; exit 3"))
	u.result(t, "done")
	order(t, e, command("owed", "echo CANARY-output"))
	u.result(t, "owed")
	order(t, e, command("runs", "sleep 600 # CANARY-script"))
	e.ResultAck(wire.ResultAck{ID: "done", Stored: true, HaveStdout: 14})
	var s JournalSummary
	phases := func() map[string]string {
		var err error
		if s, err = Summarize(dir, 10); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, j := range s.Jobs {
			got[j.ID] = j.Phase + " " + string(j.State)
		}
		return got
	}
	got := phases()
	for over := time.Now().Add(30 * time.Second); (got["done"] != "stored failed" || got["runs"] != "running ") && time.Now().Before(over); got = phases() {
		time.Sleep(5 * time.Millisecond) // the loop journals both
	}
	for id, want := range map[string]string{"done": "stored failed", "owed": "owed completed", "runs": "running "} {
		if got[id] != want {
			t.Errorf("%s is %q, want %q", id, got[id], want)
		}
	}
	raw, err := json.Marshal(s)
	if err != nil || strings.Contains(string(raw), "CANARY") {
		t.Errorf("%v, %s", err, raw)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Summarize(dir, 2); err != nil || len(s.Jobs) != 2 || s.LeftOut != 1 {
		t.Errorf("bounded by two: %+v, %v", s, err)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("reading has changed the directory: %v, then %v", before, after)
	}
}

package timeline

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(s float64) time.Time { return now.Add(-time.Duration(s * float64(time.Second))) }

func held() Held {
	stage := func(s wire.Stage, end string, attempt int, at time.Time) operator.TraceEntry {
		return operator.TraceEntry{Stage: s, At: at, End: end, Attempt: attempt, Channel: wire.ChannelLink, Link: "07"}
	}
	lost := stage("lost", "server", 1, ago(57))
	lost.Note, lost.Proof = "in words", &operator.Proof{Verdict: "link.text.lost", End: "server", Written: 9, Read: 8, Pings: 2}
	told := ago(50)
	moved := stage(wire.StageRead, "agent", 2, ago(51))
	moved.Told = &told
	return Held{
		Now:   now,
		Agent: operator.Agent{ID: "a", Name: "web-1", Presence: "out-of-band", Verdict: "link.text.lost", LastSeen: new(ago(1)), LastVia: "poll", Links: []wire.LinkView{{Link: 7, PongAgeMS: new(int64(300))}}},
		Events: []operator.AgentEvent{ // the newest first
			{At: ago(40), Kind: operator.EventOutcome, From: "reconnect", To: operator.StepNoBetter, Reason: "no better: the same", Verdict: "link.text.lost", Told: &told},
			{At: ago(56), Kind: operator.EventStep, To: "reconnect", Reason: "expected: a link", Verdict: "link.text.lost", Told: &told},
			{At: ago(56.5), Kind: operator.EventLink, To: "ended", Link: "07", Verdict: "link.text.lost"},
			{At: ago(56.5), Kind: operator.EventLink, To: "degraded", Link: "07", Verdict: "link.text.lost"},
		},
		Traces: []operator.Trace{
			{Command: operator.Command{ID: "0190-bad", CreatedAt: ago(60), State: wire.StateRunning, Attempts: 2}, Entries: []operator.TraceEntry{
				stage(wire.StageAccepted, "server", 0, ago(60)), stage(wire.StageClaimed, "server", 1, ago(60)), stage(wire.StageWritten, "server", 1, ago(59)), lost, moved,
			}},
			{Command: operator.Command{ID: "0190-well", CreatedAt: ago(100), EndedAt: new(ago(99)), State: wire.StateCompleted, ExitCode: new(0), Script: "uname\n -a"}, Entries: []operator.TraceEntry{
				stage(wire.StageAccepted, "server", 0, ago(100)), stage(wire.StageResultStored, "server", 1, ago(99)),
			}},
		},
		Beacons: []operator.Beacon{
			{ReceivedAt: ago(20), Verdict: "link.text.lost", Report: json.RawMessage(`{"at":"2026-03-01T11:59:40Z","cause":"schedule"}`)},
			{ReceivedAt: ago(21), Verdict: "link.text.lost", Report: json.RawMessage(`{"at":"2026-03-01T11:59:05Z","cause":"verdict","snapshot":{"link":{"id":"0000000000000007","phase":"verified","ledger":{"local":{"link":"0000000000000007","read":8,"written":5},"peer":{"link":"0000000000000007","written":9,"read":5},"peer_via":"ping","down":{"missing":1,"age_ns":1000000000}}}}}`)},
			{ReceivedAt: ago(200), Verdict: "ok", Report: json.RawMessage(`no report`)},
		},
		Directives: []operator.Directive{{Kind: wire.DirectiveReconnect, CreatedAt: ago(30), EndedAt: new(ago(29)), State: "done", Reason: "try"}},
	}
}

func TestBothEndsAreMergedInOrderOfTime(t *testing.T) {
	all := Of(held(), Window{Since: ago(150)})
	if !slices.IsSortedFunc(all, func(a, b Entry) int { return a.At.Compare(b.At) }) {
		t.Error("not in order of time")
	}
	var lines []string
	for _, e := range Major(all) {
		lines = append(lines, strings.TrimSpace(e.End+": "+e.What+" | "+e.Why))
	}
	want := []string{
		"server: command well completed, exit 0 after 1s: uname -a |",
		"operator: command bad accepted |",
		"server: command bad written to the link 07 |",
		"server: command bad lost | lost between written and read: 2 later pings, of 9 texts before them 8 were read, as the server counts",
		"server: link 07 degraded, link.text.lost |", // told before the one of the same moment
		"server: link 07 ended, link.text.lost |",
		"agent: step reconnect, for link.text.lost | expected: a link",
		"agent: reports link.text.lost, which came 34s later (verdict) | link 0000000000000007 verified: wrote 5, read 8; the server, by its last ping, wrote 9, read 5; 1 missing here for 1s",
		"agent: step reconnect: no better | the same",
		"operator: order reconnect | try",
		"agent: order reconnect: done |",
		"server: now out-of-band, its verdict link.text.lost | owes 0; last heard of 1s before, by poll; link 0000000000000007 : wrote 0, read 0, its last pong 300ms before",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	i := slices.IndexFunc(all, func(e Entry) bool { return e.Stage == wire.StageRead })
	if i < 0 || all[i].End != Agent || all[i].Told == nil || !all[i].Minor {
		t.Errorf("what the agent timed: %+v", all[max(0, i)])
	}
}

func TestAWindowNarrows(t *testing.T) {
	for name, w := range map[string]Window{
		"since": {Since: ago(35)}, "until": {Until: ago(70)}, "between": {Since: ago(58), Until: ago(56)}, "command": {Command: "0190-well"},
	} {
		got := Of(held(), w)
		if len(got) == 0 {
			t.Errorf("%s: nothing", name)
		}
		for _, e := range got {
			if e.At.Before(w.Since) || !w.Until.IsZero() && e.At.After(w.Until) || w.Command != "" && e.Command != "" && e.Command != w.Command {
				t.Errorf("%s has %+v", name, e)
			}
		}
	}
}

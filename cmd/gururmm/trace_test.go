package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// A trace reads like a route: what was not heard of has a star, and below it stands what
// proves its loss, by whose count.
func TestATraceReadsLikeARoute(t *testing.T) {
	was := time.Local
	t.Cleanup(func() { time.Local = was })
	time.Local = time.UTC
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	entry := func(s wire.Stage, end string, attempt, ms int) operator.TraceEntry {
		return operator.TraceEntry{Stage: s, At: at(ms), End: end, Attempt: attempt, Channel: wire.ChannelLink, Link: "00ff"}
	}
	lost := entry("lost", "server", 1, 1400)
	lost.Note = "lost between written and read, as text 9 of its link: in words"
	lost.Proof = &operator.Proof{Verdict: "link.text.lost", End: "server", Text: 9, Written: 9, Read: 8, Pings: 2, First: at(300), Last: at(1350)}
	released := entry("released", "server", 2, 9000)
	released.Note = "its link ended"
	trace := operator.Trace{
		Command: operator.Command{ID: "0190-1", AgentName: "web-1", Script: "hostname", State: wire.StateRunning, Attempts: 3, CreatedAt: began},
		Entries: []operator.TraceEntry{
			{Stage: wire.StageAccepted, At: began, End: "server"},
			entry(wire.StageClaimed, "server", 1, 1), entry(wire.StageWritten, "server", 1, 2), lost,
			entry(wire.StageClaimed, "server", 2, 2000), released,
			entry(wire.StageClaimed, "server", 3, 60_000), entry(wire.StageWritten, "server", 3, 60_001), entry(wire.StageRead, "agent", 3, 60_002),
		},
		AgentClockUS: -90_000_000, Stopped: "Written.",
	}
	var out bytes.Buffer
	if err := printTrace(&out, trace); err != nil {
		t.Fatal(err)
	}
	rest := out.String()
	for _, line := range []string{ // in this order
		" 1  accepted  server   12:00:00.000     +0.0 ms",
		"    attempt 1 by the link 00ff",
		" 3  written   server   12:00:00.002     +2.0 ms      1.0 ms",
		" *  read      agent    *                      *           *",
		" !  lost      server   12:00:01.400  +1400.0 ms   1398.0 ms",
		"    lost between written and read: 2 later pings prove it (link.text.lost). They",
		"from 12:00:00.300 to 12:00:01.350: 9 texts written before",
		"was text 9.",
		"    attempt 2", " 4  claimed", " *  written   server", " !  released", "    its link ended",
		"    attempt 3", " 7  read      agent    12:01:00.002     +60.0 s", " *  decoded   agent",
		"those of the agent are by its", "1m30s",
	} {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("%q is not there, or not in its place:\n%s", line, out.String())
		}
		rest = after
	}
	if strings.Contains(out.String(), "in words") {
		t.Errorf("the proof is told twice:\n%s", out.String())
	}

	// Rows go forward in time, and a small move of the agent's clock is told as well.
	early := trace
	early.AgentClockUS = 47_000
	early.Entries = []operator.TraceEntry{entry(wire.StageWritten, "server", 1, 4), entry(wire.StageRead, "agent", 1, 3), entry(wire.StageClaimed, "server", 1, 1)}
	out.Reset()
	if err := printTrace(&out, early); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(strings.Fields(out.String()), " ")
	if c, r, w := strings.Index(said, " claimed "), strings.Index(said, " read "), strings.Index(said, " written "); c < 0 || c > r || r > w || !strings.Contains(said, "forward by 47ms") {
		t.Error(out.String())
	}

	// Proof of the agent's, by one ping; and an attempt that went through has no star.
	lost.Proof.End, lost.Proof.Pings, lost.Proof.Heartbeats, lost.Proof.First = "agent", 0, 1, lost.Proof.Last
	done := trace
	done.Entries = []operator.TraceEntry{entry(wire.StageWritten, "server", 1, 2), lost, entry(wire.StageAckRead, "server", 2, 3)}
	out.Reset()
	if err := printTrace(&out, done); err != nil {
		t.Fatal(err)
	}
	said = strings.Join(strings.Fields(out.String()), " ")
	if !strings.Contains(said, "1 later heartbeat proves it") || !strings.Contains(said, "They came to the agent at 12:00:01.350") || strings.Count(said, " * ") != 3 {
		t.Error(out.String())
	}
}

package agent

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// sample is a status with everything in it.
func sample() local.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	peer := wire.Ledger{Link: 7, Written: 19, Read: 12}
	tap := func(text, ping uint64) selfcheck.TapView {
		return selfcheck.TapView{
			Frames:  map[string]selfcheck.ClassView{"text": {Count: text, Bytes: 123_456_789}, "ping": {Count: ping, Bytes: ping * 56}, "continuation": {Count: 1, Bytes: 9}},
			TextAge: new(75 * time.Second), PingAge: new(900 * time.Millisecond),
		}
	}
	in := tap(17, 40)
	in.OpenFragment = new(6 * time.Second)
	return local.Status{
		At: at, Mode: local.ModeGuarding, Agent: "0197-agent", Server: "0197-server", Version: "1.2.3", PolicyVersion: 4,
		Verdict: selfcheck.Verdict{
			Code: selfcheck.CodeLinkTextLost, Severity: selfcheck.SeverityError, Title: "Text from the server is lost on the way",
			Sentence: "The server has written 19 texts on this link and 17 were read here: 2 are lost, proven 3 s ago.",
			Evidence: []selfcheck.Evidence{{Fact: "ledger.down.missing", Seen: "2", Expected: "0"}},
			Action:   "Look for a proxy or inspection on the path that passes control frames and drops text.",
		},
		Findings: []selfcheck.Finding{{Code: selfcheck.FindClockSkew, Sentence: "The clock is 90 s behind the server's; it is corrected for."}},
		Snapshot: selfcheck.Snapshot{
			Worker: selfcheck.WorkerFacts{PID: 4242, Running: true, Silent: new(3 * time.Second)},
			Link: selfcheck.LinkFacts{
				Phase: selfcheck.PhaseVerified, VerifiedAge: new(26 * time.Hour), ID: 7, URL: "wss://rmm.example:8443/v1/link", Remote: "192.0.2.7:8443",
				Ledger: selfcheck.LedgerView{
					Local: wire.Ledger{Link: 7, Written: 12, Read: 17}, Peer: &peer, PeerAge: new(2 * time.Second), PeerVia: "ping",
					RTT: new(21 * time.Millisecond), Down: &selfcheck.Gap{Missing: 2, Age: 3 * time.Second}, Owed: 1,
				},
				In: in, Out: tap(12, 39),
			},
			Jobs: selfcheck.JobFacts{Running: 1, Limit: 8, Unacked: 2},
			OOB: selfcheck.OOBFacts{Configured: true, LastOK: new(time.Minute), Failures: 2, Delivering: true, Spooled: 3, Dropped: 1,
				Failure: &selfcheck.NetworkError{Phase: "connection", Type: "tcp.refused", Detail: "connection refused"}},
		},
		Budgets: selfcheck.Budgets{Reconnects: 4, Restarts: 3},
		Steps: []selfcheck.StepRecord{{At: at.Add(-time.Minute), Kind: selfcheck.StepReconnect, Verdict: selfcheck.CodeLinkTextLost,
			Outcome: "no better: link.text.lost on the new link"}},
		Next:       local.NextStep{What: "dial the link", In: new(12 * time.Second)},
		LastBeacon: &local.BeaconStatus{At: at.Add(-time.Second), Cause: "verdict", OK: true, Door: "https://rmm.example:8444"},
		NextBeacon: new(29 * time.Second),
		Guardian:   local.ProcessStatus{PID: 4200, Since: at.Add(-50 * time.Hour)},
		Worker:     local.ProcessStatus{PID: 4242, Since: at.Add(-time.Hour), Generation: 3},
	}
}

// What somebody ordered while all was well reads alike in the status and in the events.
func TestAStepThatWasOrderedReadsAlikeEverywhere(t *testing.T) {
	s := sample()
	s.Steps = []selfcheck.StepRecord{{At: s.At.Add(-time.Minute), Kind: selfcheck.StepRestartWorker, Verdict: selfcheck.CodeOK}}
	var status, events bytes.Buffer
	if err := WriteStatus(&status, s, Style{}); err != nil {
		t.Fatal(err)
	}
	if err := WriteEvent(&events, history.Event{At: s.At, Kind: history.KindStep, Code: "restart_worker", Verdict: selfcheck.CodeOK}, Style{}); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"status": status.String(), "events": events.String()} {
		if !strings.Contains(text, "restart_worker while ok") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

func TestStatusReadsFromTheVerdictDown(t *testing.T) {
	var b bytes.Buffer
	if err := WriteStatus(&b, sample(), Style{}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if !strings.HasPrefix(text, "The server has written 19 texts") {
		t.Fatalf("does not begin with the sentence:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	flat := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		"verdict link.text.lost", "ledger.down.missing: 2 (expected 0)", "next dial the link, in 12s",
		"verified for 26h00m, wss://rmm.example:8443/v1/link at 192.0.2.7:8443",
		"read 17 wrote 19 2 missing", "wrote 12 read 12", "1 commands owed", "round trip 21ms",
		"text 17 117.7 MiB 1m15s 12 117.7 MiB 1m15s", "in: a message was begun 6s ago",
		"failed 2 times since: tcp.refused", "commands would come this way",
		"arrived at https://rmm.example:8444; next in 29s; 3 kept for later, 1 dropped",
		"budget left this hour: 4 forced reconnects, 3 restarts", "1 of 8 running, 2 results",
		"guardian 4200, up 2d02h; worker 4242, up 1h00m, silent for 3s",
		"finding clock.skew:", "step 1m0s ago reconnect for link.text.lost: no better",
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colours were not asked for")
	}
}

func TestStatusOfNothingKnownNeverReadsAsWell(t *testing.T) {
	var b bytes.Buffer
	if err := WriteStatus(&b, local.Status{At: time.Now()}, Style{Color: true}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "Nothing is known yet.\nverdict   unknown\n") {
		t.Fatalf("got\n%s", b.String())
	}
	for severity, want := range map[selfcheck.Severity]int{
		selfcheck.SeverityWell: ExitWell, selfcheck.SeverityNotice: ExitDegraded, selfcheck.SeverityWarning: ExitDegraded,
		selfcheck.SeverityError: ExitDegraded, selfcheck.SeverityUnknown: ExitUnknown,
	} {
		if got := ExitCode(local.Status{Verdict: selfcheck.Verdict{Severity: severity}}); got != want {
			t.Errorf("severity %q: exit code %d, want %d", severity, got, want)
		}
	}
}

func TestColourIsOnTheSentenceOnly(t *testing.T) {
	var b bytes.Buffer
	if err := WriteStatus(&b, sample(), Style{Color: true}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\x1b["); n != 2 || !strings.HasPrefix(b.String(), "\x1b[1;31m") {
		t.Fatalf("%d escape sequences:\n%s", n, b.String())
	}
}

func TestShortRoundsToTheNearest(t *testing.T) {
	for d, want := range map[time.Duration]string{
		9*time.Minute + 59*time.Second + 700*time.Millisecond: "10m0s",
		2*time.Hour - 10*time.Second:                          "2h00m",
		72*time.Hour - time.Minute:                            "3d00h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestFramesAreListed(t *testing.T) {
	var b bytes.Buffer
	err := WriteFrames(&b, local.Frames{Stale: true, Frames: []selfcheck.FrameHeader{
		{Class: selfcheck.FrameText, Fin: true, Size: 80, Age: time.Second},
		{Class: selfcheck.FrameContinuation, Out: true, Size: 9},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := "The worker does not answer: these are of its last report.\n" +
		"        1s ago <- text                80 bytes\n" +
		"        0s ago -> continuation         9 bytes not final\n"
	if b.String() != want {
		t.Fatalf("got\n%swant\n%s", b.String(), want)
	}
}

package agent

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gururmm/agent/history"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// However long names and reasons are, and whatever is in them.
func TestLocalListingsAreReadableAt80Columns(t *testing.T) {
	long := strings.Repeat("x", 120) + " " + strings.Repeat("texts were lost on the way ", 8) + "\x1b[31m"
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy := wire.DefaultPolicy()
	policy.LinkURLs = []string{"wss://" + strings.Repeat("a-long-host.", 9) + "example:8443/v1/link", "wss://b.example/v1/link"}
	events := history.List{Garbled: 2, From: at, Events: []history.Event{
		{ID: "a", At: at, Kind: history.KindVerdict, Code: "link.text.stuck_fragment", Severity: selfcheck.SeverityError, Sentence: long,
			Evidence: []selfcheck.Evidence{{Fact: "link.tcp.unread", Seen: long, Expected: "0 bytes"}}, Count: 40, Last: at.Add(time.Hour)},
		{ID: "b", At: at, Kind: history.KindStep, Code: "reconnect", Verdict: "link.text.lost", Sentence: long, Detail: long, Outcome: "helped: " + long, OutcomeAt: at.Add(1200 * time.Millisecond)},
		{ID: "c", At: at, Kind: history.KindOutcome, Of: strings.Repeat("z", 99), Outcome: long},
	}}
	for what, c := range map[string]struct {
		print func(io.Writer) error
		want  string
	}{
		"events":    {func(w io.Writer) error { return WriteEvents(w, events, Style{}) }, "(after 1.2s)"},
		"no events": {func(w io.Writer) error { return WriteEvents(w, history.List{From: at}, Style{}) }, "No such event"},
		"policy":    {func(w io.Writer) error { return WritePolicy(w, ReportPolicy(policy, "directive")) }, "1m0s (default)"},
		"doors": {func(w io.Writer) error {
			return WriteDoorTest(w, DoorTest{Doors: []DoorAnswer{{URL: "https://" + strings.Repeat("d", 90), Why: long, Took: time.Second}, {URL: "https://e", OK: true, View: "verified", Offset: new(-time.Second)}}, Guardian: GuardianBeacon{Running: true, Why: long}})
		}, "server's clock minus ours -1s"},
	} {
		var out bytes.Buffer
		if err := c.print(&out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), c.want) || strings.ContainsRune(out.String(), 0x1b) {
			t.Errorf("%s: want %q and no control character in\n%s", what, c.want, out.String())
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth {
				t.Errorf("%s: %d columns: %q", what, n, line)
			}
		}
	}
}

func TestADoorTestIsWellOnlyIfAllIs(t *testing.T) {
	good, bad := DoorAnswer{OK: true}, DoorAnswer{}
	for name, tt := range map[string]struct {
		test DoorTest
		want bool
	}{
		"no door":               {DoorTest{}, false},
		"stopped, door good":    {DoorTest{Doors: []DoorAnswer{good}}, true},
		"one of two":            {DoorTest{Doors: []DoorAnswer{good, bad}}, false},
		"beacon did not arrive": {DoorTest{Doors: []DoorAnswer{good}, Guardian: GuardianBeacon{Running: true}}, false},
		"all":                   {DoorTest{Doors: []DoorAnswer{good}, Guardian: GuardianBeacon{Running: true, OK: true}}, true},
	} {
		if got := tt.test.Well(); got != tt.want {
			t.Errorf("%s: well %v", name, got)
		}
	}
}

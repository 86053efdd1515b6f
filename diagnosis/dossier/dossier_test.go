package dossier

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/diagnosis/timeline"
	"gururmm/operator"
	"gururmm/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(s float64) time.Time { return now.Add(-time.Duration(s * float64(time.Second))) }

// private are words that must not leave: each stands somewhere in what is held.
var private = []string{
	"acme", "FRONTDESK", "berlin", "vip", "10.1.2.3", "2001:db8::7", "rmm.acme.example", "files.acme.example", "alice", "bob", "mallory", "FILESRV", "52:54:00:12:34:56",
	"gro_N675E33KR624ZEBLL3S6UXXSRV", "hunter2hunter2", "Get-Payroll", "01900000-0000-7000-8000-00000000000a", "01900000-0000-7000-8000-0000000000c1", "fingerprint-of-it", "instance-id-of-it", "/srv/acme", "D:\\Mandanten",
}

func held() Held {
	agent := operator.Agent{
		ID: "01900000-0000-7000-8000-00000000000a", Name: "FRONTDESK-7.acme.example", Site: "berlin", Tags: []string{"vip"}, Version: "v1.2.3",
		Platform: wire.Platform{OS: "windows", Arch: "amd64", Hostname: "FRONTDESK-7", Release: "Windows 11"}, Presence: "out-of-band", Addr: "10.1.2.3",
		Verdict: "link.text.lost", VerdictAt: new(ago(1)), LastSeen: new(ago(1)), LastVia: "poll",
		Sentence: "The server has written 9 texts on this link; frontdesk-7 at 10.1.2.3:443 and [2001:db8::7]:443 read 8.",
		Copies:   []operator.Copy{{Copy: wire.Copy{Hostname: "FRONTDESK-7", Fingerprint: "fingerprint-of-it"}, Addr: "10.1.2.3"}},
		Links:    []wire.LinkView{{Link: 7, State: "connecting", PongAgeMS: new(int64(300))}},
	}
	stage := func(s wire.Stage, end string, attempt int, at time.Time, note string) operator.TraceEntry {
		return operator.TraceEntry{Stage: s, At: at, End: end, Attempt: attempt, Channel: wire.ChannelLink, Link: "07", Note: note}
	}
	lost := stage("lost", "server", 1, ago(57), "in words")
	lost.Proof = &operator.Proof{Verdict: "link.text.lost", End: "server", Text: 9, Written: 9, Read: 8, Pings: 2, First: ago(59), Last: ago(57)}
	trace := operator.Trace{
		Command: operator.Command{ID: "01900000-0000-7000-8000-0000000000c1", AgentName: agent.Name, Script: "Get-Payroll | mail bob@acme.example\nhunter2hunter2", State: wire.StatePending, Attempts: 1, CreatedAt: ago(60), CreatedBy: "alice"},
		Entries: []operator.TraceEntry{
			stage(wire.StageAccepted, "server", 0, ago(60), ""), stage(wire.StageClaimed, "server", 1, ago(60), ""), stage(wire.StageWritten, "server", 1, ago(60), ""), lost,
			stage("released", "server", 1, ago(50), "dial tcp: lookup files.acme.example: no such host; Get-Payroll | mail bob@acme.example was on FRONTDESK-7"),
		},
		Stopped: `Waiting for FRONTDESK-7 at wss://rmm.acme.example:8443/v1/link, token gro_N675E33KR624ZEBLL3S6UXXSRV, password=hunter2hunter2, C:\Users\mallory\x, /home/mallory, /srv/acme/data, D:\Mandanten\x, \\FILESRV\share, 52:54:00:12:34:56; link.text.lost.`,
	}
	told := ago(56)
	events := []operator.AgentEvent{
		{Kind: operator.EventOutcome, From: "reconnect", To: operator.StepNoBetter, Reason: "no better: on the new link", At: ago(40), Told: &told, Verdict: "link.text.lost"},
		{Kind: operator.EventStep, To: "reconnect", Reason: "expected: a link to rmm.acme.example", At: ago(56), Told: &told, Verdict: "link.text.lost"},
		{Kind: operator.EventLink, To: "ended", Link: "07", Verdict: "link.text.lost", At: ago(57), Reason: "from 10.1.2.3"},
		{Kind: operator.EventInstance, To: "instance-id-of-it", At: ago(600)},
	}
	probes := `{"schema":1,"at":"2026-03-01T11:58:00Z","host":"FRONTDESK-7","version":"v1.2.3","verdict":"fail","results":[{"group":"link wss://rmm.acme.example:8443","name":"echo","target":"rmm.acme.example","status":"fail","seen":"down fails at 100 B by 10.1.2.3"}]}`
	return Held{
		Held: evidence.Held{
			Now: now, Agent: agent, Trace: &trace, Events: events,
			Fleet: []operator.Agent{agent, {ID: "01900000-0000-7000-8000-00000000000b", Name: "acme-b", Site: "berlin", Presence: "verified", Version: "v1.2.3"}},
			Beacons: []operator.Beacon{{ReceivedAt: ago(1), Verdict: "link.text.lost", Addr: "10.1.2.3",
				Report: json.RawMessage(`{"verdict":{"code":"link.text.lost","sentence":"at FRONTDESK-7"},"snapshot":{"link":{"phase":"authenticating","id":"0000000000000007"}}}`)}},
		},
		Timeline: timeline.Held{
			Now: now, Agent: agent, Events: events, Traces: []operator.Trace{trace},
			Directives: []operator.Directive{{ID: "d1", Kind: wire.DirectiveRunProbes, Reason: "acme called, alice", CreatedBy: "alice", State: "done", Detail: "1 fail at rmm.acme.example", CreatedAt: ago(120), EndedAt: new(ago(119))}},
		},
		Since: ago(3600), Reports: map[string][]byte{"d1": []byte(probes)},
	}
}

func written(t *testing.T, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := WriteMarkdown(&out, held(), o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestADossierHoldsItsChaptersAndNoCause(t *testing.T) {
	all := written(t, Options{})
	rest := all
	for _, want := range []string{ // in this order
		"# What is held of agent-a, 2026-03-01 11:00:00 to 2026-03-01 12:00:00", "Names and addresses are replaced",
		"## 1. Architecture", "version v1.2.3 on windows/amd64", "verified 1", "## 2. Protocol", "pings each 30s",
		"## 3. Symptom", "Commands given since 2026-03-01 11:00:00: 1. By state: pending 1.", "never acknowledged: 1", "shows the agent as: out-of-band",
		"## 4. Observations of agent-a", "| Does the agent read as many texts as the server writes? | gap |", "measured at both ends",
		"| 0000000000000007 | connecting |", "300ms ago", "#### command-1", "Given 2026-03-01 11:59:00.000 by operator-1",
		"counted by the server: 2 later pings, from 2026-03-01 11:59:01.000 to 2026-03-01 11:59:03.000, tell of 9 texts before them, and 8 were read; this was text 9",
		"11:59:03.000 server   link 07 ended, link.text.lost", "## 5. Tests and their results", "| T1 |", "run_probes", "| T2 |", "| no better: on the new link |",
		"| link wss://host-", "down fails at 100 B by address-1", "## 6. What is not known", "- What does a capture at the endpoint show",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is not there, or not in its place:\n%s", want, all)
		}
		rest = after
	}
	for _, m := range diagnosis.Diagnose(Case(held(), Options{})).Ranking {
		if strings.Contains(all, m.ID) && m.ID != "well" && m.ID != "unknown" {
			t.Errorf("it names a cause: %s", m.ID)
		}
	}
}

func TestNothingPrivateIsInADossier(t *testing.T) {
	raw, err := json.Marshal(Case(held(), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	for what, all := range map[string]string{"the page": written(t, Options{}), "the case": string(raw)} {
		for _, word := range private {
			if i := strings.Index(strings.ToLower(all), strings.ToLower(word)); i >= 0 {
				t.Errorf("%s holds %q: …%s…", what, word, all[max(0, i-60):min(len(all), i+60)])
			}
		}
	}
	// With names they stay; secrets and texts of commands never do.
	kept := written(t, Options{Names: true})
	for _, word := range []string{"FRONTDESK-7", "alice", "10.1.2.3"} {
		if !strings.Contains(kept, word) {
			t.Errorf("--names does not keep %q", word)
		}
	}
	for _, word := range []string{"gro_N675", "hunter2", "Get-Payroll", "acme called"} {
		if strings.Contains(kept, word) {
			t.Errorf("--names keeps %q", word)
		}
	}
}

// A line of a command is known again with a secret in it, and however it was spaced.
func TestTextsOfCommandsAreTakenOut(t *testing.T) {
	for _, keep := range []bool{false, true} {
		n := newNames(keep)
		n.script("mysql  payroll --password=hunter2hunter2 -e report\r\n\techo \x1bdone\ntoken: abcdefgh\nls\n")
		n.script("echo done or not")
		for text, want := range map[string]string{
			"exit 1: mysql payroll --password=hunter2hunter2 -e report": "exit 1: [command text]",
			"it said echo done": "it said [command text]",
			"echo done or not":  "[command text]",
			"token: abcdefgh":   "[secret]",
			"false, of tools":   "false, of tools", // too short a line is in all texts
		} {
			if got := n.text(text); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
}

func TestTheSameNameIsTheSameWord(t *testing.T) {
	n := newNames(false)
	first := n.text("lookup a.example.org on 192.0.2.1:53: A.EXAMPLE.ORG, 192.0.2.1, 192.0.2.2 and b.example.org; v1.2.3 in link.text.lost, agent.log")
	if want := "lookup host-1 on address-1:53: host-1, address-1, address-2 and host-2; v1.2.3 in link.text.lost, agent.log"; first != want {
		t.Errorf("%s\nwant\n%s", first, want)
	}
	if again := n.text(first); again != first {
		t.Errorf("what is neutral is replaced: %s", again)
	}
	n.of("agent", "server") // as an agent may be called
	if s := n.text("The server has written 9 texts."); s != "The server has written 9 texts." {
		t.Error(s)
	}
}

// The case weighs the same as what is held.
func TestACaseOfADossierComesToTheSame(t *testing.T) {
	h := held()
	raw, err := json.Marshal(Case(h, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	read, err := diagnosis.ReadCase(raw)
	if err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	a, b := diagnosis.Diagnose(evidence.Case(h.Held)), diagnosis.Diagnose(read)
	same := slices.EqualFunc(a.Ranking, b.Ranking, func(x, y diagnosis.Ranked) bool { return x.ID == y.ID && x.Probability == y.Probability })
	if !same || a.Confidence.Word != b.Confidence.Word || len(a.Proven) == 0 || len(a.Proven) != len(b.Proven) {
		t.Errorf("%v\nis not\n%v", a.Ranking, b.Ranking)
	}
}

// Whatever an endpoint says, the page stays a page.
func FuzzText(f *testing.F) {
	f.Add("a\x1b[31m ``` | <b> \u202e 10.0.0.1 x.y.zz gro_aaaaaaaaaaaa", "web.1")
	f.Fuzz(func(t *testing.T, s, name string) {
		n := newNames(false)
		n.of("agent", name)
		out := n.text(s)
		if strings.ContainsAny(out, "\n\x1b\u202e") || strings.Contains(out, "10.0.0.1") && !strings.Contains(name, "10.0.0.1") && strings.Contains(s, " 10.0.0.1 ") {
			t.Errorf("%q", out)
		}
	})
}

// A verdict is a word of the agent's, whatever it makes of it.
func TestAMadeUpVerdictIsNoChapterAndTellsNoName(t *testing.T) {
	h := held()
	h.Agent.Verdict = "ok on FRONTDESK-7\n\n## 7. The cause"
	var out bytes.Buffer
	if err := WriteMarkdown(&out, h, Options{}); err != nil {
		t.Fatal(err)
	}
	if page := out.String(); strings.Contains(page, "FRONTDESK-7") || strings.Contains(page, "\n## 7.") {
		t.Error("it is written as it came")
	}
}

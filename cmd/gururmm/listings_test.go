package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// What people read fits the width that every terminal has, however long the
// names and reasons are.
func TestListingsAreReadableAt80Columns(t *testing.T) {
	name, sentence := "a-host-of-a-very-long-name.example.org", strings.Repeat("messages to this agent are lost on the way ", 6)
	now, exit := time.Now(), -1073741510
	seen := now.Add(-50 * time.Minute)
	peer := uint64(15)
	agent := operator.Agent{
		ID: wire.NewID(), Name: name, Presence: "out-of-band", Verdict: "link.text.stuck_fragment", Sentence: sentence,
		Tags:       slices.Repeat([]string{"a-tag-of-some-length"}, operator.MaxTags),
		VerifiedAt: &seen, LastSeen: &seen, LastVia: "beacon", Owed: 120,
		Findings: []operator.Finding{{Code: "update.rolled_back", Sentence: sentence}},
		Links:    []wire.LinkView{{Link: 7, State: "quarantined", Written: 1e6, PeerRead: &peer, Read: 1e6, Queued: 99, Verdict: "link.text.lost"}},
	}
	command := operator.Command{
		ID: wire.NewID(), AgentName: name, State: wire.StateUndeliverable, ExitCode: &exit, Attempts: 10, Channel: wire.ChannelLink,
		CreatedAt: seen, Script: strings.Repeat("echo much ", 20),
	}
	trace := operator.Trace{Command: command, Stopped: sentence, Entries: []operator.TraceEntry{
		{Stage: wire.StageResultWritten, At: now, End: "server", Attempt: 10, Channel: wire.ChannelLink, Note: sentence},
	}}
	beacon := operator.Beacon{
		AgentName: name, ReceivedAt: now, Verdict: agent.Verdict, Sentence: sentence,
		Report: []byte(`{"cause":"verdict_changed","findings":[{"code":"update.rolled_back","sentence":"` + sentence + `"}],"snapshot":{"link":{"id":"0000000000000007","phase":"verified","ledger":{"local":{"written":123456},"peer":{"read":1234567}}}}}`),
		View:   &wire.ServerView{Presence: "degraded", Owed: 1, Links: agent.Links},
	}
	directive := operator.Directive{
		ID: wire.NewID(), AgentName: name, Kind: wire.DirectiveRestartService, CreatedBy: name, CreatedAt: seen, EndedAt: &now,
		State: "delivered", Code: wire.CodeBadSignature, Detail: sentence, Reason: sentence,
	}
	event := operator.AgentEvent{AgentName: name, At: now, Kind: operator.EventVerdict, From: agent.Verdict, To: agent.Verdict, Reason: sentence}
	build := operator.Build{PublishedBy: name, PublishedAt: now, Build: wire.Build{
		Version: "v100.200.300-" + strings.Repeat("x", 50), OS: "windows", Arch: "amd64", Size: wire.MaxBuild}}
	bundle := operator.Bundle{ID: wire.NewID(), Size: wire.MaxBundle, Held: 1 << 20, MadeAt: &now, Reason: sentence}
	rollout := operator.Rollout{
		ID: wire.NewID(), Version: build.Version, State: operator.RolloutActive, Now: sentence, CreatedBy: name, CreatedAt: seen,
		Rings:    []operator.RolloutRing{{Percent: 12.5, Wanted: 10_000, Waiting: 10_000, Ordered: 10_000, Running: 10_000, Done: 10_000, Failed: 10_000, Skipped: 10_000}},
		Failures: []operator.RolloutAgent{{AgentName: name, Detail: sentence, EndedAt: &seen}},
	}
	job := operator.Job{
		ID: wire.NewID(), Script: command.Script, State: operator.JobStopping, Reason: sentence, CreatedBy: name, CreatedAt: seen, Endpoints: 50_000,
		Counts: operator.JobCounts{Waiting: 5000, Pending: 5000, Running: 5000, Completed: 5000, Failed: 5000, Cancelled: 5000, Expired: 5000, Interrupted: 5000, Undeliverable: 5000, LeftOut: 5000},
		Names:  slices.Repeat([]string{name}, 20),
	}
	part := jobPart{Stdout: []byte("out\n"), JobAgent: operator.JobAgent{AgentName: name, Command: command.ID, State: string(command.State), ExitCode: &exit, Reason: sentence}}
	for what, c := range map[string]struct {
		print func(w io.Writer) error
		whole []string // what must stand on one line
	}{
		"agents": {func(w io.Writer) error { return listAgents(w, []operator.Agent{agent}) }, []string{agent.ID, agent.Verdict}},
		"fleet-wide": {func(w io.Writer) error {
			listCommon(w, []operator.Fleetwide{{Verdict: agent.Verdict, Title: sentence, Agents: 9000, Of: 10_000, Since: now, Recovery: "spread", OverMS: 66_000}})
			return nil
		}, []string{"FLEET-WIDE: 9000 of the 10000"}},
		"agent":    {func(w io.Writer) error { return describeAgent(w, agent) }, []string{agent.ID, "0000000000000007", "update.rolled_back: messages"}},
		"commands": {func(w io.Writer) error { return listCommands(w, []operator.Command{command}) }, []string{command.ID + "  echo much"}},
		"trace":    {func(w io.Writer) error { return printTrace(w, trace) }, []string{command.ID, "result_written"}},
		"beacons":  {func(w io.Writer) error { return printBeacon(w, beacon) }, []string{"0000000000000007", "owes 1 command;", "found:  update.rolled_back: messages"}},
		"jobs":     {func(w io.Writer) error { return listJobs(w, []operator.Job{job}) }, []string{job.ID + "  echo much", "5000 of 50000"}},
		"job":      {func(w io.Writer) error { return printJob(w, job, []jobPart{part}) }, []string{job.ID, command.ID, "and 29999 more"}},
		"outputs":  {func(w io.Writer) error { return printOutputs(w, slices.Repeat([]jobPart{part}, 9)) }, []string{"== 9 endpoints (undeliverable, exit -1073741510)"}},
		"whom": {func(w io.Writer) error {
			_, err := io.WriteString(w, wrap.Behind("", whom(job))+"\n"+indent(job.Script)+"\n")
			return err
		}, []string{"49980 more"}},
		"event":      {func(w io.Writer) error { return printEvent(w, event) }, []string{operator.EventVerdict}},
		"bundles":    {func(w io.Writer) error { return listBundles(w, []operator.Bundle{bundle}) }, []string{bundle.ID, "6 % have come"}},
		"directives": {func(w io.Writer) error { return listDirectives(w, []operator.Directive{directive}) }, []string{directive.ID, "restart_service"}},
		"builds":     {func(w io.Writer) error { return listBuilds(w, []operator.Build{build}) }, []string{"windows/amd64"}},
		"rollout":    {func(w io.Writer) error { return printRollout(w, rollout) }, []string{rollout.ID, "1 (12.5%) *"}},
		"tokens": {func(w io.Writer) error {
			return listTokens(w, []operator.EnrollToken{{ID: agent.ID, Site: sentence, UsesLeft: 10_000, ExpiresAt: now}})
		}, []string{agent.ID}},
	} {
		var out bytes.Buffer
		if err := c.print(&out); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > wrap.Width {
				t.Errorf("%s: %d columns: %q", what, n, line)
			}
		}
		for _, want := range c.whole {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s does not show %q:\n%s", what, want, out.String())
			}
		}
	}
}

func TestABeaconWithoutALinkSaysSo(t *testing.T) {
	var out bytes.Buffer
	if err := printBeacon(&out, operator.Beacon{Report: []byte(`{"cause":"start","snapshot":{"link":{"phase":"dialing"}}}`)}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), ": no verdict (start)\n  agent:  no link, dialing\n") || strings.Contains(out.String(), "00000000") {
		t.Errorf("%s", out.String())
	}
}

// An endpoint that was taken over writes no escape sequences on an operator's
// terminal, whichever word of it is shown.
func TestWhatAnEndpointSaysOfItselfIsPlain(t *testing.T) {
	const evil = "X\x1b]0;owned\x07\x1b[31m\u009b31m\u202eY\r\x00\u2028Z"
	now := time.Now()
	agent := operator.Agent{
		ID: wire.NewID(), Name: evil, Site: evil, Version: evil, Presence: "out-of-band", Verdict: evil, VerdictAt: &now, Sentence: evil,
		Platform: wire.Platform{OS: evil, Arch: evil, Hostname: evil, Release: evil},
		Copies:   []operator.Copy{{Copy: wire.Copy{Hostname: evil, Instance: evil, BootID: evil, Fingerprint: evil}}},
	}
	silent := agent
	silent.Sentence = ""
	for what, print := range map[string]func(w io.Writer) error{
		"agents": func(w io.Writer) error { return listAgents(w, []operator.Agent{agent, silent}) },
		"agent":  func(w io.Writer) error { return errors.Join(describeAgent(w, agent), describeAgent(w, silent)) },
		"json":   func(w io.Writer) error { return printJSON(w, agent) },
	} {
		var out bytes.Buffer
		if err := print(&out); err != nil {
			t.Fatal(err)
		}
		if said := out.String(); said != wrap.Plain(said) {
			t.Errorf("%s: %q", what, said)
		}
	}
}

// When text was verified is not kept of an endpoint that was removed: nothing is said of it.
func TestARemovedEndpointIsNotSaidToHaveNeverBeenVerified(t *testing.T) {
	now := time.Now()
	var out bytes.Buffer
	if err := listAgents(&out, []operator.Agent{{ID: wire.NewID(), Name: "old", Presence: "removed", RemovedAt: &now, LastSeen: &now, LastVia: "text"}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "never") || strings.Contains(out.String(), "VERIFIED") || !strings.Contains(out.String(), "by text") {
		t.Errorf("%s", out.String())
	}
}

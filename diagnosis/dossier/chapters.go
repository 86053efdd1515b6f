package dossier

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gururmm/checkup"
	"gururmm/diagnosis"
	"gururmm/diagnosis/timeline"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// maxCommands are written with each of their stages, maxLines lines of the timeline: a page is
	// to be read.
	maxCommands = 10
	maxLines    = 300
)

func (p *page) architecture() {
	a := p.Agent
	p.para("## 1. Architecture")
	p.line("")
	p.item("One agent on each managed machine, one server. Agents dial out; the server dials nobody.")
	p.item("The agent is two processes: a guardian, which supervises and judges, and its child, a worker, which holds the link and runs commands. They speak over a pipe.")
	p.item("The link: one WebSocket (RFC 6455) over TLS from the worker to the server's main listener.")
	p.item("The second door: HTTPS requests and long polls from the guardian to another listener with a key of its own. It shares neither process, connection nor port with the link. Reports (\"beacons\") go there, and commands if the link fails.")
	p.item("The server keeps commands and their stages in a database; a register in memory says which links each agent has.")
	p.item("This agent: version %s on %s/%s, %s; enrolled %s.", p.names.text(a.Version), p.names.text(a.Platform.OS), p.names.text(a.Platform.Arch), p.names.text(a.Platform.Release), stamp(a.EnrolledAt))
	presences, versions := map[string]int{}, map[string]int{}
	for _, f := range p.Fleet {
		presences[f.Presence]++
		versions[p.names.text(f.Version)]++
	}
	if len(p.Fleet) > 0 {
		p.item("All agents: %d. By presence: %s. By version: %s.", len(p.Fleet), counted(presences), counted(versions))
	}
	p.item("What stands between agent and server (NAT, proxies, load balancers, inspection) is not known from here.")
}

// counted lists how many there are of each.
func counted(of map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, of[k]))
	}
	return strings.Join(parts, ", ")
}

func (p *page) protocol() {
	d := wire.DefaultPolicy()
	span := func(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
	p.para("## 2. Protocol")
	p.line("")
	p.item("JSON in text frames, each with its number on this link and a checksum. Server to agent: auth_ack, config_update, probe, command, cancel_command, result_ack, heartbeat_ack, nack. Agent to server: auth, config_ack, command_ack, command_nack, command_output, command_result, heartbeat, metrics, nack.")
	p.item("Both ends send pings. A ping's payload is a ledger: link id, texts written before it, texts read, a running digest of each, commands owed. Heartbeats carry the same. So a ping that counts a text which was not read shows that the text is missing.")
	p.item("A gap in the counts is a suspicion for the longer of 1 s and 4 round trips; after that it is taken as proven.")
	p.item("Defaults (a policy may set others; the one in force is not told here): pings each %v, heartbeats each %v, a link without any frame for %v is dead, one that is not verified in %v is given up; beacons each %v, or each %v while something is wrong.",
		span(d.PingMS), span(d.HeartbeatMS), span(d.DeadMS), span(d.VerifyMS), span(d.BeaconWellMS), span(d.BeaconIllMS))
	p.item("A link is verified once authentication, policy, and three probe commands of 80 B, 1 KiB and 8 KiB were acknowledged on it. Commands go over verified links only.")
	p.item("A command's stages, in order: %s. A stage is told by the end that reached it. \"written\" means that the connection took the last byte, \"read\" that the agent's reader had it whole, \"acked\" that the agent handed its acknowledgement to its writer, which it does once the command is in its journal on disk and before it runs.", stagesInWords())
	p.item("What is not acknowledged is offered again, under the same id, ten times at most; the agent runs an id once.")
	p.item("The agent judges itself by rules over its counters (its \"verdict\") and takes steps against it: a fresh link, the second door, a restart of the worker, then of the service.")
}

func stagesInWords() string {
	var all []string
	for _, s := range wire.Stages {
		all = append(all, string(s))
	}
	return strings.Join(all, ", ")
}

// inWindow are the traces of commands given since then, the newest first.
func (p *page) inWindow() (out []operator.Trace) {
	for _, t := range p.Timeline.Traces {
		if !t.Command.CreatedAt.Before(p.Since) {
			out = append(out, t)
		}
	}
	return out
}

func (p *page) symptom() {
	a := p.Agent
	p.para("## 3. Symptom")
	p.line("")
	states, again, unacked := map[string]int{}, 0, 0
	var acked, done *time.Time
	for _, t := range p.inWindow() {
		c := t.Command
		states[string(c.State)]++
		if c.Attempts > 1 {
			again++
		}
		if c.AckedAt == nil && c.Attempts > 0 {
			unacked++
		}
		if acked == nil {
			acked = c.AckedAt
		}
		if done == nil && c.State == wire.StateCompleted {
			done = c.EndedAt
		}
	}
	if len(states) == 0 {
		p.item("No command was given since %s.", stamp(p.Since))
	} else {
		p.item("Commands given since %s: %d. By state: %s. Offered more than once: %d. Offered and never acknowledged: %d.", stamp(p.Since), len(p.inWindow()), counted(states), again, unacked)
		p.item("Of the newest command that was acknowledged, that was at: %s. The newest that was completed: %s.", exact(acked), exact(done))
	}
	p.item("The server shows the agent as: %s. Commands that it owes the agent now: %d.", a.Presence, a.Owed)
	p.item("Last heard of: %s, by %s. Text last went both ways: %s.", exact(a.LastSeen), cmp.Or(a.LastVia, "none"), exact(a.VerifiedAt))
	p.item("The agent's own last verdict: %s, at %s. %s", cmp.Or(p.names.text(a.Verdict), "none"), exact(a.VerdictAt), p.names.text(a.Sentence))
	if p.Trace != nil {
		p.item("The command that says most of now is %s: %s", p.names.of("command", p.Trace.Command.ID), p.names.text(p.Trace.Stopped))
	}
}

func (p *page) observations(c diagnosis.Case) {
	p.para("## 4. Observations of %s", p.agent)
	p.para("### 4.1 As measured")
	rows := [][]string{{"what", "is", "means", "how it was come by", "source"}}
	terms := vocabulary()
	for _, o := range c.Observations {
		t := terms[o.Name]
		means := ""
		for _, v := range t.Values {
			if v.Value == o.Value {
				means = v.Means
			}
		}
		rows = append(rows, []string{t.Asks, o.Value, means, o.Grade.Means(), o.Source})
	}
	p.table(rows)

	p.para("### 4.2 Links, as the server has them now")
	if len(p.Agent.Links) == 0 {
		p.para("None.")
	} else {
		rows := [][]string{{"link", "state", "age", "server wrote", "agent read, by its word", "server read", "queued", "last pong", "verdict"}}
		for _, l := range p.Agent.Links {
			read, pong := "not told", "none"
			if l.PeerRead != nil {
				read = fmt.Sprint(*l.PeerRead)
			}
			if l.PongAgeMS != nil {
				pong = fmt.Sprintf("%v ago", time.Duration(*l.PongAgeMS)*time.Millisecond)
			}
			queued := fmt.Sprint(l.Queued)
			if kept := l.Kept(); kept > 0 {
				queued += fmt.Sprintf(", kept back for %v", kept)
			}
			rows = append(rows, []string{l.Link.String(), l.State, (time.Duration(l.AgeMS) * time.Millisecond).String(), fmt.Sprint(l.Written), read, fmt.Sprint(l.Read), queued, pong, l.Verdict})
		}
		p.table(rows)
	}
	if len(p.Agent.Copies) > 0 {
		p.para("Machines that use this identity: %d.", len(p.Agent.Copies))
	}
	p.commands()
	p.timeline()
}

func vocabulary() map[string]diagnosis.Term {
	out := map[string]diagnosis.Term{}
	for _, t := range diagnosis.Vocabulary() {
		out[t.ID] = t
	}
	return out
}

// commands writes each stage of those that did not go as they should, and of the newest that did.
func (p *page) commands() {
	p.para("### 4.3 Commands")
	all := p.inWindow()
	if len(all) == 0 {
		p.para("None was given.")
		return
	}
	var shown []operator.Trace
	well := 0
	for _, t := range all {
		ok := t.Command.State == wire.StateCompleted && t.Command.Attempts <= 1
		if ok {
			well++
		}
		if len(shown) < maxCommands && (!ok || well == 1) {
			shown = append(shown, t)
		}
	}
	p.para("%d were given, %d completed at the first attempt. Of %d each stage follows, the newest first: those that did not go so, and the newest that did.", len(all), well, len(shown))
	for _, t := range shown {
		c := t.Command
		p.para("#### %s", p.names.of("command", c.ID))
		p.para("Given %s by %s, %s; attempts %d. %s", exact(&c.CreatedAt), cmp.Or(p.names.of("operator", c.CreatedBy), "none"), c.State, c.Attempts, p.names.text(t.Stopped))
		rows := [][]string{{"attempt", "by", "stage", "seen by", "time", "after", "note"}}
		for _, e := range t.Entries {
			note := p.names.text(e.Note)
			if e.Proof != nil && e.Proof.Later() != "" {
				note = fmt.Sprintf("counted by the %s: %s, from %s to %s, tell of %d texts before them, and %d were read; this was text %d", e.Proof.End, e.Proof.Later(), exact(&e.Proof.First), exact(&e.Proof.Last), e.Proof.Written, e.Proof.Read, e.Proof.Text)
			}
			if e.Told != nil {
				note = strings.TrimSpace(note + " (by the agent's own clock " + exact(e.Told) + ")")
			}
			by := strings.TrimSpace(string(e.Channel) + " " + e.Link)
			rows = append(rows, []string{fmt.Sprint(e.Attempt), by, string(e.Stage), e.End, exact(&e.At), ms(e.At.Sub(c.CreatedAt)), note})
		}
		p.table(rows)
	}
}

func (p *page) timeline() {
	p.para("### 4.4 What both ends saw, in order of time")
	h := p.Timeline
	h.Traces = slices.Clone(h.Traces)
	for i := range h.Traces {
		h.Traces[i].Command.Script = ""
	}
	h.Directives = slices.Clone(h.Directives)
	for i := range h.Directives {
		h.Directives[i].Reason = ""
	}
	entries := timeline.Major(timeline.Of(h, timeline.Window{Since: p.Since}))
	if left := len(entries) - maxLines; left > 0 {
		p.para("%d before these are left out.", left)
		entries = entries[left:]
	}
	p.para("```")
	for _, e := range entries {
		what := e.What
		if e.Command != "" { // its short name is a part of its id
			if _, rest, found := strings.Cut(strings.TrimPrefix(what, "command "), " "); found {
				what = p.names.of("command", e.Command) + " " + rest
			}
		}
		p.line("%s %-8s %s", e.At.UTC().Format(moments), e.End, p.fenced(what))
		if e.Why != "" {
			p.line("%s          %s", strings.Repeat(" ", len(moments)), p.fenced(e.Why))
		}
	}
	p.line("```")
}

// fenced is a text that does not end the block that it stands in.
func (p *page) fenced(s string) string { return strings.ReplaceAll(p.names.text(s), "```", "'''") }

// tests writes what was tried, by the agent itself and by operators, and what came of it.
func (p *page) tests() {
	p.para("## 5. Tests and their results")
	type step struct {
		at         time.Time
		what, came string
		report     []byte
	}
	var all []step
	outcomes := map[string]operator.AgentEvent{}
	for _, e := range p.Timeline.Events {
		if e.Kind == operator.EventOutcome && e.Told != nil {
			outcomes[e.From+e.Told.String()] = e
		}
	}
	for _, e := range p.Timeline.Events {
		if e.Kind == operator.EventProbe && !e.At.Before(p.Since) {
			all = append(all, step{at: e.At, what: "The server sent inert texts of a ladder of sizes down the way of commands, by " + e.From + ".", came: e.To + ". " + e.Reason})
		}
		if e.Kind != operator.EventStep || e.Told == nil || e.At.Before(p.Since) {
			continue
		}
		s := step{at: e.At, what: fmt.Sprintf("The agent, for its verdict %s: %s. %s.", e.Verdict, e.To, strings.TrimSuffix(e.Reason, ".")), came: "not told"}
		if o, known := outcomes[e.To+e.Told.String()]; known {
			s.came = o.Reason
		}
		all = append(all, s)
	}
	for _, d := range p.Timeline.Directives {
		if d.CreatedAt.Before(p.Since) {
			continue
		}
		s := step{at: d.CreatedAt, what: "An operator ordered: " + string(d.Kind) + ".", came: d.State, report: p.Reports[d.ID]}
		if d.Detail != "" {
			s.came += ": " + d.Detail
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b step) int { return a.at.Compare(b.at) })
	if len(all) == 0 {
		p.para("None.")
		return
	}
	rows := [][]string{{"test", "time", "what was done", "result"}}
	for i, s := range all {
		rows = append(rows, []string{fmt.Sprintf("T%d", i+1), exact(&s.at), p.names.text(s.what), p.names.text(s.came)})
	}
	p.table(rows)
	for i, s := range all {
		r, err := checkup.Parse(s.report)
		if err != nil { // it brought none that can be read
			continue
		}
		p.para("T%d, what each probe of the endpoint saw:", i+1)
		rows := [][]string{{"of", "probe", "result", "took", "seen"}}
		for _, one := range r.Results {
			rows = append(rows, []string{p.names.text(one.Group), p.names.text(one.Name), string(one.Status), fmt.Sprintf("%.1f ms", one.TookMS), p.names.text(one.Seen)})
		}
		p.table(rows)
	}
}

// unknown writes what nobody has observed, and what was not measured.
func (p *page) unknown(c diagnosis.Case) {
	p.para("## 6. What is not known")
	known := map[string]bool{}
	var inferred []string
	terms := vocabulary()
	for _, o := range c.Observations {
		known[o.Name] = true
		if !o.Grade.Fact() {
			inferred = append(inferred, fmt.Sprintf("%s %s (%s)", terms[o.Name].Asks, o.Value, o.Grade.Means()))
		}
	}
	if len(inferred) > 0 {
		p.para("Not measured, only inferred or reported:")
		p.line("")
		for _, s := range inferred {
			p.item("%s", s)
		}
	}
	p.para("Not observed:")
	p.line("")
	for _, t := range diagnosis.Vocabulary() {
		if !known[t.ID] {
			p.item("%s (would be seen by: %s)", t.Asks, t.SeenBy)
		}
	}
}

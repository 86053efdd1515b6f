// Package timeline puts what a server holds of one agent in order of time: what either end
// saw, on the server's clock.
//
// Rules that hold here:
//   - pure: what is held comes in, the time too;
//   - each entry says which end saw it; what an agent timed has its own time beside it;
//   - nothing is left out of the list: what goes as it should is marked minor.
package timeline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Who saw an entry's matter.
const (
	Server   = "server"
	Agent    = "agent"
	Operator = "operator"
)

// Kinds of entries beside those of an agent's events.
const (
	KindCommand = "command" // a stage of one, or its end
	KindReport  = "report"  // a beacon, with both ends' counts
	KindOrder   = "order"   // a directive
	KindNow     = "now"     // what is so at the end
)

// Entry is one thing that was seen.
type Entry struct {
	At   time.Time  `json:"at"`             // by the server's clock
	Told *time.Time `json:"told,omitempty"` // by the agent's own, where At is that set right
	End  string     `json:"end"`            // who saw it
	Kind string     `json:"kind"`
	// What happened, in one line, and Why, in sentences of whoever told it.
	What    string          `json:"what"`
	Why     string          `json:"why,omitempty"`
	Command string          `json:"command,omitempty"` // id
	Attempt int             `json:"attempt,omitempty"`
	Stage   wire.Stage      `json:"stage,omitempty"`
	Link    string          `json:"link,omitempty"`
	Verdict string          `json:"verdict,omitempty"`
	Proof   *operator.Proof `json:"proof,omitempty"`
	// Minor: it goes as it should, or says again what was known.
	Minor bool `json:"minor,omitempty"`
}

// Held is what a server holds of one agent.
type Held struct {
	Now   time.Time // by the server's clock, as near as it is known
	Agent operator.Agent
	// All others the newest first, as the server lists them.
	Events     []operator.AgentEvent
	Traces     []operator.Trace
	Beacons    []operator.Beacon
	Directives []operator.Directive
}

// Window narrows a timeline; zero fields don't.
type Window struct {
	Since, Until time.Time
	Command      string // id: entries of others are left out
}

// Of puts what is held in order of time.
func Of(h Held, w Window) []Entry {
	var all []Entry
	for _, e := range slices.Backward(h.Events) {
		all = append(all, ofEvent(e))
	}
	for _, t := range slices.Backward(h.Traces) {
		if w.Command == "" || w.Command == t.Command.ID {
			all = append(all, ofTrace(t)...)
		}
	}
	all = append(all, ofBeacons(h.Beacons)...)
	for _, d := range h.Directives {
		all = append(all, ofDirective(d)...)
	}
	if w.Until.IsZero() || !h.Now.After(w.Until) {
		all = append(all, ofNow(h))
	}
	all = slices.DeleteFunc(all, func(e Entry) bool {
		return e.At.Before(w.Since) || !w.Until.IsZero() && e.At.After(w.Until)
	})
	slices.SortStableFunc(all, func(a, b Entry) int { return a.At.Compare(b.At) })
	return all
}

// Major leaves out what is minor.
func Major(all []Entry) []Entry {
	return slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return e.Minor })
}

func changed(from, to string) string {
	if from == "" {
		return to
	}
	return from + " → " + to
}

// ofEvent makes an entry of what the server noted of the agent.
func ofEvent(e operator.AgentEvent) Entry {
	out := Entry{At: e.At, Told: e.Told, End: Server, Kind: e.Kind, What: e.Kind + " " + changed(e.From, e.To), Why: e.Reason, Link: e.Link, Verdict: e.Verdict}
	switch e.Kind {
	case operator.EventLink:
		out.What = "link " + e.Link + " " + e.To
		if e.Verdict != "" {
			out.What += ", " + e.Verdict
		}
	case operator.EventVerdict:
		out.End, out.Verdict, out.What = Agent, e.To, "verdict "+changed(e.From, e.To)
	case operator.EventStep:
		out.End, out.What = Agent, fmt.Sprintf("step %s, for %s", e.To, e.Verdict)
	case operator.EventOutcome:
		out.End, out.What = Agent, fmt.Sprintf("step %s: %s", e.From, e.To)
		out.Why = strings.TrimPrefix(e.Reason, e.To+": ")
	case operator.EventProbe:
		out.What = fmt.Sprintf("probe of the way of commands by %s: %s", e.From, e.To)
	case operator.EventProcess:
		out.End, out.What = Agent, "worker process "+changed(e.From, e.To)
	case operator.EventInstance:
		out.End, out.What = Agent, "guardian started, instance "+e.To[:min(8, len(e.To))]
	case operator.EventVersion, operator.EventFinding:
		out.End = Agent
	}
	return out
}

// ofTrace makes entries of a command's stages. Where each attempt went as it should, its end
// alone is no minor matter.
func ofTrace(t operator.Trace) (out []Entry) {
	c := t.Command
	trouble := c.State != wire.StateCompleted
	for _, e := range t.Entries {
		trouble = trouble || e.Attempt > 1 || slices.Contains([]wire.Stage{"lost", "released", "refused", "cancel", "note"}, e.Stage)
	}
	short := c.ID
	if i := strings.LastIndexByte(c.ID, '-'); i > 0 { // the part that tells two of one moment apart
		short = c.ID[i+1:]
	}
	for _, e := range t.Entries {
		out = append(out, Entry{
			At: e.At, Told: e.Told, End: e.End, Kind: KindCommand, Command: c.ID, Attempt: e.Attempt, Stage: e.Stage, Link: e.Link, Proof: e.Proof,
			What: "command " + short + " " + word(e), Why: e.Note,
			Minor: !trouble || !slices.Contains([]wire.Stage{wire.StageAccepted, wire.StageWritten, wire.StageAckRead, "lost", "released", "refused", "cancel", "note"}, e.Stage),
		})
		last := &out[len(out)-1]
		if e.Stage == wire.StageAccepted {
			last.End = Operator
			last.What += script(c)
		}
		if e.Proof != nil && e.Proof.Later() != "" {
			last.Verdict = e.Proof.Verdict
			last.Why = fmt.Sprintf("lost between written and read: %s, of %d texts before them %d were read, as %s counts", e.Proof.Later(), e.Proof.Written, e.Proof.Read, "the "+e.Proof.End)
		}
	}
	if c.EndedAt == nil {
		return out
	}
	end := Entry{At: *c.EndedAt, End: Server, Kind: KindCommand, Command: c.ID, What: "command " + short + " " + string(c.State), Why: c.Reason}
	if c.ExitCode != nil {
		end.What += fmt.Sprintf(", exit %d", *c.ExitCode)
	}
	if !trouble {
		end.What += fmt.Sprintf(" after %v", c.EndedAt.Sub(c.CreatedAt).Round(time.Millisecond)) + script(c)
	}
	return append(out, end)
}

// script is a command's, in one line; "" where it is not told.
func script(c operator.Command) string {
	if words := strings.Fields(c.Script); len(words) > 0 {
		return ": " + strings.Join(words, " ")
	}
	return ""
}

// word is a stage of an attempt.
func word(e operator.TraceEntry) string {
	door := ""
	switch e.Stage {
	case wire.StageClaimed, wire.StageWritten:
		if door = " to the link " + e.Link; e.Channel == wire.ChannelOOB {
			door = " to the second door"
		}
		if e.Stage == wire.StageClaimed {
			door = " for" + strings.TrimPrefix(door, " to")
		}
	}
	if e.Attempt > 1 {
		door += fmt.Sprintf(" (attempt %d)", e.Attempt)
	}
	return strings.TrimRight(string(e.Stage)+door, " ")
}

// report is what matters here of a beacon's report (oob.Report).
type report struct {
	At       time.Time          `json:"at"`
	Cause    string             `json:"cause"`
	Verdict  selfcheck.Verdict  `json:"verdict"`
	Snapshot selfcheck.Snapshot `json:"snapshot"`
}

// spooled: a report that comes later than this was kept, for the second door was closed.
const spooled = 5 * time.Second

func ofBeacons(beacons []operator.Beacon) (out []Entry) {
	before := "" // the newest older one's verdict
	for _, b := range slices.Backward(beacons) {
		var r report
		e := Entry{At: b.ReceivedAt, End: Agent, Kind: KindReport, Verdict: b.Verdict, What: "reports " + cmp.Or(b.Verdict, "no verdict yet")}
		if json.Unmarshal(b.Report, &r) == nil {
			if late := b.ReceivedAt.Sub(r.At); late > spooled && !r.At.IsZero() {
				e.At, e.Told = r.At, &r.At
				e.What += fmt.Sprintf(", which came %v later", late.Round(time.Second))
			}
			e.What += " (" + r.Cause + ")"
			e.Why, e.Link = counts(r.Snapshot), r.Snapshot.Link.ID.String()
			if r.Snapshot.Link.ID == 0 {
				e.Link = ""
			}
		}
		e.Minor = b.Verdict == before
		before = b.Verdict
		out = append(out, e)
	}
	return out
}

// counts tells both ends' counts as a report has them.
func counts(s selfcheck.Snapshot) string {
	l := s.Link
	if l.ID == 0 {
		return "no link, " + cmp.Or(string(l.Phase), "phase not known")
	}
	said := fmt.Sprintf("link %s %s: wrote %d, read %d", l.ID, cmp.Or(string(l.Phase), "in a phase not known"), l.Ledger.Local.Written, l.Ledger.Local.Read)
	if p := l.Ledger.Peer; p != nil {
		said += fmt.Sprintf("; the server, by its last %s, wrote %d, read %d", cmp.Or(l.Ledger.PeerVia, "word"), p.Written, p.Read)
	}
	if g := l.Ledger.Down; g != nil {
		said += fmt.Sprintf("; %d missing here for %v", g.Missing, g.Age.Round(100*time.Millisecond))
	}
	if g := l.Ledger.Up; g != nil {
		said += fmt.Sprintf("; %d missing there for %v", g.Missing, g.Age.Round(100*time.Millisecond))
	}
	return said
}

func ofDirective(d operator.Directive) (out []Entry) {
	add := func(at *time.Time, end, what, why string) {
		if at != nil {
			out = append(out, Entry{At: *at, End: end, Kind: KindOrder, What: "order " + string(d.Kind) + what, Why: why})
		}
	}
	add(&d.CreatedAt, Operator, "", d.Reason)
	add(d.DeliveredAt, Server, " delivered", "")
	add(d.EndedAt, Agent, ": "+d.State, d.Detail)
	return out
}

// ofNow is what is so at the end.
func ofNow(h Held) Entry {
	a := h.Agent
	e := Entry{At: h.Now, End: Server, Kind: KindNow, What: "now " + a.Presence, Verdict: a.Verdict, Why: fmt.Sprintf("owes %d", a.Owed)}
	if a.Verdict != "" {
		e.What += ", its verdict " + a.Verdict
	}
	if a.LastSeen != nil {
		e.Why += fmt.Sprintf("; last heard of %v before, by %s", h.Now.Sub(*a.LastSeen).Round(100*time.Millisecond), a.LastVia)
	}
	for _, l := range a.Links {
		e.Why += fmt.Sprintf("; link %s %s: wrote %d, read %d", l.Link, l.State, l.Written, l.Read)
		if l.PeerRead != nil {
			e.Why += fmt.Sprintf(", the agent has read %d", *l.PeerRead)
		}
		if l.PongAgeMS != nil {
			e.Why += fmt.Sprintf(", its last pong %v before", (time.Duration(*l.PongAgeMS) * time.Millisecond).Round(100*time.Millisecond))
		}
	}
	return e
}

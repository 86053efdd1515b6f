package agent

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"gururmm/agent/local"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/selfcheck"
)

// Exit codes of `status`.
const (
	ExitWell     = 0
	ExitDegraded = 1
	ExitUnknown  = 2 // not running, not enrolled, or nothing known yet
)

// ExitCode sums a status up for scripts.
func ExitCode(s local.Status) int {
	switch s.Verdict.Severity {
	case selfcheck.SeverityWell:
		return ExitWell
	case selfcheck.SeverityUnknown:
		return ExitUnknown
	}
	return ExitDegraded
}

// textWidth is what a status may take of a terminal's line, in columns.
const textWidth = 80

// Style of a rendering.
type Style struct{ Color bool }

// paint wraps text in the colour of a severity, if colours are wanted.
func (st Style) paint(sev selfcheck.Severity, text string) string {
	code := map[selfcheck.Severity]string{
		selfcheck.SeverityWell: "32", selfcheck.SeverityNotice: "36",
		selfcheck.SeverityWarning: "33", selfcheck.SeverityError: "31",
	}[sev]
	if !st.Color || code == "" {
		return text
	}
	return "\x1b[1;" + code + "m" + text + "\x1b[0m"
}

// page collects lines of at most textWidth columns.
type page struct{ b strings.Builder }

// wrap writes text behind label, folded at blanks; later lines are indented below the first.
func (p *page) wrap(label, text string) {
	indent := strings.Repeat(" ", width(label))
	line := label
	for i, word := range words(text, textWidth-width(label)) {
		switch {
		case i == 0:
			line += word
		case width(line)+1+width(word) > textWidth:
			p.line(line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	p.line(line)
}

// words splits text at its blanks, and what is longer than n columns (a path, a URL) into
// pieces: nothing of it is left out.
func words(text string, n int) (out []string) {
	for word := range strings.FieldsSeq(text) {
		r := []rune(word)
		for ; len(r) > n; r = r[n:] {
			out = append(out, string(r[:n]))
		}
		out = append(out, string(r))
	}
	return out
}

func (p *page) line(s string) {
	s = strings.TrimRight(wrap.Plain(s), " ")
	for r := []rune(s); len(r) > textWidth; r = []rune(s) {
		p.b.WriteString(string(r[:textWidth]) + "\n")
		s = "          " + string(r[textWidth:])
	}
	p.b.WriteString(s + "\n")
}

func (p *page) linef(format string, args ...any) { p.line(fmt.Sprintf(format, args...)) }

func width(s string) int { return len([]rune(s)) }

// WriteStatus renders s for people: the verdict's sentence first.
func WriteStatus(w io.Writer, s local.Status, st Style) error {
	p := &page{}
	p.verdict(s)
	if s.Mode != local.ModeNotEnrolled {
		p.line("")
		p.link(s)
		p.tcp(s.Snapshot.Link.TCP)
		p.ledger(s.Snapshot.Link.Ledger)
		p.frames(s.Snapshot.Link)
		p.line("")
		p.endpoint(s)
		p.findings(s.Findings)
		p.steps(s)
	}
	text := p.b.String()
	if head, rest, ok := strings.Cut(text, "\n"); ok {
		text = st.paint(s.Verdict.Severity, head) + "\n" + rest
	}
	_, err := io.WriteString(w, text)
	return err
}

func (p *page) verdict(s local.Status) {
	v := s.Verdict
	sentence := cmp.Or(v.Sentence, v.Title, "Nothing is known yet.")
	p.wrap("", sentence)
	code := cmp.Or(string(v.Code), "unknown")
	if v.Suspected {
		code += " (suspected, not proven)"
	}
	p.linef("verdict   %s", code)
	for _, e := range v.Evidence {
		seen := e.Seen
		if e.Expected != "" {
			seen += " (expected " + e.Expected + ")"
		}
		p.wrap("          ", e.Fact+": "+seen)
	}
	if v.Action != "" && v.Severity != selfcheck.SeverityWell {
		p.wrap("do        ", v.Action)
	}
	next := s.Next.What
	if s.Next.In != nil {
		next += ", in " + short(*s.Next.In)
	}
	if next != "" {
		p.wrap("next      ", next)
	}
}

func (p *page) link(s local.Status) {
	l := s.Snapshot.Link
	phase := cmp.Or(string(l.Phase), "unknown")
	if l.VerifiedAge != nil {
		phase += " for " + short(*l.VerifiedAge)
	} else if l.PhaseAge != nil {
		phase += " for " + short(*l.PhaseAge)
	}
	p.wrap("link      ", phase+url(l))
	if l.Failure != nil {
		p.wrap("          ", fmt.Sprintf("last error %s: %s (attempt %d)", l.Failure.Type, l.Failure.Detail, l.Attempts))
	}
	if l.NextDial != nil {
		p.linef("          dials again in %s", short(*l.NextDial))
	}
}

func url(l selfcheck.LinkFacts) string {
	var out string
	if l.URL != "" {
		out = ", " + l.URL
	}
	if l.Remote != "" {
		out += " at " + l.Remote
	}
	if l.ID != 0 {
		out += ", id " + l.ID.String()
	}
	return out
}

// ledger shows both ends' counts side by side: equal rows are what a link that works looks like.
func (p *page) ledger(l selfcheck.LedgerView) {
	if l.Local.Link == 0 {
		return
	}
	peer := func(n func() uint64) string {
		if l.Peer == nil {
			return "unknown"
		}
		return fmt.Sprint(n())
	}
	p.linef("ledger    %-22s %14s %14s", "texts", "here", "server")
	p.linef("          %-22s %14s %14s  %s", "server to endpoint", fmt.Sprint("read ", l.Local.Read),
		"wrote "+peer(func() uint64 { return l.Peer.Written }), gap(l.Down))
	p.linef("          %-22s %14s %14s  %s", "endpoint to server", fmt.Sprint("wrote ", l.Local.Written),
		"read "+peer(func() uint64 { return l.Peer.Read }), gap(l.Up))
	var notes []string
	if l.PeerAge != nil {
		via := cmp.Or(l.PeerVia, "?")
		if l.PeerVia == selfcheck.ViaText {
			via += " (itself not counted)"
		}
		notes = append(notes, fmt.Sprintf("server's counts by %s, %s old", via, short(*l.PeerAge)))
	}
	if l.RTT != nil {
		notes = append(notes, "round trip "+short(*l.RTT))
	}
	if l.Owed > 0 {
		notes = append(notes, fmt.Sprintf("%d commands owed to us", l.Owed))
	}
	if l.Altered != "" {
		notes = append(notes, "digests differ "+l.Altered)
	}
	if len(notes) > 0 {
		p.wrap("          ", strings.Join(notes, "; "))
	}
}

func gap(g *selfcheck.Gap) string {
	if g == nil {
		return ""
	}
	return fmt.Sprintf("%d missing", g.Missing)
}

// frames shows the tap: type × direction.
func (p *page) frames(l selfcheck.LinkFacts) {
	names := slices.Sorted(maps.Keys(l.In.Frames))
	for name := range l.Out.Frames {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	p.linef("frames    %-12s %8s %9s %8s  %8s %9s %8s", "", "in", "bytes", "age", "out", "bytes", "age")
	for _, name := range names {
		in, out := l.In.Frames[name], l.Out.Frames[name]
		p.linef("          %-12s %8d %9s %8s  %8d %9s %8s", name, in.Count, size(in.Bytes), ageOf(name, l.In),
			out.Count, size(out.Bytes), ageOf(name, l.Out))
	}
	for _, side := range []struct {
		name string
		tap  selfcheck.TapView
	}{{"in", l.In}, {"out", l.Out}} {
		if side.tap.Broken != "" {
			p.wrap("          ", side.name+": not frames any more: "+side.tap.Broken)
		}
		if side.tap.OpenFragment != nil {
			p.linef("          %s: a message was begun %s ago and is not finished", side.name, short(*side.tap.OpenFragment))
		}
	}
}

func ageOf(class string, t selfcheck.TapView) string {
	switch class {
	case selfcheck.FrameText.String():
		return ago(t.TextAge)
	case selfcheck.FramePing.String():
		return ago(t.PingAge)
	case selfcheck.FramePong.String():
		return ago(t.PongAge)
	}
	return ""
}

func ago(d *time.Duration) string {
	if d == nil {
		return "-"
	}
	return short(*d)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (p *page) endpoint(s local.Status) {
	o := s.Snapshot.OOB
	door := "not configured"
	if o.Configured {
		door = "never answered yet"
		if o.LastOK != nil {
			door = "answered " + short(*o.LastOK) + " ago"
		}
		if o.Failures > 0 && o.Failure != nil {
			door += fmt.Sprintf("; failed %s since: %s: %s", times(o.Failures), o.Failure.Type, o.Failure.Detail)
		}
		if o.Delivering {
			if s.Verdict.Code == selfcheck.CodeAgentRemoved {
				// said already: no commands by any door
			} else if o.Failures > 0 {
				door += "; commands would come this way: the link is not trusted"
			} else {
				door += "; commands go this way now"
			}
		}
	}
	p.wrap("door      ", door)
	if b := s.LastBeacon; b != nil {
		what := fmt.Sprintf("%s ago (%s), arrived", short(s.At.Sub(b.At)), b.Cause)
		if !b.OK {
			what = fmt.Sprintf("%s ago (%s), failed: %s", short(s.At.Sub(b.At)), b.Cause, b.Error)
		} else if b.Door != "" {
			what += " at " + b.Door
		}
		if s.NextBeacon != nil {
			what += "; next in " + short(*s.NextBeacon)
		}
		if o.Spooled > 0 || o.Dropped > 0 {
			what += fmt.Sprintf("; %d kept for later, %d dropped", o.Spooled, o.Dropped)
		}
		p.wrap("beacon    ", what)
	}
	p.linef("budget    left this hour: %d forced reconnects, %d restarts", s.Budgets.Reconnects, s.Budgets.Restarts)
	jobs := s.Snapshot.Jobs
	p.linef("jobs      %d of %d running, %d results not yet stored by the server", jobs.Running, jobs.Limit, jobs.Unacked)
	worker := "not running"
	if s.Worker.PID != 0 {
		worker = fmt.Sprintf("%d, up %s", s.Worker.PID, short(s.At.Sub(s.Worker.Since)))
	}
	if silent := s.Snapshot.Worker.Silent; silent != nil && *silent > 2*time.Second {
		worker += ", silent for " + short(*silent)
	}
	p.linef("processes guardian %d, up %s; worker %s", s.Guardian.PID, short(s.At.Sub(s.Guardian.Since)), worker)
	p.wrap("agent     ", fmt.Sprintf("%s, version %s, policy %d", s.Agent, s.Version, s.PolicyVersion))
	p.program(s)
}

// program says which program runs here and why, and where an update stands.
func (p *page) program(s local.Status) {
	u := s.Update
	if u == nil {
		return
	}
	text := u.Source
	if u.Source == local.SourceUpdated {
		text += fmt.Sprintf(" (%s); installed is %s, a rollback goes to %s", u.Why, cmp.Or(u.Installed, "unknown"), cmp.Or(u.Previous, "unknown"))
	} else if u.Why != "" {
		text += " (" + u.Why + ")"
	}
	p.wrap("program   ", text)
	if u.Source == local.SourceUpdated {
		p.wrap("          ", u.Path)
	}
	if u.Step != local.UpdateNone {
		p.wrap("update    ", fmt.Sprintf("%s %s, for %s", u.Step, u.Version, short(s.At.Sub(u.Since))))
	}
	if o := u.Last; o != nil && !o.Done {
		what := "failed"
		if o.RolledBack {
			what = "was rolled back"
		}
		text := fmt.Sprintf("%s %s at %s: %s", o.Version, what, moment.Aged(o.At, s.At), o.Reason)
		if u.BackAfter != nil {
			text += "; the one before was verified again after " + short(*u.BackAfter)
		}
		p.wrap("update    ", text)
	}
}

func (p *page) findings(found []selfcheck.Finding) {
	for _, f := range found {
		p.wrap("finding   ", string(f.Code)+": "+f.Sentence)
	}
}

// lastSteps is how many steps of the ladder are shown.
const lastSteps = 5

func (p *page) steps(s local.Status) {
	steps := s.Steps[max(0, len(s.Steps)-lastSteps):]
	for _, step := range steps {
		text := fmt.Sprintf("%s ago %s%s", short(s.At.Sub(step.At)), step.Kind, calledFor(step.Verdict))
		if step.Outcome != "" {
			text += ": " + step.Outcome
		}
		p.wrap("step      ", text)
	}
}

// WriteFrames renders the ring of frame headers, oldest first.
func WriteFrames(w io.Writer, f local.Frames) error {
	p := &page{}
	if f.Stale {
		p.line("The worker does not answer: these are of its last report.")
	}
	if len(f.Frames) == 0 {
		p.line("No frames.")
	}
	for _, h := range f.Frames {
		way := "<-"
		if h.Out {
			way = "->"
		}
		fin := ""
		if !h.Fin {
			fin = "not final"
		}
		p.linef("%10s ago %s %-12s %9d bytes %s", short(h.Age), way, h.Class, h.Size, fin)
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

// short gives a duration in at most three digits and one or two units.
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	d = d.Round(time.Hour)
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size gives bytes for people.
func size(n uint64) string {
	switch {
	case n < 10_000:
		return fmt.Sprint(n)
	case n < 10<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 10<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

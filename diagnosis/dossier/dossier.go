// Package dossier writes down what is held of one agent for somebody who knows nothing of
// the system: what is so, how it was seen, what was tried, and what is not known.
//
// Rules that hold here:
//   - facts only: no cause is named, and what was merely inferred is marked so;
//   - pure: what is held comes in, the time too;
//   - no secret and no text of a command is in it, and no name unless it was asked for.
package dossier

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/diagnosis/timeline"
	"gururmm/operator"
)

// Held is what a server holds of one agent.
type Held struct {
	evidence.Held
	// Timeline holds the same agent's events, traces, beacons and directives since then.
	Timeline timeline.Held
	Since    time.Time
	// Reports of directives by id, where they brought one.
	Reports map[string][]byte
}

// Options of a dossier.
type Options struct {
	// Names keeps those of machines, sites and people, and addresses.
	Names bool
}

// redacted is what is held with a neutral word for each name.
type redacted struct {
	Held
	names *names
	agent string // its word
}

func redact(h Held, o Options) *redacted {
	r := &redacted{Held: h, names: newNames(o.Names)}
	n := r.names
	a := h.Agent
	r.agent = n.of("agent", a.Name)
	n.as(a.ID, r.agent)
	if !strings.EqualFold(a.Platform.Hostname, a.Name) {
		n.of("host", a.Platform.Hostname)
	}
	n.of("site", a.Site)
	for _, f := range h.Fleet {
		if f.ID == a.ID {
			continue
		}
		n.as(f.ID, n.of("agent", f.Name))
		n.of("site", f.Site)
	}
	for _, f := range append([]operator.Agent{a}, h.Fleet...) {
		for _, t := range f.Tags {
			n.of("tag", t)
		}
	}
	n.of("address", a.Addr)
	n.of("operator", a.RemovedBy)
	for _, c := range a.Copies {
		n.of("host", c.Hostname)
		n.of("address", c.Addr)
		n.of("machine", c.Fingerprint)
		n.of("boot", c.BootID)
	}
	traces := slices.Clone(h.Timeline.Traces)
	if h.Trace != nil {
		traces = append(traces, *h.Trace)
	}
	for _, t := range slices.Backward(traces) { // the oldest is the first
		n.of("command", t.Command.ID)
		n.of("operator", t.Command.CreatedBy)
		n.script(t.Command.Script)
	}
	for _, d := range slices.Backward(h.Timeline.Directives) {
		n.of("order", d.ID)
		n.of("operator", d.CreatedBy)
	}
	for _, e := range h.Timeline.Events {
		if e.Kind == operator.EventInstance {
			n.of("instance", e.To)
			n.as(e.To[:min(8, len(e.To))], n.of("instance", e.To))
		}
	}
	return r
}

// Case gives what is held as a case, with neutral names: it weighs the same as that of
// [evidence.Case].
func Case(h Held, o Options) diagnosis.Case {
	r := redact(h, o)
	return r.clean(evidence.Case(h.Held))
}

func (r *redacted) clean(c diagnosis.Case) diagnosis.Case {
	c.Subject, c.Description = r.names.text(c.Subject), r.names.text(c.Description)
	c.Agents, c.Observations = slices.Clone(c.Agents), slices.Clone(c.Observations)
	for i := range c.Agents {
		a := &c.Agents[i]
		a.Name, a.Site, a.Note = r.agent, r.names.of("site", a.Site), r.names.text(a.Note)
	}
	for i := range c.Observations {
		if o := &c.Observations[i]; o.Agent != "" {
			o.Agent = r.agent
		}
	}
	return c
}

// page writes lines; the first error stays with the writer.
type page struct {
	*redacted
	w *bufio.Writer
}

// WriteMarkdown writes the dossier as a page.
func WriteMarkdown(w io.Writer, h Held, o Options) error {
	p := &page{redacted: redact(h, o), w: bufio.NewWriter(w)}
	c := p.clean(evidence.Case(h.Held))
	var body strings.Builder
	inner := &page{redacted: p.redacted, w: bufio.NewWriter(&body)}
	inner.architecture()
	inner.protocol()
	inner.symptom()
	inner.observations(c)
	inner.tests()
	inner.unknown(c)
	if err := inner.w.Flush(); err != nil {
		return err
	}
	// The head comes last: only now it is known what was replaced.
	p.line("# What is held of %s, %s to %s", p.agent, stamp(h.Since), stamp(h.Now))
	p.para("For somebody who knows nothing of this system. It holds facts: what was measured, by which end, what was tried and what came of it. " +
		"No cause is named. What was only inferred is marked so, and the last chapter is what is not known. Times are UTC, by the server's clock.")
	p.para(p.names.said() + " Texts of commands, their output, and what operators wrote by hand are left out. Ids of links are random numbers.")
	if _, err := p.w.WriteString(body.String()); err != nil {
		return err
	}
	return p.w.Flush()
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }
func (p *page) para(format string, args ...any) { fmt.Fprintf(p.w, "\n"+format+"\n", args...) }
func (p *page) item(format string, args ...any) { fmt.Fprintf(p.w, "- "+format+"\n", args...) }

// table writes rows; the first is the head.
func (p *page) table(rows [][]string) {
	fmt.Fprintln(p.w)
	for i, row := range rows {
		for j := range row {
			row[j] = cell(row[j])
		}
		fmt.Fprintln(p.w, "| "+strings.Join(row, " | ")+" |")
		if i == 0 {
			fmt.Fprintln(p.w, "|"+strings.Repeat("---|", len(row)))
		}
	}
}

// cell makes a text fit one of a table, with no markup of its own.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "`", "'", "*", "\\*", "[", "\\[", "\n", " ").Replace(cmp.Or(s, "-"))
}

const moments = "2006-01-02 15:04:05.000"

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func exact(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(moments)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

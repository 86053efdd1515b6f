package diagnosis

import (
	"fmt"
	"io"
	"math"
	"strings"

	"gururmm/internal/wrap"
)

// How much of the ranking is told with its evidence, unless all is asked for.
const (
	toldInFull    = 3
	toldAtAll     = 8
	evidenceShown = 5
	notWorthALine = 0.01
)

const column = 10 // where what is said begins

// page writes an answer for a terminal.
type page struct {
	strings.Builder
	all bool
}

// WriteText writes a for people, [wrap.Width] wide, what matters first. all: everything
// that it holds.
func (a Answer) WriteText(w io.Writer, all bool) error {
	p := &page{all: all}
	p.say("case", a.Subject)
	p.say("", a.known())
	p.proven(a)
	p.leading(a)
	p.ranked(a)
	p.out(a)
	p.assumed(a)
	p.doubts(a)
	p.next(a)
	if a.Facts+a.Inferences > 0 {
		p.gap()
		p.say("remedy", "If "+a.Ranking[0].ID+" stands: "+a.Ranking[0].Remedy)
	}
	_, err := io.WriteString(w, p.String())
	return err
}

func (p *page) gap() { p.WriteString("\n") }

// say writes text behind a head, folded.
func (p *page) say(head, text string) {
	fmt.Fprintln(p, wrap.Behind(fmt.Sprintf("%-*s", column, head), wrap.Plain(text)))
}

// item writes text further in, behind a mark.
func (p *page) item(mark, text string) {
	fmt.Fprintln(p, wrap.Behind(strings.Repeat(" ", column)+mark, wrap.Plain(text)))
}

// known says how much there is to go by.
func (a Answer) known() string {
	s := fmt.Sprintf("%s measured, %d inferred or reported", count(a.Facts, "fact"), a.Inferences)
	if len(a.Unknown) > 0 {
		s += "; not known: " + strings.Join(a.Unknown, ", ")
	}
	return s + "."
}

func (p *page) proven(a Answer) {
	p.gap()
	if len(a.Proven) == 0 {
		p.say("proven", "Nothing: no ledger, stage or verdict settles it. What follows is ranked, not proven.")
		return
	}
	for i, q := range a.Proven {
		head := ""
		if i == 0 {
			head = "proven"
		}
		p.say(head, q.Says)
		for _, f := range q.By {
			p.item("- ", f.said())
		}
		if q.Is != "" {
			p.item("→ ", q.Is+" ("+q.Leaves[0]+").")
			if a.Several {
				p.item("  ", q.Remedy)
			}
		}
	}
	if a.Several {
		p.say("", "No one mechanism accounts for all of this: more than one thing is wrong at once.")
	}
}

func (p *page) leading(a Answer) {
	lead := a.Ranking[0]
	p.gap()
	if a.Facts+a.Inferences == 0 {
		p.say("leading", "None: nothing is known. The ranking is how usual each is before any evidence.")
		return
	}
	p.say("leading", fmt.Sprintf("%s (%s, %s).", lead.Title, lead.ID, percent(lead.Probability)))
	p.say("", lead.Mechanism)
	p.say("", "Lost: "+lead.Loses+".")
	p.gap()
	p.say("sure?", strings.ToUpper(a.Confidence.Word[:1])+a.Confidence.Word[1:]+".")
	for _, why := range a.Confidence.Why {
		p.item("- ", why)
	}
	for _, o := range a.Alone {
		p.item("- ", fmt.Sprintf("%s alone: %s, %s", o.Agent, o.Leader.ID, percent(o.Leader.Probability)))
	}
}

func (p *page) ranked(a Answer) {
	p.gap()
	all := 0.0
	for _, h := range a.Ranking {
		all += h.Weight
	}
	less := 0
	for i, h := range a.Ranking {
		if !p.all && (i >= toldAtAll || h.Probability < notWorthALine) && h.ID != UnknownID {
			less++
			continue
		}
		head := ""
		if i == 0 {
			head = "ranked"
		}
		p.say(head, fmt.Sprintf("%s  %s: %s", percent(h.Probability), h.ID, h.Title))
		if i >= toldInFull && !p.all {
			continue
		}
		p.item("  ", fmt.Sprintf("%s before (%s), %s by the evidence: %s of %s", short(h.Prior), h.PriorWhy, times(h.Times), short(h.Weight), short(all)))
		p.evidence("for", h.For)
		p.evidence("against", h.Against)
	}
	if less > 0 {
		p.say("", fmt.Sprintf("and %d more, each less likely (-v tells all)", less))
	}
}

func (p *page) evidence(word string, list []Evidence) {
	var same []string
	more := 0
	for i, e := range list {
		switch {
		case e.Repeats || e.Follows:
			same = append(same, e.Fact.Name)
		case i >= evidenceShown && !p.all:
			more++
		default:
			p.item(fmt.Sprintf("  %-8s%-6s", word, times(e.Times)), e.said())
			word = ""
		}
	}
	if more > 0 {
		p.item("                ", fmt.Sprintf("and %d weaker", more))
	}
	if len(same) > 0 && p.all {
		p.item("  same    ", "not counted, for a stronger one answers the same question, or it follows from one: "+strings.Join(same, ", "))
	}
}

// said is the fact in short and why it bears on a mechanism.
func (e Evidence) said() string {
	s := e.Fact.short()
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

// short is a fact in one breath.
func (f Fact) short() string {
	s := f.Name + " = " + f.Value
	if !f.Grade.Fact() {
		s += " (" + string(f.Grade) + ")"
	}
	return s
}

// said is a fact with its grade and where it is from.
func (f Fact) said() string {
	s := fmt.Sprintf("%s = %s, %s: %s", f.Name, f.Value, f.Grade.Means(), f.Source)
	if f.Agent != "" {
		s += ", " + f.Agent
	}
	if len(f.Tests) > 0 {
		s += ", test"
		if len(f.Tests) > 1 {
			s += "s"
		}
		s += " " + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(f.Tests)), ", "), "[]")
	}
	return s
}

// fewEnough mechanisms that one fact excludes are told with their reason, more by name.
const fewEnough = 2

func (p *page) out(a Answer) {
	if len(a.Excluded) == 0 {
		return
	}
	p.gap()
	proven := 0
	var order []string // of facts
	by := map[string][]Excluded{}
	for _, e := range a.Excluded {
		if strings.HasPrefix(e.Why, provenOtherwise) && !p.all {
			proven++
			continue
		}
		fact := ""
		if e.By != nil {
			fact = e.By.short()
		}
		if by[fact] == nil {
			order = append(order, fact)
		}
		by[fact] = append(by[fact], e)
	}
	head := "ruled out"
	for _, fact := range order {
		if list := by[fact]; fact != "" && len(list) > fewEnough && !p.all {
			var ids []string
			for _, e := range list {
				ids = append(ids, e.ID)
			}
			p.say(head, "by "+fact+": "+strings.Join(ids, ", ")+" (-v tells why)")
			head = ""
			continue
		}
		for _, e := range by[fact] {
			text := e.ID
			if fact != "" {
				text += ", by " + fact
			}
			text += ": " + e.Why
			p.say(head, text)
			head = ""
		}
	}
	if proven > 0 {
		p.say(head, fmt.Sprintf("by what is proven: %s (-v tells all)", count(proven, "mechanism")))
	}
}

func (p *page) assumed(a Answer) {
	if len(a.Assumed) == 0 {
		return
	}
	p.gap()
	head := "inferred"
	kept := []string{}
	for _, s := range a.Assumed {
		if !s.Changes && !p.all {
			kept = append(kept, s.Fact.Name)
			continue
		}
		p.say(head, s.Fact.said())
		head = ""
		if s.Fact.Note != "" {
			p.item("  ", s.Fact.Note)
		}
		for _, then := range s.said() {
			if p.all || then.id != a.Ranking[0].ID {
				p.item("→ ", then.text)
			}
		}
	}
	if len(kept) > 0 {
		p.say(head, "The leader stays the same, true or false: "+strings.Join(kept, ", "))
	}
}

// consequence is what would lead if a fact were otherwise than it is taken to be.
type consequence struct{ id, text string }

func (s Assumed) said() []consequence {
	out := []consequence{{s.Without.ID, "left out: " + s.Without.said()}, {s.Measured.ID, "if it were measured: " + s.Measured.said()}}
	for _, o := range s.False {
		out = append(out, consequence{o.Leader.ID, fmt.Sprintf("if it is %s: %s", o.Value, o.Leader.said())})
	}
	return out
}

func (l Leader) said() string { return fmt.Sprintf("%s leads, %s", l.ID, percent(l.Probability)) }

func (p *page) doubts(a Answer) {
	if len(a.Contradictions)+len(a.Unexplained) == 0 {
		return
	}
	p.gap()
	head := "doubtful"
	for _, c := range a.Contradictions {
		var facts []string
		for _, f := range c.Facts {
			facts = append(facts, f.said())
		}
		if len(facts) == 1 {
			p.say(head, "This does not go with what is described: "+c.Why+".")
		} else {
			p.say(head, "These exclude each other: "+c.Why+".")
		}
		for _, f := range facts {
			p.item("- ", f)
		}
		head = ""
	}
	for _, f := range a.Unexplained {
		p.say(head, "None of the mechanisms that are left expects it:")
		p.item("- ", f.said())
		head = ""
	}
}

func (p *page) next(a Answer) {
	p.gap()
	if len(a.Next) == 0 {
		p.say("next test", "None is needed, or none that can be made here tells more.")
		return
	}
	t := a.Next[0]
	p.say("next test", fmt.Sprintf("%s (measures %s; %s)", t.How, t.Measures, t.Cost))
	for _, line := range t.Run {
		p.item("$ ", line)
	}
	rare := 0
	for _, o := range t.Outcomes {
		if o.Probability < notWorthALine && !p.all {
			rare++
			continue
		}
		p.item("- ", fmt.Sprintf("%s (%s): %s", o.Value, percent(o.Probability), o.said()))
	}
	if rare > 0 {
		p.item("- ", fmt.Sprintf("and %s under 1%% each (-v tells all)", count(rare, "outcome")))
	}
	p.item("", fmt.Sprintf("It tells %s of %s bits that are open.", short(t.Bits), short(a.OpenBits)))
	for _, t := range a.Next[1:] {
		p.item("or ", fmt.Sprintf("%s bits: %s (%s; %s)", short(t.Bits), t.How, t.Measures, t.Cost))
	}
}

// said tells what an outcome would mean.
func (o Outcome) said() string {
	s := o.Means + "; then " + o.Leader.said()
	if o.Proves != "" {
		return s + "; proven: " + o.Proves
	}
	if n := len(o.RulesOut); n > 0 {
		s += fmt.Sprintf("; rules out %s", count(n, "more"))
	}
	return s
}

// times writes a factor as people do: over one for, under one against.
func times(v float64) string {
	switch {
	case v >= 1:
		return "×" + short(v)
	case v > 0:
		return "÷" + short(1/v)
	}
	return "×0"
}

// short keeps two digits that tell something.
func short(v float64) string {
	switch {
	case v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	case v >= 0.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func count(n int, noun string) string {
	if n == 1 || noun == "more" {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

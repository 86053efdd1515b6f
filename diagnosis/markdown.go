package diagnosis

import (
	"fmt"
	"io"
	"strings"

	"gururmm/internal/wrap"
)

// WriteMarkdown writes a as a page; it holds all of the answer.
func (a Answer) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# %s", inCell(a.Subject))
	line("\n%s", a.known())
	line("\n## Proven\n")
	if len(a.Proven) == 0 {
		line("Nothing: no ledger, stage or verdict settles it. What follows is ranked, not proven.")
	}
	for _, p := range a.Proven {
		line("- %s", p.Says)
		for _, f := range p.By {
			line("  - %s", inCell(f.said()))
		}
		if p.Is != "" {
			line("  - so it is: %s (`%s`). %s", p.Is, p.Leaves[0], p.Remedy)
		}
	}
	if a.Several {
		line("\nNo one mechanism accounts for all of this: more than one thing is wrong at once.")
	}
	lead := a.Ranking[0]
	line("\n## Leading\n\n**%s** (`%s`, %s): %s.\n\n%s Lost: %s.\n", lead.Title, lead.ID, percent(lead.Probability), a.Confidence.Word, lead.Mechanism, lead.Loses)
	for _, why := range a.Confidence.Why {
		line("- %s", inCell(why))
	}
	for _, o := range a.Alone {
		line("- %s alone: `%s`, %s", inCell(o.Agent), o.Leader.ID, percent(o.Leader.Probability))
	}
	line("\n## Ranking\n\nWeight is the weight before times the evidence; the share is its part of all weights.\n")
	line("| share | mechanism | before | evidence | weight | strongest for | strongest against |\n|---|---|---|---|---|---|---|")
	for _, h := range a.Ranking {
		line("| %s | `%s` %s | %s | %s | %s | %s | %s |", percent(h.Probability), h.ID, h.Title, short(h.Prior), times(h.Times), short(h.Weight), strongest(h.For), strongest(h.Against))
	}
	if len(a.Excluded) > 0 {
		line("\n## Ruled out\n\n| mechanism | by | why |\n|---|---|---|")
		for _, e := range a.Excluded {
			by := "how it works"
			if e.By != nil {
				by = inCell(e.By.short())
			}
			line("| `%s` %s | %s | %s |", e.ID, e.Title, by, e.Why)
		}
	}
	if len(a.Assumed) > 0 {
		line("\n## Inferred or reported, and what hangs on it\n\n| observation | source | what would lead |\n|---|---|---|")
		for _, s := range a.Assumed {
			var then []string
			for _, c := range s.said() {
				text := c.text
				if c.id != lead.ID {
					text = "**" + text + "**"
				}
				then = append(then, text)
			}
			line("| %s | %s | %s |", inCell(s.Fact.short()), inCell(s.Fact.said()), strings.Join(then, "<br>"))
		}
	}
	if len(a.Contradictions)+len(a.Unexplained) > 0 {
		line("\n## Doubtful\n")
		for _, c := range a.Contradictions {
			line("- %s", c.Why)
			for _, f := range c.Facts {
				line("  - %s", inCell(f.said()))
			}
		}
		for _, f := range a.Unexplained {
			line("- none of the mechanisms that are left expects it: %s", inCell(f.said()))
		}
	}
	line("\n## Next test\n")
	if len(a.Next) == 0 {
		line("None is needed, or none that can be made here tells more.")
	}
	for i, t := range a.Next {
		if i == 0 {
			line("%s It measures `%s`; %s; it tells %s of %s bits that are open.\n", t.How, t.Measures, t.Cost, short(t.Bits), short(a.OpenBits))
			if len(t.Run) > 0 {
				line("```sh\n%s\n```\n", strings.Join(t.Run, "\n"))
			}
			line("| outcome | how likely | what it would mean |\n|---|---|---|")
			for _, o := range t.Outcomes {
				line("| %s | %s | %s |", o.Value, percent(o.Probability), o.said())
			}
			continue
		}
		if i == 1 {
			line("\nOr:\n")
		}
		line("- %s bits: %s (`%s`; %s)", short(t.Bits), t.How, t.Measures, t.Cost)
	}
	line("\n## Remedy, if `%s` stands\n\n%s", lead.ID, lead.Remedy)
	_, err := io.WriteString(w, b.String())
	return err
}

// strongest names what counts most.
func strongest(list []Evidence) string {
	var out []string
	for _, e := range list {
		if len(out) < 3 && !e.Repeats && !e.Follows {
			out = append(out, times(e.Times)+" "+inCell(e.Fact.short()))
		}
	}
	return strings.Join(out, "<br>")
}

// inCell makes what somebody wrote fit one line of a page, with no markup of its own.
func inCell(s string) string {
	s = strings.Join(strings.Fields(wrap.Plain(s)), " ")
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "`", "'", "*", "\\*", "[", "\\[").Replace(s)
}

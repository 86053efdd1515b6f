package diagnosis

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The pages of the documentation: what stands between their marks is written from here.
var pages = []string{"../docs/diagnosis.md", "../docs/diagnosis-mechanisms.md"}

var pageParts = map[string]func(t *testing.T, line func(format string, args ...any)){
	"grades": func(_ *testing.T, line func(string, ...any)) {
		line("| grade | means | believed | weighs at most | why so far |\n|---|---|---|---|---|")
		for _, g := range grades {
			line("| `%s` | %s | %s | ×%.0f | %s |", g.grade, g.means, fmt.Sprint(g.belief), 2*g.belief/(1-g.belief)+1, g.why)
		}
	},
	"strengths": func(_ *testing.T, line func(string, ...any)) {
		line("| word | makes of the usual share | of two equally usual values |\n|---|---|---|")
		for _, s := range []strength{certain, expected, possible, noBearing, unlikely, excluded} {
			w := s.weighs(0.5)
			line("| %s | %s | %s |", factors[s].word, factors[s].gist, twoDigits(w/(w+0.5)))
		}
		line("\nPriors: %s (hardly %s, rare %s, uncommon %s, common %s).", priorsWhy, twoDigits(hardly), short(rare), short(uncommon), short(common))
	},
	"vocabulary": func(_ *testing.T, line func(string, ...any)) {
		question := ""
		for _, o := range sortedVocabulary() {
			if o.question != question {
				question = o.question
				line("\n**%s**\n\n| observation | asks | seen by | values, and how usual each is |\n|---|---|---|---|", question)
			}
			var values []string
			for _, v := range o.values {
				values = append(values, fmt.Sprintf("`%s` %s: %s", v.value, twoDigits(o.usual(v.value)), v.means))
			}
			more := ""
			if o.many {
				more = " (several may be so)"
			}
			line("| `%s` | %s%s | %s | %s |", o.id, o.asks, more, o.seenBy, strings.Join(values, "<br>"))
		}
	},
	"mechanisms": func(_ *testing.T, line func(string, ...any)) {
		x := tables()
		line("| mechanism | loses it | before | why so much |\n|---|---|---|---|")
		for _, h := range x.all {
			line("| `%s` %s | %s | %s | %s |", h.id, h.title, h.loses, short(h.prior), h.priorWhy)
		}
	},
	"predictions": func(_ *testing.T, line func(string, ...any)) {
		x := tables()
		line("## Shared\n\nWhat several mechanisms share; where one says something of an observation itself, that stands instead.")
		table := func(says []prediction, likely func(p prediction) string) {
			line("\n| observation | says | %s | why |\n|---|---|---|---|", map[bool]string{true: "how likely (usual)", false: "usual"}[likely != nil])
			for _, o := range vocabulary {
				for _, p := range says {
					if p.id == o.id {
						usual := twoDigits(o.usual(p.value))
						if likely != nil {
							usual = likely(p) + " (" + usual + ")"
						}
						line("| `%s` = `%s` | %s | %s | %s |", p.id, p.value, factors[p.strength].word, usual, p.why)
					}
				}
			}
		}
		for _, tr := range traits {
			line("\n*%s*", tr.name)
			table(tr.says, nil)
		}
		for _, h := range x.all {
			line("\n## %s\n\n%s: %s\n", h.id, h.title, h.mechanism)
			if h.never != "" {
				line("**Ruled out by how it works:** %s\n", h.never)
			}
			line("Remedy: %s", h.remedy)
			if h.never == "" && len(h.traits) > 0 {
				var shares []string
				for _, tr := range h.traits {
					shares = append(shares, "*"+tr.name+"*")
				}
				line("\nShares: %s.", strings.Join(shares, "; "))
			}
			if len(h.says) > 0 {
				table(h.says, func(p prediction) string { return twoDigits(shareOf(h.id, p.id, p.value)) })
			}
		}
	},
	"proofs": func(_ *testing.T, line func(string, ...any)) {
		line("| measured | proves | leaves |\n|---|---|---|")
		for _, p := range proofs {
			var when []string
			for _, w := range p.when {
				when = append(when, fmt.Sprintf("`%s` = `%s`", w.id, w.value))
			}
			line("| %s | %s | `%s` |", strings.Join(when, " and "), p.says, strings.Join(p.leaves, "`, `"))
		}
	},
	"contradictions": func(_ *testing.T, line func(string, ...any)) {
		line("| this | and this | exclude each other |\n|---|---|---|")
		for _, c := range clashes {
			b := "what is described around it"
			if c.b.id != "" {
				b = fmt.Sprintf("`%s` = `%s`", c.b.id, c.b.value)
			}
			line("| `%s` = `%s` | %s | %s |", c.a.id, c.a.value, b, c.why)
		}
	},
	"tests": func(_ *testing.T, line func(string, ...any)) {
		line("| measures | how | here | needs | cost |\n|---|---|---|---|---|")
		for _, tr := range trials {
			var run []string
			for _, r := range tr.run {
				run = append(run, "`"+r+"`")
			}
			line("| `%s` | %s | %s | %s | %s |", tr.measures, tr.how, strings.Join(run, "<br>"), list(tr.needs), costWords[tr.cost])
		}
	},
	"case": func(t *testing.T, line func(string, ...any)) {
		var b strings.Builder
		if err := Diagnose(caseNamed(t, "commands-unacknowledged")).WriteMarkdown(&b); err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(b.String(), "\n\n") // without its title
		line("%s", regexp.MustCompile("(?m)^## ").ReplaceAllString(strings.TrimSpace(body), "### "))
	},
}

// twoDigits writes a probability, and never rounds one to certainty.
func twoDigits(p float64) string {
	if p > 0 && p < 0.01 || p > 0.99 && p < 1 {
		return fmt.Sprintf("%.3f", p)
	}
	return fmt.Sprintf("%.2f", p)
}

func sortedVocabulary() []observed {
	out := make([]observed, 0, len(vocabulary))
	for _, first := range vocabulary {
		for _, o := range vocabulary {
			if o.question != first.question {
				continue
			}
			if len(out) > 0 && hasID(out, o.id) {
				break
			}
			out = append(out, o)
		}
	}
	return out
}

func hasID(list []observed, id string) bool {
	for _, o := range list {
		if o.id == id {
			return true
		}
	}
	return false
}

func TestThePageIsWrittenFromTheTables(t *testing.T) {
	written := 0
	for _, path := range pages {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
		page := string(raw)
		for name, write := range pageParts {
			begin, end := "<!-- "+name+": written from the tables -->\n", "<!-- /"+name+" -->"
			before, rest, found := strings.Cut(page, begin)
			_, after, closed := strings.Cut(rest, end)
			if !found || !closed {
				continue
			}
			written++
			var b strings.Builder
			write(t, func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) })
			page = before + begin + "\n" + strings.TrimSpace(b.String()) + "\n\n" + end + after
		}
		if page == string(raw) {
			continue
		}
		if !*update {
			t.Errorf("%s is not what the tables say: go generate ./diagnosis", path)
		} else if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if written != len(pageParts) {
		t.Errorf("%d of %d parts have a place", written, len(pageParts))
	}
}

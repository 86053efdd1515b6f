package diagnosis

import (
	"math"
	"slices"
	"strings"
	"testing"

	"gururmm/selfcheck"
)

// shareOf is how likely a hypothesis makes a value.
func shareOf(hypothesis, id, value string) float64 {
	x := tables()
	return x.cells[is{id, value}].shares[slices.Index(x.all, x.byID[hypothesis])].p
}

// What the compiler can't see in the tables.
func TestTheTablesHoldTogether(t *testing.T) {
	x := tables()
	names := map[string]bool{}
	for _, o := range vocabulary {
		if names[o.id] || o.asks == "" || !strings.HasSuffix(o.question, "?") || o.seenBy == "" || len(o.values) < 2 {
			t.Errorf("%s is named twice or lacks something", o.id)
		}
		names[o.id] = true
		values := map[string]bool{}
		for _, v := range o.values {
			if values[v.value] || v.value == Unknown || v.usual <= 0 || v.means == "" {
				t.Errorf("%s=%s is named twice or lacks something", o.id, v.value)
			}
			values[v.value] = true
		}
	}
	known := func(where string, w is) {
		if o := x.observed[w.id]; o == nil || o.option(w.value) == nil {
			t.Errorf("%s: there is no %s=%s", where, w.id, w.value)
		}
	}
	touched, seen := map[string]bool{}, map[string]bool{}
	for _, h := range x.all {
		if seen[h.id] || h.title == "" || !strings.HasSuffix(h.mechanism, ".") || h.prior <= 0 || h.priorWhy == "" || h.loses == "" || h.remedy == "" {
			t.Errorf("%s is named twice or lacks something", h.id)
		}
		seen[h.id] = true
		said := map[is]bool{}
		for _, p := range h.says {
			known(h.id, is{p.id, p.value})
			if said[is{p.id, p.value}] {
				t.Errorf("%s says %s=%s twice", h.id, p.id, p.value)
			}
			said[is{p.id, p.value}] = true
		}
		for _, tr := range h.traits {
			for _, p := range tr.says {
				known(h.id, is{p.id, p.value})
			}
		}
		for _, p := range h.predictions() {
			if p.why == "" {
				t.Errorf("%s does not say why %s=%s", h.id, p.id, p.value)
			}
			touched[p.id] = true
			// A word must do what it says, whatever is said of the other values.
			got, usual := shareOf(h.id, p.id, p.value), x.cells[is{p.id, p.value}].usual
			switch {
			case p.strength == excluded && got != 0, p.strength == unlikely && got > usual, p.strength >= expected && got < usual:
				t.Errorf("%s: %s=%s is called %s and comes to %.3f of usual %.3f", h.id, p.id, p.value, factors[p.strength].word, got, usual)
			}
		}
		for _, o := range vocabulary {
			sum := 0.0
			for _, v := range o.values {
				sum += shareOf(h.id, o.id, v.value)
			}
			if math.Abs(sum-1) > 1e-9 {
				t.Errorf("%s: what it says of %s adds up to %v", h.id, o.id, sum)
			}
		}
	}
	for _, o := range vocabulary {
		if !touched[o.id] {
			t.Errorf("no mechanism says anything of %s", o.id)
		}
	}
	for _, p := range proofs {
		for _, w := range p.when {
			known("a proof", w)
		}
		for _, id := range p.leaves {
			if x.byID[id] == nil {
				t.Errorf("a proof leaves %s, which there is not", id)
				continue
			}
			for _, w := range p.when {
				if x.observed[w.id] != nil && shareOf(id, w.id, w.value) == 0 {
					t.Errorf("%s=%s leaves %s, and is excluded by it", w.id, w.value, id)
				}
			}
		}
	}
	// Who expects what proves something must be left by it.
	for _, p := range proofs {
		for i, h := range x.all {
			if c, ok := x.cells[p.when[0]]; ok && len(p.when) == 1 && c.shares[i].strength >= expected && !slices.Contains(p.leaves, h.id) {
				t.Errorf("%s expects %v, which proves that it is not it", h.id, p.when[0])
			}
		}
	}
	for _, c := range clashes {
		known("a clash", c.a)
		if c.b.id != "" {
			known("a clash", c.b)
		}
	}
	measured := map[string]bool{}
	for _, tr := range trials {
		if x.observed[tr.measures] == nil || measured[tr.measures] || len(tr.needs) == 0 || tr.how == "" {
			t.Errorf("test %s measures %s, or lacks something", tr.id, tr.measures)
		}
		measured[tr.measures] = true
	}
}

// Each verdict of the agent has its row, its proof and its mechanism.
func TestEachVerdictIsInTheTables(t *testing.T) {
	for _, v := range observedAs("verdict").values {
		if title, _, _ := selfcheck.Describe(selfcheck.Code(v.value)); title == "" {
			t.Errorf("there is no verdict %s", v.value)
		}
		proves := slices.ContainsFunc(proofs, func(p proof) bool { return len(p.when) == 1 && p.when[0] == is{"verdict", v.value} })
		well := strings.HasPrefix(v.value, "ok") || v.value == string(selfcheck.CodeLinkConnecting)
		if proves == well {
			t.Errorf("%s: proves something: %v", v.value, proves)
		}
	}
}

func TestGradesLimitWhatTheyWeigh(t *testing.T) {
	for _, g := range grades {
		most := bits(g.grade, 1, 0.5)
		least := bits(g.grade, 0, 0.5)
		if most <= 0 || least >= 0 || math.IsInf(least, 0) {
			t.Errorf("%s: %v to %v bits", g.grade, most, least)
		}
		if span, want := math.Exp2(most-least), 2*g.belief/(1-g.belief)+1; math.Abs(span/want-1) > 1e-9 {
			t.Errorf("%s: at most %v times, said to be %v", g.grade, span, want)
		}
	}
}

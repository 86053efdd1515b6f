package diagnosis

import (
	"slices"
	"sync"
)

// index is the tables by name, with each hypothesis's predictions worked out.
type index struct {
	observed map[string]*observed
	place    map[string]int // of an observation: those of one question stand together
	all      []*hypothesis  // in the tables' order, the unknown mechanism last
	byID     map[string]*hypothesis
	// cells tells of each value how likely each hypothesis makes it, in the order of all.
	cells map[is]cell
}

// cell is one value of the vocabulary.
type cell struct {
	row    *observed
	usual  float64 // its share where nothing bears on it
	shares []share
}

// share is how likely a hypothesis makes a value.
type share struct {
	p        float64
	strength strength
	why      string
}

var tables = sync.OnceValue(func() *index {
	x := &index{observed: map[string]*observed{}, place: map[string]int{}, byID: map[string]*hypothesis{}, cells: map[is]cell{}}
	first := map[string]int{} // of a question
	for i := range vocabulary {
		o := &vocabulary[i]
		if _, known := first[o.question]; !known {
			first[o.question] = i
		}
		x.observed[o.id], x.place[o.id] = o, first[o.question]*len(vocabulary)+i
	}
	for _, list := range [][]hypothesis{pathHypotheses, serverHypotheses, agentHypotheses, {{
		id: UnknownID, title: unknownTitle, mechanism: "A mechanism that nobody has written down here; it is taken to make everything as likely as usual.",
		prior: unknownPrior, priorWhy: unknownWhy, loses: "not known", remedy: "Gather facts: the next test, then a support bundle; tell the developers what it was, so that the table grows.",
	}}} {
		for i := range list {
			h := &list[i]
			x.all = append(x.all, h)
			x.byID[h.id] = h
		}
	}
	for i := range vocabulary {
		o := &vocabulary[i]
		for _, v := range o.values {
			x.cells[is{o.id, v.value}] = cell{row: o, usual: o.usual(v.value), shares: make([]share, len(x.all))}
		}
	}
	for i, h := range x.all {
		said := x.worked(h)
		for w, c := range x.cells {
			if s, ok := said[w.id][w.value]; ok {
				c.shares[i] = s
			} else {
				c.shares[i] = share{p: c.usual}
			}
		}
	}
	return x
})

// predictions of h: its own, and those of its traits for what it says nothing of itself;
// of two traits the later one stands.
func (h *hypothesis) predictions() []prediction {
	out := slices.Clone(h.says)
	for _, t := range slices.Backward(h.traits) {
		said := map[string]bool{}
		for _, p := range out {
			said[p.id] = true
		}
		for _, p := range t.says {
			if !said[p.id] {
				out = append(out, p)
			}
		}
	}
	return out
}

// worked gives the shares of all values that h says anything of.
func (x *index) worked(h *hypothesis) map[string]map[string]share {
	out := map[string]map[string]share{}
	said := map[string][]prediction{}
	for _, p := range h.predictions() {
		said[p.id] = append(said[p.id], p)
	}
	for id, list := range said {
		o := x.observed[id]
		if o == nil {
			continue // a test of the tables finds it
		}
		values, sum := map[string]share{}, 0.0
		for _, v := range o.values {
			s := share{strength: noBearing}
			for _, p := range list {
				if p.value == v.value {
					s.strength, s.why = p.strength, p.why
				}
			}
			s.p = s.strength.weighs(o.usual(v.value))
			sum += s.p
			values[v.value] = s
		}
		if sum == 0 {
			continue // all values excluded: a test of the tables finds it, too
		}
		for v, s := range values {
			s.p /= sum
			if s.why == "" { // what it says of the other values decides
				for _, p := range list {
					if p.strength >= expected {
						s.why = "expects " + p.value + ": " + p.why
						break
					}
					if p.strength == excluded {
						s.why = "it can't be " + p.value + ": " + p.why
					}
				}
			}
			values[v] = s
		}
		out[id] = values
	}
	return out
}

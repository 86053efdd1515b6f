package diagnosis

import (
	"math"
	"slices"
)

// ranking is what a list of facts makes of the hypotheses, by their place in the tables.
type ranking struct {
	facts  []Observation // sorted
	proofs []proven
	// multiple: no mechanism is left by all proofs together, so that there is more than one.
	multiple bool
	score    []float64 // log2 of prior × evidence
	post     []float64 // adds up to one
	out      []*exclusion
	weights  [][]weight // per hypothesis and fact
}

type proven struct {
	*proof
	by []int // facts
}

type exclusion struct {
	why string
	by  int // the fact; -1: how it works, -2: a proof
}

// weight is what one fact does to one hypothesis.
type weight struct {
	bits   float64 // log2 of how many times likelier than the unknown mechanism makes it
	counts bool    // the strongest of its question, for or against
	from   bool    // it only follows from another fact, which counts itself
	share  share
}

// bits: with the grade's belief the value is as it really was, and likely as h has it;
// else it says nothing and is the usual one. Against the unknown mechanism, for which
// both are the usual.
func bits(g Grade, p, usual float64) float64 {
	b := g.belief()
	return math.Log2((b*p + (1-b)*usual) / usual)
}

// rank works out the posterior: prior times, for each question, the strongest evidence for
// and the strongest against, of what neither a proof nor a measured fact excludes.
func rank(in []Observation) *ranking {
	x := tables()
	n := len(x.all)
	r := &ranking{facts: sorted(in), score: make([]float64, n), post: make([]float64, n), out: make([]*exclusion, n), weights: make([][]weight, n)}
	leaves := r.prove()
	cells, follows := make([]cell, len(r.facts)), make([]bool, len(r.facts))
	for k, f := range r.facts {
		cells[k], follows[k] = x.cells[is{f.Name, f.Value}], r.follows(f)
	}
	for i, h := range x.all {
		r.weights[i] = make([]weight, len(r.facts))
		r.score[i] = math.Log2(h.prior)
		if h.never != "" {
			r.out[i] = &exclusion{h.never, -1}
		}
		for start := 0; start < len(r.facts); {
			end := start
			question := cells[start].row.question
			best, worst := -1, -1 // of the question
			for end < len(r.facts) && cells[end].row.question == question {
				f, s := r.facts[end], cells[end].shares[i]
				if s.p == 0 && f.Grade.Fact() && r.out[i] == nil {
					r.out[i] = &exclusion{s.why, end}
				}
				w := weight{bits: bits(f.Grade, s.p, cells[end].usual), share: s, from: follows[end]}
				r.weights[i][end] = w
				if w.from {
					end++
					continue
				}
				if w.bits > 0 && (best < 0 || w.bits > r.weights[i][best].bits) {
					best = end
				}
				if w.bits < 0 && (worst < 0 || w.bits < r.weights[i][worst].bits) {
					worst = end
				}
				end++
			}
			if best >= 0 && worst >= 0 && r.facts[best].Name == r.facts[worst].Name && cells[worst].row.many {
				worst = -1
			}
			for _, k := range []int{best, worst} {
				if k >= 0 {
					r.weights[i][k].counts = true
					r.score[i] += r.weights[i][k].bits
				}
			}
			start = end
		}
		if r.out[i] == nil && leaves != nil && !slices.Contains(leaves, h.id) && (h.id != UnknownID || len(leaves) == 1) {
			r.out[i] = &exclusion{"", -2}
		}
	}
	if len(r.proofs) > 0 { // of what nobody knows, little fits what is proven
		r.score[len(r.score)-1] += math.Log2(uncommon / unknownPrior)
	}
	r.uphold(leaves)
	r.normalize()
	return r
}

// uphold lets what is proven stand where single facts exclude all that the proof leaves:
// the facts contradict each other, and one that several must agree on is the surer one.
func (r *ranking) uphold(leaves []string) {
	x := tables()
	left := func(id string) bool { return slices.Contains(leaves, id) && x.byID[id].never == "" }
	if leaves == nil || r.multiple {
		return
	}
	for i, h := range x.all {
		if left(h.id) && r.out[i] == nil {
			return
		}
	}
	for i, h := range x.all {
		if left(h.id) {
			r.out[i] = nil
		} else if r.out[i] == nil {
			r.out[i] = &exclusion{"", -2}
		}
	}
}

// normalize makes posteriors of the scores of those that are left. If none is, only the
// unknown mechanism can be.
func (r *ranking) normalize() {
	if !slices.Contains(r.out, nil) {
		r.out[len(r.out)-1] = nil
	}
	top := math.Inf(-1)
	for i, s := range r.score {
		if r.out[i] == nil {
			top = max(top, s)
		}
	}
	sum := 0.0
	for i, s := range r.score {
		if r.out[i] == nil {
			r.post[i] = math.Exp2(s - top)
			sum += r.post[i]
		}
	}
	for i := range r.post {
		r.post[i] /= sum
	}
}

// follows reports whether f was concluded from another fact that is there.
func (r *ranking) follows(f Observation) bool {
	return f.From != "" && slices.ContainsFunc(r.facts, func(g Observation) bool { return g.Name == f.From && sameAgent(f, g) })
}

// sameAgent reports whether two facts may be of one agent.
func sameAgent(a, b Observation) bool { return a.Agent == "" || b.Agent == "" || a.Agent == b.Agent }

// find gives a fact that says w, of the same agent as beside.
func (r *ranking) find(w is, measured bool, beside ...int) int {
	for i, f := range r.facts {
		if f.Name != w.id || f.Value != w.value || measured && !f.Grade.Fact() {
			continue
		}
		if !slices.ContainsFunc(beside, func(k int) bool { return !sameAgent(f, r.facts[k]) }) {
			return i
		}
	}
	return -1
}

// prove finds what the measured facts prove, and gives the mechanisms that this leaves;
// nil: nothing is proven, and all are left.
func (r *ranking) prove() []string {
	var left []string
	for i := range proofs {
		p := &proofs[i]
		var by []int
		for _, w := range p.when {
			k := r.find(w, true, by...)
			if k < 0 {
				by = nil
				break
			}
			by = append(by, k)
		}
		if by == nil {
			continue
		}
		r.proofs = append(r.proofs, proven{p, by})
	}
	for i, p := range r.proofs {
		if i == 0 {
			left = slices.Clone(p.leaves)
			continue
		}
		left = slices.DeleteFunc(left, func(id string) bool { return !slices.Contains(p.leaves, id) })
	}
	if len(r.proofs) > 0 && len(left) == 0 { // more than one thing is wrong
		r.multiple = true
		for _, p := range r.proofs {
			for _, id := range p.leaves {
				if !slices.Contains(left, id) && id != WellID { // which goes with nothing else
					left = append(left, id)
				}
			}
		}
	}
	return left
}

// order gives the hypotheses that are left, the likeliest first.
func (r *ranking) order() []int {
	var out []int
	for i := range r.post {
		if r.out[i] == nil {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int {
		switch d := r.post[b] - r.post[a]; {
		case d > 1e-12:
			return 1
		case d < -1e-12:
			return -1
		}
		return a - b
	})
	return out
}

func (r *ranking) leader() int { return r.order()[0] }

// entropy of the posterior in bits: how much is still open.
func (r *ranking) entropy() float64 {
	h := 0.0
	for _, p := range r.post {
		if p > 0 {
			h -= p * math.Log2(p)
		}
	}
	return h
}

// predicts is how likely a test is to give value, by all that are left, each in its share.
func (r *ranking) predicts(id, value string, g Grade) float64 {
	c, p := tables().cells[is{id, value}], 0.0
	for i, s := range c.shares {
		p += r.post[i] * (g.belief()*s.p + (1-g.belief())*c.usual)
	}
	return p
}

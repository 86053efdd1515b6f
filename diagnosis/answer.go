package diagnosis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// AnswerVersion is the version of an answer's form.
const AnswerVersion = 1

// Answer is a diagnosis. Probabilities are of what is left after proofs and exclusions.
type Answer struct {
	Version    int    `json:"answer"`
	Subject    string `json:"subject"`
	Facts      int    `json:"facts"`      // measured
	Inferences int    `json:"inferences"` // inferred or reported
	// Proven needs no ranking. Several: more than one thing is wrong at once.
	Proven     []Proof    `json:"proven"`
	Several    bool       `json:"several,omitempty"`
	Confidence Confidence `json:"confidence"`
	Ranking    []Ranked   `json:"ranking"` // the likeliest first; the unknown mechanism is among them
	Excluded   []Excluded `json:"excluded"`
	// Assumed are the facts that are only inferred or reported, and what hangs on each.
	Assumed        []Assumed       `json:"assumed"`
	Contradictions []Contradiction `json:"contradictions"`
	// Unexplained are observations that no mechanism that is left expects.
	Unexplained []Fact   `json:"unexplained"`
	Alone       []Alone  `json:"alone,omitempty"` // each agent's own leader, where there are several
	Unknown     []string `json:"unknown"`         // named in the case as not known
	OpenBits    float64  `json:"open_bits"`       // entropy of the ranking
	Next        []Test   `json:"next"`            // the one to make first, then others
}

// Fact is an observation as an answer refers to it.
type Fact struct {
	Observation
	Asks  string `json:"asks"`
	Means string `json:"means"`
}

// Proof is a conclusion that measured facts prove.
type Proof struct {
	Says   string   `json:"says"`
	By     []Fact   `json:"by"`
	Leaves []string `json:"leaves"` // ids
	// Is the mechanism, where only one is left, and Remedy what to do about it.
	Is     string `json:"is,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Confidence is how far the answer may be trusted, in a word.
type Confidence struct {
	Word string `json:"word"`
	// Why gives the figure behind the word, and all that lowered it.
	Why []string `json:"why"`
}

// The words of confidence, from least to most.
const (
	WordOpen    = "open"
	WordLeading = "leading, not settled"
	WordLikely  = "likely"
	WordVery    = "very likely"
	WordProven  = "proven"
)

var words = []string{WordOpen, WordLeading, WordLikely, WordVery, WordProven}

// The least probability of the leader for each word, and what evidence it takes.
const (
	leadingFrom  = 0.5
	likelyFrom   = 0.8
	veryFrom     = 0.95
	fewQuestions = 3   // evidence for the leader from fewer questions is little
	tellingBits  = 0.5 // what counts as evidence at all: 1.4 times
)

// Ranked is one mechanism in the ranking.
type Ranked struct {
	ID          string  `json:"id"`
	Title       string  `json:"title"`
	Mechanism   string  `json:"mechanism"`
	Loses       string  `json:"loses"`
	Probability float64 `json:"probability"`
	Prior       float64 `json:"prior"` // weight, against the others'
	PriorWhy    string  `json:"prior_why"`
	Times       float64 `json:"times"` // all evidence together
	// Weight is prior × times; the probability is its part of what all that are left have.
	Weight  float64    `json:"weight"`
	For     []Evidence `json:"for"`
	Against []Evidence `json:"against"`
	Remedy  string     `json:"remedy"`
}

// Evidence is what one fact does to one mechanism. Times is how many times likelier than
// usual the mechanism makes it, as far as its grade is believed; under one it is against.
type Evidence struct {
	Fact  Fact    `json:"fact"`
	Times float64 `json:"times"`
	// Repeats: a stronger one answers the same question; this one does not count.
	Repeats bool `json:"repeats,omitempty"`
	// Follows: it was concluded from another fact, which counts itself; this one does not.
	Follows bool   `json:"follows,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Excluded is a mechanism that can't be it.
type Excluded struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Why   string `json:"why"`
	By    *Fact  `json:"by,omitempty"`
}

// Assumed is a fact that was not measured, left out and turned round.
type Assumed struct {
	Fact Fact `json:"fact"`
	// Without it, and Measured if it were measured at one end.
	Without  Leader    `json:"without"`
	Measured Leader    `json:"measured"`
	False    []Outcome `json:"if_false"`
	Changes  bool      `json:"changes"` // in one of these another mechanism leads
}

// Leader is what would lead.
type Leader struct {
	ID          string  `json:"id"`
	Title       string  `json:"title"`
	Probability float64 `json:"probability"`
}

// Outcome is one value that an observation might have, and what would follow.
type Outcome struct {
	Value       string   `json:"value"`
	Means       string   `json:"means"`
	Probability float64  `json:"probability"` // of this outcome
	Leader      Leader   `json:"leader"`
	RulesOut    []string `json:"rules_out,omitempty"` // of what is left now, by id
	Proves      string   `json:"proves,omitempty"`
}

// Contradiction is a pair of facts that can't both be so; of one, it contradicts what is
// described around it.
type Contradiction struct {
	Facts []Fact `json:"facts"`
	Why   string `json:"why"`
}

// Alone is what one agent's observations say without the others'.
type Alone struct {
	Agent  string `json:"agent"`
	Leader Leader `json:"leader"`
}

// Test is one that would tell more.
type Test struct {
	ID       string    `json:"id"`
	Measures string    `json:"measures"`
	Asks     string    `json:"asks"`
	How      string    `json:"how"`
	Run      []string  `json:"run,omitempty"`
	Cost     string    `json:"cost"`
	Needs    []Access  `json:"needs"` // any of them
	Bits     float64   `json:"bits"`  // by how much it makes the ranking more certain, on average
	Outcomes []Outcome `json:"outcomes"`
	// Replaces: so far it is only inferred or reported.
	Replaces bool `json:"replaces,omitempty"`
}

// How many of each an answer has at most.
const (
	ranksShown = 0.005 // of less probability than this it is not told apart
	testsShown = 5
	// nearlyAsGood: a cheaper test that tells so much of what the best one tells goes first.
	nearlyAsGood = 0.8
	// worthwhile in bits: less is no test.
	worthwhile = 0.02
)

// Diagnose answers a case. It is deterministic, and the order of observations has no bearing.
func Diagnose(c Case) Answer {
	x, r := tables(), rank(c.Observations)
	a := Answer{Version: AnswerVersion, Subject: c.Subject, Several: r.multiple, OpenBits: r.entropy(),
		Proven: []Proof{}, Ranking: []Ranked{}, Excluded: []Excluded{}, Assumed: []Assumed{}, Contradictions: []Contradiction{}, Unexplained: []Fact{}, Unknown: []string{}, Next: []Test{}}
	for _, f := range r.facts {
		if f.Grade.Fact() {
			a.Facts++
		} else {
			a.Inferences++
		}
	}
	for _, o := range c.Observations {
		if o.Value == Unknown && !slices.Contains(a.Unknown, o.Name) {
			a.Unknown = append(a.Unknown, o.Name)
		}
	}
	slices.SortFunc(a.Unknown, func(p, q string) int { return cmp.Compare(x.place[p], x.place[q]) })
	for _, p := range r.proofs {
		said := Proof{Says: p.says, Leaves: p.leaves}
		if len(p.leaves) == 1 {
			h := x.byID[p.leaves[0]]
			said.Is, said.Remedy = h.title, h.remedy
		}
		for _, k := range p.by {
			said.By = append(said.By, fact(r.facts[k]))
		}
		a.Proven = append(a.Proven, said)
	}
	for _, i := range r.order() {
		a.Ranking = append(a.Ranking, r.ranked(i))
	}
	for i, h := range x.all {
		if e := r.out[i]; e != nil {
			a.Excluded = append(a.Excluded, r.excluded(h, e))
		}
	}
	a.Contradictions = contradictions(r)
	a.Unexplained = r.unexplained()
	a.Assumed = assumed(r)
	a.Alone = alone(c)
	if !r.settled() {
		a.Next = next(r, c, a.Assumed)
	}
	a.Confidence = r.confidence(a)
	return a
}

const provenOtherwise = "proven otherwise: "

func fact(o Observation) Fact {
	row := observedAs(o.Name)
	return Fact{o, row.asks, row.option(o.Value).means}
}

// settled reports whether a proof has left one mechanism.
func (r *ranking) settled() bool {
	return len(r.proofs) > 0 && !r.multiple && len(r.order()) == 1 && r.leader() != len(r.post)-1
}

func (r *ranking) ranked(i int) Ranked {
	h := tables().all[i]
	out := Ranked{ID: h.id, Title: h.title, Mechanism: h.mechanism, Loses: h.loses, Probability: round(r.post[i]), Prior: h.prior, PriorWhy: h.priorWhy,
		Times: signif(math.Exp2(r.score[i]) / h.prior), Weight: signif(math.Exp2(r.score[i])), Remedy: h.remedy, For: []Evidence{}, Against: []Evidence{}}
	for k, w := range r.weights[i] {
		e := Evidence{Fact: fact(r.facts[k]), Times: signif(math.Exp2(w.bits)), Repeats: !w.counts && !w.from, Follows: w.from, Why: w.share.why}
		switch {
		case w.bits > 0.01:
			out.For = append(out.For, e)
		case w.bits < -0.01:
			out.Against = append(out.Against, e)
		}
	}
	strongest := func(p, q Evidence) int {
		if p, q := p.Repeats || p.Follows, q.Repeats || q.Follows; p != q {
			return map[bool]int{false: -1, true: 1}[p]
		}
		return cmp.Compare(math.Abs(math.Log2(q.Times)), math.Abs(math.Log2(p.Times)))
	}
	slices.SortStableFunc(out.For, strongest)
	slices.SortStableFunc(out.Against, strongest)
	return out
}

func (r *ranking) excluded(h *hypothesis, e *exclusion) Excluded {
	out := Excluded{ID: h.id, Title: h.title, Why: e.why}
	switch {
	case e.by >= 0:
		out.By = new(fact(r.facts[e.by]))
	case e.by == -2:
		for _, p := range r.proofs {
			if !slices.Contains(p.leaves, h.id) {
				out.Why, out.By = provenOtherwise+p.says, new(fact(r.facts[p.by[0]]))
				break
			}
		}
	}
	return out
}

// contradictions names pairs of facts of one agent that can't both be so: by the table, or
// two values of one observation.
func contradictions(r *ranking) []Contradiction {
	out := []Contradiction{}
	for i, f := range r.facts {
		for _, g := range r.facts[i+1:] {
			if f.Name == g.Name && f.Value != g.Value && sameAgent(f, g) && !observedAs(f.Name).many {
				out = append(out, Contradiction{[]Fact{fact(f), fact(g)}, "two sources say different things of the same"})
			}
		}
	}
	for _, c := range clashes {
		for k, f := range r.facts {
			if f.Name != c.a.id || f.Value != c.a.value {
				continue
			}
			if c.b.id == "" {
				out = append(out, Contradiction{[]Fact{fact(f)}, c.why})
			} else if b := r.find(c.b, false, k); b >= 0 {
				out = append(out, Contradiction{[]Fact{fact(f), fact(r.facts[b])}, c.why})
				break // once is enough
			}
		}
	}
	return out
}

// unexplained are the facts that each named mechanism that is left makes less than half as
// likely as usual.
func (r *ranking) unexplained() []Fact {
	x, out := tables(), []Fact{}
	for k, f := range r.facts {
		if slices.ContainsFunc(r.proofs, func(p proven) bool { return slices.Contains(p.by, k) }) {
			continue // it is what is proven
		}
		usual, some, all := x.cells[is{f.Name, f.Value}].usual, false, true
		for i, h := range x.all {
			if h.id == UnknownID || r.out[i] != nil || r.post[i] < ranksShown {
				continue
			}
			some = true
			all = all && r.weights[i][k].share.p < usual/2
		}
		if some && all {
			out = append(out, fact(f))
		}
	}
	return out
}

// assumed leaves out each fact that was not measured, and turns it round.
func assumed(r *ranking) []Assumed {
	out := []Assumed{}
	now := r.leader()
	for k, f := range r.facts {
		if f.Grade.Fact() {
			continue
		}
		// turned gives the ranking with it as if value had been seen, and not concluded.
		turned := func(value string, g Grade) *ranking {
			facts := slices.Clone(r.facts)
			facts[k].Value, facts[k].Grade, facts[k].From = value, g, ""
			return rank(facts)
		}
		without, measured := rank(slices.Delete(slices.Clone(r.facts), k, k+1)), turned(f.Value, OneEnd)
		a := Assumed{Fact: fact(f), Without: without.lead(), Measured: measured.lead(), Changes: without.leader() != now || measured.leader() != now, False: []Outcome{}}
		for _, v := range observedAs(f.Name).values {
			if v.value == f.Value {
				continue
			}
			t := turned(v.value, f.Grade)
			a.False = append(a.False, Outcome{Value: v.value, Means: v.means, Probability: round(without.predicts(f.Name, v.value, f.Grade)), Leader: t.lead()})
			a.Changes = a.Changes || t.leader() != now
		}
		out = append(out, a)
	}
	return out
}

func (r *ranking) lead() Leader {
	h := tables().all[r.leader()]
	return Leader{h.id, h.title, round(r.post[r.leader()])}
}

// alone gives each agent's own leader, if there are several agents with facts.
func alone(c Case) []Alone {
	var out []Alone
	for _, g := range c.Agents {
		own := c.Of(g.Name)
		if slices.ContainsFunc(own.Observations, func(o Observation) bool { return o.Agent != "" && o.Value != Unknown }) {
			out = append(out, Alone{g.Name, rank(own.Observations).lead()})
		}
	}
	if len(out) < 2 {
		return nil
	}
	return out
}

// next ranks the tests that can be made by how much they make the ranking more certain on
// average: its entropy now, less that after each outcome in the outcome's share. Of those
// that tell nearly as much as the best one, the cheapest goes first; and before all, an
// inert one that measures an inference on which the leader hangs: it can be made at once.
func next(r *ranking, c Case, guesses []Assumed) []Test {
	hangs := func(t trial) bool {
		return t.cost == inert && slices.ContainsFunc(guesses, func(a Assumed) bool {
			return a.Fact.Name == t.measures && a.Fact.Grade == Inferred && slices.ContainsFunc(a.False, func(o Outcome) bool { return o.Leader.ID != r.lead().ID })
		})
	}
	type candidate struct {
		Test
		cost  int
		first bool
	}
	var all []candidate
	for _, t := range trials {
		if slices.Contains(c.Cannot, t.measures) || len(c.Access) > 0 && !slices.ContainsFunc(t.needs, func(a Access) bool { return slices.Contains(c.Access, a) }) {
			continue
		}
		var base []Observation
		measured, guessed := false, false
		for _, f := range r.facts {
			switch {
			case f.Name != t.measures:
				base = append(base, f)
			case f.Grade.Fact():
				measured = true
			default:
				guessed = true
			}
		}
		if measured {
			continue
		}
		test := t.test().of(c.Agents)
		test.Replaces = guessed
		after, before := 0.0, r
		if hangs(t) { // what it tells beyond what was measured: the guess is what is in question
			before = rank(base)
		}
		for _, v := range observedAs(t.measures).values {
			p := before.predicts(t.measures, v.value, OneEnd)
			then := rank(append(slices.Clone(base), Observation{Name: t.measures, Value: v.value, Grade: OneEnd}))
			after += p * then.entropy()
			o := Outcome{Value: v.value, Means: v.means, Probability: round(p), Leader: then.lead()}
			for i, h := range tables().all {
				if then.out[i] != nil && r.out[i] == nil {
					o.RulesOut = append(o.RulesOut, h.id)
				}
			}
			if len(then.proofs) > len(r.proofs) {
				for _, q := range then.proofs {
					if !slices.ContainsFunc(r.proofs, func(p proven) bool { return p.proof == q.proof }) {
						o.Proves = q.says
						break
					}
				}
			}
			test.Outcomes = append(test.Outcomes, o)
		}
		test.Bits = round(before.entropy() - after)
		if test.Bits >= worthwhile {
			all = append(all, candidate{test, t.cost, hangs(t)})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.Bits, a.Bits) })
	out := []Test{}
	for len(all) > 0 && len(out) < testsShown {
		pick := 0
		for i, c := range all {
			if c.first && !all[pick].first {
				pick = i
			}
			if c.first == all[pick].first && c.Bits >= nearlyAsGood*all[0].Bits && c.cost < all[pick].cost {
				pick = i
			}
		}
		out = append(out, all[pick].Test)
		all = slices.Delete(all, pick, pick+1)
	}
	return out
}

// confidence is a word by the leader's probability, and one step less for each reason to
// doubt it.
func (r *ranking) confidence(a Answer) Confidence {
	x, lead := tables(), r.leader()
	p := r.post[lead]
	if len(r.facts) == 0 {
		return Confidence{WordOpen, []string{"nothing is known: the ranking is that of the priors"}}
	}
	if r.settled() && len(a.Contradictions) == 0 {
		return Confidence{WordProven, []string{"by what both ends measured; one mechanism of the table is left"}}
	}
	level := 0
	for i, from := range []float64{leadingFrom, likelyFrom, veryFrom} {
		if p >= from {
			level = i + 1
		}
	}
	c := Confidence{Why: []string{fmt.Sprintf("the leader has %s of what is left: %s", percent(p), words[level])}}
	less := func(why string) {
		level--
		c.Why = append(c.Why, why)
	}
	questions := map[string]bool{}
	for k, w := range r.weights[lead] {
		if w.counts && w.bits >= tellingBits {
			questions[x.observed[r.facts[k].Name].question] = true
		}
	}
	if n := len(questions); n < fewQuestions && len(r.proofs) == 0 {
		less(fmt.Sprintf("little speaks for it: %d of %d questions that it takes", n, fewQuestions))
	}
	var hang []string
	for _, s := range a.Assumed {
		if s.Changes && !slices.Contains(hang, s.Fact.Name) {
			hang = append(hang, s.Fact.Name)
		}
	}
	if len(hang) > 0 {
		less("it hangs on what was not measured: " + strings.Join(hang, ", "))
	}
	if n := len(a.Contradictions); n > 0 {
		less(fmt.Sprintf("%s among %d facts", count(n, "contradiction"), len(r.facts)))
	}
	if len(a.Unexplained) > 0 {
		less("it does not explain all: " + a.Unexplained[0].Name)
	}
	if slices.ContainsFunc(a.Alone, func(o Alone) bool { return o.Leader.ID != x.all[lead].id }) {
		less("the agents do not look alike: it may be more than one thing")
	}
	if x.all[lead].id == UnknownID {
		level = 0
		c.Why = append(c.Why, "none of the known mechanisms explains it")
	}
	c.Word = words[max(0, level)]
	return c
}

func round(p float64) float64 { return math.Round(p*1e4) / 1e4 }

// signif keeps three digits.
func signif(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	m := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*m) / m
}

// percent is a probability as people read it, never 0 % or 100 % of what is not so.
func percent(p float64) string {
	switch {
	case p >= 1:
		return "100%"
	case p > 0.995:
		return "over 99%"
	case p < 0.01:
		return "under 1%"
	}
	return fmt.Sprintf("%.0f%%", p*100)
}

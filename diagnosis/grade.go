package diagnosis

// Grade says how an observation was come by, and so how far it is believed.
type Grade string

// The grades.
const (
	BothEnds Grade = "both_ends" // both ends measured it, and agree
	OneEnd   Grade = "one_end"   // one end measured it
	Reported Grade = "reported"  // a person says so
	Inferred Grade = "inferred"  // concluded from something else
)

// grades in order of belief. Belief is the share of cases in which the value is what was
// really so; in the others it says nothing. The most that one observation of two equal
// values can weigh follows: 2×belief/(1-belief)+1, or that many times against.
var grades = []struct {
	grade  Grade
	belief float64
	fact   bool // else an inference or a report, whose being false is played through
	means  string
	why    string
}{
	{BothEnds, 0.999, true, "measured at both ends",
		"two programs would have to err in the same way: taken for ten times rarer than an error of one"},
	{OneEnd, 0.99, true, "measured at one end",
		"a counter or log read wrongly, of another link or of another time: taken for one in a hundred"},
	{Reported, 0.9, false, "reported",
		"seen once, under pressure, of the wrong machine or after another change: taken for one in ten"},
	{Inferred, 0.8, false, "inferred",
		"the step from what was seen to what it means is what most often fails: taken for one in five"},
}

func (g Grade) index() int {
	for i := range grades {
		if grades[i].grade == g {
			return i
		}
	}
	return -1
}

// belief is 0 for a grade that is none.
func (g Grade) belief() float64 {
	if i := g.index(); i >= 0 {
		return grades[i].belief
	}
	return 0
}

// Fact reports whether it was measured, so that it can prove and exclude.
func (g Grade) Fact() bool {
	i := g.index()
	return i >= 0 && grades[i].fact
}

// Means is the grade in words.
func (g Grade) Means() string {
	if i := g.index(); i >= 0 {
		return grades[i].means
	}
	return string(g)
}

// Grades are all grades, the most believed first.
func Grades() []Grade {
	var out []Grade
	for _, g := range grades {
		out = append(out, g.grade)
	}
	return out
}

package diagnosis

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// CaseVersion is the version of a case file's form.
const CaseVersion = 1

// MaxCase bounds a case file in bytes, maxObservations the observations in it.
const (
	MaxCase         = 1 << 20
	maxObservations = 1000
)

// ErrCase says that something is no case that can be read here; the text names the line.
var ErrCase = errors.New("not a case that can be read")

// Observation is one thing that was seen, or is taken to be so.
type Observation struct {
	Name  string `yaml:"observation" json:"observation"` // of the vocabulary
	Value string `yaml:"value" json:"value"`
	Grade Grade  `yaml:"grade" json:"grade"`
	// Agent it is of; empty: of the case as a whole.
	Agent string `yaml:"agent,omitempty" json:"agent,omitempty"`
	// From names the observation that it was concluded from. If that is in the case, it counts
	// itself, and what follows from it adds nothing.
	From string `yaml:"from,omitempty" json:"from,omitempty"`
	// Tests that it comes from, by the case's own numbers.
	Tests  []int  `yaml:"tests,omitempty,flow" json:"tests,omitempty"`
	Source string `yaml:"source" json:"source"` // who or what says so
	Note   string `yaml:"note,omitempty" json:"note,omitempty"`
}

// Agent is one endpoint of a case.
type Agent struct {
	Name string `yaml:"name" json:"name"`
	Site string `yaml:"site,omitempty" json:"site,omitempty"`
	Note string `yaml:"note,omitempty" json:"note,omitempty"`
}

// Case is what is known, from measurements or written by hand.
type Case struct {
	Version     int    `yaml:"case" json:"case"`
	Subject     string `yaml:"subject" json:"subject"`
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Access is what tests may use; empty: everything.
	Access []Access `yaml:"access,omitempty,flow" json:"access,omitempty"`
	// Cannot are observations that nobody can make here, so that no test asks for them.
	Cannot       []string      `yaml:"cannot,omitempty,flow" json:"cannot,omitempty"`
	Agents       []Agent       `yaml:"agents,omitempty" json:"agents,omitempty"`
	Observations []Observation `yaml:"observations" json:"observations"`
}

// Write gives c as a case file.
func (c Case) Write() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// Of narrows c to what was observed of one agent and of the case as a whole.
func (c Case) Of(agent string) Case {
	c.Observations = slices.DeleteFunc(slices.Clone(c.Observations), func(o Observation) bool { return o.Agent != "" && o.Agent != agent })
	c.Agents = slices.DeleteFunc(slices.Clone(c.Agents), func(a Agent) bool { return a.Name != agent })
	return c
}

// ReadCase reads a case file (YAML, or JSON as a part of it). It is strict: what it does
// not know is an error ([ErrCase]) that names the line. Observations that contradict each
// other are none: the answer names them.
func ReadCase(raw []byte) (Case, error) {
	if len(raw) > MaxCase {
		return Case{}, fmt.Errorf("%w: more than %d bytes", ErrCase, MaxCase)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return Case{}, fmt.Errorf("%w: %s", ErrCase, notYAML(raw, err))
	}
	if dec.Decode(&more) == nil {
		return Case{}, at(&more, "a second document begins; a file holds one case")
	}
	r := &caseReader{}
	c := r.whole(doc.Content[0])
	return c, r.err
}

// countedFrom0 are errors of the library whose lines count from 0, and it leaves out that one;
// those of its others count from 1.
var countedFrom0 = regexp.MustCompile(`^(?:line (\d+): )?(did not find expected (?:',' or '[\]}]'|'-' indicator|key|node content|<document start>))$`)

// tabbed is a line that is indented by a tab.
var tabbed = regexp.MustCompile(`^ *\t`)

// notYAML says why raw can't be read as YAML, as err does, with the line that is meant.
func notYAML(raw []byte, err error) string {
	said := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "EOF", "it is empty"), "yaml: ")
	if m := countedFrom0.FindStringSubmatch(said); m != nil {
		n, _ := strconv.Atoi("0" + m[1])                                                                   // none: 0
		said = fmt.Sprintf("line %d: %s", min(n, bytes.Count(bytes.TrimSpace(raw), []byte("\n")))+1, m[2]) // the end is in the last
	}
	line := 0
	fmt.Sscanf(said, "line %d:", &line)
	if !strings.Contains(said, "found a tab character") && !strings.Contains(said, "cannot start any token") {
		return said
	}
	// Whichever of the two the library means.
	for i, text := range bytes.Split(raw, []byte("\n")) {
		if i+1 >= line && i <= line && tabbed.Match(text) {
			return fmt.Sprintf("line %d: a tab stands where spaces must be", i+1)
		}
	}
	return said
}

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrCase, n.Line, fmt.Sprintf(format, args...))
}

// caseReader keeps the first error.
type caseReader struct{ err error }

func (r *caseReader) fail(n *yaml.Node, format string, args ...any) {
	if r.err == nil {
		r.err = at(n, format, args...)
	}
}

// fields gives each field of a mapping to its reader, and refuses all others.
func (r *caseReader) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node), need ...string) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s must be fields with names", what)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read := known[key.Value]
		switch {
		case read == nil || key.Kind != yaml.ScalarNode:
			r.fail(key, "%s has no field %s%s", what, quoted(key.Value), suggest(key.Value, keys(known)))
		case seen[key.Value] > 0:
			r.fail(key, "%s is given twice, first in line %d", key.Value, seen[key.Value])
		default:
			read(value)
		}
		seen[key.Value] = key.Line
		if r.err != nil {
			return
		}
	}
	for _, name := range need {
		if seen[name] == 0 {
			r.fail(n, "%s lacks %s", what, name)
		}
	}
}

func (r *caseReader) text(to *string, most int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			r.fail(n, "a text is wanted")
		} else if len(n.Value) > most {
			r.fail(n, "the text has %d bytes, %d may be", len(n.Value), most)
		}
		*to = strings.TrimSpace(n.Value)
	}
}

func (r *caseReader) each(n *yaml.Node, what string, read func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "%s must be a list", what)
		return
	}
	if len(n.Content) > maxObservations {
		r.fail(n, "%s has more than %d entries", what, maxObservations)
	}
	for _, item := range n.Content {
		if r.err == nil {
			read(item)
		}
	}
}

const (
	shortText = 300 // a host name has up to 253
	longText  = 20_000
)

func (r *caseReader) whole(n *yaml.Node) Case {
	c := Case{Observations: []Observation{}}
	lines := []*yaml.Node{}
	r.fields(n, "a case", map[string]func(*yaml.Node){
		"case": func(n *yaml.Node) {
			v, err := strconv.Atoi(n.Value)
			if n.Kind != yaml.ScalarNode || err != nil || v != CaseVersion {
				r.fail(n, "case is the version of the form; %s is not known here, %d is", quoted(n.Value), CaseVersion)
			}
			c.Version = v
		},
		"subject": r.text(&c.Subject, shortText), "description": r.text(&c.Description, longText),
		"access": func(n *yaml.Node) {
			r.each(n, "access", func(n *yaml.Node) {
				if !slices.Contains(accesses, Access(n.Value)) {
					r.fail(n, "there is no access %s; known are %s", quoted(n.Value), list(accesses))
				}
				if slices.Contains(c.Access, Access(n.Value)) {
					r.fail(n, "access %s is given twice", n.Value)
				}
				c.Access = append(c.Access, Access(n.Value))
			})
		},
		"cannot": func(n *yaml.Node) {
			r.each(n, "cannot", func(n *yaml.Node) {
				r.named(n, n.Value)
				c.Cannot = append(c.Cannot, n.Value)
			})
		},
		"agents": func(n *yaml.Node) {
			r.each(n, "agents", func(n *yaml.Node) {
				var a Agent
				r.fields(n, "an agent", map[string]func(*yaml.Node){
					"name": r.text(&a.Name, shortText), "site": r.text(&a.Site, shortText), "note": r.text(&a.Note, longText),
				}, "name")
				if slices.ContainsFunc(c.Agents, func(b Agent) bool { return a.Name == b.Name }) {
					r.fail(n, "agent %s is given twice", quoted(a.Name))
				}
				c.Agents = append(c.Agents, a)
			})
		},
		"observations": func(n *yaml.Node) {
			r.each(n, "observations", func(n *yaml.Node) {
				c.Observations = append(c.Observations, r.observation(n))
				lines = append(lines, n)
			})
		},
	}, "case", "subject", "observations")
	if r.err == nil {
		r.together(c, lines)
	}
	return c
}

func (r *caseReader) observation(n *yaml.Node) Observation {
	var o Observation
	var grade string
	where := map[string]*yaml.Node{}
	mark := func(name string, read func(*yaml.Node)) func(*yaml.Node) {
		return func(n *yaml.Node) { where[name] = n; read(n) }
	}
	r.fields(n, "an observation", map[string]func(*yaml.Node){
		"observation": mark("observation", r.text(&o.Name, shortText)), "value": mark("value", r.text(&o.Value, shortText)), "grade": mark("grade", r.text(&grade, shortText)),
		"agent": r.text(&o.Agent, shortText), "from": mark("from", r.text(&o.From, shortText)), "source": r.text(&o.Source, shortText), "note": r.text(&o.Note, longText),
		"tests": func(n *yaml.Node) {
			r.each(n, "tests", func(n *yaml.Node) {
				v, err := strconv.Atoi(n.Value)
				if err != nil || v < 1 {
					r.fail(n, "tests are numbers from 1 on, not %s", quoted(n.Value))
				}
				o.Tests = append(o.Tests, v)
			})
		},
	}, "observation", "value", "grade", "source")
	if r.err != nil {
		return o
	}
	row := r.named(where["observation"], o.Name)
	if row == nil {
		return o
	}
	if o.From != "" && r.named(where["from"], o.From) != nil && Grade(grade) != Inferred {
		r.fail(where["from"], "what was concluded from %s has the grade %s", o.From, Inferred)
	}
	if o.Value != Unknown && row.option(o.Value) == nil {
		values := []string{}
		for _, v := range row.values {
			values = append(values, v.value)
		}
		r.fail(where["value"], "%s can't be %s%s; it is one of %s, %s", o.Name, quoted(o.Value), suggest(o.Value, values), strings.Join(values, ", "), Unknown)
	}
	if o.Grade = Grade(grade); o.Grade.index() < 0 {
		names := []string{}
		for _, g := range grades {
			names = append(names, string(g.grade))
		}
		r.fail(where["grade"], "no grade is called %s%s; known are %s", quoted(grade), suggest(grade, names), strings.Join(names, ", "))
	}
	if o.Source == "" {
		r.fail(n, "%s lacks its source: who or what says so", o.Name)
	}
	return o
}

// named finds an observation, and says so if there is none.
func (r *caseReader) named(n *yaml.Node, name string) *observed {
	row := observedAs(name)
	if row == nil {
		names := []string{}
		for _, v := range vocabulary {
			names = append(names, v.id)
		}
		r.fail(n, "no observation is called %s%s; all are listed by: gururmm diagnose --list", quoted(name), suggest(name, names))
	}
	return row
}

// together refuses what is said twice by the same source, and agents that nobody named.
func (r *caseReader) together(c Case, nodes []*yaml.Node) {
	type said struct{ name, agent, source string }
	first := map[said]int{}
	for i, o := range c.Observations {
		if o.Agent != "" && !slices.ContainsFunc(c.Agents, func(a Agent) bool { return a.Name == o.Agent }) {
			names := []string{}
			for _, a := range c.Agents {
				names = append(names, a.Name)
			}
			r.fail(nodes[i], "agent %s is not among the agents%s", quoted(o.Agent), suggest(o.Agent, names))
		}
		key := said{o.Name, o.Agent, o.Source}
		if before := first[key]; before > 0 {
			r.fail(nodes[i], "%s is given twice by the same source, first in line %d; another source may say otherwise", o.Name, before)
		}
		first[key] = nodes[i].Line
	}
}

func quoted(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return strconv.Quote(s)
}

func list[S ~string](words []S) string {
	var out []string
	for _, w := range words {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// suggest names what was perhaps meant: at most a third of the letters differ.
func suggest(typed string, known []string) string {
	if len(typed) > shortText {
		return ""
	}
	best, name := len(typed)/3+2, ""
	for _, k := range known {
		if d := distance(typed, k); d < best {
			best, name = d, k
		}
	}
	if name != "" {
		return "; do you mean " + name + "?"
	}
	// Or a part of it, such as down.ping for ping.down.
	for _, k := range known {
		parts, want := strings.Split(k, "."), strings.Split(typed, ".")
		slices.Sort(parts)
		slices.Sort(want)
		if slices.Equal(parts, want) {
			return "; do you mean " + k + "?"
		}
	}
	return ""
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			keep := last
			if a[i] != b[j] {
				keep++
			}
			last = row[j+1]
			row[j+1] = min(keep, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// sorted gives what is known in the vocabulary's order, so that the order of a file has no
// bearing on a figure.
func sorted(in []Observation) []Observation {
	var out []Observation
	for _, o := range in {
		if row := observedAs(o.Name); row != nil && row.option(o.Value) != nil && o.Grade.index() >= 0 {
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b Observation) int {
		return cmp.Or(cmp.Compare(tables().place[a.Name], tables().place[b.Name]), cmp.Compare(a.Value, b.Value),
			cmp.Compare(a.Grade.index(), b.Grade.index()), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.From, b.From), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Note, b.Note))
	})
	return out
}

package diagnosis

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gururmm/internal/wrap"
)

var update = flag.Bool("update", false, "write the golden files and the page")

// caseNamed reads a case of lab/cases.
func caseNamed(t testing.TB, name string) Case {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "lab", "cases", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadCase(raw)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}

func cases(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../lab/cases/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yaml"))
	}
	return names
}

// golden compares got with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want = bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n")); !bytes.Equal(got, want) {
		t.Errorf("%s has changed; look at the difference, and write it with -update. Now:\n%s", path, got)
	}
}

// The answers to all cases of the lab, word for word.
func TestAnswers(t *testing.T) {
	for _, name := range cases(t) {
		a := Diagnose(caseNamed(t, name))
		var b bytes.Buffer
		if err := a.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", b.Bytes())
	}
}

// What the answers must come to, whatever the figures.
func TestWhatTheCasesComeTo(t *testing.T) {
	for _, c := range []struct {
		name, leader, word string
		next               string // what the next test measures
	}{
		{"text-lost", "path.text.size", WordVery, ""},
		{"executor-slot", "agent.slot", WordOpen, "agent.slots"},
		{"reader-blocked", "agent.reader.handler", WordVery, ""},
		{"half-open", "path.halfopen", WordLikely, ""},
		{"well", "well", WordProven, ""},
		{"none-of-these", UnknownID, WordOpen, ""},
		{"contradictory", "server.unwritten", WordOpen, "capture.server"},
		{"empty", "path.halfopen", WordOpen, ""},
		{"commands-unacknowledged", "agent.dispatcher", WordOpen, "pong.up"},
	} {
		a := Diagnose(caseNamed(t, c.name))
		if got := a.Ranking[0].ID; got != c.leader || a.Confidence.Word != c.word {
			t.Errorf("%s: %s, %s, want %s, %s", c.name, got, a.Confidence.Word, c.leader, c.word)
		}
		if len(a.Next) == 0 && c.next != "" || len(a.Next) > 0 && c.next != "" && a.Next[0].Measures != c.next {
			t.Errorf("%s: %d tests, the first is not of %s", c.name, len(a.Next), c.next)
		}
		if c.word == WordProven && len(a.Next) > 0 {
			t.Errorf("%s is proven, and asks for more", c.name)
		}
	}
	if a := Diagnose(caseNamed(t, "two-faults")); !a.Several || len(a.Proven) != 2 || a.Confidence.Word == WordProven {
		t.Errorf("two faults at once: %+v", a.Proven)
	}
	if a := Diagnose(caseNamed(t, "contradictory")); len(a.Contradictions) != 3 {
		t.Errorf("%d contradictions: %+v", len(a.Contradictions), a.Contradictions)
	}
	if a := Diagnose(caseNamed(t, "empty")); len(a.Ranking)+len(a.Excluded) != len(tables().all) || a.Confidence.Word != WordOpen {
		t.Errorf("of nothing it makes %+v", a.Confidence)
	}
}

func TestOneStreamRulesOut(t *testing.T) {
	// Whatever was seen, a network below TCP can't take single texts out.
	for _, name := range cases(t) {
		a := Diagnose(caseNamed(t, name))
		if !slices.ContainsFunc(a.Excluded, func(e Excluded) bool {
			return e.ID == "path.tcp.selective" && strings.Contains(e.Why, "ordered stream")
		}) {
			t.Errorf("%s does not rule it out", name)
		}
	}
	// And a later frame of the same stream rules out that packets are lost for good.
	for _, id := range []string{"path.mtu", "path.halfopen"} {
		a := Diagnose(Case{Observations: []Observation{{Name: "stream.later", Value: "yes", Grade: BothEnds}}})
		if !slices.ContainsFunc(a.Excluded, func(e Excluded) bool { return e.ID == id && e.By != nil && e.By.Name == "stream.later" }) {
			t.Errorf("%s is not ruled out by a later frame", id)
		}
	}
}

// An inference from another fact of the case adds nothing; without that fact it weighs.
func TestWhatFollowsIsNotCountedTwice(t *testing.T) {
	silence := Observation{Name: "silence", Value: "none_in_loop", Grade: OneEnd, Source: "events"}
	pings := Observation{Name: "ping.down", Value: "yes", Grade: Inferred, From: "silence", Source: "no reconnect"}
	with, without := rank([]Observation{silence, pings}), rank([]Observation{silence})
	if !reflect.DeepEqual(with.post, without.post) {
		t.Error("the same thing weighed twice")
	}
	if alone, nothing := rank([]Observation{pings}), rank(nil); reflect.DeepEqual(alone.post, nothing.post) {
		t.Error("alone it weighs nothing")
	}
	a := Diagnose(Case{Observations: []Observation{silence, pings}})
	if len(a.Assumed) != 1 || a.Assumed[0].Fact.Name != "ping.down" {
		t.Errorf("%+v", a.Assumed)
	}
}

func TestATestThatCannotBeMadeIsNotAskedFor(t *testing.T) {
	c := caseNamed(t, "commands-unacknowledged")
	for range 30 {
		a := Diagnose(c)
		if len(a.Next) == 0 {
			break
		}
		for _, n := range a.Next {
			if slices.Contains(c.Cannot, n.Measures) || !slices.Contains(n.Needs, AtServer) {
				t.Errorf("%s can't be measured here", n.Measures)
			}
			if slices.ContainsFunc(c.Observations, func(o Observation) bool { return o.Name == n.Measures && o.Grade.Fact() && o.Value != Unknown }) {
				t.Errorf("%s is measured already", n.Measures)
			}
			total := 0.0
			for _, o := range n.Outcomes {
				total += o.Probability
			}
			if math.Abs(total-1) > 0.001 {
				t.Errorf("%s: outcomes add up to %v", n.Measures, total)
			}
		}
		c.Cannot = append(c.Cannot, a.Next[0].Measures)
	}
}

// A made-up case: some of the vocabulary, with any value and grade.
func madeUp(rng *rand.Rand, most int) Case {
	c := Case{Version: CaseVersion, Subject: "made up", Agents: []Agent{{Name: "agent-a"}, {Name: "agent-b"}}, Observations: []Observation{}}
	for i := range rng.IntN(most + 1) {
		o := vocabulary[rng.IntN(len(vocabulary))]
		c.Observations = append(c.Observations, Observation{
			Name: o.id, Value: o.values[rng.IntN(len(o.values))].value, Grade: grades[rng.IntN(len(grades))].grade,
			Agent: []string{"", "agent-a", "agent-b"}[rng.IntN(3)], Source: fmt.Sprint("source ", i),
		})
	}
	return c
}

func TestPropertiesOfTheRanking(t *testing.T) {
	x := tables()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		c := madeUp(rng, 12)
		before := rank(c.Observations)

		sum := 0.0
		for i, p := range before.post {
			sum += p
			if p < 0 || math.IsNaN(p) || p > 0 && before.out[i] != nil {
				t.Fatalf("seed %d: %s has %v", seed, x.all[i].id, p)
			}
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("seed %d: probabilities add up to %v", seed, sum)
		}

		shuffled := slices.Clone(c.Observations)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if after := rank(shuffled); !reflect.DeepEqual(before, after) {
			t.Fatalf("seed %d: the order of observations matters", seed)
		}

		o := vocabulary[rng.IntN(len(vocabulary))]
		v, g := o.values[rng.IntN(len(o.values))].value, grades[rng.IntN(len(grades))].grade
		after := rank(append(slices.Clone(c.Observations), Observation{Name: o.id, Value: v, Grade: g, Source: "one more"}))
		cell := x.cells[is{o.id, v}]
		raised := 0
		for i, h := range x.all {
			s := cell.shares[i]
			if s.p == 0 && g.Fact() && after.out[i] == nil {
				t.Fatalf("seed %d: %s=%s does not exclude %s", seed, o.id, v, h.id)
			}
			if h.id == UnknownID && len(after.proofs) > len(before.proofs) {
				continue // a proof leaves it little, whatever the rest
			}
			if s.p >= cell.usual && after.score[i] < before.score[i]-1e-9 || s.p <= cell.usual && after.score[i] > before.score[i]+1e-9 {
				t.Fatalf("seed %d: %s=%s, of which %s makes %.3f of usual %.3f, takes its score from %v to %v", seed, o.id, v, h.id, s.p, cell.usual, before.score[i], after.score[i])
			}
			if s.p > cell.usual {
				raised++
			}
		}
		// Expected by one alone: it never falls.
		for i, h := range x.all {
			if raised == 1 && cell.shares[i].p > cell.usual && after.out[i] == nil && after.post[i] < before.post[i]-1e-9 {
				t.Fatalf("seed %d: %s=%s is expected by %s alone, and takes it from %v to %v", seed, o.id, v, h.id, before.post[i], after.post[i])
			}
		}
	}
}

func TestUnknownChangesNothing(t *testing.T) {
	for _, name := range cases(t) {
		c := caseNamed(t, name)
		before := Diagnose(c)
		for _, o := range vocabulary {
			c.Observations = append(c.Observations, Observation{Name: o.id, Value: Unknown, Grade: OneEnd, Source: "nobody"})
		}
		after := Diagnose(c)
		after.Unknown = before.Unknown
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%s: what is unknown has changed the answer", name)
		}
	}
}

// A case that is written and read again, and an answer as JSON, say the same.
func TestRoundTrip(t *testing.T) {
	check := func(c Case) {
		t.Helper()
		raw, err := c.Write()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadCase(raw)
		if err != nil {
			t.Fatalf("%v in\n%s", err, raw)
		}
		if a, b := Diagnose(c), Diagnose(again); !reflect.DeepEqual(a, b) {
			t.Errorf("another answer after\n%s", raw)
		}
		asJSON, err := json.Marshal(c) // JSON is YAML
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ReadCase(asJSON); err != nil || !reflect.DeepEqual(Diagnose(c), Diagnose(again)) {
			t.Errorf("as JSON: %v", err)
		}
	}
	for _, name := range cases(t) {
		check(caseNamed(t, name))
	}
	for seed := range uint64(50) {
		check(madeUp(rand.New(rand.NewPCG(seed, 6)), 20))
	}
}

// Every part of an answer fits a terminal, and holds no control character of a case's.
func TestTextFitsATerminal(t *testing.T) {
	long := strings.Repeat("word ", 30)
	c := caseNamed(t, "commands-unacknowledged")
	c.Subject = "a\x1b[2Jb " + long
	for i := range c.Observations {
		c.Observations[i].Source += " \x1b[31m" + long
		c.Observations[i].Note += "\u202e" + long
	}
	for _, all := range []bool{false, true} {
		var b strings.Builder
		if err := Diagnose(c).WriteText(&b, all); err != nil {
			t.Fatal(err)
		}
		if wrap.Plain(b.String()) != b.String() {
			t.Error("a control character comes through")
		}
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > wrap.Width {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
	var page strings.Builder
	if err := Diagnose(c).WriteMarkdown(&page); err != nil || wrap.Plain(page.String()) != page.String() {
		t.Errorf("the page: %v", err)
	}
}

func TestABadCaseIsRefusedByLine(t *testing.T) {
	const head = "case: 1\nsubject: x\nagents: [{name: agent-a}]\nobservations:\n"
	for text, says := range map[string]string{
		"":     "it is empty",
		"\x00": "control characters",
		"case: 1\nsubject: x\nobservations:\n\t- observation: y": "line 4: a tab stands where spaces must be",
		head + "  - observation: y\n\t  value: z\n":              "line 6: a tab stands where spaces must be",
		"case: 1\n\tsubject: x":                                  "line 2: a tab stands where spaces must be",
		"case: 1\nsubject: [s\nobservations: []":                 "line 2: did not find expected ',' or ']'",
		"case: [1":                                               "line 1: did not find expected ',' or ']'",
		"case: 1\nsubject: @x":                                   "line 2: found character that cannot start any token",
		"- a":                                                    "line 1: a case must be fields with names",
		"case: 2":                                                `line 1: case is the version of the form; "2" is not known here, 1 is`,
		"case: one":                                              `"one" is not known`,
		"subject: x\nobservations: []":                           "line 1: a case lacks case",
		"case: 1\nsubject: x":                                    "a case lacks observations",
		"case: 1\nsubjet: x":                                     `line 2: a case has no field "subjet"; do you mean subject?`,
		"case: 1\ncase: 1":                                       "line 2: case is given twice, first in line 1",
		"case: 1\nsubject: [x]":                                  "line 2: a text is wanted",
		"case: 1\nsubject: null":                                 "line 2: a text is wanted",
		"case: 1\nsubject: x\nobservations: {}":                  "line 3: observations must be a list",
		"case: 1\naccess: [sever]":                               `line 2: there is no access "sever"; known are server, door, endpoint, path`,
		"case: 1\ncannot: [pings.down]":                          `line 2: no observation is called "pings.down"; do you mean ping.down?`,
		"case: 1\nagents: [{name: a}, {name: a}]":                `line 2: agent "a" is given twice`,
		"case: 1\nsubject: x\nobservations: []\n---\ncase: 1":    "line 4: a second document begins",
		head + "- {observation: down.ping, value: x}":            `line 5: an observation lacks grade`,
		head + "- {observation: down.ping, value: x, grade: one_end, source: me}":                                                                   `line 5: no observation is called "down.ping"; do you mean ping.down?; all are listed by`,
		head + "- {observation: quite_else, value: x, grade: one_end, source: me}":                                                                  `no observation is called "quite_else"; all are listed`,
		head + "- {observation: sizes, value: larg, grade: one_end, source: me}":                                                                    `line 5: sizes can't be "larg"; do you mean large?; it is one of alike, large, tiny, unknown`,
		head + "- {observation: sizes, value: large, grade: infered, source: me}":                                                                   `line 5: no grade is called "infered"; do you mean inferred?; known are both_ends, one_end, reported, inferred`,
		head + "- {observation: sizes, value: large, grade: one_end, source: ''}":                                                                   "line 5: sizes lacks its source",
		head + "- {observation: sizes, value: large, grade: one_end, source: me, agent: agent-b}":                                                   `line 5: agent "agent-b" is not among the agents; do you mean agent-a?`,
		head + "- {observation: sizes, value: large, grade: one_end, source: me, tests: [T1]}":                                                      `line 5: tests are numbers from 1 on, not "T1"`,
		head + "- {observation: sizes, value: large, grade: one_end, source: me, from: drops}":                                                      "line 5: what was concluded from drops has the grade inferred",
		head + "- {observation: sizes, value: large, grade: inferred, source: me, from: drop}":                                                      `no observation is called "drop"; do you mean drops?`,
		head + "- &a {observation: sizes, value: large, grade: one_end, source: me}\n- *a":                                                          "line 6: an observation must be fields with names",
		head + "- {observation: sizes, value: large, grade: one_end, source: me}\n- {observation: sizes, value: alike, grade: one_end, source: me}": "line 6: sizes is given twice by the same source, first in line 5",
		"case: 1\nsubject: " + strings.Repeat("x", 400):                                                                                             "line 2: the text has 400 bytes, 300 may be",
		strings.Repeat("#", MaxCase+1):                     "more than 1048576 bytes",
		head + strings.Repeat("- {}\n", maxObservations+1): "more than 1000 entries",
	} {
		if _, err := ReadCase([]byte(text)); !errors.Is(err, ErrCase) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.200q: %v, want %q", text, err, says)
		}
	}
	// Other sources may say otherwise: that is a contradiction, and no bad input.
	two := head + "- {observation: sizes, value: large, grade: one_end, source: me}\n- {observation: sizes, value: alike, grade: one_end, source: you}"
	c, err := ReadCase([]byte(two))
	if err != nil {
		t.Fatal(err)
	}
	if a := Diagnose(c); len(a.Contradictions) != 1 {
		t.Errorf("%+v", a.Contradictions)
	}
}

func FuzzReadCase(f *testing.F) {
	for _, name := range cases(f) {
		raw, err := os.ReadFile(filepath.Join("..", "lab", "cases", name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("case: 1\nsubject: &a [*a]\nobservations: []"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ReadCase(raw)
		if err != nil {
			if !errors.Is(err, ErrCase) {
				t.Fatalf("%T", err)
			}
			return
		}
		r := rank(c.Observations)
		sum := 0.0
		for _, p := range r.post {
			sum += p
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("probabilities add up to %v", sum)
		}
		written, err := c.Write()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadCase(written)
		if err != nil || !reflect.DeepEqual(rank(again.Observations).post, r.post) {
			t.Fatalf("%v after\n%s", err, written)
		}
	})
}

func BenchmarkDiagnose(b *testing.B) {
	c := caseNamed(b, "commands-unacknowledged")
	for b.Loop() {
		Diagnose(c)
	}
}

// What a mechanism makes likeliest, measured, must lead to it: else the table can't tell it
// from another one. Of what only a verdict tells, the verdict must be among it.
func TestEachMechanismIsFoundByWhatItPredicts(t *testing.T) {
	x := tables()
	onlyByVerdict := []string{"operator.quarantined", "operator.removed", "agent.metrics"}
	for i, h := range x.all {
		if h.never != "" || h.id == UnknownID {
			continue
		}
		for _, byVerdict := range []bool{false, true} {
			var facts []Observation
			for _, o := range vocabulary {
				said, best, value := false, 0.0, ""
				for _, p := range h.predictions() {
					said = said || p.id == o.id
				}
				for _, v := range o.values {
					if p := x.cells[is{o.id, v.value}].shares[i].p; p > best {
						best, value = p, v.value
					}
				}
				if said && (o.id != "verdict" || byVerdict) {
					facts = append(facts, Observation{Name: o.id, Value: value, Grade: OneEnd, Source: "made up"})
				}
			}
			if l := rank(facts).lead(); l.ID != h.id && (byVerdict || !slices.Contains(onlyByVerdict, h.id)) {
				t.Errorf("all that %s predicts leads to %s (%v), with a verdict: %v", h.id, l.ID, l.Probability, byVerdict)
			}
		}
	}
}

// What is ruled out is a sentence: the mechanism, the fact, and what it would have to be.
func TestWhatIsRuledOutIsASentence(t *testing.T) {
	for want, fact := range map[string]Observation{
		"agent.clock, by clock = right: the clock would be wrong":                         {Name: "clock", Value: "right"},
		"path.fragment, by fragment = none: one would stand open":                         {Name: "fragment", Value: "none"},
		"agent.crashloop, by agent.process = runs: the process would end and start again": {Name: "agent.process", Value: "runs"},
	} {
		fact.Grade, fact.Source = BothEnds, "a test"
		var b strings.Builder
		if err := Diagnose(Case{Version: CaseVersion, Subject: "a test", Observations: []Observation{fact}}).WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(b.String()), " "); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

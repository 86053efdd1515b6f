package blind

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gururmm/diagnosis"
	"gururmm/internal/wrap"
)

// Each mechanism of the diagnosis can be put in, or it is said why not.
func TestEachMechanismHasAFaultOrAReason(t *testing.T) {
	a := diagnosis.Diagnose(diagnosis.Case{})
	ids := []string{}
	for _, h := range a.Ranking {
		ids = append(ids, h.ID)
	}
	for _, e := range a.Excluded {
		ids = append(ids, e.ID)
	}
	with := Mechanisms()
	for _, id := range ids {
		reason := false
		for _, w := range Without {
			reason = reason || w.Mechanism == id && w.Why != ""
		}
		if fault := slices.Contains(with, id) || id == wellID; fault == reason {
			t.Errorf("%s can be put in: %v, and has a reason why not: %v", id, fault, reason)
		}
	}
	for _, id := range with {
		if !slices.Contains(ids, id) {
			t.Errorf("the diagnosis knows no %s", id)
		}
	}
}

func TestRunsAreDealtEvenlyAndBySeed(t *testing.T) {
	names := func(o Options) (all []string) {
		t.Helper()
		list, err := plan(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			all = append(all, f.mechanism+" "+f.name)
		}
		return all
	}
	o := Options{Seed: 1, Runs: 3 * len(Mechanisms()), Well: 10}
	all, n := names(o), map[string]int{}
	list, err := plan(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		n[f.mechanism]++
	}
	for _, id := range Mechanisms() {
		if n[id] != 3 {
			t.Errorf("%s has %d runs of %d", id, n[id], len(all))
		}
	}
	if n[wellID] != 10 {
		t.Errorf("%d runs without a fault", n[wellID])
	}
	if !slices.Equal(all, names(o)) {
		t.Error("a seed does not make the same runs")
	}
	o.Seed = 2
	if slices.Equal(all, names(o)) {
		t.Error("the seed changes nothing")
	}
	if _, err := plan(Options{Runs: 1, Only: []string{"path.text"}}); !errors.Is(err, ErrMechanism) {
		t.Errorf("an unknown mechanism: %v", err)
	}
}

// Nothing that is printed is wider than a terminal, and reasons stand beside what has no run
// only where all was asked for.
func TestAReportFitsATerminal(t *testing.T) {
	r := Report{Seed: 1}
	for i, id := range Mechanisms() {
		r.Results = append(r.Results, Result{Run: i, Injected: "agent.reader.handler", Fault: "commands wait behind one that lasts", Named: id, Word: "likely"},
			Result{Run: i, Injected: id, Fault: id, Failed: "the endpoint was not verified within a minute of its start, and nothing tells why"})
	}
	made, err := report(Options{}, r.Results, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var all, some strings.Builder
	if err := made.Print(&all); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(all.String()) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > wrap.Width {
			t.Error(line)
		}
	}
	made.Only = []string{"path.mtu"}
	if err := made.Print(&some); err != nil || !strings.Contains(all.String(), "without a run") || strings.Contains(some.String(), "without a run") {
		t.Errorf("%v\n%s", err, &some)
	}
	if _, err := plan(Options{Runs: 1, Only: []string{"path.tls"}}); err == nil || !strings.Contains(err.Error(), "opens TLS in each run") {
		t.Errorf("one without a run: %v", err)
	}
}

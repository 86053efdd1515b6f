package blind

import (
	"errors"
	"slices"
	"testing"

	"gururmm/diagnosis"
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

package lab_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// An operator asks what is the matter, of a real server and agent: what both ends measured
// must prove it, and the mechanism must be the one that was put in.
func TestDiagnoseNamesWhatIsBroken(t *testing.T) {
	s := newScene(t)
	type answer struct {
		Confidence struct{ Word string }
		Proven     []struct{ Says string }
		Ranking    []struct {
			ID          string
			Probability float64
		}
	}
	diagnose := func() (a answer, err error) {
		out, said, code, err := s.Operator(t.Context(), "diagnose", s.agent.ID, "--json")
		if err != nil || code != 0 {
			return a, fmt.Errorf("exit code %d, %v: %s", code, err, said)
		}
		return a, json.Unmarshal([]byte(out), &a)
	}
	well := func() {
		t.Helper()
		s.eventually("a diagnosis of well", func() (bool, error) {
			a, err := diagnose()
			if err != nil {
				return false, err
			}
			return a.Ranking[0].ID == "well", fmt.Errorf("%+v", a.Ranking[:1])
		})
	}
	s.completed(s.submit(""))
	well()
	for _, c := range []struct {
		order string
		is    []string // whichever of these: from one command more can't be told
	}{
		{"down drop-text", []string{"path.text.all", "path.text.size", "path.text.first", "path.text.count"}},
		{"up drop-text", []string{"path.uplink"}},
		{"down stuck-fragment", []string{"path.fragment"}},
		{"down alter-text", []string{"path.text.altered"}},
	} {
		s.order(c.order)
		o := s.submit("")
		s.eventually("a diagnosis of "+c.order, func() (bool, error) {
			a, err := diagnose()
			if err != nil {
				return false, err
			}
			return len(a.Proven) > 0 && slices.Contains(c.is, a.Ranking[0].ID), fmt.Errorf("%s: proven %+v, first %+v", c.order, a.Proven, a.Ranking[:1])
		})
		s.completed(o)
		s.order("clear")
		s.verified()
		s.completed(s.submit(""))
	}
	well() // and no proof of what was mended stands any more
}

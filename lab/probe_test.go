package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/wire"
)

// A box drops what is larger than it takes: the ladder must show which sizes die on the link,
// and that the second door takes all; the diagnosis then names the box's limit.
func TestProbeFindsTheSizeThatIsLost(t *testing.T) {
	s := newScene(t)
	s.completed(s.submit(""))
	probe := func(code int, args ...string) (p operator.Probe) {
		t.Helper()
		out, said, got, err := s.Operator(t.Context(), append([]string{"probe", s.agent.ID, "--json"}, args...)...)
		if err != nil || got != code || json.Unmarshal([]byte(out), &p) != nil {
			t.Fatalf("exit code %d, %v: %s\n%s", got, err, said, out)
		}
		return p
	}
	states := func(p operator.Probe, ch wire.Channel) (all []string) {
		for _, step := range p.Steps {
			if step.Channel == ch && step.Kind == operator.ProbeText {
				all = append(all, fmt.Sprintf("%d %s", step.Bytes, step.State))
			}
		}
		return all[1:] // but for the smallest, whose size its signature gives it
	}
	all := []string{"1024 passed", "1400 passed", "4096 passed", "16384 passed", "65536 passed", "262144 passed"}
	before := s.links()
	if p := probe(0); !slices.Equal(states(p, wire.ChannelLink), all) || !slices.Equal(states(p, wire.ChannelOOB), all) {
		t.Fatalf("on a way that is well: %+v", p)
	}
	if after := s.links(); !slices.Equal(before, after) {
		t.Errorf("a ladder that loses nothing has cost a link: %v, then %v", before, after)
	}

	s.order("down drop-text-above:10000")
	p := probe(1)
	lost := []string{"1024 passed", "1400 passed", "4096 passed", "16384 lost", "65536 lost", "262144 lost"}
	if got := states(p, wire.ChannelLink); !slices.Equal(got, lost) {
		t.Errorf("by the link: %q", got)
	}
	if got := states(p, wire.ChannelOOB); !slices.Equal(got, all) {
		t.Errorf("by the second door: %q", got)
	}
	s.eventually("a diagnosis of the size", func() (bool, error) {
		out, said, code, err := s.Operator(t.Context(), "diagnose", s.agent.ID, "--json")
		var a diagnosis.Answer
		if err != nil || code != 0 || json.Unmarshal([]byte(out), &a) != nil {
			return false, fmt.Errorf("exit code %d, %v: %s", code, err, said)
		}
		lead := a.Ranking[0]
		return lead.ID == "path.text.size" && lead.Probability > 0.9, errors.New(out)
	})
	s.order("clear")
	s.verified()
	probe(0, "--channel", "link")
}

func (s *scene) links() (all []wire.LinkID) {
	s.t.Helper()
	a, err := s.Client().Agent(s.t.Context(), s.agent.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range a.Links {
		all = append(all, l.Link)
	}
	return all
}

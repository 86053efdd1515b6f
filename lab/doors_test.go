package lab_test

import (
	"fmt"
	"testing"

	"gururmm/lab/harness"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// eager makes an agent use its second door every second while it is well.
func eager(o *harness.Options) { o.Policy.BeaconWellMS = 1000 }

// TestSecondDoorAloneBroken: the endpoint says so, and commands go on by the link.
func TestSecondDoorAloneBroken(t *testing.T) {
	for _, fault := range []string{"refuse", "hang", "reset"} {
		t.Run(fault, func(t *testing.T) {
			s := newScene(t, eager)
			before := s.linkID(s.verified())
			s.order("oob " + fault)
			s.verdict(selfcheck.CodeOOBUnreachable)
			if c := s.completed(s.submit("")); c.Channel != wire.ChannelLink {
				t.Errorf("the command came by %s", c.Channel)
			}
			s.order("clear")
			s.verdict(selfcheck.CodeOK, selfcheck.CodeOKIdle)
			if after := s.linkID(s.verified()); after != before {
				t.Errorf("the link was given up because the second door was broken: %s, then %s", before, after)
			}
			s.allOnce()
		})
	}
}

// TestBothDoorsBroken: commands wait, and are delivered by the door that is mended first.
func TestBothDoorsBroken(t *testing.T) {
	for _, c := range []struct {
		oob  string
		mend string
		by   wire.Channel
	}{
		{"refuse", "oob clear", wire.ChannelOOB},
		{"hang", "oob clear", wire.ChannelOOB},
		{"reset", "down clear", wire.ChannelLink},
	} {
		t.Run(fmt.Sprintf("%s/mended by %s", c.oob, c.by), func(t *testing.T) {
			s := newScene(t)
			s.order("oob "+c.oob, "down drop-text")
			waiting := s.submit("")
			s.eventually("the second door to be tried in vain", func() (bool, error) {
				st := s.status()
				return st.Snapshot.OOB.Failures >= 2, fmt.Errorf("%d failures, verdict %s", st.Snapshot.OOB.Failures, st.Verdict.Code)
			})
			if got, err := s.Client().Command(t.Context(), waiting.id); err != nil || got.State.Terminal() || waiting.lines() != 0 {
				t.Errorf("with both doors shut the command is %s, ran %d times, %v", got.State, waiting.lines(), err)
			}
			s.order(c.mend)
			if got := s.completed(waiting); got.Channel != c.by {
				t.Errorf("the command came by %s", got.Channel)
			}
			s.order("clear")
			s.verified()
			s.completed(s.submit(""))
			s.allOnce()
		})
	}
}

// verdict waits until the agent's own status says one of codes.
func (s *scene) verdict(codes ...selfcheck.Code) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("the verdict %v", codes), func() (bool, error) {
		v := s.status().Verdict
		for _, c := range codes {
			if v.Code == c && !v.Suspected {
				return true, nil
			}
		}
		return false, fmt.Errorf("it is %s: %s", v.Code, v.Sentence)
	})
}

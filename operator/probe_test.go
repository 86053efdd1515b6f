package operator

import (
	"testing"

	"gururmm/wire"
)

func TestOutcomeOfALadder(t *testing.T) {
	for _, c := range []struct {
		want   string
		states []string // of sizes that rise
	}{
		{ProbeUntried, nil},
		{ProbeUntried, []string{StepUntried}},
		{ProbePassed, []string{StepPassed, StepUntried}},
		{ProbeLargeLost, []string{StepPassed, StepLost, StepSilent, StepCut}},
		{ProbeTinyLost, []string{StepLost, StepPassed}},
		{ProbeSomeLost, []string{StepLost, StepPassed, StepLost}},
		{ProbeAllLost, []string{StepLost, StepCut}},
		{ProbeUnanswered, []string{StepUnanswered, StepUnanswered}},
		{ProbeUnclear, []string{StepPassed, StepUnanswered}},
		{ProbeUnclear, []string{StepPassed, StepLost, StepUnwritten}},
		{ProbeUnclear, []string{StepUnsupported}},
	} {
		steps := []ProbeStep{{Channel: wire.ChannelLink, Kind: ProbePing, State: StepPassed}, {Channel: wire.ChannelOOB, Kind: ProbeText, State: StepAltered}}
		for i, s := range c.states {
			steps = append(steps, ProbeStep{Channel: wire.ChannelLink, Kind: ProbeText, Bytes: 100 << i, State: s})
		}
		if got := Outcome(steps, wire.ChannelLink); got != c.want {
			t.Errorf("%v: %s, want %s", c.states, got, c.want)
		}
	}
	steps := []ProbeStep{
		{Channel: wire.ChannelLink, Kind: ProbePing, State: StepPassed}, {Channel: wire.ChannelLink, Kind: ProbeText, Bytes: 1 << 10, State: StepPassed},
		{Channel: wire.ChannelOOB, Kind: ProbeText, Bytes: 1, State: StepPassed},
		{Channel: wire.ChannelLink, Kind: ProbeText, Bytes: 1400, State: StepLost, Verdict: "link.text.lost"},
	}
	if got := Sum(steps, wire.ChannelLink); got != "passed: ping, 1 KiB; lost (link.text.lost): 1400 B" {
		t.Errorf("%q", got)
	}
}

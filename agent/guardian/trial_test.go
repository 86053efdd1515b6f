package guardian

import (
	"strings"
	"testing"
	"time"

	"gururmm/agent/local"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func TestTrialIsJudgedByItsFacts(t *testing.T) {
	const grace = 20 * time.Second
	good := trialFacts{
		Version: "v2.0.0", Says: "v2.0.0", Age: 25 * time.Second, Reported: true, Silent: time.Second,
		Verified: true, Held: 15 * time.Second, Door: true, Memory: 40 << 20,
	}
	for _, tt := range []struct {
		name   string
		change func(*trialFacts)
		pass   bool
		reason string
		blame  bool
	}{
		{"goes on", func(*trialFacts) {}, false, "", false},
		{"held for the grace", func(f *trialFacts) { f.Held = grace }, true, "", false},
		{"eats memory", func(f *trialFacts) { f.Memory = DefaultTrialMemory + 1 }, false, "256 MiB of memory", true},
		{"eats memory at the last moment", func(f *trialFacts) { f.Memory, f.Held = 1<<30, grace }, false, "memory", true},
		{"is another version than signed", func(f *trialFacts) { f.Says = "v1.0.0" }, false, "says that it is v1.0.0", true},
		{"hangs", func(f *trialFacts) { f.Silent = trialSilent + 1 }, false, "hangs", true},
		{"stalls", func(f *trialFacts) {
			f.Verdict = selfcheck.Verdict{Code: selfcheck.CodeAgentStalled + ".reader", Sentence: "The reader stands still."}
		}, false, "reader stands still", true},
		{"is suspected to stall", func(f *trialFacts) {
			f.Verdict = selfcheck.Verdict{Code: selfcheck.CodeAgentStalled + ".reader", Suspected: true}
		}, false, "", false},
		{"has said nothing yet", func(f *trialFacts) {
			f.Reported, f.Says, f.Verified, f.Held, f.Lost = false, "", false, 0, 25*time.Second
		}, false, "", false},
		{"never says anything", func(f *trialFacts) {
			f.Reported, f.Says, f.Verified, f.Held, f.Age, f.Lost = false, "", false, 0, 31*time.Second, 31*time.Second
		}, false, "did not report", true},
		{"never verifies", func(f *trialFacts) { f.Verified, f.Held, f.Lost, f.Age = false, 0, 31*time.Second, 31*time.Second }, false, "second door worked", true},
		{"never verifies, and no door answers", func(f *trialFacts) {
			f.Verified, f.Held, f.Lost, f.Age, f.Door = false, 0, 31*time.Second, 31*time.Second, false
		}, false, "neither link nor second door", false},
		{"loses its link for a moment", func(f *trialFacts) { f.Verified, f.Held, f.Lost, f.Age = false, 0, 5*time.Second, time.Minute }, false, "", false},
		{"comes and goes", func(f *trialFacts) { f.Held, f.Age = time.Second, grace+trialMost+1 }, false, "did not stay verified", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := good
			tt.change(&f)
			v := judgeTrial(f, grace, DefaultTrialMemory)
			if v.Pass != tt.pass || (v.Reason != "" && v.Code == "") != tt.blame || (v.Reason == "") != (tt.reason == "") || !strings.Contains(v.Reason, tt.reason) {
				t.Errorf("judged %+v", v)
			}
		})
	}
	for ms, want := range map[int64]time.Duration{0: defaultGrace, -5: defaultGrace, 1: minGrace, 5000: 5 * time.Second, 1 << 60: maxGrace} {
		if got := graceOf(ms); got != want {
			t.Errorf("grace of %d ms is %v, want %v", ms, got, want)
		}
	}
}

// A machine that is always late still ends its trials: only what was lost is given back.
func TestExcuseGivesATrialWhatItLost(t *testing.T) {
	now := time.Now()
	g := &Guardian{ladder: selfcheck.NewLadder(wire.Policy{}.WithDefaults(), nil)}
	g.update.step, g.update.began, g.update.lost = local.UpdateTrial, now.Add(-time.Minute), now.Add(-time.Second)
	g.excuse(now, 2*time.Second)
	if age, lost := now.Sub(g.update.began), now.Sub(g.update.lost); age != 58*time.Second || lost != 0 {
		t.Errorf("the trial is %v old and has been lost for %v", age, lost)
	}
}

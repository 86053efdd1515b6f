package guardian

import (
	"fmt"
	"strings"
	"time"

	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// trialLimit is what a new worker gets to report and verify its link, and to
	// verify it again once lost. With it the old one is back within a minute of
	// the trial's start: half for the new one, half for putting it down and for the
	// old one's own start.
	trialLimit = 30 * time.Second
	// trialSilent: a worker that has begun to report and stops hangs.
	trialSilent = 10 * time.Second
	// trialMost bounds a trial beyond its grace, for a link that comes and goes.
	trialMost = 2 * time.Minute
	// defaultGrace and the bounds of what a directive may ask for.
	defaultGrace, minGrace, maxGrace = wire.DefaultGrace, wire.MinGrace, wire.MaxGrace
	// DefaultTrialMemory is what a worker on trial may hold, in bytes: ten times what
	// one needs that has run for long.
	DefaultTrialMemory = 256 << 20
)

// trialFacts are what is known of a worker on trial.
type trialFacts struct {
	Version  string // that should run
	Says     string // the version it says; "": nothing yet
	Age      time.Duration
	Reported bool
	Silent   time.Duration // since its last report
	Verified bool          // its link
	Held     time.Duration // how long what is asked for has held
	Lost     time.Duration // how long it has not held, since the start or since it was lost
	Door     bool          // the second door has answered since the start
	ByDoor   bool          // the door stands for the link
	Memory   uint64        // bytes; 0: not known
	Verdict  selfcheck.Verdict
}

// trialVerdict is what follows for the trial.
type trialVerdict struct {
	Pass   bool
	Reason string // of a failure; "": it goes on
	Blame  bool   // the program is at fault, as far as can be known
}

// judgeTrial is pure: the same facts, the same verdict.
func judgeTrial(f trialFacts, grace time.Duration, memory uint64) trialVerdict {
	fail := func(format string, args ...any) trialVerdict {
		return trialVerdict{Reason: fmt.Sprintf(format, args...), Blame: true}
	}
	code := string(f.Verdict.Code)
	switch {
	case f.Memory > memory:
		return fail("its worker held %d MiB of memory, allowed are %d", f.Memory>>20, memory>>20)
	case f.Says != "" && f.Says != f.Version:
		return fail("it says that it is %.80s", f.Says)
	case f.Reported && f.Silent > trialSilent:
		return fail("its worker hangs: no report for %v", f.Silent.Round(time.Second))
	case !f.Verdict.Suspected && (strings.HasPrefix(code, string(selfcheck.CodeAgentStalled)) || f.Verdict.Code == selfcheck.CodeAgentHung):
		return fail("its worker stalls: %s", strings.TrimSuffix(f.Verdict.Sentence, "."))
	case f.Held >= grace:
		return trialVerdict{Pass: true}
	case !f.Reported && f.Age > trialLimit:
		return fail("its worker did not report within %v", trialLimit)
	case f.Lost > trialLimit && !f.Door:
		return trialVerdict{Reason: fmt.Sprintf("neither link nor second door answered for %v: no fault of the build can be seen; order it again", trialLimit)}
	case f.Lost > trialLimit:
		return fail("its link was not verified within %v, and the second door worked", trialLimit)
	case f.Age > grace+trialMost:
		return fail("its link did not stay verified for %v", grace)
	}
	return trialVerdict{}
}

// graceOf bounds what a build asks for.
func graceOf(ms int64) time.Duration {
	if ms <= 0 {
		return defaultGrace
	}
	ms = min(ms, maxGrace.Milliseconds())
	return max(minGrace, time.Duration(ms)*time.Millisecond)
}

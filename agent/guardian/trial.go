package guardian

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/agent/versions"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
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
	// drainForUpdate is what running jobs get to end before the worker is exchanged.
	drainForUpdate = time.Minute
	// drainMargin is what a drained worker gets beyond it to be gone.
	drainMargin = 10 * time.Second
	// memoryEvery is how often the memory of a worker on trial is looked at.
	memoryEvery = 250 * time.Millisecond
	// execTries bounds the starts of a worker on trial that only the moment is against,
	// execMin and execMax the wait between them: the endpoint has no worker meanwhile.
	execTries        = 6
	execMin, execMax = 100 * time.Millisecond, 4 * time.Second
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
	// Code of a failure that the program is not at fault for; "": it is, as far as can be known.
	Code wire.Code
}

// judgeTrial is pure: the same facts, the same verdict.
func judgeTrial(f trialFacts, grace time.Duration, memory uint64) trialVerdict {
	fail := func(format string, args ...any) trialVerdict {
		return trialVerdict{Reason: fmt.Sprintf(format, args...)}
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
		return trialVerdict{Code: wire.CodeUnreachable, Reason: fmt.Sprintf("neither link nor second door answered for %v: no fault of the build can be seen; order it again", trialLimit)}
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

// drainForTrial lets the old worker end; its end starts the new one.
func (g *Guardian) drainForTrial() {
	u, l, now := &g.update, g.worker.life, time.Now()
	if g.stopping {
		return
	}
	reason := "update to " + u.version(g)
	u.enter(local.UpdateDrain)
	g.noteUpdate("draining", fmt.Sprintf("Running jobs get up to %v to end; then a worker of version %s is started, on trial.", drainForUpdate, u.version(g)))
	switch {
	case l == nil:
		g.worker.startAt = now
	case l.killed != "": // its end is under way
	case g.judgement.Verdict.Code == selfcheck.CodeAgentHung || !l.orders.put(pipe.Order{Drain: &pipe.DrainOrder{GraceMS: drainForUpdate.Milliseconds(), Reason: reason}}):
		l.killed, l.killedAt = reason, now
		l.end(true)
	default:
		l.killed, l.killedAt = reason, now.Add(drainForUpdate)
	}
}

// trialSpawn gives the program of the worker that is about to start; nil: the usual one.
func (g *Guardian) trialSpawn() func(context.Context) (Child, error) {
	u, now := &g.update, time.Now()
	spawn := func() func(context.Context) (Child, error) {
		return g.cfg.Updates.Spawn(g.cfg.Updates.Store.Path(*u.state.Next))
	}
	switch u.step {
	case local.UpdateDrain:
	case local.UpdateTrial: // once more: it could not be started a moment ago
		u.began, u.lost = now, now
		return spawn()
	default:
		return nil
	}
	u.enter(local.UpdateTrial)
	u.first, u.began, u.lost, u.good, u.memory, u.back, u.execs = now, now, now, time.Time{}, 0, nil, 0
	g.noteUpdate("trial", "A worker of version "+u.version(g)+" is on trial, under the guardian of "+g.cfg.Presence.Version+".")
	g.beacon(causeRequest) // its answer shows that the door works now
	return spawn()
}

// watchTrial looks at the memory of the worker on trial until it ends.
func (g *Guardian) watchTrial(l *life) {
	u := &g.update
	if u.step != local.UpdateTrial || !l.trial || g.cfg.Updates.Memory == nil || u.endWatch != nil {
		return
	}
	look := g.cfg.Updates.Memory
	ctx, cancel := context.WithCancel(g.helpers)
	u.endWatch = cancel
	pid, limit := l.pid, g.trialMemory()
	g.wg.Go(func() {
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			if held, err := look(pid); err == nil && held > limit {
				g.hand(func() {
					if g.worker.life == l {
						g.update.memory = held
					}
				})
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (g *Guardian) trialMemory() uint64 {
	if limit := g.cfg.Updates.MemoryLimit; limit > 0 {
		return limit
	}
	return DefaultTrialMemory
}

// hold follows whether what is asked for holds, and since when.
func (g *Guardian) hold(now time.Time) (reported bool, door bool) {
	u, l := &g.update, g.worker.life
	reported = l != nil && !l.reported.IsZero()
	door = g.door.lastOK.After(u.began)
	byDoor := u.state.Order != nil && u.state.Order.ByDoor
	good := reported && (g.worker.said.Link.Phase == selfcheck.PhaseVerified || byDoor && door)
	switch {
	case good && u.good.IsZero():
		u.good = now
	case !good && !u.good.IsZero():
		u.good, u.lost = time.Time{}, now
	}
	return reported, door
}

// trialDue judges the trial.
func (g *Guardian) trialDue(now time.Time) {
	u, l := &g.update, g.worker.life
	if l == nil || !l.trial {
		return // its end is dealt with where it is told
	}
	reported, door := g.hold(now)
	f := trialFacts{
		Version: u.version(g), Age: now.Sub(u.began), Reported: reported, Door: door, ByDoor: u.state.Order.ByDoor,
		Verified: !u.good.IsZero(), Memory: u.memory, Verdict: g.judgement.Verdict,
	}
	if reported {
		f.Silent, f.Says = now.Sub(l.reported), g.worker.said.Worker.Version
		fault.Die("update.trying")
	}
	if u.good.IsZero() {
		f.Lost = now.Sub(u.lost)
	} else {
		f.Held = now.Sub(u.good)
	}
	grace := graceOf(u.state.Next.Build.GraceMS)
	if most := grace + trialMost + excusedMost; u.good.IsZero() && now.Sub(u.first) > most {
		g.rollBack(fmt.Sprintf("its trial came to no end within %v: the machine is starved of time; order it again", most), wire.CodeStarved)
		return
	}
	v := judgeTrial(f, grace, g.trialMemory())
	switch {
	case v.Pass:
		g.commitUpdate(now)
	case v.Reason != "":
		g.rollBack(v.Reason, v.Code)
	}
}

// trialEnded takes note that the worker on trial has ended by itself.
func (g *Guardian) trialEnded(l *life, e lifeExit) bool {
	if !l.trial || g.update.step != local.UpdateTrial {
		return false
	}
	how, code := "its worker ended: "+describeExit(e, g.worker.fatal), wire.Code("")
	switch {
	case l.pid == 0 && versions.Passing(e.err):
		u := &g.update
		if u.execs++; u.execs < execTries {
			wait := backoff.Full(g.rng, execMin, execMax, u.execs-1)
			g.worker.startAt, g.worker.lastExit = time.Now().Add(wait), "on trial: it could not be started: "+e.err.Error()
			g.log.Warn("worker on trial could not be started now", "error", e.err, "again_in", wait)
			return true
		}
		how, code = fmt.Sprintf("it could not be started, %d times: %v: that is this machine's state now, no fault of the build; order it again", u.execs, e.err), wire.CodeStarved
	case l.pid == 0:
		how = "it can't be executed: " + e.err.Error()
	}
	g.worker.startAt, g.worker.lastExit = time.Now(), "on trial: "+how
	g.log.Error("worker on trial ended", "how", how, "last_words", wordsForLog(e.words))
	g.rollBack(how, code)
	return true
}

// rollBack ends a trial: the old worker comes back at once, the disk is told meanwhile.
// The program is blamed, unless code names a cause of the moment.
func (g *Guardian) rollBack(reason string, code wire.Code) {
	u := &g.update
	fault.Die("update.rolling_back")
	st := u.state
	if code == "" {
		st = st.RollBack(reason, g.now())
	} else {
		st = st.GiveUp(code, reason, g.now())
		st.Last.RolledBack = true
	}
	u.failed = u.began
	g.log.Error("update is rolled back", "version", st.Last.Version, "reason", reason, "code", code)
	g.endTrial(reason)
	g.failUpdate(st)
}

// endTrial puts down the worker on trial, if there is one.
func (g *Guardian) endTrial(reason string) {
	u := &g.update
	if u.endWatch != nil {
		u.endWatch()
		u.endWatch = nil
	}
	if l := g.worker.life; l != nil && l.trial {
		if l.killed == "" {
			l.killed, l.killedAt = "update rolled back: "+reason, time.Now()
		}
		l.end(true)
	}
}

// noteBack measures how long a failed trial has kept the endpoint from its old worker.
func (g *Guardian) noteBack(now time.Time) {
	u, l := &g.update, g.worker.life
	if u.failed.IsZero() || l == nil || l.trial || l.reported.IsZero() || g.worker.said.Link.Phase != selfcheck.PhaseVerified {
		return
	}
	took := now.Sub(u.failed)
	u.failed, u.back = time.Time{}, &took
	g.log.Warn("the worker from before the update is verified again", "after", took)
}

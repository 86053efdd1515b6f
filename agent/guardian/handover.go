package guardian

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/versions"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/release"
	"gururmm/wire"
)

// ErrHandover says that another program shall go on in this one's place: what the
// state of versions names now.
var ErrHandover = errors.New("another version takes over")

const (
	// ConfirmLimit is how long a new guardian may take to have guarded a verified
	// worker for the grace; then it gives the endpoint back.
	ConfirmLimit = 5 * time.Minute
	// excusedMost bounds what excuses add to a trial or a confirmation.
	excusedMost = 10 * time.Minute
	// recheckMin and recheckMax space the looks at a state that was not known. A look that finds it
	// may exchange the program, and so the worker: a disk that comes and goes must not do that all day.
	recheckMin, recheckMax = 30 * time.Second, time.Hour
)

// commitUpdate makes the program that passed its trial the one to run from now on.
func (g *Guardian) commitUpdate(now time.Time) {
	u := &g.update
	g.noteUpdate("committed", fmt.Sprintf("Version %s has passed its trial, %v after it began.", u.version(g), now.Sub(u.began).Round(time.Second)))
	fault.Die("update.passed")
	u.enter(local.UpdateCommit)
	g.saveUpdate(u.state.Commit(g.cfg.Updates.Installed, g.now()), "update.committed", func() {
		g.handOver("version " + u.version(g) + " takes over")
	})
}

// handOver ends this guardian in order, for the program that the state names now.
func (g *Guardian) handOver(why string) {
	if g.stopping {
		return // the next start finds it
	}
	g.update.enter(local.UpdateHandover)
	g.noteUpdate("handover", "The agent hands over: "+why+".")
	g.handover, g.stopping, g.stopWhy = true, true, why
}

// confirmDue ends a handover: well, or by giving the endpoint back.
func (g *Guardian) confirmDue(now time.Time) {
	u, c := &g.update, g.cfg.Updates
	fault.Stall("update.hang")
	g.hold(now)
	grace := defaultGrace
	if c.Running != nil {
		grace = graceOf(c.Running.Build.GraceMS)
	} else if o := u.state.Order; o != nil {
		grace = graceOf(o.GraceMS)
	}
	limit := faultLimit("GURURMM_CONFIRM_LIMIT", ConfirmLimit)
	version := g.cfg.Presence.Version
	switch {
	case !u.state.Current.Is(c.Running): // the hand-over did not happen: this is not what was ordered
		what := u.state.Current.Version()
		st := u.state.Fail("the program that was to take over could not be started: "+cmp.Or(what, "the installed one"), g.now())
		st.Current, st.Starts = c.Running, 0
		g.failUpdate(st)
	case !u.good.IsZero() && now.Sub(u.good) >= grace:
		fault.Die("update.confirming")
		st := u.state.Confirm(version, g.now())
		u.enter(local.UpdateNone)
		g.saveUpdate(st, "update.confirmed", g.pruneVersions)
		g.tellOutcome(*st.Last)
	case now.Sub(u.began) < limit && now.Sub(u.first) < limit+excusedMost:
	case c.Running == nil: // nothing is left to go back to
		g.failUpdate(u.state.Fail(fmt.Sprintf("the installed program runs, but no link was verified within %v", limit), g.now()))
	default:
		g.giveBack(fmt.Sprintf("as guardian it had no verified link for %v within %v", grace, limit))
	}
}

// faultLimit is limit, but where a fault build is told another: a test does not wait for minutes.
func faultLimit(name string, limit time.Duration) time.Duration {
	if told, err := time.ParseDuration(fault.Env(name)); err == nil {
		return told
	}
	return limit
}

// asksInstalled reports whether going back now would be to the installed program: then
// it is asked first whether that can take over.
func (g *Guardian) asksInstalled() bool {
	c, u := g.cfg.Updates, &g.update
	return c != nil && c.CanRun != nil && c.Running != nil && u.unsure == nil && u.state.Previous == nil &&
		(u.step == local.UpdateNone || u.step == local.UpdateConfirm)
}

// askInstalled says why the installed program can't take over; it may wait for the disk.
func (u *Updates) askInstalled() error {
	if err := u.CanRun(); err != nil {
		return fmt.Errorf("the installed program can't take over: %w; install it again first", err)
	}
	return nil
}

// giveBack hands over to the program before, if that can take over.
func (g *Guardian) giveBack(reason string) {
	u := &g.update
	back := func() {
		st := u.state.FallBack(reason, g.now())
		g.log.Error("update is rolled back", "version", g.cfg.Presence.Version, "reason", reason)
		u.enter(local.UpdateCommit)
		g.saveUpdate(st, "update.gave_back", func() { g.handOver("the version before goes on, " + reason) })
	}
	if !g.asksInstalled() {
		back()
		return
	}
	var refused error
	asked := g.keep(job{what: jobUpdate, do: func() error { refused = g.cfg.Updates.askInstalled(); return nil }, then: func(error) {
		switch {
		case g.stopping || u.step != local.UpdateCommit:
		case refused != nil: // nothing is left to go back to
			g.failUpdate(u.state.Fail(reason+", and "+refused.Error(), g.now()))
		default:
			back()
		}
	}})
	if asked { // else the next turn tries again
		u.enter(local.UpdateCommit)
	}
}

// resumeUpdate takes up, at the start, what the last process left.
func (g *Guardian) resumeUpdate() {
	c, u := g.cfg.Updates, &g.update
	if c == nil {
		return
	}
	u.state, u.disk = c.State, c.State
	if u.unsure != nil {
		u.rechecks = max(0, c.Doubts-1)
		g.planRecheck()
		return
	}
	g.takeUp()
}

// takeUp goes on with what the state says is under way.
func (g *Guardian) takeUp() {
	c, u := g.cfg.Updates, &g.update
	st, now := u.state, g.now()
	switch st.Phase {
	case versions.PhaseFetch:
		expired := !st.Order.ExpiresAt.IsZero() && !now.Before(st.Order.ExpiresAt)
		if err := release.Check(c.Keys, st.Next.Build); err != nil || expired || st.Order.Resumed >= versions.MaxResumes {
			g.failUpdate(st.GiveUp(wire.CodeInterrupted, "it was interrupted by a restart, and is not taken up again", now))
			return
		}
		o := *st.Order
		o.Resumed++
		st.Order = &o
		u.enter(local.UpdateFetch)
		g.saveUpdate(st, "update.resumed", g.fetchUpdate)
	case versions.PhaseTrial:
		g.failUpdate(st.RollBack("the agent or the machine ended during its trial", now))
	case versions.PhaseHandover:
		fault.Die("update.guarding")
		if fault.Active("update.panic") {
			panic("update.panic is switched on")
		}
		u.enter(local.UpdateConfirm)
		u.first, u.began, u.lost = u.since, u.since, u.since
	default:
		if st.Last != nil && !st.Last.Told && st.Last.Order != nil {
			g.tellOutcome(*st.Last)
		}
		g.pruneVersions()
	}
}

// planRecheck sets when a state that is not known is looked at again, ever more rarely.
func (g *Guardian) planRecheck() {
	u := &g.update
	u.recheckAt = time.Time{}
	if g.cfg.Updates.Recheck != nil {
		u.recheckAt = time.Now().Add(backoff.Full(g.rng, recheckMin, recheckMax, u.rechecks))
		u.rechecks++
	}
}

// recheckDue looks at such a state again, by the keeper.
func (g *Guardian) recheckDue(now time.Time) {
	u, c := &g.update, g.cfg.Updates
	if u.checking || u.recheckAt.IsZero() || now.Before(u.recheckAt) {
		return
	}
	var st versions.State
	var again bool
	var unsure error // no failed write: it is told as a finding
	u.checking = g.keep(job{what: jobUpdate,
		do:   func() error { st, again, unsure = c.Recheck(); return nil },
		then: func(error) { g.rechecked(st, again, unsure) },
	})
	if !u.checking {
		g.planRecheck()
	}
}

// rechecked goes on once the state is known: with it, or by the start that it asks for.
func (g *Guardian) rechecked(st versions.State, again bool, unsure error) {
	u := &g.update
	u.checking = false
	switch {
	case g.stopping:
	case unsure != nil:
		g.log.Warn("what version shall run is still not certain", "error", unsure)
		u.unsure = unsure
		g.planRecheck()
	case again:
		g.noteUpdate("known", "The state of versions can be read and written: which one runs is decided anew.")
		g.handOver("which version runs is decided anew")
	default:
		g.noteUpdate("known", "The state of versions can be read and written again: the one that runs stays.")
		u.unsure, u.recheckAt, u.state, u.disk = nil, time.Time{}, st, st
		g.takeUp()
	}
}

// settleUpdate is the last word of an orderly end: it was no failed start.
func (g *Guardian) settleUpdate() {
	c, st := g.cfg.Updates, g.update.state
	switch {
	case c == nil || g.handover || g.update.unsure != nil:
		return
	case g.update.step == local.UpdateDrain || g.update.step == local.UpdateTrial:
		st = st.GiveUp(wire.CodeInterrupted, "the agent was stopped during the trial; order it again", g.now())
	case c.Running == nil || st.Starts == 0 || g.restart && st.Phase != versions.PhaseNone:
		return
	default:
		st.Starts--
	}
	if err := c.Store.Save(st); err != nil {
		g.log.Error("the state of an update can't be written", "error", err)
	}
}

// pruneVersions removes programs that are not needed any more.
func (g *Guardian) pruneVersions() {
	st, own := g.update.state, g.cfg.Updates.Running
	g.keep(job{what: jobUpdate, do: func() error { return g.cfg.Updates.Store.Prune(st, own) }})
}

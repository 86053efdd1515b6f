package guardian

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/versions"
	"gururmm/internal/fault"
	"gururmm/release"
	"gururmm/wire"
)

// Updates is what a guardian needs to exchange its own program.
type Updates struct {
	Store *versions.Store
	// State is what the store held when this process began.
	State versions.State
	// Unsure says why State is not to be acted on, if so: it is not known or can't be
	// written. Then no order is accepted, and nothing is written or removed, until
	// Recheck, which may wait for the disk, gives no error: the state to go on with, or again:
	// this guardian ends with [ErrHandover], for what is chosen now. Nil: it stays so.
	Unsure  error
	Recheck func() (st versions.State, again bool, err error)
	// Doubts counts starts in a row that were unsure, this one too.
	Doubts int
	// Keys releases must be signed with; none: no update is accepted.
	Keys []release.Key
	// Running is the program of this process; nil: the installed one. Path is where
	// it lies, Why why it runs, for people.
	Running *versions.Entry
	Path    string
	Why     string
	// Installed is the installed program's version; "": not known.
	Installed string
	// CanRun says why the installed program can't be executed; it may wait for the disk. Nil: not asked.
	CanRun func() error
	// Fetch as [oob.Client.Fetch].
	Fetch func(ctx context.Context, sum string, size, offset int64, w io.Writer) (int64, error)
	// Spawn starts a program as worker.
	Spawn func(program string) func(context.Context) (Child, error)
	// Memory gives the bytes that a process holds; nil: not known.
	Memory func(pid int) (uint64, error)
	// MemoryLimit of a worker on trial, in bytes; 0: [DefaultTrialMemory].
	MemoryLimit uint64
}

// updateState belongs to the loop.
type updateState struct {
	state versions.State // of which disk has at least the last but the writes under way
	disk  versions.State
	step  local.UpdateStep
	since time.Time

	first    time.Time // began, that no excuse moves
	began    time.Time // of the trial, or of the guardian that confirms
	good     time.Time // since when what is asked for holds; zero: it does not
	lost     time.Time // since when it does not
	memory   uint64
	endWatch context.CancelFunc // of the trial's memory
	failed   time.Time          // began of a trial that failed, until the old worker is verified again
	back     *time.Duration
	execs    int // starts of the worker on trial that the moment was against

	unsure    error // why nothing is to be done; nil: it may
	recheckAt time.Time
	rechecks  int
	checking  bool // the keeper looks
}

func (u *updateState) enter(step local.UpdateStep) { u.step, u.since = step, time.Now() }

// orderUpdate begins what an update directive orders, or says why not.
func (g *Guardian) orderUpdate(d wire.Directive) error {
	c, u := g.cfg.Updates, &g.update
	if g.tellUpdate(d.ID) {
		return nil
	}
	b := d.Build
	switch {
	case c == nil:
		return refuse(wire.CodeUnsupported, "this agent does not update itself")
	case u.unsure != nil:
		return refuse(wire.CodeJournal, u.unsure.Error()+"; mend that: it is looked at again by itself")
	case b == nil:
		return refuse(wire.CodeUnparseable, "no build")
	case u.step != local.UpdateNone:
		return refuse(wire.CodeBusy, "an update is under way: "+string(u.step)+" "+u.version(g))
	}
	if err := release.Check(c.Keys, *b); errors.Is(err, release.ErrNoKeys) {
		return refuse(wire.CodeUnsupported, err.Error()+": enroll anew with a server that hands one out, or set release_keys in agent.yaml")
	} else if err != nil {
		return refuse(wire.CodeBadSignature, err.Error())
	}
	err := release.Allow(*b, g.cfg.Presence.Version, runtime.GOOS, runtime.GOARCH)
	if errors.Is(err, release.ErrSame) {
		g.result(d, wire.DirectiveDone, err.Error(), nil)
		return nil
	}
	if err != nil {
		return refuse(wire.CodeUnsupported, err.Error())
	}
	g.result(d, wire.DirectiveAccepted, "", nil)
	g.noteUpdate("ordered", "An update to "+b.Version+" is ordered.")
	u.enter(local.UpdateFetch)
	g.saveUpdate(u.state.Fetch(*b, versions.Order{ID: d.ID, Kind: d.Kind, ExpiresAt: d.ExpiresAt}), "update.ordered", g.fetchUpdate)
	return nil
}

// orderRollback goes back to the program before, or to the installed one, which has been asked.
func (g *Guardian) orderRollback(d wire.Directive) error {
	c, u := g.cfg.Updates, &g.update
	if g.tellUpdate(d.ID) {
		return nil
	}
	switch {
	case c == nil:
		return refuse(wire.CodeUnsupported, "this agent does not update itself")
	case u.unsure != nil:
		return refuse(wire.CodeJournal, u.unsure.Error()+"; mend that: it is looked at again by itself")
	case c.Running == nil:
		return refuse(wire.CodeUnsupported, "the installed program runs: there is none to go back to")
	case u.step != local.UpdateNone && u.step != local.UpdateConfirm:
		return refuse(wire.CodeBusy, "an update is under way: "+string(u.step)+" "+u.version(g))
	}
	g.result(d, wire.DirectiveAccepted, "", nil)
	g.noteUpdate("ordered", "A rollback from "+g.cfg.Presence.Version+" is ordered.")
	st := u.state
	if u.step == local.UpdateConfirm && st.Order != nil { // the order before is over too
		st = st.Fail("ended by a rollback that was ordered", g.now())
		g.tellOutcome(*st.Last)
	}
	u.began = time.Now()
	u.enter(local.UpdateCommit)
	g.saveUpdate(st.GoBack(versions.Order{ID: d.ID, Kind: d.Kind}), "update.going_back", func() { g.handOver("a rollback was ordered") })
	return nil
}

// ownsDirective reports whether the outcome of such an order is told by the update's own steps.
func (g *Guardian) ownsDirective(k wire.DirectiveKind) bool {
	return k == wire.DirectiveUpdate || k == wire.DirectiveRollback
}

// saveUpdate makes st the state and writes it, then goes on; label is the fault at this
// boundary. If it can't be written, the update ends here.
func (g *Guardian) saveUpdate(st versions.State, label string, then func()) {
	g.update.state = st
	kept := g.keep(job{what: jobUpdate, do: func() error {
		if err := g.cfg.Updates.Store.Save(st); err != nil {
			return err
		}
		fault.Die(label)
		return nil
	}, then: func(err error) {
		if err != nil {
			g.updateUnwritten(err)
			return
		}
		g.update.disk = st
		if then != nil {
			then()
		}
	}})
	if !kept {
		g.updateUnwritten(errors.New("the disk does not keep up"))
	}
}

// updateUnwritten ends what can't be remembered: a step that nothing tells of after
// a crash is not taken.
func (g *Guardian) updateUnwritten(err error) {
	u := &g.update
	g.log.Error("the state of an update can't be written", "step", u.step, "error", err)
	switch u.step {
	case local.UpdateFetch, local.UpdateDrain, local.UpdateTrial, local.UpdateCommit:
		o := versions.Outcome{Order: u.state.Order, Version: u.version(g), Reason: "the state of the update can't be written: " + err.Error(), Code: wire.CodeJournal, At: g.now()}
		g.endTrial(o.Reason)
		u.state, u.state.Last = u.disk, &o
		if u.state.Phase == versions.PhaseHandover { // it was this program's own confirmation that was waited for
			u.enter(local.UpdateConfirm)
		} else {
			u.state.Phase, u.state.Next, u.state.Order = versions.PhaseNone, nil, nil
			u.enter(local.UpdateNone)
		}
		g.tellOutcome(o)
	}
}

// updateDue moves an update on as the moment wants it.
func (g *Guardian) updateDue(now time.Time) {
	u := &g.update
	g.noteBack(now)
	switch {
	case g.stopping || g.cfg.Updates == nil:
		return
	case u.unsure != nil:
		g.recheckDue(now)
		return
	}
	switch u.step {
	case local.UpdateDrain:
		if l := g.worker.life; l != nil && now.After(u.since.Add(drainForUpdate+drainMargin)) {
			l.end(true)
		}
	case local.UpdateTrial:
		g.trialDue(now)
	case local.UpdateConfirm:
		g.confirmDue(now)
	case local.UpdateNone:
		if u.state.Starts > 0 && now.Sub(g.start) >= faultLimit("GURURMM_LASTING", versions.Lasting) {
			st := u.state
			st.Starts = 0
			g.saveUpdate(st, "update.lasted", nil)
		}
	}
}

// version is the version that the step under way is about.
func (u *updateState) version(g *Guardian) string {
	switch {
	case u.state.Next != nil:
		return u.state.Next.Version()
	case u.step == local.UpdateConfirm:
		return g.cfg.Presence.Version
	case u.state.Current != nil:
		return u.state.Current.Version()
	}
	return g.cfg.Updates.Installed
}

// updateStatus is for people; nil: this agent does not update itself.
func (g *Guardian) updateStatus() *local.UpdateStatus {
	c, u := g.cfg.Updates, &g.update
	if c == nil {
		return nil
	}
	s := &local.UpdateStatus{
		Source: local.SourceInstalled, Path: c.Path, Why: c.Why, Installed: c.Installed, Keys: len(c.Keys),
		Step: u.step, Last: u.state.Last, BackAfter: u.back,
	}
	if c.Running != nil {
		s.Source, s.Previous = local.SourceUpdated, u.state.Previous.Version()
		if u.state.Previous == nil {
			s.Previous = c.Installed
		}
	}
	if u.step != local.UpdateNone {
		s.Version, s.Since = u.version(g), u.since
	}
	return s
}

// nextDue is when updateDue must look again.
func (u *updateState) nextDue(now time.Time) time.Time {
	if u.unsure != nil && !u.checking {
		return u.recheckAt
	}
	switch u.step {
	case local.UpdateDrain:
		return u.since.Add(drainForUpdate + drainMargin + time.Millisecond)
	case local.UpdateTrial, local.UpdateConfirm:
		return now.Add(time.Second)
	}
	return time.Time{}
}

package guardian

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/pipe"
	"gururmm/agent/versions"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/oob"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// ErrHandover says that another program shall go on in this one's place: what the
// state of versions names now.
var ErrHandover = errors.New("another version takes over")

const (
	// drainForUpdate is what running jobs get to end before the worker is exchanged.
	drainForUpdate = time.Minute
	// drainMargin is what a drained worker gets beyond it to be gone.
	drainMargin = 10 * time.Second
	// ConfirmLimit is how long a new guardian may take to have guarded a verified
	// worker for the grace; then it gives the endpoint back.
	ConfirmLimit = 5 * time.Minute
	// excusedMost bounds what excuses add to a trial or a confirmation.
	excusedMost = 10 * time.Minute
	// fetchLimit bounds a download in all; fetchMin and fetchMax the wait between its attempts.
	fetchLimit         = 2 * time.Hour
	fetchMin, fetchMax = time.Second, time.Minute
	// rolledBackShown is how long a rollback stands beside each verdict.
	rolledBackShown = 7 * 24 * time.Hour
	// memoryEvery is how often the memory of a worker on trial is looked at.
	memoryEvery = 250 * time.Millisecond
	// execTries bounds the starts of a worker on trial that only the moment is against,
	// execMin and execMax the wait between them: the endpoint has no worker meanwhile.
	execTries        = 6
	execMin, execMax = 100 * time.Millisecond, 4 * time.Second
	// recheckMin and recheckMax space the looks at a state that was not known. A look that finds it
	// may exchange the program, and so the worker: a disk that comes and goes must not do that all day.
	recheckMin, recheckMax = 30 * time.Second, time.Hour
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

// UpdateStep is where an update stands.
type UpdateStep string

// The steps, in order.
const (
	UpdateNone     UpdateStep = ""
	UpdateFetch    UpdateStep = "fetching"
	UpdateDrain    UpdateStep = "draining" // the old worker, before the trial
	UpdateTrial    UpdateStep = "trial"
	UpdateCommit   UpdateStep = "committing"
	UpdateHandover UpdateStep = "handing over"
	UpdateConfirm  UpdateStep = "confirming" // this process is the new program
)

// Where the running program comes from.
const (
	SourceInstalled = "installed" // by package or by hand
	SourceUpdated   = "updated"
)

// UpdateStatus tells which program runs, why, and what becomes of it.
type UpdateStatus struct {
	Source    string            `json:"source"` // SourceInstalled or SourceUpdated
	Path      string            `json:"path"`
	Why       string            `json:"why,omitempty"`
	Installed string            `json:"installed,omitempty"` // version of the installed program
	Previous  string            `json:"previous,omitempty"`  // what a rollback goes to
	Keys      int               `json:"release_keys"`        // that are trusted
	Step      UpdateStep        `json:"step,omitempty"`
	Version   string            `json:"version,omitempty"` // of the step
	Since     time.Time         `json:"since,omitzero"`    // of the step
	Last      *versions.Outcome `json:"last,omitempty"`
	// BackAfter is how long after the start of a trial that failed the old worker
	// was verified again.
	BackAfter *time.Duration `json:"back_after_ns,omitempty"`
}

// updateState belongs to the loop.
type updateState struct {
	state versions.State // of which disk has at least the last but the writes under way
	disk  versions.State
	step  UpdateStep
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

func (u *updateState) enter(step UpdateStep) { u.step, u.since = step, time.Now() }

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
	case u.step != UpdateNone:
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
	u.enter(UpdateFetch)
	g.saveUpdate(u.state.Fetch(*b, versions.Order{ID: d.ID, Kind: d.Kind, ExpiresAt: d.ExpiresAt}), "update.ordered", g.fetchUpdate)
	return nil
}

// asksInstalled reports whether going back now would be to the installed program: then
// it is asked first whether that can take over.
func (g *Guardian) asksInstalled() bool {
	c, u := g.cfg.Updates, &g.update
	return c != nil && c.CanRun != nil && c.Running != nil && u.unsure == nil && u.state.Previous == nil &&
		(u.step == UpdateNone || u.step == UpdateConfirm)
}

// askInstalled says why the installed program can't take over; it may wait for the disk.
func (u *Updates) askInstalled() error {
	if err := u.CanRun(); err != nil {
		return fmt.Errorf("the installed program can't take over: %w; install it again first", err)
	}
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
	case u.step != UpdateNone && u.step != UpdateConfirm:
		return refuse(wire.CodeBusy, "an update is under way: "+string(u.step)+" "+u.version(g))
	}
	g.result(d, wire.DirectiveAccepted, "", nil)
	g.noteUpdate("ordered", "A rollback from "+g.cfg.Presence.Version+" is ordered.")
	st := u.state
	if u.step == UpdateConfirm && st.Order != nil { // the order before is over too
		st = st.Fail("ended by a rollback that was ordered", g.now())
		g.tellOutcome(*st.Last)
	}
	u.began = time.Now()
	u.enter(UpdateCommit)
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
	case UpdateFetch, UpdateDrain, UpdateTrial, UpdateCommit:
		o := versions.Outcome{Order: u.state.Order, Version: u.version(g), Reason: "the state of the update can't be written: " + err.Error(), At: g.now()}
		g.endTrial(o.Reason)
		u.state, u.state.Last = u.disk, &o
		if u.state.Phase == versions.PhaseHandover { // it was this program's own confirmation that was waited for
			u.enter(UpdateConfirm)
		} else {
			u.state.Phase, u.state.Next, u.state.Order = versions.PhaseNone, nil, nil
			u.enter(UpdateNone)
		}
		g.tellOutcome(o)
	}
}

// fetchUpdate brings the program here and verifies it, in a helper.
func (g *Guardian) fetchUpdate() {
	c, b, until := g.cfg.Updates, g.update.state.Next.Build, g.update.state.Order.ExpiresAt
	offset := time.Until(g.now())
	rng := backoffRand(g)
	fetch := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		if err := c.Store.Room(b); err != nil {
			return err
		}
		get := func(ctx context.Context, offset int64, w io.Writer) error {
			_, err := c.Fetch(ctx, b.SHA256, b.Size, offset, dieAfter{w, "update.part"})
			return err
		}
		for try := 0; ; try++ {
			err := c.Store.Fetch(ctx, c.Keys, b, get)
			if err == nil {
				fault.Die("update.fetched")
				return nil
			}
			_, network := errors.AsType[*oob.DoorError](err)
			if !network || errors.Is(err, oob.ErrNoBuild) || errors.Is(err, oob.ErrRejected) {
				return err
			}
			if !until.IsZero() && !time.Now().Add(offset).Before(until) {
				return fmt.Errorf("not fetched before the order expired: %w", err)
			}
			wait := time.NewTimer(max(rng(try), oob.RetryAfter(err)))
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return fmt.Errorf("not fetched within %v: %w", fetchLimit, err)
			}
		}
	}
	g.wg.Go(func() {
		err := fetch(g.helpers)
		g.hand(func() { g.fetchedUpdate(err) })
	})
}

// backoffRand gives waits that do not touch the loop's own source of chance.
func backoffRand(g *Guardian) func(try int) time.Duration {
	var waits [8]time.Duration
	for i := range waits {
		waits[i] = backoff.Full(g.rng, fetchMin, fetchMax, i)
	}
	return func(try int) time.Duration { return waits[min(try, len(waits)-1)] }
}

// dieAfter is the boundary in the middle of a download.
type dieAfter struct {
	w     io.Writer
	label string
}

func (d dieAfter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	fault.Die(d.label)
	return n, err
}

// fetchedUpdate begins the trial, or ends the order.
func (g *Guardian) fetchedUpdate(err error) {
	u := &g.update
	if u.step != UpdateFetch || g.stopping {
		return // the next start goes on with it
	}
	if err != nil {
		if g.helpers.Err() != nil {
			return
		}
		g.failUpdate(u.state.Fail(err.Error(), g.now()))
		return
	}
	g.noteUpdate("fetched", "The program of version "+u.version(g)+" is here, and is the one that was signed.")
	byDoor := g.worker.life == nil || g.worker.said.Link.Phase != selfcheck.PhaseVerified
	if byDoor {
		g.noteUpdate("by_door", "No link is verified now: the second door will stand for it in the trial.")
	}
	g.saveUpdate(u.state.Trial(byDoor), "update.trial", g.drainForTrial)
}

// failUpdate ends an order of which nothing runs.
func (g *Guardian) failUpdate(st versions.State) {
	g.update.enter(UpdateNone)
	g.saveUpdate(st, "update.rolled_back", g.pruneVersions)
	g.tellOutcome(*st.Last)
}

// drainForTrial lets the old worker end; its end starts the new one.
func (g *Guardian) drainForTrial() {
	u, l, now := &g.update, g.worker.life, time.Now()
	if g.stopping {
		return
	}
	reason := "update to " + u.version(g)
	u.enter(UpdateDrain)
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
	case UpdateDrain:
	case UpdateTrial: // once more: it could not be started a moment ago
		u.began, u.lost = now, now
		return spawn()
	default:
		return nil
	}
	u.enter(UpdateTrial)
	u.first, u.began, u.lost, u.good, u.memory, u.back, u.execs = now, now, now, time.Time{}, 0, nil, 0
	g.noteUpdate("trial", "A worker of version "+u.version(g)+" is on trial, under the guardian of "+g.cfg.Presence.Version+".")
	g.beacon(causeRequest) // its answer shows that the door works now
	return spawn()
}

// watchTrial looks at the memory of the worker on trial until it ends.
func (g *Guardian) watchTrial(l *life) {
	u := &g.update
	if u.step != UpdateTrial || !l.trial || g.cfg.Updates.Memory == nil || u.endWatch != nil {
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
	case UpdateDrain:
		if l := g.worker.life; l != nil && now.After(u.since.Add(drainForUpdate+drainMargin)) {
			l.end(true)
		}
	case UpdateTrial:
		g.trialDue(now)
	case UpdateConfirm:
		g.confirmDue(now)
	case UpdateNone:
		if u.state.Starts > 0 && now.Sub(g.start) >= versions.Lasting {
			st := u.state
			st.Starts = 0
			g.saveUpdate(st, "update.lasted", nil)
		}
	}
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
		g.rollBack(fmt.Sprintf("its trial came to no end within %v: the machine is starved of time; order it again", most), false)
		return
	}
	v := judgeTrial(f, grace, g.trialMemory())
	switch {
	case v.Pass:
		g.commitUpdate(now)
	case v.Reason != "":
		g.rollBack(v.Reason, v.Blame)
	}
}

// commitUpdate makes the program that passed its trial the one to run from now on.
func (g *Guardian) commitUpdate(now time.Time) {
	u := &g.update
	g.noteUpdate("committed", fmt.Sprintf("Version %s has passed its trial, %v after it began.", u.version(g), now.Sub(u.began).Round(time.Second)))
	fault.Die("update.passed")
	u.enter(UpdateCommit)
	g.saveUpdate(u.state.Commit(g.cfg.Updates.Installed, g.now()), "update.committed", func() {
		g.handOver("version " + u.version(g) + " takes over")
	})
}

// handOver ends this guardian in order, for the program that the state names now.
func (g *Guardian) handOver(why string) {
	if g.stopping {
		return // the next start finds it
	}
	g.update.enter(UpdateHandover)
	g.noteUpdate("handover", "The agent hands over: "+why+".")
	g.handover, g.stopping, g.stopWhy = true, true, why
}

// trialEnded takes note that the worker on trial has ended by itself.
func (g *Guardian) trialEnded(l *life, e lifeExit) bool {
	if !l.trial || g.update.step != UpdateTrial {
		return false
	}
	how, blame := "its worker ended: "+describeExit(e, g.worker.fatal), true
	switch {
	case l.pid == 0 && versions.Passing(e.err):
		u := &g.update
		if u.execs++; u.execs < execTries {
			wait := backoff.Full(g.rng, execMin, execMax, u.execs-1)
			g.worker.startAt, g.worker.lastExit = time.Now().Add(wait), "on trial: it could not be started: "+e.err.Error()
			g.log.Warn("worker on trial could not be started now", "error", e.err, "again_in", wait)
			return true
		}
		how, blame = fmt.Sprintf("it could not be started, %d times: %v: that is this machine's state now, no fault of the build; order it again", u.execs, e.err), false
	case l.pid == 0:
		how = "it can't be executed: " + e.err.Error()
	}
	g.worker.startAt, g.worker.lastExit = time.Now(), "on trial: "+how
	g.log.Error("worker on trial ended", "how", how, "last_words", wordsForLog(e.words))
	g.rollBack(how, blame)
	return true
}

// rollBack ends a trial: the old worker comes back at once, the disk is told meanwhile.
func (g *Guardian) rollBack(reason string, blame bool) {
	u := &g.update
	fault.Die("update.rolling_back")
	st := u.state
	if blame {
		st = st.RollBack(reason, g.now())
	} else {
		st = st.Fail(reason, g.now())
		st.Last.RolledBack = true
	}
	u.failed = u.began
	g.log.Error("update is rolled back", "version", st.Last.Version, "reason", reason, "blamed", blame)
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

// confirmDue ends a handover: well, or by giving the endpoint back.
func (g *Guardian) confirmDue(now time.Time) {
	u, c := &g.update, g.cfg.Updates
	g.hold(now)
	grace := defaultGrace
	if c.Running != nil {
		grace = graceOf(c.Running.Build.GraceMS)
	} else if o := u.state.Order; o != nil {
		grace = graceOf(o.GraceMS)
	}
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
		u.enter(UpdateNone)
		g.saveUpdate(st, "update.confirmed", g.pruneVersions)
		g.tellOutcome(*st.Last)
	case now.Sub(u.began) < ConfirmLimit && now.Sub(u.first) < ConfirmLimit+excusedMost:
	case c.Running == nil: // nothing is left to go back to
		g.failUpdate(u.state.Fail(fmt.Sprintf("the installed program runs, but no link was verified within %v", ConfirmLimit), g.now()))
	default:
		g.giveBack(fmt.Sprintf("as guardian it had no verified link for %v within %v", grace, ConfirmLimit))
	}
}

// giveBack hands over to the program before, if that can take over.
func (g *Guardian) giveBack(reason string) {
	u := &g.update
	back := func() {
		st := u.state.FallBack(reason, g.now())
		g.log.Error("update is rolled back", "version", g.cfg.Presence.Version, "reason", reason)
		u.enter(UpdateCommit)
		g.saveUpdate(st, "update.gave_back", func() { g.handOver("the version before goes on, " + reason) })
	}
	if !g.asksInstalled() {
		back()
		return
	}
	var refused error
	asked := g.keep(job{what: jobUpdate, do: func() error { refused = g.cfg.Updates.askInstalled(); return nil }, then: func(error) {
		switch {
		case g.stopping || u.step != UpdateCommit:
		case refused != nil: // nothing is left to go back to
			g.failUpdate(u.state.Fail(reason+", and "+refused.Error(), g.now()))
		default:
			back()
		}
	}})
	if asked { // else the next turn tries again
		u.enter(UpdateCommit)
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
			g.failUpdate(st.Fail("it was interrupted by a restart, and is not taken up again", now))
			return
		}
		o := *st.Order
		o.Resumed++
		st.Order = &o
		u.enter(UpdateFetch)
		g.saveUpdate(st, "update.resumed", g.fetchUpdate)
	case versions.PhaseTrial:
		g.failUpdate(st.RollBack("the agent or the machine ended during its trial", now))
	case versions.PhaseHandover:
		fault.Die("update.guarding")
		u.enter(UpdateConfirm)
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
	case g.update.step == UpdateDrain || g.update.step == UpdateTrial:
		st = st.Fail("the agent was stopped during the trial; order it again", g.now())
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

// tellUpdate answers for an order that is known: under way, or over.
func (g *Guardian) tellUpdate(id string) bool {
	st := g.update.state
	if st.Order != nil && st.Order.ID == id {
		return true // told when it is over
	}
	if st.Last != nil && st.Last.Order != nil && st.Last.Order.ID == id {
		g.tellOutcome(*st.Last)
		return true
	}
	if f, ok := st.FailedOrder(id); ok {
		g.tellOutcome(f)
		return true
	}
	return false
}

// tellOutcome tells the server what became of an order, and beacons what stands here now.
func (g *Guardian) tellOutcome(o versions.Outcome) {
	if o.Order != nil {
		d := wire.Directive{ID: o.Order.ID, Kind: o.Order.Kind}
		if o.Done {
			g.result(d, wire.DirectiveDone, o.Version+" runs", nil)
		} else {
			g.result(d, wire.DirectiveFailed, sentenceOf(o), nil)
		}
	}
	g.noteOutcome(o)
	if g.stopping {
		return
	}
	if f, ok := g.updateFinding(); ok && !slices.Contains(g.judgement.Findings, f) { // the next judgement would have it
		g.judgement.Findings = append(slices.Clone(g.judgement.Findings), f)
	}
	g.beacon(causeRequest)
}

// toldUpdate notes that the server knows an outcome.
func (g *Guardian) toldUpdate(id string) {
	st := g.update.state
	if g.cfg.Updates == nil || g.update.unsure != nil || st.Last == nil || st.Last.Told || st.Last.Order == nil || st.Last.Order.ID != id {
		return
	}
	g.saveUpdate(st.Tell(), "update.told", nil)
}

// sentenceOf says what became of an order that is not done.
func sentenceOf(o versions.Outcome) string {
	what := "The update to " + o.Version + " failed: "
	if o.RolledBack {
		what = "The update to " + o.Version + " was rolled back: "
	}
	if o.Order != nil && o.Order.Kind == wire.DirectiveRollback {
		what = "The rollback failed: "
	}
	return what + o.Reason
}

// updateFinding stands beside each verdict while a rollback is fresh.
func (g *Guardian) updateFinding() (selfcheck.Finding, bool) {
	o := g.update.state.Last
	if g.cfg.Updates == nil || o == nil || !o.RolledBack || g.now().Sub(o.At) > rolledBackShown {
		return selfcheck.Finding{}, false
	}
	return selfcheck.Finding{Code: selfcheck.FindUpdateRolledBack, Sentence: sentenceOf(*o) + "."}, true
}

// noteUpdate tells of a step, in the log and the history.
func (g *Guardian) noteUpdate(code, sentence string) {
	g.log.Warn("update", "what", code, "sentence", sentence)
	g.note(history.Event{Kind: history.KindUpdate, Code: code, Sentence: sentence})
}

// noteOutcome tells of the end of one. It may be told by several processes, since the
// first may have died before it was kept; it is one event by its time.
func (g *Guardian) noteOutcome(o versions.Outcome) {
	code, sentence := "confirmed", "Version "+o.Version+" has taken over."
	switch {
	case o.RolledBack:
		code, sentence = "rolled_back", sentenceOf(o)+"."
	case !o.Done:
		code, sentence = "failed", sentenceOf(o)+"."
	}
	g.log.Warn("update", "what", code, "sentence", sentence)
	g.note(history.Event{ID: "u" + strconv.FormatInt(o.At.UnixNano(), 36), Kind: history.KindUpdate, Code: code, Sentence: sentence})
}

// version is the version that the step under way is about.
func (u *updateState) version(g *Guardian) string {
	switch {
	case u.state.Next != nil:
		return u.state.Next.Version()
	case u.step == UpdateConfirm:
		return g.cfg.Presence.Version
	case u.state.Current != nil:
		return u.state.Current.Version()
	}
	return g.cfg.Updates.Installed
}

// updateStatus is for people; nil: this agent does not update itself.
func (g *Guardian) updateStatus() *UpdateStatus {
	c, u := g.cfg.Updates, &g.update
	if c == nil {
		return nil
	}
	s := &UpdateStatus{
		Source: SourceInstalled, Path: c.Path, Why: c.Why, Installed: c.Installed, Keys: len(c.Keys),
		Step: u.step, Last: u.state.Last, BackAfter: u.back,
	}
	if c.Running != nil {
		s.Source, s.Previous = SourceUpdated, u.state.Previous.Version()
		if u.state.Previous == nil {
			s.Previous = c.Installed
		}
	}
	if u.step != UpdateNone {
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
	case UpdateDrain:
		return u.since.Add(drainForUpdate + drainMargin + time.Millisecond)
	case UpdateTrial, UpdateConfirm:
		return now.Add(time.Second)
	}
	return time.Time{}
}

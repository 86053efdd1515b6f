// Package guardian is the endpoint's parent process: it keeps the worker alive,
// judges it, takes the steps of the ladder, holds the second door and answers
// for the local status. It never opens the link.
//
// Rules that hold here:
//   - one goroutine, [Guardian.Run]'s loop, owns all state; whatever can block
//     (pipe, process, disk, network) runs in goroutines that it owns and waits
//     for, and that talk to it over channels;
//   - the loop never waits for the worker: a frozen child can't freeze the guardian;
//   - it never ends stopped: a worker that dies is started again, spread ever
//     wider, and the second door stays open meanwhile;
//   - a directive runs only if it is signed by the server, names this agent, has
//     not expired and has not run before; one that does not run is answered.
package guardian

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/internal/asleep"
	"gururmm/internal/serial"
	"gururmm/internal/uptime"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// ErrRestartService says that only a fresh start of the whole service may help:
// the process must end uncleanly, so that the service manager starts it again.
var ErrRestartService = errors.New("the service must be restarted")

// ErrRenewed says that a new identity waits to be put in place: the guardian of
// the old one has ended for it.
var ErrRenewed = errors.New("this machine takes a new identity")

// MaxTurn is the longest a loop that is well takes for a turn.
const MaxTurn = maxIdle

// StopWithin is the longest a stop takes from its beginning.
const StopWithin = drainGrace + dismissLimit

const (
	// drainGrace is what running jobs and the link get to end well at a stop.
	drainGrace = 5 * time.Second
	// farewell bounds the beacon at a stop: a machine that shuts down does not wait for us.
	farewell = 2 * time.Second
	// dismissLimit bounds the end, and helpersLimit in it the wait for helpers: a process
	// that the kernel holds, or a disk that hangs, must not hold up a stop.
	dismissLimit = 5 * time.Second
	helpersLimit = 3 * time.Second
	// maxIdle is the longest the loop goes without judging: facts may age in
	// ways that Judge did not announce.
	maxIdle = 5 * time.Second
	// pauseSlack: a loop that turns so much later than it set its alarm did not run
	// meanwhile, and most likely nothing else here did.
	pauseSlack = 5 * time.Second
	// lateSlack: a loop that turns so much later than it wanted was held up, and most
	// likely the worker with it: its silence counts from there.
	lateSlack = 2 * time.Second
	// minTurn keeps a recheck of next to nothing from turning the loop hot.
	minTurn = 5 * time.Millisecond
	// pingGap spaces the pings that settle a suspicion.
	pingGap = time.Second
	// crashWindow is how far back exits are counted.
	crashWindow = 10 * time.Minute
	// respawnMin and respawnMax bound the wait before a worker that died by
	// itself is started again; respawnStable is how long it must have lived for
	// the wait to begin small again.
	respawnMin, respawnMax = 500 * time.Millisecond, 60 * time.Second
	respawnStable          = time.Minute
	// starvedMost is how many starts in a row fail for want of file descriptors before the
	// service is started afresh; the back-off, which is kept over that, spreads it.
	starvedMost = 5
	// maxAttempt is where the wait grows no more.
	maxAttempt = 16
)

// Guardian is one run of the parent process.
type Guardian struct {
	cfg   Config
	log   *slog.Logger
	rng   *rand.Rand
	keys  wire.Keyring
	start time.Time

	steps   chan func() // what helpers hand to the loop
	asks    chan ask
	helpers context.Context // of all helpers of this run; set once, by Run
	wg      sync.WaitGroup  // of the helpers
	keeper  *serial.Queue[job]

	// All below belongs to the loop.
	policy    wire.Policy
	ladder    *selfcheck.Ladder
	judgement selfcheck.Judgement
	snapshot  selfcheck.Snapshot // as last judged
	worker    workerState
	// diskOrders are the directives that wait for the disk.
	diskOrders []*diskOrder
	door       doorState
	beacons    beaconState
	memory     memoryState
	history    historyState
	errands    map[wire.DirectiveKind]string // under way: the directive that ordered it
	awaited    []awaitedStep                 // directives whose steps are not over
	framesFor  []ask                         // status requests that wait for the worker's frames
	framesBy   time.Time                     // when they are told that none came
	insight    insightState
	dump       stacksState
	disk       diskState
	turnedAt   time.Time // last turn of the loop
	wakeAt     time.Time // the latest that the next one was due
	judgeAt    time.Time
	pinged     time.Time // a ledger was last asked for to settle a suspicion
	ladderAt   time.Time
	stopping   bool
	stopBegan  time.Time
	stopWhy    string
	handover   bool // end with ErrHandover
	update     updateState
	bundle     bundleState
	restart    bool // end with ErrRestartService
	renewed    bool // end with ErrRenewed
}

// New checks cfg; [Guardian.Run] does the rest.
func New(cfg Config) (*Guardian, error) {
	switch {
	case cfg.Agent == "":
		return nil, errors.New("guardian: no agent id")
	case cfg.Spawn == nil:
		return nil, errors.New("guardian: no way to start the worker")
	case cfg.Presence.Instance == "":
		return nil, errors.New("guardian: no instance id")
	case cfg.Door != nil && cfg.Spool == nil:
		return nil, errors.New("guardian: a second door without a spool")
	}
	keys, err := wire.NewKeyring(cfg.Keys...)
	if err != nil {
		return nil, fmt.Errorf("guardian: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if cfg.Uptime == nil {
		cfg.Uptime = uptime.Get
	}
	if cfg.Asleep == nil {
		cfg.Asleep = new(asleep.System())
	}
	cfg.Policy = cfg.Policy.WithDefaults()
	g := &Guardian{
		cfg: cfg, log: cfg.Log, rng: cfg.Rand, keys: keys,
		steps: make(chan func()), asks: make(chan ask),
		errands: map[wire.DirectiveKind]string{},
		policy:  cfg.Policy,
		ladder:  selfcheck.NewLadder(cfg.Policy, cfg.Rand),
	}
	if u := cfg.Updates; u != nil {
		g.update.unsure = u.Unsure
	}
	return g, nil
}

// Run guards until ctx ends, then stops in order and returns nil; or returns
// [ErrRestartService] or [ErrRenewed]. It returns only after all it started has ended.
func (g *Guardian) Run(ctx context.Context) error {
	g.start = time.Now()
	helpers, release := context.WithCancel(context.WithoutCancel(ctx))
	g.helpers = helpers
	g.recall()
	g.keeper = serial.New(maxJobs, g.work)
	g.noteSteps(true)
	g.memory.dirty, g.memory.urgent = true, true // so that the next run knows that this one ran
	if last := g.memory.cutOff; last != "" {
		g.note(history.Event{Kind: history.KindGuardian, Code: "cut_off",
			Sentence: "The run before this one ended without a word: it was killed, or the machine went down under it.", Detail: "instance " + last})
	}
	g.note(history.Event{Kind: history.KindGuardian, Code: "started",
		Sentence: fmt.Sprintf("The agent starts, version %s.", cmp.Or(g.cfg.Presence.Version, "unknown")), Detail: "instance " + g.cfg.Presence.Instance})
	g.serveStatus()
	g.startWorker()
	g.startUploads()
	g.beacon(causeStart)
	g.resumeUpdate()
	g.tellOld()

	alarm := time.NewTimer(0)
	defer alarm.Stop()
	stop := ctx.Done()
	var over time.Time // when a stop no longer waits
	for !g.stopped(over) {
		var asked []ask // answered once this moment is judged
		select {
		case step := <-g.steps:
			step()
		case q := <-g.asks:
			asked = append(asked, q)
		case e := <-g.cfg.Events:
			g.event(e)
		case <-alarm.C:
		case <-stop:
			stop = nil
			if g.stopping { // told to stop in the middle of a handover
				g.handover, over = false, earlier(over, time.Now().Add(drainGrace))
				break
			}
			over = g.beginStop("the service stops")
		}
		if g.cfg.Gate != nil {
			g.cfg.Gate()
		}
		now := time.Now()
		g.noticePause(now)
		if g.stopping && over.IsZero() {
			over = g.beginStop(cmp.Or(g.stopWhy, "the service restarts"))
		}
		g.judge(now)
		g.noteSteps(false)
		g.tellOrdered()
		for _, q := range asked {
			q.do(q, now)
		}
		g.due(now)
		g.tellTurn(now)
		g.wakeAt = g.nextDue(now, over)
		alarm.Reset(time.Until(g.wakeAt))
	}
	return g.finish(release)
}

// finish ends what Run began, writes what must last, and gives Run's answer.
func (g *Guardian) finish(release context.CancelFunc) error {
	over := time.Now().Add(dismissLimit)
	g.killWorker("the guardian ends")
	g.dismiss(release)
	g.lastWrites(over)
	g.log.Info("guardian ended", "restart", g.restart, "handover", g.handover)
	switch {
	case g.handover:
		return ErrHandover
	case g.renewed:
		return ErrRenewed
	case g.restart:
		return ErrRestartService
	}
	return nil
}

// tellTurn says that the loop turned, and how things are.
func (g *Guardian) tellTurn(now time.Time) {
	if g.cfg.Notify == nil {
		return
	}
	t := Turn{At: now, Mode: local.ModeGuarding, Verdict: g.judgement.Verdict}
	if g.stopping && !g.handover { // at a handover the process goes on
		t.Mode = local.ModeStopping
	}
	g.cfg.Notify(t)
}

// noticePause recognises that this process did not run for a while (a suspended
// machine, a paused virtual one): the worker's silence is counted from now, since
// it could not report either.
func (g *Guardian) noticePause(now time.Time) {
	slept := g.noteClock(now)
	last := g.turnedAt
	g.turnedAt = now
	if last.IsZero() || now.Sub(last) < maxIdle+pauseSlack {
		if !g.wakeAt.IsZero() && now.Sub(g.wakeAt) > lateSlack {
			g.excuse(now, now.Sub(g.wakeAt)) // no event, but nothing to blame the worker for
		}
		return
	}
	g.log.Warn("this process did not run for a while: the machine was suspended or starved", "for", now.Sub(last))
	// Where the monotonic clock goes on in a sleep, that much of the gap has its own event.
	if paused := now.Sub(last) - (slept - g.cfg.Asleep.Missed(slept)); paused >= maxIdle+pauseSlack {
		g.note(history.Event{Kind: history.KindClock, Code: "paused",
			Sentence: fmt.Sprintf("This process did not run for %v: stopped, or starved of time.", paused.Round(time.Second))})
	}
	g.excuse(now, now.Sub(last))
}

// excuse counts the worker's silence from now: it could not report either. What
// the ladder waits for could not come. An update's trial is given only what it has
// lost: a machine that is always late would never end it.
func (g *Guardian) excuse(now time.Time, lost time.Duration) {
	g.ladder.Resumed(now)
	if u := &g.update; u.step == local.UpdateTrial || u.step == local.UpdateConfirm {
		u.began, u.lost = earlier(now, u.began.Add(lost)), earlier(now, u.lost.Add(lost))
	}
	l := g.worker.life
	if l == nil {
		return
	}
	l.began = now
	if l.killed != "" && l.killedAt.Before(now) { // one that drains has its time yet
		l.killedAt = now
	}
	if !l.reported.IsZero() {
		// Nothing in its last report grew older meanwhile either.
		l.reported, g.worker.said.Taken = now, now
	}
}

// event acts on what the platform tells.
func (g *Guardian) event(e Event) {
	g.log.Info("event", "event", e)
	switch e {
	case EventSuspend:
		g.note(history.Event{Kind: history.KindClock, Code: "suspends", Sentence: "The machine is about to be suspended."})
		// The battery may not last: nothing learnt is left in memory alone.
		g.memory.dirty, g.memory.urgent = true, true
	case EventResume:
		g.note(history.Event{Kind: history.KindClock, Code: "resumed", Sentence: "The machine runs again after a suspend."})
		g.excuse(time.Now(), 0) // what was lost is seen by the next turn
		g.order(pipe.Order{Ping: true})
	case EventSession:
		g.order(pipe.Order{Ping: true})
	}
}

// beginStop sends the last beacon, drains the worker, and gives the moment from
// which neither is waited for.
func (g *Guardian) beginStop(reason string) time.Time {
	g.stopping = true
	g.log.Info("guardian stops", "reason", reason)
	g.note(history.Event{Kind: history.KindGuardian, Code: "stops", Sentence: "The agent stops: " + reason + "."})
	grace, cause := drainGrace, causeStop
	if g.handover { // the agent goes on
		grace, cause = drainForUpdate, causeRequest
	}
	g.beacon(cause)
	if g.worker.life != nil {
		g.worker.life.orders.put(pipe.Order{Drain: &pipe.DrainOrder{GraceMS: grace.Milliseconds() * 4 / 5, Reason: reason}})
	}
	g.stopBegan = time.Now()
	return g.stopBegan.Add(grace)
}

// earlier is the first of two moments.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// stopped reports whether a stop, once begun, has nothing more to wait for.
func (g *Guardian) stopped(over time.Time) bool {
	if !g.stopping || over.IsZero() {
		return false
	}
	now := time.Now()
	if !now.Before(over) {
		return true
	}
	said := !now.Before(g.stopBegan.Add(farewell)) || g.farewellSaid()
	return said && g.worker.life == nil
}

// hand gives the loop a step to take, from a helper; false: the helpers are to end.
func (g *Guardian) hand(step func()) bool {
	select {
	case g.steps <- step:
		return true
	case <-g.helpers.Done():
		return false
	}
}

// dismiss ends the helpers and waits for them, as long as that makes sense;
// what they still say is thrown away.
func (g *Guardian) dismiss(release context.CancelFunc) {
	gone := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(gone)
	}()
	release()
	limit := time.NewTimer(helpersLimit)
	defer limit.Stop()
	for {
		select {
		case <-gone:
			return
		case <-limit.C:
			g.log.Error("helpers of the guardian do not end: left behind")
			return
		case q := <-g.asks:
			close(q.reply)
		}
	}
}

// lastWrites ends the keeper and writes what must last, in a goroutine that is waited
// for until over: a disk that hangs is left behind with it.
func (g *Guardian) lastWrites(over time.Time) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		g.keeper.Close()
		g.keeper.Wait()
		g.memory.ended = true
		if err := g.rememberNow(); err != nil {
			g.log.Error("state can't be written", "error", err)
		}
		g.settleUpdate()
		if g.cfg.History == nil {
			return
		}
		if err := errors.Join(g.writeNotes(), g.cfg.History.Close()); err != nil {
			g.log.Error("history can't be written", "error", err)
		}
	}()
	limit := time.NewTimer(time.Until(over))
	defer limit.Stop()
	select {
	case <-written:
	case <-limit.C:
		g.log.Error("the disk does not answer: what was to be written last is left behind")
	}
}

// judge takes the facts of this moment, and the steps that follow from them.
func (g *Guardian) judge(now time.Time) {
	if g.stopping {
		return
	}
	g.snapshot = g.assess(now)
	j := selfcheck.Judge(g.snapshot, now, g.policy)
	changed := j.Verdict.Code != g.judgement.Verdict.Code || j.Verdict.Suspected != g.judgement.Verdict.Suspected
	j.Findings = append(j.Findings, g.ownFindings()...)
	g.sayIsolated(&j.Verdict)
	g.wantStacks(now)
	g.showStack(&j.Verdict)
	g.judgement = j
	g.noteVerdict(j.Verdict)
	g.wantBundle(j.Verdict, now)
	if changed {
		g.log.Info("verdict", "code", j.Verdict.Code, "suspected", j.Verdict.Suspected, "sentence", j.Verdict.Sentence)
		g.tellVerdict()
	}
	if j.Ping && now.Sub(g.pinged) >= pingGap && g.order(pipe.Order{Ping: true}) {
		g.pinged = now
	}
	steps, recheck := g.ladder.Next(j, g.snapshot, now)
	for _, step := range steps {
		g.log.Info("step", "kind", step.Kind, "verdict", step.Verdict, "reason", step.Reason, "expected", step.Expected)
		g.climb(step)
	}
	g.memory.dirty = g.memory.dirty || len(steps) > 0 || changed
	g.memory.urgent = g.memory.urgent || len(steps) > 0
	g.syncDelivery()
	g.announce(now)
	g.judgeAt, g.ladderAt = after(now, j.Recheck), after(now, recheck)
}

// sayIsolated has a link that a quarantine keeps down say so, and why it was ordered: it is no
// fault of the network.
func (g *Guardian) sayIsolated(v *selfcheck.Verdict) {
	if g.cfg.Quarantine == nil || v.Code != selfcheck.CodeLinkQuarantined && v.Code != selfcheck.CodeLinkConnecting {
		return
	}
	if sentence := g.cfg.Quarantine(); sentence != "" {
		v.Sentence = sentence
		_, _, v.Action = selfcheck.Describe(selfcheck.CodeLinkQuarantined)
	}
}

// ownFindings are what stands beside any verdict because of this process.
func (g *Guardian) ownFindings() []selfcheck.Finding {
	found := append(slices.Clone(g.cfg.Findings), g.clockFindings(time.Now())...)
	if f, ok := g.updateFinding(); ok {
		found = append(found, f)
	}
	if g.cfg.Quarantine != nil {
		if sentence := g.cfg.Quarantine(); sentence != "" {
			found = append(found, selfcheck.Finding{Code: selfcheck.FindIsolated, Sentence: sentence})
		}
	}
	if err := g.update.unsure; err != nil {
		found = append(found, selfcheck.Finding{Code: selfcheck.FindJournal,
			Sentence: "No version is exchanged or removed for now: " + err.Error() + ". Mend that: it is looked at again by itself."})
	}
	found = append(found, g.memory.lost...)
	if g.history.broken != nil {
		found = append(found, selfcheck.Finding{Code: selfcheck.FindJournal,
			Sentence: "What happens here can't be kept for later: " + g.history.broken.Error() + "."})
	}
	if g.memory.broken != nil {
		found = append(found, selfcheck.Finding{Code: selfcheck.FindJournal,
			Sentence: "The guardian can't write its state: " + g.memory.broken.Error() + "."})
	}
	return found
}

// after is now+d, or zero ("never") for a d of zero.
func after(now time.Time, d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return now.Add(max(d, minTurn))
}

// proof is a step's reason behind its verdict's code: as the reason of a closing
// frame it tells the server what the link is left for.
func proof(step selfcheck.StepRecord) string { return string(step.Verdict) + ": " + step.Reason }

// climb takes one step of the ladder.
func (g *Guardian) climb(step selfcheck.StepRecord) {
	switch step.Kind {
	case selfcheck.StepReconnect:
		g.order(pipe.Order{Reconnect: &pipe.ReconnectOrder{Reason: proof(step), Link: g.snapshot.Link.ID}})
	case selfcheck.StepAlternative:
		g.order(pipe.Order{Reconnect: &pipe.ReconnectOrder{Reason: proof(step), Alternative: true, Link: g.snapshot.Link.ID}})
	case selfcheck.StepRetryLink:
		g.order(pipe.Order{Reconnect: &pipe.ReconnectOrder{Reason: step.Reason, Probe: true}})
	case selfcheck.StepRestartStage:
		g.restartStage(selfcheck.StageOf(step.Verdict))
	case selfcheck.StepRestartWorker:
		g.restartWorker(step.Reason)
	case selfcheck.StepRestartService:
		g.restartService(step.Reason)
	case selfcheck.StepOOB, selfcheck.StepRelease, selfcheck.StepHold:
		// The door follows Ladder.Delivering; holding is to do nothing and say so.
	}
}

// restartService ends the guardian uncleanly if somebody will start it again;
// else the worker is as much as can be started afresh.
func (g *Guardian) restartService(reason string) {
	if !g.cfg.Service {
		g.restartWorker(reason)
		return
	}
	g.log.Warn("service restarts", "reason", reason)
	g.restart, g.stopping = true, true
}

// due does what its time has come for.
func (g *Guardian) due(now time.Time) {
	g.abandon(now)
	g.updateDue(now)
	if g.worker.life == nil && !g.stopping && !now.Before(g.worker.startAt) {
		g.startWorker()
	}
	if len(g.framesFor) > 0 && !now.Before(g.framesBy) {
		g.answerFrames(nil)
	}
	g.insightDue(now)
	g.bundleDue(now)
	g.diskOrdersDue(now)
	g.diskDue(now)
	g.lookDue(now)
	g.doorDue(now)
	g.rememberDue(now)
	g.notesDue(now)
}

// nextDue is when the loop must turn again even if nothing happens.
func (g *Guardian) nextDue(now, over time.Time) time.Time {
	next := now.Add(maxIdle)
	sooner := func(t time.Time) { // what was due by now has just been done
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	sooner(g.judgeAt)
	sooner(g.ladderAt)
	sooner(over)
	if !over.IsZero() {
		sooner(g.stopBegan.Add(farewell))
	}
	if g.worker.life == nil && !g.stopping {
		sooner(g.worker.startAt)
	}
	if len(g.framesFor) > 0 {
		sooner(g.framesBy)
	}
	sooner(g.insight.nextDue())
	if !g.bundle.making { // its end turns the loop
		sooner(g.bundle.due)
	}
	if l := g.worker.life; l != nil {
		sooner(l.outside.at)
	}
	sooner(g.beacons.next)
	sooner(g.door.nextDue(now))
	sooner(g.update.nextDue(now))
	sooner(g.memory.saveAt)
	sooner(g.history.again)
	for _, o := range g.diskOrders {
		sooner(o.by)
	}
	return next
}

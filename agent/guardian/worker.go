package guardian

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/pipe"
	"gururmm/internal/backoff"
	"gururmm/selfcheck"
)

// unkillable is how long a killed worker may take to be gone (it may hang in
// the kernel) before another is started beside its remains.
const unkillable = 30 * time.Second

// lastExitLen bounds what of a worker's last words goes into status and beacons, in bytes.
const lastExitLen = 400

// workerState is what the loop knows of the worker.
type workerState struct {
	gen      int
	life     *life // nil between an end and the next start
	startAt  time.Time
	attempt  int         // starts in a row that did not last
	starved  int         // starts in a row that failed for want of file descriptors
	exits    []time.Time // ends that we did not order, within crashWindow
	lastExit string
	said     selfcheck.Snapshot // its last report
	fatal    string             // why it said it can't go on

	toldOOB    bool
	toldOffset time.Duration
	toldCode   selfcheck.Code
}

// startWorker begins the next generation.
func (g *Guardian) startWorker() {
	w := &g.worker
	w.gen++
	l := &life{gen: w.gen, began: time.Now(), orders: newOutbox(), kill: make(chan struct{})}
	w.life, w.said, w.fatal = l, selfcheck.Snapshot{}, ""
	w.toldOOB, w.toldOffset, w.toldCode = false, 0, selfcheck.CodeUnknown
	l.spawn = g.cfg.Spawn
	if spawn := g.trialSpawn(); spawn != nil {
		l.spawn, l.trial = spawn, true
	}
	g.wg.Go(func() { g.live(l) })
}

// workerStarted takes note of the process that l has become.
func (g *Guardian) workerStarted(l *life, child Child) {
	if g.worker.life != l {
		return
	}
	l.pid, l.outside.look = child.PID, child.Outside
	g.log.Info("worker started", "pid", l.pid, "generation", l.gen)
	g.note(history.Event{Kind: history.KindWorker, Code: "started",
		Sentence: fmt.Sprintf("Worker %d started, process %d.", l.gen, l.pid)})
	g.tellPolicy()
	g.tellVerdict()
	g.syncOffset()
	g.watchTrial(l)
}

// take takes in what a worker said. What an older generation still says of
// commands counts; what it says of itself does not.
func (g *Guardian) take(l *life, f pipe.Fact) {
	if len(f.Upstream) > 0 {
		g.send(f.Upstream...)
	}
	if g.worker.life != l {
		return
	}
	now := time.Now()
	switch {
	case f.Snapshot != nil:
		s := *f.Snapshot
		s.Taken = now
		g.worker.said, l.reported = s, now
	case f.Same:
		if said := g.worker.said; !said.Taken.IsZero() {
			g.worker.said, l.reported = said.Aged(now.Sub(said.Taken)), now
		}
	case f.Call:
		g.door.called = true
	case f.Policy != nil:
		g.adoptUpdate(*f.Policy)
	case f.Frames != nil:
		g.answerFrames(*f.Frames)
	case f.Stacks != "":
		g.tookStacks(l.gen, f.Stacks, now)
		g.answerStacks(f.Stacks, nil)
	case f.Stage != nil:
		g.stageAnswered(*f.Stage)
	case f.Trace != nil:
		g.answerTrace(f.Trace, nil)
	case f.Fatal != "":
		g.worker.fatal = f.Fatal
		g.log.Error("worker can't go on", "reason", f.Fatal)
	}
}

// workerEnded takes note of the end of a generation and plans the next.
func (g *Guardian) workerEnded(l *life, e lifeExit) {
	w := &g.worker
	if w.life != l {
		return
	}
	now := time.Now()
	w.life, w.said = nil, selfcheck.Snapshot{Taken: now} // known: there is none
	switch {
	case g.stopping:
		g.log.Info("worker ended", "pid", l.pid)
		g.noteWorkerEnd("ended", l, describeExit(e, w.fatal))
		return
	case g.trialEnded(l, e):
		return
	case l.killed != "":
		// Our own doing, bounded by the ladder's budget: no crash, no wait.
		w.startAt, w.attempt = now, 0
		w.lastExit = "ended by the guardian: " + l.killed + g.lastWords(l.gen, e.words, l.killed, now)
		g.noteWorkerEnd("killed", l, w.lastExit)
		g.log.Warn("worker was ended", "pid", l.pid, "reason", l.killed, "last_words", wordsForLog(e.words))
		return
	}
	if now.Sub(l.began) >= respawnStable {
		w.attempt = 0
	}
	wait := backoff.Full(g.rng, respawnMin, respawnMax, w.attempt)
	w.attempt = min(w.attempt+1, maxAttempt)
	g.memory.dirty, g.memory.urgent = true, true
	w.startAt = now.Add(wait)
	w.exits = append(w.exits, now)
	how := describeExit(e, w.fatal)
	w.lastExit = how + g.lastWords(l.gen, e.words, how, now)
	g.noteWorkerEnd("died", l, w.lastExit)
	g.log.Error("worker ended by itself", "pid", l.pid, "how", w.lastExit, "again_in", wait, "last_words", wordsForLog(e.words))
	if !errors.Is(e.err, syscall.EMFILE) {
		w.starved = 0
	} else if w.starved++; w.starved == starvedMost && g.cfg.Service {
		// They are this process's own: neither the door nor the local socket works
		// without them, and only another process can have others.
		g.restartService("the guardian has no file descriptors left: " + how)
	}
}

// noteWorkerEnd notes how one generation ended: died by itself, killed by us, or
// ended at a stop.
func (g *Guardian) noteWorkerEnd(code string, l *life, how string) {
	lived := time.Since(l.began).Round(time.Second)
	g.note(history.Event{Kind: history.KindWorker, Code: code,
		Sentence: fmt.Sprintf("Worker %d %s after %v.", l.gen, code, lived), Detail: how})
}

// tellVerdict lets the worker's heartbeats carry the verdict.
func (g *Guardian) tellVerdict() {
	code := g.judgement.Verdict.Code
	if g.worker.life == nil || g.worker.toldCode == code {
		return
	}
	text := string(code)
	if g.order(pipe.Order{Verdict: &text}) {
		g.worker.toldCode = code
	}
}

// describeExit says in one line how a worker ended.
func describeExit(e lifeExit, fatal string) string {
	how := "exit status 0"
	if e.err != nil {
		how = e.err.Error()
	}
	words := fatal
	if words == "" {
		words = crashLine(e.words)
	}
	if words == "" {
		return how
	}
	if len(words) > lastExitLen {
		words = strings.ToValidUTF8(words[:lastExitLen], "") + " …"
	}
	return how + ": " + words
}

// crashLine picks the line of a Go crash that says why; "" if there is none.
func crashLine(words string) string {
	for line := range strings.Lines(words) {
		for _, sign := range []string{"panic: ", "fatal error: ", "SIGQUIT: "} {
			if strings.HasPrefix(line, sign) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// restartStage asks the worker for one loop afresh; if it can't be asked, the
// ladder goes on.
func (g *Guardian) restartStage(stage string) {
	if !g.order(pipe.Order{RestartStage: stage}) {
		g.ladder.StageRefused(stage, "the worker does not read its orders")
	}
}

// stageAnswered takes in what came of it.
func (g *Guardian) stageAnswered(f pipe.StageFact) {
	g.log.Warn("worker started a loop afresh", "loop", f.Stage, "restarted", f.Restarted, "detail", f.Detail)
	if !f.Restarted {
		g.ladder.StageRefused(f.Stage, f.Detail)
	}
}

// restartWorker ends the worker; its end starts the next at once. One that is
// not there is only started sooner.
func (g *Guardian) restartWorker(reason string) {
	if g.worker.life == nil {
		g.worker.startAt = time.Now()
		return
	}
	l := g.worker.life
	if l.killed == "" {
		l.killed, l.killedAt = reason, time.Now()
	}
	l.orders.put(pipe.Order{Stacks: true}) // for platforms where no signal asks for them
	l.end(true)
}

// killWorker ends a worker for good, without asking it anything.
func (g *Guardian) killWorker(reason string) {
	if l := g.worker.life; l != nil {
		l.killed = reason
		l.end(false)
	}
}

// abandon gives up waiting for a killed worker that the kernel holds.
func (g *Guardian) abandon(now time.Time) {
	l := g.worker.life
	if l == nil || l.killed == "" || now.Sub(l.killedAt) < unkillable {
		return
	}
	g.log.Error("killed worker is still there: another is started beside it", "pid", l.pid)
	g.worker.life, g.worker.said = nil, selfcheck.Snapshot{Taken: now}
	g.worker.startAt, g.worker.lastExit = now, fmt.Sprintf("process %d could not be killed", l.pid)
}

// firstReport is how long a fresh worker may take to report: it reads its
// journal first, perhaps on a machine that boots. From then on silence counts.
const firstReport = 25 * time.Second

// assess completes the worker's last report with what only the guardian knows.
// Ages of the report stay as of Taken: how far they may be carried on is the judge's to say.
func (g *Guardian) assess(now time.Time) selfcheck.Snapshot {
	w := &g.worker
	s := w.said
	at := s.Taken // what the guardian adds is as of the same moment
	if at.IsZero() {
		at = now
	}
	for len(w.exits) > 0 && now.Sub(w.exits[0]) > crashWindow {
		w.exits = w.exits[1:]
	}
	s.Worker.NextStart = nil
	if w.life == nil {
		s.Worker.NextStart = new(max(0, w.startAt.Sub(now)))
	} else if !w.life.reported.IsZero() && now.Sub(w.life.began) >= respawnStable {
		g.memory.dirty = g.memory.dirty || len(w.exits) > 0 || w.attempt > 0
		w.exits, w.attempt = nil, 0 // it lives: the loop is over
	}
	s.Worker.Running = w.life != nil
	s.Worker.Instance = g.cfg.Presence.Instance
	s.Worker.Exits, s.Worker.LastExit, s.Worker.Silent = len(w.exits), w.lastExit, nil
	if l := w.life; l != nil {
		s.Worker.PID = l.pid
		s.Worker.Version = cmp.Or(s.Worker.Version, g.cfg.Presence.Version)
		switch {
		case !l.reported.IsZero():
			s.Worker.Silent = new(now.Sub(l.reported))
		case now.Sub(l.began) > firstReport:
			s.Worker.Silent = new(now.Sub(l.began))
		}
		if s.Worker.Silent != nil && *s.Worker.Silent >= selfcheck.ReportMissed {
			s.Worker.Kernel, s.Worker.Unread = l.outside.state, l.outside.unread
		}
		if p := l.orders.pending(at); p != nil {
			s.Loops = maps.Clone(s.Loops)
			if s.Loops == nil {
				s.Loops = map[string]selfcheck.LoopFacts{}
			}
			if said := s.Loops[loopOrders].Pending; said == nil || *said < *p {
				s.Loops[loopOrders] = selfcheck.LoopFacts{Pending: p}
			}
		}
	}
	if s.Clock.Offset == nil && g.cfg.Door != nil {
		if off, known := g.cfg.Door.Offset(); known {
			s.Clock.Offset = &off
		}
	}
	s.OOB, s.Disk = g.doorFacts(now), g.disk.facts
	return s
}

// picture is assess for people and reports: all ages are as of now.
func (g *Guardian) picture(now time.Time) selfcheck.Snapshot {
	s := g.assess(now)
	if s.Taken.IsZero() {
		return s
	}
	return s.Aged(now.Sub(s.Taken))
}

// loopOrders is the worker's reading of its orders, as the guardian sees it from outside.
const loopOrders = "orders"

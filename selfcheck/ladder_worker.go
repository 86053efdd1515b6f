package selfcheck

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The worker's part of the ladder.

// restartable are the loops that a worker can start afresh in place; the others
// share their fate with it.
var restartable = []string{"reader", "dispatcher", "writer", "executor", loopMetrics}

// StageOf names the loop of a verdict agent.stalled.<stage>; "" for any other.
func StageOf(c Code) string {
	stage, ok := strings.CutPrefix(string(c), string(CodeAgentStalled)+".")
	if !ok {
		return ""
	}
	return stage
}

// StageRefused takes in that the worker can't start a loop afresh in place, and
// why: the ladder goes on to the next rung at once.
func (l *Ladder) StageRefused(stage, why string) {
	if w := &l.worker; w.step != nil && w.step.kind == StepRestartStage && StageOf(w.step.code) == stage {
		w.refused = orNone(why)
	}
}

// Resumed takes in that this machine, or the ladder's owner, did not run until
// now: nothing that is waited for could have come meanwhile.
func (l *Ladder) Resumed(now time.Time) {
	for _, w := range append([]*waiting{l.link.step, l.link.door, l.worker.step}, l.ordered...) {
		if w != nil {
			w.since = now
		}
	}
	for _, since := range []*time.Time{&l.link.downSince, &l.link.verifiedSince, &l.worker.wellAt} {
		if !since.IsZero() {
			*since = now
		}
	}
}

// waiting begins the wait for a step's outcome.
func (t *turn) waiting(kind StepKind) *waiting {
	return &waiting{kind: kind, code: t.v.Code, link: t.s.Link.ID, pid: t.s.Worker.PID, at: t.now, after: t.now, since: t.now}
}

// climbWorker deals with a worker that stands still, or can't live.
func (t *turn) climbWorker() {
	w := &t.worker
	t.crashloop()
	if w.step != nil && !t.workerStepDone() {
		return
	}
	if t.remedy != remedyWorker && t.remedy != remedyStage || t.p.HoldRecovery || !t.due(w.retryAt) || t.spreadOut() {
		return
	}
	w.retryAt = time.Time{}
	if t.restartStage() {
		return
	}
	reason := t.v.Sentence
	switch {
	case t.remedy == remedyStage:
		free := frees(w.stages, t.p.RestartsPerHour)
		if last := w.tried[t.v.Code].at.Add(stageAgain); last.After(free) {
			free = last
		}
		t.hold(&w.held, reason+" A fresh loop did not help, and a fresh worker is not worth the jobs it would end.", free)
	case len(w.restarts) < t.p.RestartsPerHour:
		w.restarts = append(w.restarts, t.now)
		w.step = t.waiting(StepRestartWorker)
		t.take(StepRestartWorker, reason, "a new worker, and text both ways, within "+span(workerGrace))
		t.in(workerGrace)
	case len(w.services) == 0:
		w.services = append(w.services, t.now)
		w.step = t.waiting(StepRestartService)
		t.take(StepRestartService, reason+fmt.Sprintf(" %s within an hour did not cure it.", count(len(w.restarts), "restart")),
			"the service manager starts the agent afresh")
		t.in(workerGrace)
	default:
		free := frees(w.restarts, t.p.RestartsPerHour)
		if n := frees(w.services, 1); len(w.services) > 0 && n.Before(free) {
			free = n
		}
		t.hold(&w.held, reason+" The restarts of this hour are spent.", free)
	}
}

// restartStage takes the lowest rung: the loop afresh, the worker and its jobs
// stay. false: it is not for this verdict, or was tried.
func (t *turn) restartStage() bool {
	w := &t.worker
	stage := StageOf(t.v.Code)
	last, tried := w.tried[t.v.Code]
	switch {
	case !slices.Contains(restartable, stage), len(w.stages) >= t.p.RestartsPerHour:
		return false
	case tried && last.pid == t.s.Worker.PID && t.now.Sub(last.at) < stageAgain:
		return false
	}
	w.stages = append(w.stages, t.now)
	w.tried[t.v.Code] = triedStage{t.s.Worker.PID, t.now}
	w.step, w.refused = t.waiting(StepRestartStage), ""
	t.take(StepRestartStage, t.v.Sentence, fmt.Sprintf("the %s loop turns within %s, and text goes both ways", stage, span(stageGrace)))
	t.in(stageGrace)
	return true
}

// workerStepDone settles the step under way, if it can be.
func (t *turn) workerStepDone() bool {
	w := &t.worker
	if w.step.kind == StepRestartStage {
		return t.stageStepDone()
	}
	over, helped := t.workerOutcome(w.step)
	if !over {
		return false
	}
	w.step = nil
	if !helped {
		w.retryAt = t.now.Add(t.backoff(ms(t.p.BackoffMinMS), w.level))
		w.level = min(w.level+1, maxLevel)
	}
	return true
}

// workerOutcome finds out what came of a restart of the worker or the service.
func (t *turn) workerOutcome(w *waiting) (over, helped bool) {
	fresh := t.s.Worker.Running && t.s.Worker.PID != w.pid && !t.s.Taken.IsZero()
	waited := t.now.Sub(w.since)
	switch {
	case fresh && t.remedy == remedyWorker:
		t.noBetter(w, "the new worker: "+t.v.Sentence)
	case fresh && t.tripped(w):
		t.helped(w, "a new worker, and text both ways, after "+span(waited))
		return true, true
	case waited < workerGrace:
		t.in(workerGrace - waited)
		return false, false
	case fresh && t.reports():
		t.noBetter(w, "a new worker reports, but no text went both ways within "+span(waited)+": "+t.v.Sentence)
	default:
		t.noBetter(w, "no new worker reported within "+span(waited))
	}
	return true, false
}

// stageStepDone is the same for one loop. What did not help is not waited for:
// the next rung follows at once.
func (t *turn) stageStepDone() bool {
	w := &t.worker
	waited := t.now.Sub(w.step.since)
	ill := t.remedy == remedyWorker || t.remedy == remedyStage || t.remedy == remedyWait
	limit := stageGrace + ms(t.p.VerifyMS)
	switch {
	case w.refused != "":
		t.noBetter(w.step, "it can't be started afresh in place: "+w.refused)
	case t.s.Worker.PID != w.step.pid:
		t.noBetter(w.step, "the worker ended meanwhile")
	case ill && t.v.Code != w.step.code, ill && waited >= stageGrace:
		t.noBetter(w.step, t.v.Sentence)
	case !ill && t.tripped(w.step):
		t.helped(w.step, "the loop turns, and text went both ways, after "+span(waited))
	case waited >= limit:
		t.noBetter(w.step, "no text went both ways within "+span(waited)+": "+t.v.Sentence)
	case ill:
		t.in(stageGrace - waited)
		return false
	default:
		t.in(limit - waited)
		return false
	}
	w.step = nil
	return true
}

// reports reports whether the worker says how it is.
func (t *turn) reports() bool {
	silent := t.s.Worker.Silent
	return silent != nil && *silent < hungGrace && t.v.Code != CodeUnknown
}

// tripped reports whether text has gone both ways since the step w was taken: the
// link was verified after it, or a heartbeat that was written after it has been answered.
func (t *turn) tripped(w *waiting) bool {
	if t.s.Link.Phase != PhaseVerified || !t.reports() || t.remedy == remedyWorker {
		return false
	}
	waited := t.s.Taken.Sub(w.after)
	for _, age := range []*time.Duration{t.s.Link.VerifiedAge, t.s.Link.TextTripAge} {
		if age != nil && *age < waited {
			return true
		}
	}
	return false
}

// crashloop holds while the worker keeps dying: its owner starts it again ever
// more rarely, and nothing that a ladder does would help.
func (t *turn) crashloop() {
	w := &t.worker
	switch {
	case t.remedy == remedyWait && w.loop == nil:
		w.loop = t.waiting(StepHold)
		expected := "a worker that lives"
		if in := t.s.Worker.NextStart; in != nil {
			expected += ": it is started again in " + span(*in)
		}
		t.take(StepHold, t.v.Sentence+" A restart would not help: it is started again ever more rarely.",
			expected+"; the second door stays open")
	case w.loop != nil && t.remedy != remedyWait && t.tripped(w.loop):
		t.helped(w.loop, "a worker lives, and text goes both ways, after "+span(t.now.Sub(w.loop.at)))
		w.loop = nil
	}
}

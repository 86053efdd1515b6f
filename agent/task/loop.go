package task

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"gururmm/internal/fault"
	"gururmm/wire"
)

const (
	// burst is how many results one turn of the loop emits, and burstPause the time
	// to the next: a thousand of them at once would crowd everything else out.
	burst      = 16
	burstPause = 50 * time.Millisecond
	// retryJournal is how often a journal that can't be written is tried again by itself.
	retryJournal = 5 * time.Second
	// lookBallast is how often the ballast is looked at.
	lookBallast = time.Minute
	// retryStart is when a job whose "started" could not be journaled is tried again.
	retryStart = 2 * time.Second
	// resendWindow is how much output one answer of the server brings forth, in bytes:
	// the next answer asks for more, so that the server sets the pace.
	resendWindow = 1 << 20
	never        = 24 * time.Hour
)

// loop starts jobs, repeats results and answers the server's acks. It never waits
// for a job; each turn drains the token.
func (e *Executor) loop(self *turning) {
	defer close(self.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-self.replaced:
			return
		case <-e.wake:
		case <-timer.C:
		}
		fault.Stall("worker.executor")
		fault.Stall("worker.deadlock")
		next, ok := e.turn(self)
		if !ok {
			return
		}
		timer.Reset(next)
	}
}

// fillBallast makes the ballast whole, where there is room.
func (e *Executor) fillBallast() {
	if !e.journal.ballast.short() {
		return
	}
	if err := e.journal.ballast.fill(); err != nil {
		e.opts.Log.Warn("no room is kept for a full disk", "error", err)
	}
}

// turning is one goroutine that runs the loop.
type turning struct {
	replaced chan struct{} // closed: another does
	done     chan struct{}
}

func newTurning() *turning {
	return &turning{replaced: make(chan struct{}), done: make(chan struct{})}
}

// heldPoll is how often what is held is tried again.
const heldPoll = 5 * time.Millisecond

// Held says, as an error, what of the executor has not been let go for wait: its
// memory, or its journal, whose disk then does not answer.
func (e *Executor) Held(wait time.Duration) error {
	try := func(lock *sync.Mutex) bool {
		for over := time.Now().Add(wait); !lock.TryLock(); time.Sleep(heldPoll) {
			if !time.Now().Before(over) {
				return false
			}
		}
		lock.Unlock()
		return true
	}
	switch {
	case !try(&e.mu):
		return errors.New("the executor's memory is held by what hangs")
	case !try(&e.journal.io):
		return errors.New("the journal's disk does not answer")
	}
	return nil
}

// RestartLoop replaces the loop's goroutine, which hangs, by a fresh one. All that
// a loop decides it decides under the lock, and only while it is in charge: the old
// one starts nothing any more. The error says why a fresh one would hang too.
func (e *Executor) RestartLoop(wait time.Duration) error {
	if err := e.Held(wait); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining {
		return errors.New("the executor is stopping")
	}
	close(e.turning.replaced)
	e.turning = newTurning()
	go e.loop(e.turning)
	e.nudge()
	return nil
}

// turn does all that is due, and says when to come back; false: another loop is
// in charge by now.
func (e *Executor) turn(self *turning) (time.Duration, bool) {
	_, broken := e.journal.state()
	full := e.journal.due()

	e.mu.Lock()
	if e.turning != self {
		e.nudge() // the news was for the other
		e.mu.Unlock()
		return 0, false
	}
	now := time.Now()
	token, acks := e.token, e.acks
	e.token, e.acks = nil, map[string]wire.ResultAck{}
	next := never
	if !e.draining {
		next = e.launch(now, false)
	}
	due, later := e.dueResults(now)
	next = min(next, later)
	if broken != nil {
		if full = !now.Before(e.retryAt); full {
			e.retryAt = now.Add(retryJournal)
		}
		next = min(next, e.retryAt.Sub(now))
	}
	if !e.draining {
		if !now.Before(e.fillAt) {
			e.fillAt = now.Add(lookBallast)
			e.jobs.Go(e.fillBallast)
		}
		next = min(next, e.fillAt.Sub(now))
	}
	e.mu.Unlock()

	if token != nil {
		close(token)
	}
	for _, a := range acks {
		e.answer(a)
	}
	for _, id := range due {
		e.sendResult(id)
	}
	if full {
		if err := e.journal.repair(); err == nil && broken != nil {
			e.opts.Log.Info("the task journal can be written again")
		}
	}
	return next, true
}

// launch starts the jobs whose time has come, as slots allow; with last it only
// ends those that were cancelled. The caller holds mu.
func (e *Executor) launch(now time.Time, last bool) (next time.Duration) {
	next = never
	running := 0
	for _, en := range e.book.live {
		if en.phase == phaseRunning || en.phase == phaseEnding {
			running++
		}
	}
	for _, en := range e.book.liveByAge() {
		switch {
		case en.phase != phaseAccepted, last && en.ctx.Err() == nil:
		case en.startAt.After(now):
			next = min(next, en.startAt.Sub(now))
		case running < e.maxJobs || en.ctx.Err() != nil:
			// Set before "started" is journaled, so that a journal written anew meanwhile has it.
			en.phase = phaseRunning
			en.stages[wire.StageStarted] = e.opts.Now()
			running++
			e.jobs.Go(func() { e.run(en) })
		}
	}
	return next
}

// dueResults picks the results to emit now. The caller holds mu.
func (e *Executor) dueResults(now time.Time) (ids []string, next time.Duration) {
	next = never
	for id, en := range e.book.live {
		switch {
		case en.phase != phaseOwed:
		case en.due.After(now):
			next = min(next, en.due.Sub(now))
		case len(ids) == burst:
			next = min(next, burstPause)
		default:
			ids = append(ids, id)
			en.due = now.Add(en.wait)
			next = min(next, en.wait)
			en.wait = min(2*en.wait, repeatMost)
		}
	}
	return ids, next
}

// answer acts on what the server says of a result.
func (e *Executor) answer(a wire.ResultAck) {
	e.mu.Lock()
	en := e.book.live[a.ID]
	if en == nil || en.phase != phaseOwed {
		e.mu.Unlock()
		return
	}
	if !a.Stored {
		// An answer that brings nothing new waits for the next repeat: two ends must not
		// ask each other for ever as fast as they can.
		news := !en.acked || a.HaveStdout > en.haveStdout || a.HaveStderr > en.haveStderr
		missing := a.HaveStdout < en.result.StdoutBytes || a.HaveStderr < en.result.StderrBytes
		en.acked, en.haveStdout, en.haveStderr = true, a.HaveStdout, a.HaveStderr
		if news && missing {
			en.wait, en.due = 2*repeatFirst, time.Now().Add(repeatFirst)
		}
		e.mu.Unlock()
		if news && missing {
			e.sendResult(a.ID)
		}
		return
	}
	e.book.store(a.ID, en)
	r := record{Kind: kindStored, ID: a.ID, At: e.opts.Now(), Expires: en.cmd.ExpiresAt}
	e.mu.Unlock()
	// Not synced: if it is lost, the result is sent once more.
	if err := e.journal.commit(r, false); err != nil {
		e.opts.Log.Warn("journal a stored result", "command", a.ID, "error", err)
	}
	if err := e.out.remove(a.ID); err != nil {
		e.opts.Log.Warn("remove stored output", "command", a.ID, "error", err)
	}
}

// sendResult emits a result, before it the output that the server says it lacks.
func (e *Executor) sendResult(id string) {
	e.mu.Lock()
	en := e.book.live[id]
	if en == nil || en.phase != phaseOwed {
		e.mu.Unlock()
		return
	}
	r, acked, haveOut, haveErr := en.result, en.acked, en.haveStdout, en.haveStderr
	e.mu.Unlock()
	if fit := e.fit(r); fit != r {
		r = fit
		e.mu.Lock()
		en.result = r
		e.mu.Unlock()
	}
	if acked && !inline(r) {
		left := int64(resendWindow)
		left -= e.pieces(id, wire.Stdout, haveOut, min(r.StdoutBytes, haveOut+left))
		e.pieces(id, wire.Stderr, haveErr, min(r.StderrBytes, haveErr+left))
	}
	e.emitResult(r)
}

// inline tells whether r's output rides in it.
func inline(r *wire.CommandResult) bool { return r.StdoutBytes+r.StderrBytes <= wire.InlineOutput }

// fit gives r itself, or, where the disk has lost output that was kept, one that
// says so: the server would wait for ever for the rest.
func (e *Executor) fit(r *wire.CommandResult) *wire.CommandResult {
	missOut := r.StdoutBytes - e.out.size(r.ID, wire.Stdout)
	missErr := r.StderrBytes - e.out.size(r.ID, wire.Stderr)
	if missOut <= 0 && missErr <= 0 {
		return r
	}
	fit := *r
	fit.StdoutBytes, fit.StdoutLost = r.StdoutBytes-max(missOut, 0), r.StdoutLost+max(missOut, 0)
	fit.StderrBytes, fit.StderrLost = r.StderrBytes-max(missErr, 0), r.StderrLost+max(missErr, 0)
	for i, missing := range []int64{missOut, missErr} {
		if missing > 0 {
			alsoSay(&fit, fmt.Sprintf("%d bytes of its %s were kept and are gone from the endpoint's disk", missing, streamNames[i]))
		}
	}
	return &fit
}

// withOutput gives r with its output, if it rides in it.
func (e *Executor) withOutput(r *wire.CommandResult) *wire.CommandResult {
	out := *r
	if !inline(r) {
		return &out
	}
	out.Stdout = e.whole(r.ID, wire.Stdout, r.StdoutBytes)
	out.Stderr = e.whole(r.ID, wire.Stderr, r.StderrBytes)
	return &out
}

// whole reads a short stream; what can't be read now is asked for by the server.
func (e *Executor) whole(id string, s wire.Stream, size int64) []byte {
	if size == 0 {
		return nil
	}
	buf := make([]byte, size)
	n, err := e.out.read(id, s, 0, buf)
	if err != nil {
		e.opts.Log.Warn("read output", "command", id, "stream", s, "error", err)
	}
	return buf[:n]
}

// emitResult hands r to the writer.
func (e *Executor) emitResult(r *wire.CommandResult) {
	out := e.withOutput(r)
	out.Stages = maps.Clone(r.Stages)
	if out.Stages == nil {
		out.Stages = wire.StageTimes{}
	}
	out.Stages[wire.StageResultWritten] = e.opts.Now()
	e.opts.Emit(wire.TypeCommandResult, r.ID, *out)
}

// pieces emits kept output from offset from to offset to, and gives its length.
func (e *Executor) pieces(id string, s wire.Stream, from, to int64) int64 {
	at := max(from, 0)
	for at < to {
		buf := make([]byte, min(to-at, wire.MaxChunk)) // each chunk is given away
		n, err := e.out.read(id, s, at, buf)
		if n == 0 {
			if err != nil {
				e.opts.Log.Warn("read output", "command", id, "stream", s, "error", err)
			}
			break
		}
		e.opts.Emit(wire.TypeCommandOutput, id, wire.CommandOutput{ID: id, Stream: s, Offset: at, Data: buf[:n]})
		at += int64(n)
	}
	return at - max(from, 0)
}

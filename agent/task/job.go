package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"gururmm/agent/task/tree"
	"gururmm/wire"
)

const (
	// killGrace is what a job's processes are given between being asked to end and being killed.
	killGrace = 2 * time.Second
	// drainWait is how long the output of an ended job is waited for when a
	// descendant of it holds the pipe: what the job itself wrote is in the pipe by then.
	drainWait = 2 * time.Second
	// reapWait is how long the root of a killed tree is waited for.
	reapWait = time.Second
	// coalesce is how long output waits for more to ride with it.
	coalesce = 50 * time.Millisecond
	// timeoutDefault is for commands that name no timeout, timeoutMost bounds the others.
	timeoutDefault = time.Hour
	timeoutMost    = 30 * 24 * time.Hour
)

// Why a job is ended before its time: causes of its context.
var (
	errCancelled = errors.New("cancelled")
	errStopped   = errors.New("the agent was stopped while it ran")
	errTimeout   = errors.New("timed out")
)

// run takes an entry from its start to its end. The loop has set phaseRunning.
func (e *Executor) run(en *entry) {
	id := en.cmd.ID
	switch {
	case errors.Is(context.Cause(en.ctx), errCancelled):
		e.end(en, false, wire.CommandResult{ID: id, State: wire.StateCancelled, Reason: "cancelled before it was started"})
		return
	case !e.opts.Now().Before(en.cmd.ExpiresAt):
		e.end(en, false, wire.CommandResult{ID: id, State: wire.StateExpired,
			Reason: "it expired at " + en.cmd.ExpiresAt.UTC().Format(time.RFC3339) + " before it could be started"})
		return
	}
	e.mu.Lock()
	r := en.started()
	e.mu.Unlock()
	if err := e.journal.commit(r, true); err != nil {
		e.opts.Log.Warn("a command waits for the journal", "command", id, "error", err)
		e.mu.Lock()
		en.phase = phaseAccepted
		en.startAt = time.Now().Add(retryStart)
		delete(en.stages, wire.StageStarted)
		e.nudge()
		e.mu.Unlock()
		return
	}
	e.mu.Lock()
	e.started++
	en.began = time.Now()
	e.mu.Unlock()
	e.end(en, true, e.execute(en))
}

// execute runs the script and gives its result.
func (e *Executor) execute(en *entry) wire.CommandResult {
	c := en.cmd // set once, at acceptance
	failed := func(err error) wire.CommandResult {
		return wire.CommandResult{ID: c.ID, State: wire.StateFailed, Reason: "it could not be started: " + err.Error()}
	}
	cmd, clean, err := prepare(e.runDir, e.journal.ballast, c)
	if err != nil {
		return failed(err)
	}
	defer clean()
	s, err := e.openStreams(c)
	if err != nil {
		return failed(err)
	}
	cmd.Stdout, cmd.Stderr = s.writeEnds[0], s.writeEnds[1] // Stdin nil: the null device
	t, err := tree.Start(cmd, c.ID)
	s.closeWriteEnds()
	if err != nil {
		s.finish(0)
		return failed(err)
	}
	var noted sync.WaitGroup // beside the watch: a slow disk must not delay a timeout
	noted.Go(func() { e.noteProcess(en, t.PID()) })
	defer noted.Wait()
	cause, killErr := watch(en.ctx, t, timeoutOf(c))
	t.Release()
	drained := s.finish(drainWait)
	result := judge(t, cause, killErr, timeoutOf(c))
	result.ID, result.Orphans = c.ID, !drained
	s.account(&result)
	if !inline(&result) {
		s.flush()
	}
	for i, in := range s.captures {
		switch _, lost, err := in.counts(); {
		case err != nil:
			e.opts.Log.Warn("keep output", "command", c.ID, "error", err)
			alsoSay(&result, fmt.Sprintf("%d bytes of its %s could not be kept: %v", lost, streamNames[i], err))
		case lost > 0:
			alsoSay(&result, fmt.Sprintf("%d bytes of its %s were left out: over %s", lost, streamNames[i], limitOf(c.MaxOutput)))
		}
	}
	return result
}

func alsoSay(r *wire.CommandResult, what string) {
	if r.Reason != "" {
		r.Reason += "; "
	}
	r.Reason += what
}

// limitOf says whose limit it is that cuts output, and how much it is.
func limitOf(ordered int64) string {
	switch limit := keptMost(ordered); {
	case limit < ordered:
		return fmt.Sprintf("this agent's own limit of %d bytes a stream (%d were ordered)", limit, ordered)
	case limit == wire.DefaultMaxOutput:
		return fmt.Sprintf("the default limit of %d bytes a stream", limit)
	default:
		return fmt.Sprintf("the ordered limit of %d bytes a stream", limit)
	}
}

func timeoutOf(c wire.Command) time.Duration {
	if c.TimeoutMS <= 0 {
		return timeoutDefault
	}
	return time.Duration(min(c.TimeoutMS, timeoutMost.Milliseconds())) * time.Millisecond
}

// noteProcess records the root's pid; not synced: it only helps to find leftovers.
func (e *Executor) noteProcess(en *entry, pid int) {
	e.mu.Lock()
	en.pid = pid
	r := en.started()
	e.mu.Unlock()
	if err := e.journal.commit(r, false); err != nil {
		e.opts.Log.Warn("journal a process", "command", en.cmd.ID, "error", err)
	}
}

// watch waits until t ends, and ends it when its time is over or ctx is done: then
// cause says why.
func watch(ctx context.Context, t *tree.Tree, timeout time.Duration) (cause, killErr error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-t.Done():
		return nil, nil
	case <-timer.C:
		cause = errTimeout
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	killErr = t.Kill(killGrace)
	select {
	case <-t.Done():
	case <-time.After(reapWait): // stuck in the kernel; killErr says so
	}
	return cause, killErr
}

// judge makes the result of how a tree ended.
func judge(t *tree.Tree, cause, killErr error, timeout time.Duration) wire.CommandResult {
	var r wire.CommandResult
	switch {
	case errors.Is(cause, errTimeout):
		r.State, r.Reason = wire.StateFailed, fmt.Sprintf("timed out after %v", timeout)
	case errors.Is(cause, errCancelled):
		r.State, r.Reason = wire.StateCancelled, cause.Error()
	case cause != nil:
		r.State, r.Reason = wire.StateInterrupted, cause.Error()
	default:
		ended(&r, t.ProcessState())
	}
	if killErr != nil {
		r.Reason += "; " + killErr.Error()
	}
	return r
}

// ended fills in how a process ended by itself.
func ended(r *wire.CommandResult, p *os.ProcessState) {
	code := p.ExitCode()
	switch {
	case p.Success():
		r.State, r.ExitCode = wire.StateCompleted, &code
	case code < 0:
		r.State, r.Reason = wire.StateFailed, "ended by "+p.String() // "signal: killed"
	default:
		r.State, r.ExitCode, r.Reason = wire.StateFailed, &code, fmt.Sprintf("exit code %d", code)
	}
}

// end journals a result and emits it. ran says that the job was counted as started.
func (e *Executor) end(en *entry, ran bool, r wire.CommandResult) {
	e.mu.Lock()
	if ran {
		en.stages[wire.StageFinished] = e.opts.Now()
		e.finished++
	} else {
		delete(en.stages, wire.StageStarted)
	}
	en.phase = phaseEnding
	e.setResult(en, r)
	rec := en.ended()
	e.mu.Unlock()
	if err := e.journal.commit(rec, true); err != nil {
		// The journal is written anew from memory when it can be; until then memory
		// repeats the result.
		e.opts.Log.Error("a result can't be journaled", "command", r.ID, "error", err)
	}
	e.mu.Lock()
	en.owe() // before it is emitted: the answer may come at once
	e.nudge()
	e.mu.Unlock()
	e.emitResult(rec.Result)
}

// setResult makes r, which is not changed from then on, the result of en. The caller holds mu.
func (e *Executor) setResult(en *entry, r wire.CommandResult) {
	r.Stages = maps.Clone(en.stages)
	en.result, en.cmd.Script, en.cmd.Pad = &r, "", ""
}

// streams are the pipes of a running job: what comes out is kept, and sent as it comes.
type streams struct {
	e         *Executor
	id        string
	writeEnds [2]*os.File // the job's
	readEnds  [2]*os.File
	captures  [2]*capture

	readers sync.WaitGroup
	sender  sync.WaitGroup
	more    chan struct{}
	done    chan struct{}
	sent    [2]int64 // by the sender, then by flush
}

var streamNames = [2]wire.Stream{wire.Stdout, wire.Stderr}

func (e *Executor) openStreams(c wire.Command) (*streams, error) {
	s := &streams{e: e, id: c.ID, more: make(chan struct{}, 1), done: make(chan struct{})}
	for i, name := range streamNames {
		r, w, err := os.Pipe()
		if err != nil {
			for k := range i {
				_, _ = s.readEnds[k].Close(), s.writeEnds[k].Close()
			}
			return nil, err
		}
		s.readEnds[i], s.writeEnds[i] = r, w
		s.captures[i] = &capture{path: e.out.path(c.ID, name), max: keptMost(c.MaxOutput), more: s.grown, ballast: e.journal.ballast}
	}
	for i, in := range s.captures {
		s.readers.Go(func() { in.run(s.readEnds[i]) })
	}
	s.sender.Go(s.send)
	return s, nil
}

func (s *streams) grown() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *streams) closeWriteEnds() {
	for _, f := range s.writeEnds {
		_ = f.Close()
	}
}

// send emits output as it is kept, until done.
func (s *streams) send() {
	for {
		select {
		case <-s.done:
			return
		case <-s.more:
		}
		if !s.chunkFull() {
			select {
			case <-s.done:
				return
			case <-time.After(coalesce):
			}
		}
		s.flush()
	}
}

func (s *streams) chunkFull() bool {
	for i, in := range s.captures {
		if kept, _, _ := in.counts(); kept-s.sent[i] >= wire.MaxChunk {
			return true
		}
	}
	return false
}

// flush emits what is kept and not sent, within the live window.
func (s *streams) flush() {
	for i, in := range s.captures {
		kept, _, _ := in.counts()
		if to := min(kept, liveWindow); to > s.sent[i] {
			s.sent[i] += s.e.pieces(s.id, streamNames[i], s.sent[i], to)
		}
	}
}

// finish waits for the ends of the streams, at most wait, and closes them.
// drained: they came; else processes are left that hold the pipes.
func (s *streams) finish(wait time.Duration) (drained bool) {
	ended := make(chan struct{})
	go func() { // ends at the latest when the pipes are closed below
		s.readers.Wait()
		close(ended)
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	select {
	case <-ended:
		drained = true
	default:
	}
	for _, f := range s.readEnds {
		_ = f.Close()
	}
	<-ended
	close(s.done)
	s.sender.Wait()
	return drained
}

// account fills in the counts of a result.
func (s *streams) account(r *wire.CommandResult) {
	r.StdoutBytes, r.StdoutLost, _ = s.captures[0].counts()
	r.StderrBytes, r.StderrLost, _ = s.captures[1].counts()
}

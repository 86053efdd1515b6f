package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gururmm/agent/task/tree"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// startAnyway is when an accepted command runs though nobody called Start: it is
	// journaled, so it is ours, whatever became of its ack.
	startAnyway = 10 * time.Second
	// repeatFirst and repeatMost bound the time between repeats of a result: soon
	// enough for an operator who waits, rare enough for a server that is down.
	repeatFirst = 5 * time.Second
	repeatMost  = 60 * time.Second
	// acceptWait is how long a repeat waits while the first of its id is being written.
	acceptWait = 30 * time.Second
)

const reasonDamaged = "the journal was damaged; it can't be proven that it did not run"

// Options of [Open].
type Options struct {
	// Dir is private to the executor; created 0700.
	Dir string
	// MaxJobs bounds the commands that are accepted and not ended; at least 1.
	MaxJobs int
	// Now is the server-corrected clock; nil: time.Now.
	Now func() time.Time
	// Emit takes a wire.CommandOutput or wire.CommandResult upstream. It must not
	// block. It is called from the executor's goroutines, possibly before Open has returned.
	Emit func(t wire.Type, id string, payload any)
	// LockWait is how long Open waits for another worker to let go of Dir: one whose
	// guardian was killed drains for a moment.
	LockWait time.Duration
	Log      *slog.Logger // nil: none
}

// Outcome of [Executor.Accept].
type Outcome struct {
	Known   bool                // the id is in the journal already: a duplicate
	Running bool                // ... and it has not ended
	Result  *wire.CommandResult // ... and it has ended so; nil for a known probe
	Refused wire.Code           // busy, expired, journal, draining, unsupported, too_large; "" accepted
	Detail  string              // of Refused, for people
}

// Executor runs commands.
type Executor struct {
	opts    Options
	journal *journal
	out     outputs
	runDir  string

	wake    chan struct{} // of the loop; one is enough
	stop    chan struct{}
	jobs    sync.WaitGroup // added to under mu only, and never once draining
	closing sync.Once

	mu       sync.Mutex // never held across I/O
	book     *book
	maxJobs  int
	draining bool
	acks     map[string]wire.ResultAck // for the loop, the last of each id
	token    chan struct{}
	turning  *turning  // the loop in charge
	retryAt  time.Time // of a broken journal
	fillAt   time.Time // of the ballast
	started  uint64
	finished uint64
}

// Open reads the journal of o.Dir, and goes on where the last executor ended:
// what had started is reported interrupted and what is left of it killed; what
// had not started is run unless it has expired. The error is [ErrLocked], or that the
// directory can't be read; one that can't be written shows in Facts and refuses commands.
func Open(o Options) (*Executor, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Emit == nil {
		return nil, errors.New("task: no Emit")
	}
	return open(o, openOS)
}

func open(o Options, files func(string, int) (file, error)) (*Executor, error) {
	e := &Executor{
		opts: o, maxJobs: max(o.MaxJobs, 1), book: newBook(),
		out: outputs{filepath.Join(o.Dir, outputDir)}, runDir: filepath.Join(o.Dir, runDir),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), turning: newTurning(),
		acks: map[string]wire.ResultAck{},
	}
	e.journal = &journal{dir: o.Dir, lockWait: o.LockWait, open: files, snapshot: e.snapshot, ballast: newBallast(o.Dir)}
	used, err := e.journal.load(e.book.take)
	if err != nil {
		return nil, errors.Join(err, e.journal.close(true))
	}
	damaged := e.journal.damage
	if used && !damaged && e.book.born.IsZero() {
		damaged, e.journal.quarantined = true, "the journal was missing"
	}
	now := o.Now()
	if damaged || e.book.born.IsZero() {
		e.book.born = now
	}
	if damaged { // the clock may be behind the server's: what was seen counts too
		e.book.horizon = slices.MaxFunc([]time.Time{now, e.book.latest, e.book.horizon}, time.Time.Compare)
	}
	killed := e.settle(damaged)
	if err := e.journal.repair(); err != nil {
		o.Log.Error("the task journal can't be written, commands are refused", "error", err)
	}
	e.makeDirs(damaged)
	if file, _ := e.journal.state(); damaged {
		o.Log.Error("the task journal was damaged, its good records were kept", "set_aside", file,
			"horizon", e.book.horizon)
	}
	for id, pid := range killed {
		e.jobs.Go(func() { e.killLeft(id, pid) })
	}
	go e.loop(e.turning)
	return e, nil
}

// makeDirs makes and sweeps the directories beside the journal. A failure shows
// where the first job needs them.
func (e *Executor) makeDirs(keepAll bool) {
	for _, dir := range []string{e.out.dir, e.runDir} {
		if _, err := makeDir(dir); err != nil {
			e.opts.Log.Error("task directory", "error", err)
		}
	}
	outputs{e.runDir}.sweep(func(string) bool { return false })
	if !keepAll { // after damage, what belongs to lost records may be evidence
		e.out.sweep(func(id string) bool { return e.book.live[id] != nil })
	}
}

// settle decides what becomes of what the last executor left. It gives the
// jobs that may have left processes. After damage "accepted" alone proves
// nothing: "started" may have been in a lost line.
func (e *Executor) settle(damaged bool) (killed map[string]int) {
	killed = map[string]int{}
	for id, en := range e.book.live {
		reason := "the agent ended while it ran"
		if en.phase == phaseAccepted && damaged {
			en.phase, reason = phaseRunning, reasonDamaged
		}
		switch en.phase {
		case phaseRunning:
			killed[id] = en.pid
			e.setResult(en, wire.CommandResult{
				ID: id, State: wire.StateInterrupted, Reason: reason,
				StdoutBytes: e.out.size(id, wire.Stdout), StderrBytes: e.out.size(id, wire.Stderr),
			})
			en.owe()
		case phaseOwed:
			en.result = e.fit(en.result)
			en.owe()
		}
	}
	return killed
}

// killLeft ends what a job of the last executor has left running.
func (e *Executor) killLeft(id string, pid int) {
	if err := tree.KillMarked(id, pid); err != nil {
		e.opts.Log.Error("a job of the last worker can't be killed", "command", id, "error", err)
	}
}

// snapshot is the journal as it should be. What changes after it is committed after it.
func (e *Executor) snapshot() []record {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.book.prune(e.opts.Now())
	return e.book.records()
}

// validID: it names files. Ids are UUIDs, tests may use simpler ones.
func validID(id string) bool {
	ok := id != "" && len(id) <= 64
	for _, c := range []byte(id) {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_')
	}
	return ok
}

// Accept journals c durably before it returns, and sets stages[journaled]. It does
// not start it: call Start once the ack was handed to the writer. It waits for the disk.
// A probe is journaled the same way, and is then done.
func (e *Executor) Accept(c wire.Command, probe bool, stages wire.StageTimes) Outcome {
	en, out := e.reserve(c, probe, stages)
	if en != nil {
		out = e.write(c, en, probe, stages)
	}
	if out.Result != nil {
		out.Result = e.withOutput(out.Result)
	}
	return out
}

// write journals a reserved entry and puts it in force, or takes it back.
func (e *Executor) write(c wire.Command, en *entry, probe bool, stages wire.StageTimes) (out Outcome) {
	var err error
	switch {
	case probe:
		err = e.journal.commit(record{Kind: kindProbe, ID: c.ID, At: en.at}, true)
	case en.result != nil: // of a command that may have run before the journal was damaged
		err = e.journal.commit(en.ended(), true)
	default:
		err = e.journal.commit(en.accepted(), true)
	}
	e.mu.Lock()
	if err != nil {
		if !probe {
			delete(e.book.live, c.ID)
		}
		e.mu.Unlock()
		e.journal.distrust()
		close(en.ready)
		return Outcome{Refused: wire.CodeJournal, Detail: err.Error()}
	}
	defer e.mu.Unlock()
	defer close(en.ready)
	journaled := e.opts.Now()
	if stages != nil {
		stages[wire.StageJournaled] = journaled
	}
	en.stages[wire.StageJournaled] = journaled
	switch {
	case probe:
		e.book.addProbe(c.ID)
		return Outcome{}
	case en.result != nil:
		en.owe()
		out = Outcome{Known: true, Result: en.result}
	default:
		en.phase = phaseAccepted
		en.startAt = time.Now().Add(startAnyway)
	}
	e.nudge()
	return out
}

// reserve takes c's id in memory, so that its record can be written; nil with
// the outcome where there is nothing to write.
func (e *Executor) reserve(c wire.Command, probe bool, stages wire.StageTimes) (*entry, Outcome) {
	if !validID(c.ID) {
		return nil, Outcome{Refused: wire.CodeUnsupported, Detail: "the command's id is not one"}
	}
	deadline := time.After(acceptWait)
	for {
		e.mu.Lock()
		wait, out, known := e.lookup(c.ID, probe)
		if wait == nil {
			defer e.mu.Unlock()
			if known {
				return nil, out
			}
			return e.admit(c, probe, stages)
		}
		e.mu.Unlock()
		select {
		case <-wait:
		case <-deadline:
			return nil, Outcome{Refused: wire.CodeJournal, Detail: "the disk has not answered for " + acceptWait.String()}
		}
	}
}

// lookup tells what is known of id; wait, if not nil, is to be waited for first.
func (e *Executor) lookup(id string, probe bool) (wait <-chan struct{}, out Outcome, known bool) {
	if probe && e.book.probes[id] {
		return nil, Outcome{Known: true}, true
	}
	if m, ok := e.book.stored[id]; ok {
		return nil, Outcome{Known: true, Result: m.result(id)}, true
	}
	en := e.book.live[id]
	switch {
	case en == nil:
		return nil, Outcome{}, false
	case en.phase == phaseAccepting:
		return en.ready, Outcome{}, false
	case en.phase == phaseOwed:
		return nil, Outcome{Known: true, Result: en.result}, true
	}
	return nil, Outcome{Known: true, Running: true}, true
}

// admit refuses what can't be run and reserves the id of the rest. The caller holds mu.
func (e *Executor) admit(c wire.Command, probe bool, stages wire.StageTimes) (*entry, Outcome) {
	now := e.opts.Now()
	refuse := func(code wire.Code, detail string) (*entry, Outcome) {
		return nil, Outcome{Refused: code, Detail: detail}
	}
	if e.draining {
		return refuse(wire.CodeDraining, "the agent is stopping")
	}
	doubt := !probe && c.IssuedAt.Before(e.book.horizon)
	if !doubt && !now.Before(c.ExpiresAt) {
		return refuse(wire.CodeExpired, "it expired at "+c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	en := newEntry(c, now, maps.Clone(stages))
	en.phase = phaseAccepting
	if probe {
		return en, Outcome{}
	}
	if len(c.Script) > wire.MaxScript {
		return refuse(wire.CodeTooLarge, fmt.Sprintf("a script of %d bytes, at most %d are allowed", len(c.Script), wire.MaxScript))
	}
	if _, ok := interpreterOf(c.Shell); !ok {
		return refuse(wire.CodeUnsupported, fmt.Sprintf("unknown shell %q", c.Shell))
	}
	active, owed := e.book.count()
	switch kept := e.book.kept(); {
	case owed >= keepOwed, kept >= keepOutput:
		return refuse(wire.CodeBusy, fmt.Sprintf("%d results with %d MiB of output wait for the server to store them", owed, kept>>20))
	case len(e.book.stored) >= keepMost:
		return refuse(wire.CodeBusy, fmt.Sprintf("%d commands that have not expired are remembered", len(e.book.stored)))
	case doubt:
		e.setResult(en, wire.CommandResult{
			ID: c.ID, State: wire.StateInterrupted,
			Reason: reasonDamaged,
		})
	case active >= e.maxJobs:
		return refuse(wire.CodeBusy, fmt.Sprintf("%d of %d commands are running", active, e.maxJobs))
	}
	e.book.live[c.ID] = en
	return en, Outcome{}
}

// Start runs an accepted command; call it once its ack was handed to the writer.
func (e *Executor) Start(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.book.live[id]; en != nil && en.phase == phaseAccepted {
		if _, acked := en.stages[wire.StageAcked]; !acked {
			en.stages[wire.StageAcked] = e.opts.Now()
		}
		en.startAt = time.Time{}
		e.nudge()
	}
}

// Cancel ends a command that has not ended, with its tree; false: there is none.
func (e *Executor) Cancel(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.book.live[id]
	if en == nil || !en.active() || e.draining && en.phase != phaseRunning {
		return false // what has not started when the agent stops is left to the next executor
	}
	en.cancel(errCancelled)
	en.startAt = time.Time{} // the sooner it ends
	e.nudge()
	return true
}

// ResultAck takes the server's answer to a result: it forgets what is stored, and
// sends the output that is missing.
func (e *Executor) ResultAck(a wire.ResultAck) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.book.live[a.ID]; en != nil && en.phase == phaseOwed {
		e.acks[a.ID] = a
		e.nudge()
	}
}

// Repeat emits again all results that the server has not stored.
func (e *Executor) Repeat() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, en := range e.book.live {
		if en.phase == phaseOwed {
			en.due, en.wait = time.Time{}, repeatFirst
		}
	}
	e.nudge()
}

// SetMaxJobs changes Options.MaxJobs. Jobs that run are not touched.
func (e *Executor) SetMaxJobs(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.maxJobs = max(n, 1)
	e.nudge()
}

// Facts describe the executor; it never waits for the disk.
func (e *Executor) Facts() selfcheck.JobFacts {
	quarantined, err := e.journal.state()
	e.mu.Lock()
	defer e.mu.Unlock()
	f := selfcheck.JobFacts{Limit: e.maxJobs, Quarantined: quarantined}
	if err != nil {
		f.Journal = err.Error()
	}
	f.Running, f.Unacked = e.book.count()
	for _, en := range e.book.live {
		if en.active() {
			f.Jobs = append(f.Jobs, selfcheck.JobFact{ID: en.cmd.ID, PID: en.pid, Age: time.Since(en.began)})
		}
	}
	slices.SortFunc(f.Jobs, func(x, y selfcheck.JobFact) int { return cmp.Compare(y.Age, x.Age) })
	return f
}

// Knows reports whether a command of that id was accepted here before, as far as remembered.
func (e *Executor) Knows(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, stored := e.book.stored[id]
	return stored || e.book.live[id] != nil
}

// Running lists the ids accepted and not ended, oldest first.
func (e *Executor) Running() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for _, en := range e.book.liveByAge() {
		if en.active() {
			ids = append(ids, en.cmd.ID)
		}
	}
	return ids
}

// Counters count the jobs started and finished since Open.
func (e *Executor) Counters() (started, finished uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started, e.finished
}

// Token hands the executor's loop a token; the channel is closed when the loop
// has drained it. While one is outstanding, Token returns the same channel.
func (e *Executor) Token() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.token == nil {
		e.token = make(chan struct{})
		e.nudge()
	}
	return e.token
}

// nudge makes the loop turn; never blocks.
func (e *Executor) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Close refuses new commands, gives running jobs grace to end, then kills them
// (interrupted), and waits for all of it as long as ctx allows. Commands accepted
// and not started stay in the journal for the next executor.
func (e *Executor) Close(ctx context.Context, grace time.Duration) error {
	var err error
	e.closing.Do(func() { err = e.close(ctx, grace) })
	return err
}

func (e *Executor) close(ctx context.Context, grace time.Duration) error {
	e.mu.Lock()
	e.launch(time.Now(), true) // a cancelled command must not be left to the next executor
	e.draining = true
	e.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends with the last job
		e.jobs.Wait()
		close(ended)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-timer.C:
	}
	e.mu.Lock()
	for _, en := range e.book.live {
		if en.phase == phaseRunning {
			en.cancel(errStopped)
		}
	}
	e.mu.Unlock()
	err := await(ctx, ended, "jobs")
	close(e.stop)
	e.mu.Lock()
	loop := e.turning // one that was replaced finds the journal closed
	e.mu.Unlock()
	err = errors.Join(err, await(ctx, loop.done, "executor"))
	// While something of ours may still write, nobody else may.
	return errors.Join(err, e.journal.close(err == nil))
}

func await(ctx context.Context, done <-chan struct{}, what string) error {
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not end: %w", what, ctx.Err())
	}
}

package selfcheck

import (
	"strings"
	"testing"
	"time"
)

// A loop that stands still is started afresh first: the jobs live.
func TestLadderStage(t *testing.T) {
	for _, stage := range restartable {
		t.Run(stage, func(t *testing.T) {
			b := newBench(t)
			b.wants()
			stall(&b.s, stage, 9)
			b.wants(StepRestartStage)
			b.pass(time.Second)
			b.wants() // it may still be reported as standing
			b.s = healthy()
			b.pass(time.Second)
			b.wants() // it turns; text has not gone both ways since
			b.outcome(StepRestartStage, "")
			b.s.Link.TextTripAge = sec(0.5)
			b.pass(time.Second)
			b.wants()
			b.outcome(StepRestartStage, "helped: the loop turns, and text went both ways, after 3.0 s")

			// Soon after it stands still again: a fresh loop did not cure it.
			b.pass(time.Minute)
			stall(&b.s, stage, 9)
			if stage == loopMetrics { // nobody's commands wait for it: jobs are worth more
				b.wants(StepHold)
				b.pass(stageAgain)
				b.wants(StepRestartStage)
				return
			}
			b.wants(StepRestartWorker)
		})
	}
}

func TestLadderStageDoesNotHelp(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration
		change  func(b *bench)
		outcome string
		then    StepKind
	}{
		"refused": {0, func(b *bench) { b.l.StageRefused("dispatcher", "the journal's disk does not answer") },
			"no better: it can't be started afresh in place: the journal's disk does not answer", StepRestartWorker},
		"still stands": {stageGrace, func(*bench) {}, "no better: The worker's dispatcher loop", StepRestartWorker},
		"worse":        {time.Second, func(b *bench) { b.s.Worker.Silent = sec(9) }, "no better: The worker (process 100)", StepRestartWorker},
		"no text": {30 * time.Second, func(b *bench) { b.s = healthy(); b.s.Link.TextTripAge = sec(60) },
			"no better: no text went both ways", ""},
		"gone": {time.Second, func(b *bench) { b.s = healthy(); b.s.Worker.PID = 200 }, "no better: the worker ended meanwhile", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			stall(&b.s, "dispatcher", 6)
			b.wants(StepRestartStage)
			b.l.StageRefused("reader", "of another loop")
			b.pass(c.after)
			c.change(b)
			if c.then == "" {
				b.wants()
			} else {
				b.wants(c.then) // at once
			}
			b.outcome(StepRestartStage, c.outcome)
		})
	}
}

// Two loops stand still at once, each for the other perhaps: both are started afresh,
// one after the other, before the worker is.
func TestLadderTwoStagesAtOnce(t *testing.T) {
	b := newBench(t)
	stall(&b.s, "dispatcher", 9)
	stall(&b.s, "executor", 9)
	b.wants(StepRestartStage)
	first := StageOf(b.l.recent[len(b.l.recent)-1].Verdict)
	b.s.Loops[first] = LoopFacts{}
	b.pass(time.Second)
	b.wants(StepRestartStage)
	second := StageOf(b.l.recent[len(b.l.recent)-1].Verdict)
	if first == second || first == "" || second == "" {
		t.Fatalf("started afresh: %q, then %q", first, second)
	}
	b.s = healthy()
	b.s.Link.TextTripAge = sec(0.5)
	b.pass(time.Second)
	b.wants()
	b.outcome(StepRestartStage, "helped: the loop turns, and text went both ways")

	// The deadlock is there again: fresh loops did not cure it.
	b.pass(time.Minute)
	stall(&b.s, "dispatcher", 9)
	stall(&b.s, "executor", 9)
	b.wants(StepRestartWorker)
}

// What a worker can't start afresh is not tried: the next rung comes at once.
func TestLadderStageThatNeedsTheWorker(t *testing.T) {
	for _, stage := range []string{"orders", "monitor", "facts"} {
		b := newBench(t)
		stall(&b.s, stage, 6)
		b.wants(StepRestartWorker)
	}
}

func TestLadderStageBudget(t *testing.T) {
	b := newBench(t)
	for i, stage := range []string{"reader", "writer", "executor"} {
		stall(&b.s, stage, 9)
		b.wants(StepRestartStage)
		b.pass(time.Second)
		b.s = healthy()
		b.s.Link.TextTripAge = sec(0.5)
		b.wants()
		if got := len(b.l.worker.stages); got != i+1 {
			t.Fatalf("%d spent", got)
		}
	}
	stall(&b.s, "dispatcher", 9)
	b.wants(StepRestartWorker)
}

// A crash loop is held, once, and its end is told once text has gone both ways.
func TestLadderCrashloop(t *testing.T) {
	b := newBench(t)
	b.wants()
	b.s = Snapshot{Worker: WorkerFacts{Exits: 4, LastExit: "exit status 2", NextStart: sec(30)}}
	b.wants(StepHold)
	if r := b.l.Recent()[0]; !strings.Contains(r.Expected, "started again in 30 s") || !strings.Contains(r.Expected, "second door") {
		t.Errorf("expects %q", r.Expected)
	}
	for range 600 {
		b.pass(time.Second)
		b.wants()
	}
	b.s = healthy()
	b.s.Link.VerifiedAge = sec(3)
	b.wants()
	b.outcome(StepHold, "helped: a worker lives")
	b.pass(time.Minute)
	b.s = Snapshot{Worker: WorkerFacts{Exits: 4, LastExit: "exit status 2"}}
	b.wants(StepHold)
}

// Time in which the machine did not run is no time to have helped in.
func TestLadderResumed(t *testing.T) {
	b := newBench(t)
	stall(&b.s, "reader", 6)
	b.wants(StepRestartStage)
	b.pass(5 * time.Minute)
	b.l.Resumed(b.now)
	b.wants()
	b.outcome(StepRestartStage, "")
	b.pass(stageGrace)
	b.wants(StepRestartWorker)
}

// What a restart of the service came to is told by the guardian after it.
func TestLadderServiceRestartIsFollowedUp(t *testing.T) {
	b := newBench(t)
	for range b.p.RestartsPerHour {
		b.l.worker.restarts = append(b.l.worker.restarts, b.now)
	}
	b.s.Worker.Silent = sec(9)
	b.wants(StepRestartService)
	raw, err := b.l.State(b.now, Uptime{})
	if err != nil {
		t.Fatal(err)
	}
	after := newBench(t)
	after.now = b.now.Round(0).Add(3 * time.Second)
	if err := after.l.Restore(raw, after.now, Uptime{}); err != nil {
		t.Fatal(err)
	}
	after.outcome(StepRestartService, "")
	after.s.Link.VerifiedAge = sec(1)
	after.wants()
	after.outcome(StepRestartService, "helped: a new worker, and text both ways")
}

// What somebody ordered is judged as the ladder's own steps are, and steers nothing.
func TestLadderSaysWhatCameOfAnOrder(t *testing.T) {
	order := func(kind StepKind) *bench {
		b := newBench(t)
		b.wants()
		b.l.Ordered(Order{Kind: kind, Reason: "told to"}, CodeOK, b.s, b.now)
		b.pass(time.Second)
		b.wants()
		b.outcome(kind, "")
		return b
	}
	b := order(StepReconnect)
	b.verified(9)
	b.wants()
	b.outcome(StepReconnect, "helped: link 0000000000000009 verified")

	b = order(StepAlternative) // nothing came of it
	b.pass(ms(b.p.VerifyMS))
	b.wants()
	b.outcome(StepAlternative, "no better: no verified link within 21 s")
	if b.l.link.rung != rungGround || b.l.link.step != nil {
		t.Error("an order moved the ladder")
	}

	b = order(StepRestartWorker)
	b.s.Worker.PID++
	b.wants() // a new worker alone is not it
	b.outcome(StepRestartWorker, "")
	b.s.Link.VerifiedAge = sec(0.5)
	b.wants()
	b.outcome(StepRestartWorker, "helped: a new worker, and text both ways")

	b = order(StepRestartWorker)
	b.pass(workerGrace)
	b.wants()
	b.outcome(StepRestartWorker, "no better: no new worker reported")
	if !b.l.worker.retryAt.IsZero() {
		t.Error("an order put the ladder's own steps off")
	}

	b = order(StepOOB)
	b.s.OOB.LastOK = sec(0.5)
	b.wants()
	b.outcome(StepOOB, "helped: the second door answers")

	b = newBench(t) // no link is let in: none is waited for
	b.l.Ordered(Order{Kind: StepReconnect, Reason: "told to", Alone: true}, CodeOK, b.s, b.now)
	b.pass(time.Hour)
	b.wants()
	b.outcome(StepReconnect, "")

	b = order(StepRestartService)
	raw, err := b.l.State(b.now, Uptime{})
	if err != nil {
		t.Fatal(err)
	}
	ordered := b.l.Recent()[0]
	b = newBench(t)
	b.now = t0.Add(4 * time.Second)
	if err := b.l.Restore(raw, b.now, Uptime{}); err != nil {
		t.Fatal(err)
	}
	b.s.Link.VerifiedAge = sec(1)
	b.wants()
	b.outcome(StepRestartService, "helped: a new worker")
	if got := b.l.Recent(); len(got) != 1 || !got[0].At.Equal(ordered.At) {
		t.Errorf("its time names it, and is %v", got)
	}
}

// The history knows a step by the time that the wall clock showed then, wherever that
// clock is set until the outcome is known.
func TestLadderStepKeepsItsNameOverARestart(t *testing.T) {
	b := newBench(t)
	b.l.Ordered(Order{Kind: StepRestartService, Reason: "told to"}, CodeOK, b.s, b.now)
	raw, err := b.l.State(b.now, Uptime{"boot", time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	after := newBench(t)
	if err := after.l.Restore(raw, b.now.Add(26*time.Hour), Uptime{"boot", time.Hour + 3*time.Second}); err != nil {
		t.Fatal(err)
	}
	if got := after.l.Recent(); len(got) != 1 || !got[0].At.Equal(b.now) {
		t.Errorf("steps %+v, want one of %v", got, b.now)
	}
}

// Budgets and back-off hold over restarts and reboots, wherever the clock is set meanwhile.
func TestLadderStateByWhateverClock(t *testing.T) {
	const boot, other = "boot-1", "boot-2"
	for name, c := range map[string]struct {
		wall time.Duration // that the wall clock shows to have passed
		up   Uptime
		left int // of three restarts
	}{
		"a restart":                             {2 * time.Minute, Uptime{boot, 62 * time.Minute}, 0},
		"a restart, clock set forward":          {26 * time.Hour, Uptime{boot, 62 * time.Minute}, 0},
		"a restart, clock set back":             {-26 * time.Hour, Uptime{boot, 62 * time.Minute}, 0},
		"an hour later":                         {time.Hour, Uptime{boot, 2 * time.Hour}, 3},
		"an hour later, clock set back":         {-26 * time.Hour, Uptime{boot, 2 * time.Hour}, 3},
		"a reboot":                              {2 * time.Minute, Uptime{other, 20 * time.Second}, 0},
		"a reboot, clock set back":              {-26 * time.Hour, Uptime{other, 20 * time.Second}, 0},
		"a reboot after an hour off":            {time.Hour, Uptime{other, 20 * time.Second}, 0},
		"a reboot, clock set forward":           {26 * time.Hour, Uptime{other, 20 * time.Second}, 0},
		"a reboot, up for an hour":              {2 * time.Hour, Uptime{other, time.Hour}, 3},
		"a reboot, up for an hour, clock back":  {-26 * time.Hour, Uptime{other, time.Hour}, 3},
		"put back to an earlier moment":         {2 * time.Minute, Uptime{boot, 50 * time.Minute}, 0},
		"a restart where nobody knows the boot": {2 * time.Minute, Uptime{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			for range 3 {
				b.l.worker.restarts = append(b.l.worker.restarts, b.now)
				b.pass(time.Minute)
			}
			b.l.worker.level, b.l.worker.retryAt = 3, b.now.Add(4*time.Minute)
			raw, err := b.l.State(b.now, Uptime{boot, time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			after := newBench(t)
			after.now = b.now.Round(0).Add(c.wall)
			if err := after.l.Restore(raw, after.now, c.up); err != nil {
				t.Fatal(err)
			}
			if got := after.l.Budgets(after.now).Restarts; got != c.left {
				t.Errorf("%d restarts left, want %d", got, c.left)
			}
			wait := after.l.worker.retryAt.Sub(after.now)
			if c.left == 0 && (wait < time.Minute || wait > 4*time.Minute) {
				t.Errorf("back-off of %v left", wait)
			}
			if got := after.l.Budgets(after.now.Add(time.Hour)).Restarts; got != 3 {
				t.Errorf("%d restarts left an hour later", got)
			}
		})
	}
}

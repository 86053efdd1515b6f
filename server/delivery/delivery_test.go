package delivery

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

func TestCommandGoesByTheLinkAndEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		r.owed(1)
		r.stopped(id, "Written to the link")
		if got := l.commands(t); !slices.Equal(got, []string{id}) {
			t.Fatalf("sent %v", got)
		}
		now := time.Now()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id, Stages: wire.StageTimes{wire.StageRead: now, wire.StageAcked: now, "made_up": now}})
		r.owed(0)
		r.expect(id, wire.StateRunning, 1)
		res := completed(id, "hello")
		res.Orphans = true
		res.Stages = wire.StageTimes{wire.StageStarted: now, wire.StageFinished: now}
		if ack := resultAck(t, r.send(l, wire.TypeCommandResult, res)); !ack.Stored {
			t.Fatal("not stored")
		}
		c := r.expect(id, wire.StateCompleted, 1)
		if c.ExitCode == nil || *c.ExitCode != 0 || c.StdoutBytes != 5 || !c.Orphans || c.AckedAt == nil || c.EndedAt == nil {
			t.Fatalf("got %+v", c)
		}
		out, err := r.s.Output(t.Context(), id, wire.Stdout)
		if err != nil || string(out) != "hello" {
			t.Fatalf("output %q, %v", out, err)
		}
		tr, err := r.s.Trace(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var stages []wire.Stage
		for _, e := range tr.Entries {
			stages = append(stages, e.Stage)
		}
		want := []wire.Stage{wire.StageAccepted, wire.StageClaimed, wire.StageWritten, wire.StageRead, wire.StageAcked, wire.StageAckRead, wire.StageStarted, wire.StageFinished, wire.StageResultStored}
		if !slices.Equal(stages, want) {
			t.Fatalf("trace is %v, want %v", stages, want)
		}
		r.stopped(id, "Completed with exit code 0")
		if r.s.LastResult(r.agent) == nil {
			t.Fatal("no last result")
		}
	})
}

// The signed bytes are the same in every attempt: the agent may compare them.
func TestPayloadIsTheSameInEachAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.up()
		r.submit()
		r.down(a, "cut")
		b := r.up()
		if len(a.sent) != 1 || len(b.sent) != 1 || !bytes.Equal(a.sent[0].env.Payload, b.sent[0].env.Payload) || len(b.sent[0].env.Sig) == 0 {
			t.Fatalf("sent %v and %v", a.sent, b.sent)
		}
	})
}

func TestNothingIsClaimedForALinkThatIsNotDeliverable(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.undeliverable("its link is not verified yet")
		id := r.submit()
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(id, wire.StatePending, 0)
		r.stopped(id, "never offered: its link is not verified yet")
		r.owed(1)
		l.undeliverable("")
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(id, wire.StateRunning, 1)
	})
}

func TestProvenLossGivesTheClaimBackAtOnceAndThePollHasIt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.n = 14
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		id := r.submit()
		events := r.follow(ctx, id)
		r.s.PeerRead(r.agent, l.gen, 14, Proof{})
		synctest.Wait()
		r.expect(id, wire.StateRunning, 1)
		l.undeliverable("its link loses texts")
		began := time.Now()
		r.s.PeerRead(r.agent, l.gen, 14, Proof{Says: "written 15, the agent has read 14: 1 missing"})
		synctest.Wait()
		r.expect(id, wire.StatePending, 1)
		r.stopped(id, "lost between written and read, as text 15 of its link: written 15, the agent has read 14: 1 missing")
		ids, _, done := r.take()
		if !slices.Equal(ids, []string{id}) {
			t.Fatalf("the poll got %v", ids)
		}
		done(time.Now(), nil)
		r.send(nil, wire.TypeCommandAck, wire.CommandAck{ID: id})
		r.send(nil, wire.TypeCommandResult, completed(id, ""))
		c := r.expect(id, wire.StateCompleted, 2)
		if c.Channel != wire.ChannelOOB || time.Since(began) != 0 {
			t.Fatalf("by %s after %v", c.Channel, time.Since(began))
		}
		all := events()
		for _, part := range []string{"the agent has read 14: 1 missing", "now offered by the second door"} {
			if !slices.ContainsFunc(all, func(e operator.Event) bool { return strings.Contains(e.Notice, part) }) {
				t.Errorf("no notice says %q: %+v", part, all)
			}
		}
		if last := all[len(all)-1]; last.Kind != "end" || last.Command.State != wire.StateCompleted {
			t.Errorf("ends with %+v", last)
		}
	})
}

func TestWhyALinkFailedIsSaidOfItsClaimsBeforeOrAfterItsEnd(t *testing.T) {
	const proof = "the agent says link.text.lost: 1 missing"
	for name, c := range map[string]struct {
		before, after string
		lost          bool
		stage         wire.Stage
		says          string
	}{
		"proven before": {before: proof, lost: true, stage: StageLost, says: "lost between written and read, as text 1 of its link: " + proof},
		"proven after":  {after: proof, lost: true, stage: StageLost, says: "lost between written and read, as text 1 of its link: " + proof},
		"hung before":   {before: "the agent says agent.hung", stage: StageReleased, says: "its link ended: connection reset; the agent says agent.hung"},
		"hung after":    {after: "the agent says agent.hung", stage: StageReleased, says: "the agent says agent.hung"},
		"well":          {before: "", stage: StageReleased, says: "its link ended: connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				l := r.up()
				id := r.submit()
				if c.before != "" {
					r.s.Explain(r.agent, l.id, Proof{Says: c.before}, c.lost)
				}
				r.down(l, "connection reset")
				if c.after != "" {
					r.s.Explain(r.agent, l.id+1, Proof{Says: "of another link"}, true)
					r.s.Explain(r.agent, l.id, Proof{Says: c.after}, c.lost)
					r.s.Explain(r.agent, l.id, Proof{Says: c.after}, c.lost) // once is enough
				}
				synctest.Wait()
				tr, err := r.s.Trace(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				e := lastLoss(tr.Entries)
				if e == nil || e.Stage != c.stage || e.Note != c.says || e.Attempt != 1 {
					t.Fatalf("given back as %+v, want %s %q\n%s", e, c.stage, c.says, r.trace(id))
				}
				r.stopped(id, c.says)
			})
		})
	}
}

// follow gathers events until the end; the function waits for it.
func (r *rig) follow(ctx context.Context, id string) func() []operator.Event {
	r.t.Helper()
	ch, err := r.s.Follow(ctx, id)
	if err != nil {
		r.t.Fatal(err)
	}
	got := make(chan []operator.Event, 1)
	go func() {
		var all []operator.Event
		for e := range ch {
			all = append(all, e)
		}
		got <- all
	}()
	synctest.Wait()
	return func() []operator.Event { return <-got }
}

func TestLeaseEndsAndTheCommandIsOfferedWithTheNextSignOfLife(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		sleep(4900 * time.Millisecond)
		r.expect(id, wire.StateRunning, 1)
		sleep(200 * time.Millisecond)
		r.expect(id, wire.StatePending, 1)
		r.stopped(id, "not acknowledged in 5s")
		sleep(time.Second)
		r.expect(id, wire.StatePending, 1)
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(id, wire.StateRunning, 2)
		if n := len(l.sent); n != 2 {
			t.Fatalf("%d sent", n)
		}
	})
}

// A link whose attempt is not acknowledged is asked for the agent's ledger as soon as that is
// late, and again when the lease ends; that nothing comes at all is said. One that
// acknowledges in time is not asked.
func TestALinkIsAskedWhenAnAcknowledgementIsLate(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: r.submit()})
		id := r.submit()
		asked := func(want int) {
			t.Helper()
			if n := l.askedFor(4900 * time.Millisecond); n != want {
				t.Errorf("asked %d times, want %d", n, want)
			}
		}
		sleep(askAfter - 10*time.Millisecond)
		asked(0)
		sleep(20 * time.Millisecond)
		asked(1)
		sleep(leaseMin - askAfter - 20*time.Millisecond)
		asked(1)
		sleep(20 * time.Millisecond)
		asked(2)
		r.stopped(id, "the ping behind it is not answered either, and nothing at all has come on the link for 4.9s")
	})
}

func TestLeaseFollowsTheRoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.rtt = 2 * time.Second
		id := r.submit()
		sleep(15 * time.Second)
		r.expect(id, wire.StateRunning, 1)
		sleep(2 * time.Second)
		r.expect(id, wire.StatePending, 1)
	})
}

func TestLeaseEndsAndAnOpenPollHasItAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.up()
		id := r.submit()
		awake, stop := r.s.Waiter(r.agent)
		defer stop()
		r.take() // the poll looked, found the link trusted, and waits
		r.expect(id, wire.StateRunning, 1)
		sleep(5 * time.Second)
		select {
		case <-awake:
		default:
			t.Fatal("the poll sleeps on")
		}
		if ids, _, _ := r.take(); !slices.Equal(ids, []string{id}) {
			t.Fatalf("the poll got %v", ids)
		}
	})
}

func TestUnwrittenIsGivenBackAndNeverCountsAsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.auto = false
		id := r.submit()
		r.stopped(id, "Taken by the link")
		sleep(5 * time.Second)
		r.expect(id, wire.StatePending, 1)
		r.stopped(id, "route.unwritten")
		l.sent[0].written(1, time.Now(), nil) // after all
		synctest.Wait()
		r.expect(id, wire.StatePending, 1)
		if !strings.Contains(r.trace(id), "after its claim had been given back") {
			t.Fatal(r.trace(id))
		}
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id}) // it did arrive
		r.expect(id, wire.StateRunning, 1)
		r.owed(0)
	})
}

func TestFailedWriteAndFullQueueGiveBackAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.auto = false
		id := r.submit()
		l.sent[0].written(0, time.Now(), errBroken)
		synctest.Wait()
		r.stopped(id, "it was not written: connection reset")
		l.fails(errBroken)
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(id, wire.StatePending, 2)
		r.stopped(id, "the link did not take it")
	})
}

func TestLinkDownTouchesOnlyItsGeneration(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old := r.up()
		first := r.submit()
		young := r.up()
		second := r.submit()
		if got := young.commands(t); !slices.Equal(got, []string{second}) {
			t.Fatalf("the newer link got %v", got)
		}
		r.down(old, "replaced")
		r.expect(second, wire.StateRunning, 1)
		r.expect(first, wire.StateRunning, 2) // at once by the newer link
		r.s.LinkDown(r.agent, old.gen, "late clean-up")
		synctest.Wait()
		third := r.submit()
		r.expect(third, wire.StateRunning, 1)
		r.expect(second, wire.StateRunning, 1)
	})
}

func TestPollTakesOverWhatIsOutOnADistrustedLink(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		if ids, _, done := r.take(); len(ids) != 0 {
			t.Fatalf("taken from a trusted link: %v", ids)
		} else {
			done(time.Now(), nil)
		}
		l.undeliverable("its ledger shows a gap")
		ids, _, done := r.take()
		if !slices.Equal(ids, []string{id}) {
			t.Fatalf("got %v", ids)
		}
		done(time.Now(), errBroken)
		synctest.Wait()
		r.expect(id, wire.StatePending, 2)
		ids, _, done = r.take()
		done(time.Now(), nil)
		synctest.Wait()
		if !slices.Equal(ids, []string{id}) {
			t.Fatalf("got %v", ids)
		}
		if ids, _, _ = r.take(); len(ids) != 0 {
			t.Fatalf("handed out twice within its lease: %v", ids)
		}
		r.stopped(id, "Written to the second door")
	})
}

func TestDuplicateNackIsAnAckOrTheResult(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		running, ended := r.submit(), r.submit()
		r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeDuplicate, ID: running, Type: wire.TypeCommand})
		if c := r.expect(running, wire.StateRunning, 1); c.AckedAt == nil {
			t.Fatal("not acknowledged")
		}
		res := completed("", "x")
		out := r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeDuplicate, ID: ended, Result: &res})
		if !resultAck(t, out).Stored {
			t.Fatal("not stored")
		}
		r.expect(ended, wire.StateCompleted, 1)
	})
}

func TestRefusals(t *testing.T) {
	for code, want := range map[wire.Code]wire.State{
		wire.CodeExpired: wire.StateExpired, wire.CodeWrongAgent: wire.StateUndeliverable, wire.CodeUnsupported: wire.StateUndeliverable,
		wire.CodeTooLarge: wire.StateUndeliverable, wire.CodeBusy: wire.StatePending, wire.CodeDraining: wire.StatePending,
		wire.CodeJournal: wire.StatePending, wire.CodeBadSignature: wire.StatePending, wire.CodeUnparseable: wire.StatePending,
	} {
		t.Run(string(code), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				l := r.up()
				id := r.submit()
				r.send(l, wire.TypeCommandNack, wire.Nack{Code: code, ID: id, Detail: "why not"})
				r.expect(id, want, 1)
				r.stopped(id, "the agent refused it: "+string(code)+" (why not)")
			})
		})
	}
}

func TestBusyAgentHasTheCommandWhenASlotIsFree(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		first, second := r.submit(), r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: first})
		r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeBusy, ID: second})
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(second, wire.StatePending, 1)
		r.send(l, wire.TypeCommandResult, completed(first, ""))
		r.expect(second, wire.StateRunning, 2)
	})
}

// The attempts at an agent that is busy all the time last as long as the command does.
func TestBusyAgentDoesNotUseUpTheAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.order(operator.NewCommand{Script: "true", ExpiresInMS: time.Hour.Milliseconds()})
		for range 53 {
			if r.command(id).State == wire.StateRunning {
				r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeBusy, ID: id})
			}
			r.s.Hint(r.agent)
			sleep(time.Minute)
		}
		if c := r.command(id); c.State.Terminal() {
			t.Fatalf("%s: %s", c.State, c.Reason)
		}
	})
}

// An agent that stops hands in the results of what it ran, and takes nothing new.
func TestResultsOfAStoppingAgentDoNotUseUpTheAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		var ran []string
		for range 12 {
			ran = append(ran, r.submit())
			r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: ran[len(ran)-1]})
		}
		id := r.submit()
		refuse := func() {
			if r.command(id).State == wire.StateRunning {
				r.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeDraining, ID: id})
			}
		}
		refuse()
		for _, other := range ran {
			r.send(l, wire.TypeCommandResult, completed(other, ""))
			refuse()
		}
		if c := r.command(id); c.State != wire.StatePending {
			t.Fatalf("%s after %d attempts: %s\n%s", c.State, c.Attempts, c.Reason, r.trace(id))
		}
		sleep(2*time.Minute + time.Second) // it is back
		if c := r.command(id); c.State != wire.StateRunning {
			t.Fatalf("not offered again: %s\n%s", c.State, r.trace(id))
		}
	})
}

// What the agent's ledger has passed and nobody acknowledged was read, by both ends' counts: the
// path to the agent is cleared.
func TestWhatTheLedgerHasPassedWasRead(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		l.n = 14
		id := r.submit()
		sleep(time.Second)
		r.s.PeerRead(r.agent, l.gen, 15, Proof{})
		told := time.Now()
		sleep(20 * time.Second) // its lease is over
		tr, err := r.s.Trace(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(tr.Entries, func(e operator.TraceEntry) bool { return e.Stage == wire.StageRead })
		if i < 0 {
			t.Fatalf("it is not told\n%s", r.trace(id))
		}
		e := tr.Entries[i]
		if e.End != "server" || e.Attempt != 1 || !e.At.Equal(told.UTC().Truncate(time.Microsecond)) || !strings.Contains(e.Note, "text 15") {
			t.Errorf("told as %+v", e)
		}
		if next := tr.Entries[i+1]; next.Stage != StageReleased {
			t.Errorf("then %+v", next)
		}
	})
}

func TestTenAttemptsThenUndeliverableWithTheProof(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.order(operator.NewCommand{Script: "true", ExpiresInMS: time.Hour.Milliseconds()})
		for range 10 {
			l := r.up()
			r.s.PeerRead(r.agent, l.gen, 0, Proof{Says: "written 1, the agent has read 0"})
			synctest.Wait()
			r.down(l, "link.text.lost")
		}
		c := r.expect(id, wire.StateUndeliverable, 10)
		if !strings.Contains(c.Reason, "written 1, the agent has read 0") || strings.Contains(c.Reason, "may have arrived") {
			t.Fatalf("reason is %q", c.Reason)
		}
		r.stopped(id, "Ended as undeliverable: all 10 attempts are used: not acknowledged; attempt 10: lost between written and read")
		l := r.up()
		if len(l.sent) != 0 {
			t.Fatal("offered after its end")
		}
		r.owed(0)
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		never := r.order(operator.NewCommand{Script: "true", ExpiresInMS: 7000})
		sleep(7 * time.Second)
		c := r.expect(never, wire.StateExpired, 0)
		if !strings.Contains(c.Reason, "never offered, the agent is offline") {
			t.Fatalf("reason is %q", c.Reason)
		}
		l := r.up()
		late := r.order(operator.NewCommand{Script: "true", ExpiresInMS: 1000})
		sleep(2 * time.Second)
		r.expect(late, wire.StateRunning, 1) // its lease is awaited: the ack may be on its way
		sleep(4 * time.Second)
		c = r.expect(late, wire.StateExpired, 1)
		if !strings.Contains(c.Reason, "may have arrived") {
			t.Fatalf("reason is %q", c.Reason)
		}
		out := r.send(l, wire.TypeCommandResult, completed(late, ""))
		if !resultAck(t, out).Stored { // the agent may forget it
			t.Fatal("the agent would repeat it for ever")
		}
		if !strings.Contains(r.trace(late), "a later result says completed with exit code 0") {
			t.Fatal(r.trace(late))
		}
		r.expect(late, wire.StateExpired, 1)
		if ids, _, _ := r.take(); len(ids) != 0 || len(l.sent) != 1 {
			t.Fatalf("offered after expiry: %v", ids)
		}
	})
}

func TestAcknowledgedWithoutAResultIsInterruptedAtLast(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.order(operator.NewCommand{Script: "true", TimeoutMS: 60_000})
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		r.down(l, "cut")
		sleep(10*time.Minute + 59*time.Second)
		r.expect(id, wire.StateRunning, 1)
		sleep(2 * time.Second)
		c := r.expect(id, wire.StateInterrupted, 1)
		if !strings.Contains(c.Reason, "no result came") {
			t.Fatalf("reason is %q", c.Reason)
		}
	})
}

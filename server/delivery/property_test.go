package delivery

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// fewAttempts, so that chance uses them up now and then.
const fewAttempts = 4

// The world: one service and one agent, with everything between them at the
// mercy of chance. The agent is a small model that keeps its own promises
// (journal before ack, once in execution, results until stored); whatever
// chance does then, the service must keep its own.
type world struct {
	*rig
	rnd *rand.Rand

	links  []*chanceLink        // that have not ended
	jobs   map[string]*modelJob // the agent's journal
	up     []upstream           // on their way to the server
	wanted map[string]bool      // submitted
	ended  map[string]operator.Command
	log    []string
}

// modelJob is what the agent's journal holds of a command.
type modelJob struct {
	cmd    wire.Command
	runs   int // must never exceed 1
	result *wire.CommandResult
	stored bool
	output string
	cancel bool
}

type upstream struct {
	link    *chanceLink // nil: by the second door
	typ     wire.Type
	payload any
}

// chanceLink queues what the service sends until chance writes, delivers or loses it.
type chanceLink struct {
	fakeLink
	w       *world
	queue   []sent // not written
	written []sent // written, not read
	read    uint64
	gap     bool
}

func (l *chanceLink) Deliverable() (bool, string) {
	if l.gap {
		return false, "its link loses texts"
	}
	return true, ""
}

func (l *chanceLink) Send(env wire.Envelope, written func(uint64, time.Time, error)) error {
	l.w.checkOffer(env)
	l.queue = append(l.queue, sent{env: env, written: written})
	return nil
}

func (w *world) logf(format string, args ...any) {
	w.log = append(w.log, time.Now().Format("15:04:05.0 ")+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.log {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// checkOffer holds what must be true of each command that leaves the server.
func (w *world) checkOffer(env wire.Envelope) {
	if env.Type != wire.TypeCommand {
		return
	}
	c, err := wire.DecodePayload[wire.Command](env)
	if err != nil {
		w.fail("%v", err)
	}
	if !time.Now().Before(c.ExpiresAt) {
		w.fail("%s was offered after it expired", c.ID)
	}
	if end, over := w.ended[c.ID]; over {
		w.fail("%s was offered after it was %s", c.ID, end.State)
	}
	stored, err := w.s.Command(w.t.Context(), c.ID)
	if err != nil {
		w.fail("%v", err)
	}
	if stored.State != wire.StateRunning || stored.AckedAt != nil || stored.Attempts < 1 || stored.Attempts > fewAttempts {
		w.fail("%s was offered while stored as %+v", c.ID, stored)
	}
}

// arrive gives the agent a message; its answers go up by the door it came in.
func (w *world) arrive(l *chanceLink, env wire.Envelope) {
	answer := func(typ wire.Type, payload any) { w.up = append(w.up, upstream{l, typ, payload}) }
	switch env.Type {
	case wire.TypeCommand:
		c, err := wire.DecodePayload[wire.Command](env)
		if err != nil {
			w.fail("%v", err)
		}
		j := w.jobs[c.ID]
		switch {
		case j != nil:
			answer(wire.TypeCommandNack, wire.Nack{Code: wire.CodeDuplicate, ID: c.ID, Type: wire.TypeCommand, Result: j.result})
		case !time.Now().Before(c.ExpiresAt):
			answer(wire.TypeCommandNack, wire.Nack{Code: wire.CodeExpired, ID: c.ID, Type: wire.TypeCommand})
		case w.rnd.IntN(15) == 0:
			code := []wire.Code{wire.CodeBusy, wire.CodeBadSignature, wire.CodeJournal, wire.CodeUnparseable}[w.rnd.IntN(4)]
			answer(wire.TypeCommandNack, wire.Nack{Code: code, ID: c.ID, Type: wire.TypeCommand})
		default:
			w.jobs[c.ID] = &modelJob{cmd: c, runs: 1, output: fmt.Sprintf("output of %s, %d", c.ID, w.rnd.IntN(1000))}
			answer(wire.TypeCommandAck, wire.CommandAck{ID: c.ID, Stages: wire.StageTimes{wire.StageRead: time.Now(), wire.StageAcked: time.Now()}})
		}
	case wire.TypeCancelCommand:
		c, err := wire.DecodePayload[wire.CancelCommand](env)
		if err != nil {
			w.fail("%v", err)
		}
		if j := w.jobs[c.ID]; j != nil {
			j.cancel = true
		} else {
			answer(wire.TypeCommandNack, wire.Nack{Code: wire.CodeUnsupported, ID: c.ID, Type: wire.TypeCancelCommand})
		}
	case wire.TypeResultAck:
		ack, err := wire.DecodePayload[wire.ResultAck](env)
		if err != nil {
			w.fail("%v", err)
		}
		j := w.jobs[ack.ID]
		switch {
		case j == nil || j.result == nil:
			w.fail("a result_ack of what was never told")
		case ack.Stored:
			j.stored = true
		default:
			answer(wire.TypeCommandOutput, wire.CommandOutput{ID: ack.ID, Stream: wire.Stdout, Offset: ack.HaveStdout, Data: []byte(j.output)[ack.HaveStdout:]})
			answer(wire.TypeCommandResult, *j.result)
		}
	}
}

// finish ends the execution of one job at the agent.
func (w *world) finish(j *modelJob) {
	code := w.rnd.IntN(3)
	res := wire.CommandResult{ID: j.cmd.ID, State: wire.StateCompleted, ExitCode: &code, StdoutBytes: int64(len(j.output))}
	switch {
	case j.cancel:
		res.State, res.ExitCode = wire.StateCancelled, nil
	case w.rnd.IntN(8) == 0:
		res.State, res.ExitCode = wire.StateInterrupted, nil
	}
	if w.rnd.IntN(2) == 0 {
		res.Stdout = []byte(j.output)
	} else if w.rnd.IntN(2) == 0 {
		w.tell(wire.TypeCommandOutput, wire.CommandOutput{ID: j.cmd.ID, Stream: wire.Stdout, Offset: 3, Data: []byte(j.output)[3:9]})
	}
	j.result = &res
	w.tell(wire.TypeCommandResult, res)
}

// tell sends something up by any door.
func (w *world) tell(typ wire.Type, payload any) {
	var l *chanceLink
	if len(w.links) > 0 && w.rnd.IntN(2) == 0 {
		l = w.links[w.rnd.IntN(len(w.links))]
	}
	w.up = append(w.up, upstream{l, typ, payload})
}

// deliver brings one upstream message to the server, and its replies back, if chance lets them.
func (w *world) deliver(m upstream, lossy bool) {
	var l *fakeLink
	if m.link != nil {
		l = &m.link.fakeLink
	}
	w.logf("upstream %s %v", m.typ, m.payload)
	for _, reply := range w.send(l, m.typ, m.payload) {
		if reply.Type != wire.TypeNack && (!lossy || w.rnd.IntN(3) > 0) {
			w.arrive(m.link, reply)
		}
	}
}

func pick[T any](rnd *rand.Rand, s []T) (T, int) {
	i := rnd.IntN(len(s))
	return s[i], i
}

// step does one thing that chance picks.
func (w *world) step() {
	var l *chanceLink
	if len(w.links) > 0 {
		l, _ = pick(w.rnd, w.links)
	}
	running := slices.SortedFunc(maps.Values(w.jobs), func(a, b *modelJob) int { return cmp.Compare(a.cmd.ID, b.cmd.ID) })
	switch n := w.rnd.IntN(100); {
	case n < 14:
		id := w.order(operator.NewCommand{Script: "true", ExpiresInMS: 1 + w.rnd.Int64N(120_000), TimeoutMS: 60_000})
		w.wanted[id] = true
		w.logf("submitted %s", id)
	case n < 22:
		w.gen++
		nl := &chanceLink{w: w, fakeLink: fakeLink{agent: w.agent, gen: w.gen, id: wire.LinkID(1000 + w.gen)}}
		w.links = append(w.links, nl)
		w.logf("link %d up", nl.gen)
		w.s.LinkUp(nl)
	case n < 27 && l != nil:
		w.links = slices.DeleteFunc(w.links, func(o *chanceLink) bool { return o == l })
		w.logf("link %d down", l.gen)
		l.gap = true
		w.s.LinkDown(w.agent, l.gen, "cut")
	case n < 42 && l != nil && len(l.queue) > 0: // the writer writes, or fails
		m := l.queue[0]
		l.queue = l.queue[1:]
		if w.rnd.IntN(10) == 0 {
			w.logf("link %d fails to write", l.gen)
			m.written(0, time.Now(), errBroken)
			break
		}
		l.n++
		m.n = l.n
		w.logf("link %d writes %d", l.gen, m.n)
		m.written(m.n, time.Now(), nil)
		l.written = append(l.written, m)
	case n < 54 && l != nil && len(l.written) > 0: // the agent reads the next
		m := l.written[0]
		l.written = l.written[1:]
		if w.rnd.IntN(20) > 0 {
			l.read++
		}
		w.logf("link %d: agent reads %d", l.gen, m.n)
		w.arrive(l, m.env)
		if w.rnd.IntN(6) == 0 { // the path doubles it
			w.arrive(l, m.env)
		}
	case n < 58 && l != nil && len(l.written) > 0: // the path swallows all that is under way; the ledger tells
		l.written, l.gap = nil, true
		w.logf("link %d loses all after %d", l.gen, l.read)
		w.s.PeerRead(w.agent, l.gen, l.read, Proof{Says: "it has read less than was written"})
	case n < 61 && l != nil: // silent loss: no proof
		if len(l.written) > 0 {
			l.written = l.written[1:]
		}
		w.s.PeerRead(w.agent, l.gen, l.read, Proof{})
	case n < 75 && len(w.up) > 0: // any upstream message, in any order, perhaps twice, perhaps never
		m, i := pick(w.rnd, w.up)
		if w.rnd.IntN(6) > 0 {
			w.up = slices.Delete(w.up, i, i+1)
		}
		if w.rnd.IntN(6) > 0 {
			w.deliver(m, true)
		}
	case n < 83: // a poll
		ids, envs, done := w.take()
		w.logf("poll takes %v", ids)
		for _, e := range envs {
			w.checkOffer(e)
		}
		switch w.rnd.IntN(4) {
		case 0:
			done(time.Now(), errBroken)
		case 1: // never told, and it may have arrived
			for _, e := range envs {
				w.arrive(nil, e)
			}
		default:
			done(time.Now(), nil)
			for _, e := range envs {
				w.arrive(nil, e)
			}
		}
	case n < 88 && len(running) > 0:
		if j, _ := pick(w.rnd, running); j.result == nil {
			w.logf("agent finishes %s", j.cmd.ID)
			w.finish(j)
		} else if !j.stored {
			w.tell(wire.TypeCommandResult, *j.result)
		}
	case n < 91 && len(w.wanted) > 0:
		id, _ := pick(w.rnd, slices.Sorted(maps.Keys(w.wanted)))
		w.logf("cancel %s", id)
		if _, err := w.s.Cancel(w.t.Context(), id, "ops"); err != nil {
			w.fail("%v", err)
		}
	case n < 94:
		w.s.Hint(w.agent)
	case n < 95:
		if w.rnd.IntN(2) == 0 {
			w.logf("restart")
			w.restart()
		} else {
			w.logf("crash")
			w.crash()
		}
		w.links = nil
	default:
		d := time.Duration(w.rnd.Int64N(int64(8 * time.Second)))
		if w.rnd.IntN(8) == 0 {
			d *= 10
		}
		w.logf("%v pass", d)
		sleep(d)
	}
	synctest.Wait()
	w.check()
}

// stored gives all commands in one look: this is asked after each step.
func (w *world) stored() map[string]operator.Command {
	all, err := w.s.Commands(w.t.Context(), Filter{Limit: store.MaxList})
	if err != nil {
		w.fail("%v", err)
	}
	out := map[string]operator.Command{}
	for _, c := range all {
		out[c.ID] = c
	}
	if len(out) != len(w.wanted) {
		w.fail("%d commands of %d", len(out), len(w.wanted))
	}
	return out
}

// check holds what must be true at any moment.
func (w *world) check() {
	all := w.rnd.IntN(4) > 0 // else what is kept for a moment may be lost yet
	if all {
		w.saved()
	}
	owed := 0
	for id, c := range w.stored() {
		if !c.State.Terminal() && c.AckedAt == nil {
			owed++
		}
		if c.Attempts > fewAttempts {
			w.fail("%d attempts of %s", c.Attempts, id)
		}
		if c.State.Terminal() != (c.EndedAt != nil) || c.AckedAt != nil && c.State == wire.StatePending {
			w.fail("stored as %+v", c)
		}
		if before, over := w.ended[id]; over && (before.State != c.State || before.Reason != c.Reason || !before.EndedAt.Equal(*c.EndedAt) || before.Attempts != c.Attempts) {
			w.fail("%s was %s, and now is %s", id, before.State, c.State)
		}
		if c.State.Terminal() {
			w.ended[id] = c
		}
		j := w.jobs[id]
		if c.State == wire.StateCompleted && (j == nil || j.result == nil || *j.result.ExitCode != *c.ExitCode) {
			w.fail("%s completed, and the agent knows nothing of it", id)
		}
		if j != nil && j.stored && !c.State.Terminal() {
			w.fail("the agent forgot the result of %s, which is %s", id, c.State)
		}
	}
	if got, _ := w.s.Owed(w.agent); all && got != owed {
		w.fail("owed is %d, stored are %d", got, owed)
	}
}

// settle lets everything arrive that still can, until nothing is under way.
func (w *world) settle() {
	for round := 0; ; round++ {
		if round > 200 {
			w.fail("it never comes to an end")
		}
		for len(w.up) > 0 {
			m := w.up[0]
			w.up = w.up[1:]
			w.deliver(m, false)
		}
		for _, j := range w.jobs {
			switch {
			case j.result == nil:
				w.finish(j)
			case !j.stored:
				w.tell(wire.TypeCommandResult, *j.result)
			}
		}
		_, envs, done := w.take()
		for _, e := range envs {
			w.checkOffer(e)
		}
		done(time.Now(), nil)
		for _, e := range envs {
			w.arrive(nil, e)
		}
		synctest.Wait()
		w.check()
		open := len(w.up)
		open += len(w.wanted) - len(w.ended)
		for _, j := range w.jobs {
			if !j.stored {
				open++
			}
		}
		if open == 0 {
			return
		}
		sleep(6 * time.Second)
	}
}

// last holds what must be true at the end: each end's story fits the other's.
func (w *world) last() {
	w.owed(0)
	for id := range w.wanted {
		c, j := w.command(id), w.jobs[id]
		results := 0
		tr, err := w.s.Trace(w.t.Context(), id)
		if err != nil {
			w.fail("%v", err)
		}
		if tr.Stopped == "" {
			w.fail("no word on where %s stopped", id)
		}
		claims := map[int]int{}
		for _, e := range tr.Entries {
			switch e.Stage {
			case wire.StageResultStored:
				results++
			case wire.StageClaimed:
				claims[e.Attempt]++
			}
		}
		if len(claims) != c.Attempts {
			w.fail("%d claims of %d attempts of %s\n%s", len(claims), c.Attempts, id, w.trace(id))
		}
		if results > 1 || (results == 1) != (c.AckedAt != nil) {
			w.fail("%d results of %s\n%s", results, id, w.trace(id))
		}
		if results == 1 {
			if j == nil || j.runs != 1 || j.result.State != c.State {
				w.fail("%s is %s by a result that is not the agent's", id, c.State)
			}
			if out, err := w.s.Output(w.t.Context(), id, wire.Stdout); err != nil || string(out) != j.output {
				w.fail("output of %s is %q, want %q (%v)", id, out, j.output, err)
			}
		}
	}
}

func TestWhateverHappensACommandEndsOnceAndRunsAtMostOnce(t *testing.T) {
	seeds, steps := 12, 150
	if testing.Short() {
		seeds = 3
	}
	ends := map[wire.State]int{}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.max = fewAttempts
				r.restart()
				w := &world{
					rig: r, rnd: rand.New(rand.NewPCG(seed, 7)),
					jobs: map[string]*modelJob{}, wanted: map[string]bool{}, ended: map[string]operator.Command{},
				}
				for range steps {
					w.step()
				}
				w.settle()
				w.last()
				for _, c := range w.ended {
					ends[c.State]++
				}
			})
		})
	}
	// A run in which chance never tried something proves nothing about it.
	if !testing.Short() && !t.Failed() {
		for _, s := range []wire.State{wire.StateCompleted, wire.StateCancelled, wire.StateExpired, wire.StateInterrupted, wire.StateUndeliverable} {
			if ends[s] == 0 {
				t.Errorf("no command ended as %s: %v", s, ends)
			}
		}
	}
	t.Logf("ends: %v", ends)
}

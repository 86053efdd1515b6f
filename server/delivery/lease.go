package delivery

import (
	"fmt"
	"time"

	"gururmm/internal/moment"
	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// lapse ends claims and commands whose time is over.
func (r *route) lapse() {
	now := r.now()
	for _, j := range r.byAge() {
		if !r.loaded {
			return
		}
		if j.phase.out() && j.claim != nil && !now.Before(j.claim.deadline()) {
			r.overdue(j)
		}
		switch {
		case j.phase.waits() && !now.Before(j.c.ExpiresAt):
			r.move(j, Expire, told{reason: r.untold(j)})
		case j.phase.taken() && !now.Before(resultDeadline(j.c)):
			reason := fmt.Sprintf("acknowledged at %s, but no result came within its timeout of %v and %v more",
				moment.UTC(*j.c.AckedAt), time.Duration(j.c.TimeoutMS)*time.Millisecond, resultGrace)
			r.move(j, NoResult, told{reason: reason})
		}
	}
	for id, until := range r.directives {
		if !now.Before(until) {
			drop(&r.directives, id)
			r.call()
		}
	}
}

func resultDeadline(c store.Command) time.Time {
	return c.AckedAt.Add(time.Duration(c.TimeoutMS)*time.Millisecond + resultGrace)
}

// overdue gives back a claim whose lease has run out, with what is known of it.
func (r *route) overdue(j *job) {
	c := j.claim
	l := r.link(c.gen)
	if c.channel != wire.ChannelLink {
		l = nil
	}
	var silent time.Duration
	if l != nil {
		l.suspect, silent = true, l.Ask()
	}
	if c.written.IsZero() {
		note := fmt.Sprintf("route.unwritten: taken by the link %v ago and not written", unwrittenAfter)
		if c.channel == wire.ChannelOOB {
			note = fmt.Sprintf("route.unwritten: the poll's answer was not written in %v", unwrittenAfter)
		}
		r.release(j, note)
		return
	}
	note := fmt.Sprintf("not acknowledged in %v", c.lease)
	switch {
	case silent > 0:
		note += fmt.Sprintf("; the ping behind it is not answered either, and nothing at all has come on the link for %v", silent.Round(100*time.Millisecond))
	case c.read:
		note += "; the agent's ledger had passed it: it was read, so the loss is inside the agent or on the way back"
	case l != nil && l.peerRead > 0 && c.number > 0:
		note += fmt.Sprintf("; the agent's ledger had last told of %d of %d messages", l.peerRead, c.number)
	case c.channel == wire.ChannelLink:
		note += "; the agent's ledger has not told whether it was read"
	}
	r.release(j, note)
}

// lose gives back a claim whose text was proven lost.
func (r *route) lose(j *job, proof Proof) {
	r.giveBack(j, StageLost, lostNote(*j.claim, proof.Says), j.claim.counted(proof.Counts))
}

// release gives a claim back, with the reason.
func (r *route) release(j *job, note string) { r.giveBack(j, StageReleased, note, nil) }

// giveBack gives a claim back, with the proof or reason. If that was the command's
// last chance, or its end was asked for, it ends by the same change: nothing can
// come between.
func (r *route) giveBack(j *job, stage wire.Stage, note string, proof *operator.Proof) {
	c := j.claim
	if c == nil {
		return
	}
	link := linkName(c.link)
	lost := store.Stage{TraceEntry: operator.TraceEntry{
		Stage: stage, At: r.now(), End: "server", Attempt: c.attempt, Channel: c.channel, Link: link, Note: note, Proof: proof,
	}}
	ev, t, stages := Release, told{}, []store.Stage{lost}
	if c.read { // the agent has not said so itself
		stages = []store.Stage{{TraceEntry: operator.TraceEntry{
			Stage: wire.StageRead, At: c.readAt, End: "server", Attempt: c.attempt, Channel: c.channel, Link: link,
			Note: fmt.Sprintf("by the agent's ledger, which has passed text %d of this link", c.number),
		}}, lost}
	}
	if j.c.Attempts >= r.s.o.MaxAttempts {
		ev = Exhaust
	}
	switch rule, _ := Next(j.phase, ev); rule.To {
	case Cancelled:
		t.reason = "cancelled while " + r.untold(j, lost)
		stages = append(stages, cancelStage(j, lost.At, ""))
	case Undeliverable:
		t.reason = r.exhausted(j, lost)
	}
	r.s.notice(j.c.ID, fmt.Sprintf("attempt %d by %s: %s", c.attempt, doorName(c.channel), note)) // before its end is told
	if moved, err := r.move(j, ev, t, stages...); err != nil || !moved {
		return
	}
	r.s.log.Warn("claim given back", "agent", r.agent, "command", j.c.ID, "attempt", c.attempt, "channel", string(c.channel), "link", link, "note", note)
}

// exhausted says that no attempt is left, and what became of the last one.
func (r *route) exhausted(j *job, more ...store.Stage) string {
	return fmt.Sprintf("all %d attempts are used: %s", j.c.Attempts, r.untold(j, more...))
}

// untold says why a command was not acknowledged, from its trace and what is to be
// stored next.
func (r *route) untold(j *job, more ...store.Stage) string {
	if j.c.Attempts == 0 {
		return "never offered, " + r.closedDoor()
	}
	ctx, cancel := background()
	defer cancel()
	stages, err := r.s.st.Stages(ctx, j.c.ID, 0)
	if err != nil {
		return "its trace could not be read"
	}
	stages = append(append(stages, j.stages...), more...)
	last, maybe := "", ""
	for _, s := range stages {
		if s.Stage == StageLost || s.Stage == StageReleased {
			last = s.Note
		}
	}
	if mayHaveArrived(stages) {
		maybe = "; it may have arrived and run all the same"
	}
	return fmt.Sprintf("not acknowledged; attempt %d: %s%s", j.c.Attempts, last, maybe)
}

// mayHaveArrived reports whether an attempt was written and not proven lost.
func mayHaveArrived(stages []store.Stage) bool {
	open := map[int]bool{}
	for _, s := range stages {
		if s.Stage == wire.StageWritten {
			open[s.Attempt] = true
		}
	}
	for _, s := range stages {
		if s.Stage == StageLost || s.Stage == stageRefused {
			delete(open, s.Attempt)
		}
	}
	return len(open) > 0
}

// closedDoor says why nothing can be offered now.
func (r *route) closedDoor() string {
	open, why := r.door()
	if open != nil {
		return "a door was open only just now"
	}
	return why.clause
}

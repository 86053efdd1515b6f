package delivery

import (
	"time"

	"gururmm/server/store"
)

// move applies ev to j by the table, with what comes with it, and stores that
// together with stages. moved is false if ev has no effect in j's phase.
func (r *route) move(j *job, ev Event, t told, stages ...store.Stage) (moved bool, err error) {
	rule, ok := Next(j.phase, ev)
	if !ok || rule == (Rule{To: j.phase}) {
		return false, nil
	}
	c := r.after(j.c, rule, t)
	if rule.Do.Has(Soon) && r.offeredAgain(j) {
		r.keepStages(j, stages...)
		j.unsaved = true
	} else if err := r.save(j, &c, stages...); err != nil {
		return false, err
	}
	j.c, j.phase = c, rule.To
	if !j.phase.out() {
		j.unclaim()
	}
	if rule.Do.Has(Count) {
		j.hold(t.claim)
	}
	if rule.Do.Has(Again) {
		j.epoch, j.poke = r.epoch+1, true
	}
	if rule.Do.Has(CallOff) {
		r.wake() // by the link it goes at the end of the turn
	}
	if rule.Do.Has(Slot) {
		r.unwait(1)
	}
	if j.phase.taken() {
		j.script = "" // it goes out no more
	}
	if rule.Do.Has(End) {
		drop(&r.jobs, c.ID)
		r.s.log.Info("command ended", "agent", r.agent, "command", c.ID, "state", string(c.State), "reason", c.Reason, "attempts", c.Attempts)
		if r.s.o.Ended != nil {
			r.s.o.Ended(c.ID)
		}
	}
	return true, nil
}

// offeredAgain reports whether a claim of j that is lost sight of would surely be offered again:
// there are attempts and time left. Another node of a cluster sees only what is stored.
func (r *route) offeredAgain(j *job) bool {
	return r.s.o.Cluster == nil && j.c.Attempts < r.s.o.MaxAttempts && r.now().Add(offerLeft).Before(j.c.ExpiresAt)
}

// after is c after a move, as it is stored.
func (r *route) after(c store.Command, rule Rule, t told) store.Command {
	owner := ""
	if rule.To.out() && r.s.o.Cluster != nil {
		if owner = c.Owner; rule.Do.Has(Count) {
			owner = r.s.o.Cluster.Node()
		}
	}
	c = rule.apply(c, t, r.now())
	c.Owner = owner
	return c
}

// hold has the job claimed.
func (j *job) hold(c *claim) {
	j.claim, j.told, j.poke = c, "", false
	j.past = append(j.past, *c)
}

// keepStages has stages stored with what is stored next of j, or soon.
func (r *route) keepStages(j *job, stages ...store.Stage) {
	j.stages = append(j.stages, stagesOf(j.c.ID, stages)...)
	if j.saveAt.IsZero() {
		j.saveAt = r.now().Add(saveWithin)
	}
}

// stagesOf gives stages as those of a command.
func stagesOf(id string, stages []store.Stage) []store.Stage {
	for i := range stages {
		stages[i].Command, stages[i].Note = id, cut(stages[i].Note)
	}
	return stages
}

// save stores c, which j is or becomes, with stages and all that was kept of j.
func (r *route) save(j *job, c *store.Command, stages ...store.Stage) (err error) {
	ctx, cancel := background()
	defer cancel()
	all := append(j.stages, stagesOf(j.c.ID, stages)...)
	if c.Rev, err = r.s.st.SaveCommand(ctx, *c, all...); err != nil {
		r.broken("stored", err)
		if r.keep {
			err = errOvertaken
		}
		return err
	}
	j.saved()
	r.s.touch(c.ID)
	return nil
}

// note adds stages to a command without changing it.
func (r *route) note(id string, stages ...store.Stage) error {
	j := r.jobs[id]
	if j != nil && j.unsaved {
		return r.save(j, &j.c, stages...)
	}
	stages = stagesOf(id, stages)
	if j != nil {
		stages = append(j.stages, stages...)
	}
	ctx, cancel := background()
	defer cancel()
	if err := r.s.st.AddStages(ctx, stages...); err != nil {
		r.broken("stored", err)
		return err
	}
	if j != nil {
		j.saved()
	}
	r.s.touch(id)
	return nil
}

// saved says that j is stored, with all of its stages that were not.
func (j *job) saved() {
	j.unsaved, j.stages, j.saveAt = false, nil, time.Time{}
}

// saveKept stores what was kept of the jobs for long enough, or of all.
func (r *route) saveKept(all bool) {
	now := r.now()
	for _, j := range r.jobs {
		if r.loaded && !j.saveAt.IsZero() && (all || !now.Before(j.saveAt)) {
			r.note(j.c.ID) // its error: all is read again
		}
	}
}

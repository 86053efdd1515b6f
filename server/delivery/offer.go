package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"gururmm/internal/fault"
	"gururmm/internal/moment"
	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// obstacle is why a command waits. Its kind stays while only numbers in it change.
type obstacle struct{ kind, clause string }

// door gives the newest link that commands may go on; else why there is none.
func (r *route) door() (*live, obstacle) {
	var newest, open *live
	why := obstacle{"offline", "the agent is offline"}
	for _, l := range r.links {
		ok, clause := l.Deliverable()
		if ok && (open == nil || l.Generation() > open.Generation()) {
			open = l
		}
		if newest == nil || l.Generation() > newest.Generation() {
			newest, why = l, obstacle{clause, clause}
		}
	}
	if open != nil {
		return open, obstacle{}
	}
	if r.s.o.Why != nil { // who hears the agent knows more than which links were verified
		why.kind, why.clause = r.s.o.Why(r.agent)
	}
	return nil, why
}

// offer claims what waits for an open link, and wakes polls for the rest.
func (r *route) offer() {
	if len(r.jobs) == 0 {
		return
	}
	now := r.now()
	l, why := r.door()
	waits := r.pollWaits()
	if fault.Active(fault.Of("delivery.skip", r.agent)) {
		l, why = nil, obstacle{"skip", "its link is passed over"}
	}
	poke, out := false, r.out()
	for _, j := range r.byAge() {
		if !r.loaded {
			return
		}
		if j.phase.calledOff() {
			r.offerCancel(j, l, now)
		}
		if !j.phase.waits() || now.Before(j.notBefore[wire.ChannelLink]) && now.Before(j.notBefore[wire.ChannelOOB]) {
			continue
		}
		if l != nil && out < maxOut && j.epoch <= r.epoch && !now.Before(j.notBefore[wire.ChannelLink]) && !(l.suspect && waits) {
			r.offerOn(j, l)
			out++
			continue
		}
		if j.poke && !now.Before(j.notBefore[wire.ChannelOOB]) {
			poke, j.poke = true, false
		}
		switch {
		case out >= maxOut:
			r.tell(j, now, obstacle{"turn", "waits for its turn: many commands of this agent are not acknowledged yet"})
		case waits:
			r.tell(j, now, obstacle{"poll", "offered by the second door"})
		case l != nil:
			r.tell(j, now, obstacle{"sign", "offered again with the agent's next sign of life"})
		default:
			why := why
			why.clause = fmt.Sprintf("not offered yet: %s; it waits until %s", why.clause, moment.UTC(j.c.ExpiresAt))
			r.tell(j, now, why)
		}
	}
	if poke {
		r.wake()
	}
}

// tell notices followers why a command waits: each other reason at once, and
// the same one every tellAgain, with its numbers of then.
func (r *route) tell(j *job, now time.Time, why obstacle) {
	if j.told == why.kind && now.Before(j.toldAt.Add(tellAgain)) {
		return
	}
	j.told, j.toldAt = why.kind, now
	r.s.watchers.notice(j.c.ID, why.clause) // each node's own followers: they see it from there
}

// out counts the claims that are out.
func (r *route) out() (n int) {
	for _, j := range r.jobs {
		if j.phase.out() {
			n++
		}
	}
	return n
}

// free reports whether a new command may go out on l at once.
func (r *route) free(l *live) bool {
	return r.out() < maxOut && !(l.suspect && r.pollWaits()) && !fault.Active(fault.Of("delivery.skip", r.agent))
}

// leaseOf is how long a claim on l is waited for.
func leaseOf(l *live) time.Duration { return max(leaseMin, leaseRTTs*l.RTT()) }

// offerOn claims j for l and sends it.
func (r *route) offerOn(j *job, l *live) {
	if t := r.claim(j, wire.ChannelLink, l.ID(), l.Generation(), leaseOf(l)); t != nil {
		r.sendOn(j, l, t)
	}
}

// sendOn sends j, whose claim is stored.
func (r *route) sendOn(j *job, l *live, t *ticket) {
	id, attempt, late := j.c.ID, t.claim.attempt, new(lateAsk)
	j.claim.late = late
	err := l.Send(t.env, func(n uint64, at time.Time, err error) {
		if err == nil {
			late.written(l.Link)
		}
		r.post(func() { r.written(id, attempt, n, at, err) })
	})
	if err != nil {
		r.release(j, "the link did not take it: "+err.Error())
	}
}

// ticket is an attempt: what is sent, and the claim that is stored before.
type ticket struct {
	env   wire.Envelope
	claim *claim
}

// stage is the claim's entry in the trace.
func (t *ticket) stage(command string) store.Stage {
	c := t.claim
	return store.Stage{Command: command, TraceEntry: operator.TraceEntry{
		Stage: wire.StageClaimed, At: c.at, End: "server", Attempt: c.attempt, Channel: c.channel, Link: linkName(c.link),
	}}
}

// claim takes j for a door: the next attempt is stored before anything is sent. Of nil,
// j is as it was, or has ended.
func (r *route) claim(j *job, ch wire.Channel, link wire.LinkID, gen uint64, lease time.Duration) *ticket {
	now := r.now()
	if !now.Before(j.c.ExpiresAt) {
		return nil // lapse ends it
	}
	whole := j.c
	if whole.Script = j.script; j.script == "" {
		ctx, cancel := background()
		defer cancel()
		var err error
		if whole, err = r.s.st.Command(ctx, j.c.ID); err != nil {
			r.broken("read", err)
			return nil
		}
	}
	t := r.ticket(whole, ch, link, gen, lease)
	if t == nil {
		r.tell(j, now, obstacle{"key", "not offered: the server can't sign it"})
		r.wait(j, now)
		return nil
	}
	if moved, err := r.move(j, Claim, told{claim: t.claim}, t.stage(j.c.ID)); err != nil || !moved {
		return nil
	}
	return t
}

// ticket signs the next attempt of a command; nil: it can't be signed.
func (r *route) ticket(c store.Command, ch wire.Channel, link wire.LinkID, gen uint64, lease time.Duration) *ticket {
	env, err := r.s.sign(wire.TypeCommand, payload(c))
	if err != nil {
		r.s.log.Error("command could not be signed", "command", c.ID, "error", err)
		return nil
	}
	return &ticket{env, &claim{attempt: c.Attempts + 1, channel: ch, link: link, gen: gen, at: r.now(), lease: lease}}
}

// payload is what the agent is ordered: fixed when the command was submitted,
// so that every attempt carries the same bytes.
func payload(c store.Command) wire.Command {
	return wire.Command{
		ID: c.ID, Agent: c.Agent, Shell: c.Shell, Script: c.Script, TimeoutMS: c.TimeoutMS,
		IssuedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, MaxOutput: c.MaxOutput,
	}
}

func (s *Service) sign(t wire.Type, payload any) (wire.Envelope, error) {
	if s.o.Sign == nil {
		return wire.Envelope{}, fmt.Errorf("no key to sign %s with", t)
	}
	return s.o.Sign(t, payload)
}

// written takes the writer's word of one attempt: its number on the link, or
// why it was not written.
func (r *route) written(id string, attempt int, n uint64, at time.Time, werr error) {
	j := r.jobs[id]
	var c *claim
	if j != nil && j.claim != nil && j.claim.attempt == attempt {
		c = j.claim
	}
	if werr != nil {
		if c != nil {
			r.release(j, "it was not written: "+werr.Error())
		}
		return
	}
	entry := operator.TraceEntry{Stage: wire.StageWritten, At: at.UTC().Truncate(time.Microsecond), End: "server", Attempt: attempt}
	if n > 0 {
		entry.Channel = wire.ChannelLink
	} else {
		entry.Channel = wire.ChannelOOB
	}
	switch {
	case c != nil:
		c.number, c.written = n, r.now() // a slow write takes nothing off the lease
		entry.Link = linkName(c.link)
	case j != nil:
		for _, p := range j.past {
			if p.attempt == attempt {
				entry.Link = linkName(p.link)
			}
		}
		if j.phase.waits() || j.claim != nil {
			entry.Note = "after its claim had been given back"
		}
	}
	if j != nil && r.s.o.Cluster == nil { // another node sees only what is stored
		r.keepStages(j, store.Stage{TraceEntry: entry})
	} else if r.note(id, store.Stage{TraceEntry: entry}) != nil {
		return
	}
	if c == nil {
		return
	}
	switch l := r.link(c.gen); {
	case c.channel != wire.ChannelLink:
	case l == nil:
		r.release(j, "its link ended as it was written")
	case n <= l.peerRead:
		c.passed(r.now())
	case l.proof.Says != "":
		r.release(j, "written to a link that provably loses texts: "+l.proof.Says)
	}
}

// offerCancel asks the agent by the link, if it is open, to end j.
func (r *route) offerCancel(j *job, l *live, now time.Time) {
	if l == nil || now.Before(j.cancelSent[wire.ChannelLink].Add(cancelAgain)) {
		return
	}
	env, ok := r.cancelOrder(j.c.Agent, j.c.ID, now)
	if !ok {
		return
	}
	// No lease: it is repeated until the command has ended.
	if err := l.Send(env, func(uint64, time.Time, error) {}); err == nil {
		j.cancelSent[wire.ChannelLink] = now
	}
}

func (r *route) cancelOrder(agent, id string, now time.Time) (wire.Envelope, bool) {
	env, err := r.s.sign(wire.TypeCancelCommand, wire.CancelCommand{ID: id, Agent: agent, ExpiresAt: now.Add(resultGrace)})
	if err != nil {
		r.s.log.Error("cancel could not be signed", "command", id, "error", err)
	}
	return env, err == nil
}

// Take claims up to max commands for a poll with delivery on, and adds pending
// cancels and directives. done must be called when the answer was written, or not.
func (s *Service) Take(ctx context.Context, agent string, max int) ([]wire.Envelope, Done, error) {
	if max <= 0 {
		max = defaultTake
	}
	h := &handout{r: s.route(agent)}
	err := s.do(ctx, agent, func() error {
		h.r.taken = h.r.now()
		if err := h.commands(max); err != nil {
			return err
		}
		return h.orders(ctx)
	})
	return h.result(ctx, err)
}

// Directives takes the pending directives for the answer to a beacon; done as in Take.
func (s *Service) Directives(ctx context.Context, agent string) ([]wire.Envelope, Done, error) {
	h := &handout{r: s.route(agent)}
	err := s.do(ctx, agent, func() error { return h.orders(ctx) })
	return h.result(ctx, err)
}

// handout is what one HTTP answer carries.
type handout struct {
	r        *route
	envs     []wire.Envelope
	claims   map[string]int // attempt by command
	ordered  []string       // directives
	left     bool           // more directives wait than one answer takes
	finished sync.Once
}

// result gives what was taken. After an error, what had been taken goes back.
func (h *handout) result(ctx context.Context, err error) ([]wire.Envelope, Done, error) {
	if err == nil {
		return h.envs, h.done, nil
	}
	if h.r != nil {
		// In its turn: the task may still be under way if only ctx has ended.
		h.done(h.r.s.o.Now(), err)
	}
	return nil, func(time.Time, error) {}, err
}

func (h *handout) done(at time.Time, err error) {
	h.finished.Do(func() { h.r.post(func() { h.settle(at, err) }) })
}

// settle takes the word of the HTTP answer's writer.
func (h *handout) settle(at time.Time, err error) {
	for id, attempt := range h.claims {
		h.r.written(id, attempt, 0, at, err)
	}
	if len(h.ordered) == 0 {
		return
	}
	if err == nil {
		if h.left {
			h.r.call()
		}
		ctx, cancel := background()
		defer cancel()
		if err := h.r.s.st.DirectivesDelivered(ctx, h.ordered, h.r.now()); err != nil {
			h.r.s.log.Error("directives could not be marked as delivered", "agent", h.r.agent, "error", err)
			return // out until their lease ends
		}
		for _, id := range h.ordered {
			if _, open := h.r.directives[id]; open { // not answered already
				put(&h.r.directives, id, h.r.now().Add(unheardAfter))
			}
		}
		return
	}
	for _, id := range h.ordered {
		drop(&h.r.directives, id)
	}
	h.r.wake()
}

// commands claims what waits, what is out on a link that is not trusted, and cancels.
func (h *handout) commands(limit int) error {
	r, now := h.r, h.r.now()
	h.envs, h.claims, h.ordered = nil, map[string]int{}, nil
	size := 0
	for _, j := range r.byAge() {
		if j.claim != nil && j.claim.channel == wire.ChannelLink {
			if why := r.distrust(j.claim.gen); why != "" {
				r.release(j, "the agent polls and "+why)
			}
		}
		if !r.loaded {
			return h.failed()
		}
		if j.phase.calledOff() && !now.Before(j.cancelSent[wire.ChannelOOB].Add(cancelAgain)) {
			if env, ok := r.cancelOrder(j.c.Agent, j.c.ID, now); ok {
				h.envs, j.cancelSent[wire.ChannelOOB] = append(h.envs, env), now
			}
		}
		if !j.phase.waits() || now.Before(j.notBefore[wire.ChannelOOB]) || len(h.claims) >= limit || size > maxTakeBytes {
			continue
		}
		again := j.c.Attempts > 0 && j.c.Channel == wire.ChannelLink
		t := r.claim(j, wire.ChannelOOB, 0, 0, leaseMin)
		if !r.loaded {
			return h.failed()
		}
		if t == nil {
			continue
		}
		if again {
			r.s.notice(j.c.ID, "now offered by the second door")
		}
		h.envs = append(h.envs, t.env)
		h.claims[j.c.ID] = t.claim.attempt
		size += len(t.env.Payload)
	}
	return nil
}

// failed is why no more commands are claimed. What another node was faster with is none of
// this answer's: what was claimed before goes out with it.
func (h *handout) failed() error {
	switch {
	case !h.r.keep:
		return errStoreFailed
	case len(h.claims) > 0:
		return nil
	}
	return errOvertaken
}

var errStoreFailed = fmt.Errorf("delivery: %w", errDatabase)

// distrust says why the link of that generation is not to be waited for; "": it is.
func (r *route) distrust(gen uint64) string {
	l := r.link(gen)
	if l == nil {
		return "its link is gone"
	}
	if ok, why := l.Deliverable(); !ok {
		return why
	}
	if l.suspect {
		return "its link left a command unacknowledged"
	}
	return ""
}

// orders adds pending directives, and those that were written and never answered.
func (h *handout) orders(ctx context.Context) error {
	r, now := h.r, h.r.now()
	pending, err := r.s.st.PendingDirectives(ctx, r.agent, now, now.Add(-unheardAfter))
	if err != nil {
		return err
	}
	size := 0
	var envs []wire.Envelope
	var ids []string
	for _, d := range pending {
		if _, out := r.directives[d.ID]; out {
			continue
		}
		env, err := r.s.sign(wire.TypeDirective, d)
		if err != nil {
			return err
		}
		if size += len(env.Payload); size > maxOrderBytes && len(ids) > 0 {
			h.left = true
			break // the rest with the next answer
		}
		envs, ids = append(envs, env), append(ids, d.ID)
	}
	mine, err := r.takeDirectives(ctx, ids, now)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if slices.Contains(mine, id) {
			h.envs, h.ordered = append(h.envs, envs[i]), append(h.ordered, id)
			put(&r.directives, id, now.Add(directiveLease))
		}
	}
	return nil
}

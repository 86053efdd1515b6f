package delivery

import (
	"fmt"
	"slices"
	"strings"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// live is a link that has been verified and has not ended.
type live struct {
	Link
	// suspect: a claim on it was not acknowledged, and none since. A waiting poll is preferred to it.
	suspect  bool
	peerRead uint64 // as the agent last said
	proof    Proof  // that later messages are lost
}

// explanation is what is known to be wrong with a link. The zero value: nothing.
type explanation struct {
	Proof
	link wire.LinkID
	lost bool // texts to the agent, provably
}

// fallen is a link that has ended, with the claims its end gave back.
type fallen struct {
	link   wire.LinkID
	claims map[string]claim // by command
}

// link is the live link of a generation; nil: there is none.
func (r *route) link(gen uint64) *live {
	if i := r.linkAt(gen); i >= 0 {
		return r.links[i]
	}
	return nil
}

func (r *route) linkAt(gen uint64) int {
	return slices.IndexFunc(r.links, func(l *live) bool { return l.Generation() == gen })
}

func (r *route) linkUp(l Link) {
	switch i := r.linkAt(l.Generation()); {
	case i < 0:
		r.links = append(r.links, &live{Link: l})
	case r.links[i].Link != l:
		r.links[i] = &live{Link: l}
	default:
		r.links[i].proof = Proof{}
	}
	r.epoch++
	r.unwait(len(r.jobs))
	r.look()
}

func (r *route) linkDown(gen uint64, verdict string) {
	if verdict == "" {
		verdict = "no reason given"
	}
	var link wire.LinkID
	if l := r.link(gen); l != nil {
		link = l.ID()
	}
	var why explanation
	if r.explained != nil && link != 0 && r.explained.link == link {
		why = *r.explained
	}
	r.links = slices.DeleteFunc(r.links, func(l *live) bool { return l.Generation() == gen })
	for _, j := range r.byAge() {
		if j.claim == nil || j.claim.channel != wire.ChannelLink || j.claim.gen != gen {
			continue
		}
		if why.Says == "" { // it may come yet
			if r.fallen.link != j.claim.link {
				r.fallen = fallen{link: j.claim.link, claims: map[string]claim{}}
			}
			r.fallen.claims[j.c.ID] = *j.claim
		}
		switch {
		case j.claim.read:
			r.release(j, "its link ended: "+verdict+said(why, verdict)+"; the agent's ledger had passed it, so it was read")
		case why.lost && !j.claim.written.IsZero():
			r.lose(j, why.Proof)
		default:
			r.release(j, "its link ended: "+verdict+said(why, verdict))
		}
		j.epoch = 0 // another link may have it at once
	}
}

func (r *route) peerRead(gen, n uint64, proof Proof) {
	l := r.link(gen)
	if l == nil {
		return
	}
	l.peerRead, l.proof = max(l.peerRead, n), proof
	for _, j := range r.byAge() {
		c := j.claim
		if c == nil || c.channel != wire.ChannelLink || c.gen != gen || c.number == 0 {
			continue
		}
		switch {
		case c.number <= l.peerRead:
			c.passed(r.now())
		case proof.Says != "":
			l.suspect = true
			r.lose(j, proof)
		}
	}
}

// said adds an explanation to why a link ended, unless that says it already.
func said(e explanation, verdict string) string {
	if e.Says == "" || strings.Contains(verdict, e.Says) {
		return ""
	}
	return "; " + e.Says
}

// lostNote says which text was lost, and what proves it.
func lostNote(c claim, proof string) string {
	if c.number == 0 {
		return "lost between written and read: " + proof
	}
	return fmt.Sprintf("lost between written and read, as text %d of its link: %s", c.number, proof)
}

// counted gives the proof as of this claim.
func (c claim) counted(p *operator.Proof) *operator.Proof {
	if p == nil {
		return nil
	}
	own := *p
	own.Text = c.number
	return &own
}

// explain takes in why a link fails. If it has ended already, the claims that
// its end gave back are told of in hindsight.
func (r *route) explain(e explanation) {
	if r.explained = nil; e.Says == "" {
		return
	}
	if r.explained = &e; e.link == 0 || r.fallen.link != e.link {
		return
	}
	for id, c := range r.fallen.claims {
		entry := operator.TraceEntry{
			Stage: StageReleased, At: r.now(), End: "server", Attempt: c.attempt, Channel: c.channel, Link: linkName(c.link), Note: e.Says,
		}
		if e.lost && !c.read && !c.written.IsZero() {
			entry.Stage, entry.Note, entry.Proof = StageLost, lostNote(c, e.Says), c.counted(e.Counts)
		}
		r.note(id, store.Stage{TraceEntry: entry})
		r.s.notice(id, fmt.Sprintf("attempt %d by %s: %s", c.attempt, doorName(c.channel), entry.Note))
	}
	r.fallen = fallen{}
}

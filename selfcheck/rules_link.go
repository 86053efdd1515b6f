package selfcheck

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/wire"
)

// The rules about the link and the route: what the two ends' accounts prove.

// opened reports whether a link is open, so that its ledger and tap are its own.
func (f *facts) opened() bool {
	switch f.Link.Phase {
	case PhaseAuth, PhaseConfiguring, PhaseProbing, PhaseVerified:
		return true
	}
	return false
}

// seenLink is our link in the server's view, nil if there is none.
func (f *facts) seenLink() *wire.LinkView {
	if f.OOB.View == nil || f.Link.ID == 0 {
		return nil
	}
	for i := range f.OOB.View.Links {
		if l := &f.OOB.View.Links[i]; l.Link == f.Link.ID {
			return l
		}
	}
	return nil
}

// viewAge is how old the server's view is; ok is false if there is none.
func (f *facts) viewAge() (d time.Duration, ok bool) {
	if f.OOB.View == nil || f.OOB.ViewAge == nil {
		return 0, false
	}
	return f.sinceAwake(max(0, *f.OOB.ViewAge)), true
}

// counts are both ends' accounts of the texts that come down, as evidence.
func (f *facts) counts() []Evidence {
	l := &f.Link.Ledger
	e := []Evidence{{Fact: "link.ledger.local.read", Seen: number(l.Local.Read)}}
	if l.Peer != nil {
		e[0].Expected = number(l.Peer.Written)
		if d, ok := f.age(l.PeerAge); ok {
			e = append(e, Evidence{Fact: "link.ledger.peer_age", Seen: span(d) + " by " + orNone(l.PeerVia)})
		}
	}
	if n := f.arrived(); n > 0 {
		e = append(e, Evidence{Fact: "link.in.frames.text", Seen: number(n)})
	}
	return e
}

func lookAltered(f *facts, r *rule) *hit {
	l := &f.Link.Ledger
	if !f.opened() {
		return nil
	}
	if l.Altered != "" {
		way := "from the server"
		if l.Altered == "up" {
			way = "to the server"
		}
		h := &hit{
			sentence: fmt.Sprintf("Both ends count the same texts %s, but their digests differ: at least one was changed on the way.", way),
			evidence: []Evidence{{Fact: "link.ledger.altered", Seen: l.Altered, Expected: "none"}},
		}
		if l.Altered == "up" && l.Peer != nil && l.Peer.Read > l.Local.Written {
			h.sentence = fmt.Sprintf("The server has read %s, %d were written here: some were repeated or made up on the way.", count(l.Peer.Read, "text"), l.Local.Written)
			h.evidence = append(h.evidence, Evidence{Fact: "link.ledger.peer.read", Seen: number(l.Peer.Read), Expected: number(l.Local.Written)})
		}
		if d, ok := f.age(l.AlteredAge); ok {
			h.evidence = append(h.evidence, Evidence{Fact: "link.ledger.altered_age", Seen: span(d)})
		}
		return h
	}
	if l.Excess == nil || l.Excess.Missing == 0 {
		return nil
	}
	// Texts that the server did not write: repeated or made up on the way. A ping
	// held back behind text looks the same until the next one.
	h := &hit{
		sentence: fmt.Sprintf("%s more came from the server's side than it has written: repeated or made up on the way.", count(l.Excess.Missing, "text")),
		evidence: append([]Evidence{{Fact: "link.ledger.excess", Seen: number(l.Excess.Missing), Expected: "0"}}, f.counts()...),
	}
	f.ripen(h, f.spanned(l.Excess), f.grace(minGapGrace, gapRoundTrips))
	return h
}

// ripen makes h a suspicion until age is past grace; the peer's next ledger may
// settle it before.
func (f *facts) ripen(h *hit, age, grace time.Duration) {
	if f.ripe(age, grace) {
		return
	}
	h.suspected, f.ping = true, true
	h.sentence += fmt.Sprintf(" Seen for %s; proof after %s.", span(age), span(grace))
}

// lost is the gap of texts that come down and how long it has lasted.
func (f *facts) lost() (missing uint64, age time.Duration) {
	g := f.Link.Ledger.Down
	if !f.opened() || g == nil || g.Missing == 0 {
		return 0, 0
	}
	age, _ = f.lasted(&g.Age)
	return g.Missing, age
}

func lookStuckFragment(f *facts, r *rule) *hit {
	open, isOpen := f.lasted(f.Link.In.OpenFragment)
	if !f.opened() || !isOpen {
		return nil
	}
	evidence := []Evidence{{Fact: "link.in.open_fragment", Seen: span(open), Expected: "none"}}
	if missing, age := f.lost(); missing > 0 {
		h := &hit{
			sentence: fmt.Sprintf("A message from the server was begun %s ago and not finished, while a later ping came: %s missing.", span(open), count(missing, "text")),
			evidence: append(evidence, f.counts()...),
		}
		f.ripen(h, age, f.grace(minGapGrace, gapRoundTrips))
		return h
	}
	idle, known := f.lasted(f.Link.In.FragmentIdle)
	if !known {
		idle = open
	}
	if !f.ripe(idle, r.grace) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("A message from the server was begun %s ago, and not a byte of it came for %s.", span(open), span(idle)),
		evidence: append(evidence, Evidence{Fact: "link.in.fragment_idle", Seen: spanBeyond(idle, r.grace), Expected: "under " + span(r.grace)}),
	}
}

func lookTextLost(f *facts, r *rule) *hit {
	missing, age := f.lost()
	if missing == 0 {
		return nil
	}
	l := &f.Link.Ledger
	h := &hit{evidence: f.counts()}
	if l.Peer != nil {
		h.sentence = fmt.Sprintf("The server has written %s on this link, %d were read here: %d missing.", count(l.Peer.Written, "text"), l.Local.Read, missing)
	} else {
		h.sentence = fmt.Sprintf("%s that the server has written were not read here.", count(missing, "text"))
	}
	f.ripen(h, age, f.grace(minGapGrace, gapRoundTrips))
	f.tookDown(h)
	return h
}

func lookUplinkLost(f *facts, r *rule) *hit {
	l := &f.Link.Ledger
	if !f.opened() || l.Up == nil || l.Up.Missing == 0 {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("%s written here had not reached the server when a later ping had.", count(l.Up.Missing, "text")),
		evidence: []Evidence{{Fact: "link.ledger.local.written", Seen: number(l.Local.Written)}},
	}
	if l.Peer != nil {
		h.sentence = fmt.Sprintf("Of %s written here the server has read %d: %d missing that a later ping has overtaken.", count(l.Local.Written, "text"), l.Peer.Read, l.Up.Missing)
		h.evidence = append(h.evidence, Evidence{Fact: "link.ledger.peer.read", Seen: number(l.Peer.Read), Expected: number(l.Peer.Read + l.Up.Missing)})
	}
	f.ripen(h, f.spanned(l.Up), f.grace(minGapGrace, gapRoundTrips))
	f.tookUp(h)
	return h
}

func lookDelayed(f *facts, r *rule) *hit {
	l := &f.Link.Ledger
	ago, known := f.age(l.ClosedAge)
	if !f.opened() || l.Closed == 0 || !known || ago >= delayedShown {
		return nil
	}
	f.within(delayedShown - ago)
	return &hit{
		sentence: fmt.Sprintf("Texts that a ping had overtaken came after all, %s on this link, the last %s ago.", count(l.Closed, "time"), span(ago)),
		evidence: []Evidence{{Fact: "link.ledger.closed", Seen: number(l.Closed), Expected: "0"}, {Fact: "link.ledger.closed_age", Seen: span(ago)}},
	}
}

func lookPingForeign(f *facts, r *rule) *hit {
	l := &f.Link.Ledger
	if !f.opened() || f.Link.Plain {
		return nil
	}
	unanswered, asked := f.lasted(l.UnansweredAge)
	if !asked && l.Foreign == 0 && l.Stripped == 0 {
		return nil
	}
	if d, ok := f.pinged(); ok && (!asked || d < unanswered) && d <= f.dead() {
		return nil // ledgers do come
	}
	last, texted := f.lastText()
	last = f.sinceAwake(last)
	if texted && !f.ripe(last, f.dead()) {
		return nil // text goes: a finding, no fault
	}
	evidence := []Evidence{
		{Fact: "link.ledger.foreign", Seen: number(l.Foreign), Expected: "0"},
		{Fact: "link.ledger.stripped", Seen: number(l.Stripped), Expected: "0"},
	}
	since := "no text has ever come over this link"
	if texted {
		since = "no text has come for " + span(last)
	}
	if asked && f.ripe(unanswered, f.grace(minGapGrace, gapRoundTrips)) {
		return &hit{
			sentence: fmt.Sprintf("A ping was answered %s ago, but not with the account that the server owes at once, and %s: something on the way answers in its place.", span(unanswered), since),
			evidence: append(evidence, Evidence{Fact: "link.ledger.unanswered_age", Seen: span(unanswered), Expected: "none"}),
		}
	}
	opened, known := f.lasted(f.Link.PhaseAge)
	if l.Foreign == 0 && l.Stripped == 0 || !texted && !(known && f.ripe(opened, f.grace(r.grace, gapRoundTrips))) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("%s without the server's account and %s came, and %s.", count(l.Foreign, "ping"), count(l.Stripped, "changed pong"), since),
		evidence: evidence,
	}
}

// lookTextSilent asks whether text still goes where no ledger of a ping tells: a
// heartbeat that is not answered, or no text for longer than a heartbeat's turn.
// The server's view, fetched by the second door, makes it proof.
func lookTextSilent(f *facts, r *rule) *hit {
	if f.Link.Phase != PhaseVerified {
		return nil
	}
	wait := f.grace(silentGrace, silentTrips)
	last, texted := f.lastText()
	last = f.sinceAwake(last)
	// Only where pings tell nothing is the lack of text a sign; the heartbeat's
	// turn comes sooner there.
	turn := f.heartbeat() + wait
	if !f.Link.Plain {
		turn = min(f.heartbeat(), rewrittenBeat) + wait
	}
	_, byPing := f.pinged()
	mute := (f.rewritten() || f.Link.Plain) && !byPing
	pending, asked := f.lasted(f.Link.HeartbeatPending)

	h := &hit{}
	switch {
	case asked && f.ripe(pending, wait):
		h.sentence = fmt.Sprintf("A heartbeat has not been answered for %s.", span(pending))
		h.evidence = []Evidence{{Fact: "link.heartbeat_pending", Seen: spanBeyond(pending, wait), Expected: "under " + span(wait)}}
	case mute && texted && f.ripe(last, turn):
		h.sentence = fmt.Sprintf("Pings come without the server's account, and no text has come for %s.", span(last))
		h.evidence = []Evidence{{Fact: "link.in.text_age", Seen: spanBeyond(last, turn), Expected: "under " + span(turn)}}
	case mute && f.viewProvesLoss(nil):
		h.sentence = "Pings come without the server's account."
	default:
		return nil
	}
	h.suspected = !f.viewProvesLoss(h) && !f.viewForgets(h)
	if h.suspected {
		h.sentence += " Whether text is lost is not known: the server's view, by the second door, will tell."
		f.ping = true
	}
	return h
}

// viewProvesLoss reports whether the server's view, held beside our account,
// shows text lost on this link. Counts only grow, so an old view proves as well
// as a new one, if what was under way then has had time to come.
func (f *facts) viewProvesLoss(h *hit) bool {
	link := f.seenLink()
	taken, known := f.viewAge()
	if link == nil || !known {
		return false
	}
	grace := f.grace(viewGrace, gapRoundTrips)
	read := f.Link.Ledger.Local.Read
	if link.Written > read && f.Link.In.PartialFrame == nil {
		if !f.ripe(taken, grace) {
			return false
		}
		if h != nil {
			h.sentence += fmt.Sprintf(" The server had written %s on this link %s ago, %d were read here.", count(link.Written, "text"), span(taken), read)
			h.evidence = append(h.evidence, Evidence{Fact: "oob.view.links.written", Seen: number(link.Written), Expected: number(read)})
		}
		return true
	}
	pending, asked := f.lasted(f.Link.HeartbeatPending)
	if seq := f.Link.HeartbeatSeq; asked && seq > link.Read && pending-taken >= grace {
		if h != nil {
			h.sentence += fmt.Sprintf(" The server had read %d on this link %s ago; the heartbeat is number %d.", link.Read, span(taken), seq)
			h.evidence = append(h.evidence, Evidence{Fact: "oob.view.links.read", Seen: number(link.Read), Expected: number(seq)})
		}
		return true
	}
	return false
}

// viewForgets reports whether the server, asked after this link was verified,
// does not know it any more.
func (f *facts) viewForgets(h *hit) bool {
	taken, known := f.viewAge()
	up, isUp := f.lasted(f.Link.VerifiedAge)
	if !known || !isUp || f.Link.ID == 0 || f.seenLink() != nil || up-taken < f.grace(viewGrace, gapRoundTrips) {
		return false
	}
	h.sentence += fmt.Sprintf(" The server did not know this link %s ago.", span(taken))
	h.evidence = append(h.evidence, Evidence{Fact: "oob.view.links", Seen: number(len(f.OOB.View.Links)) + " others", Expected: f.Link.ID.String()})
	return true
}

func lookSilent(f *facts, r *rule) *hit {
	if !f.opened() {
		return nil
	}
	silent, known := f.lasted(f.Link.In.AnyAge)
	if !known {
		silent, known = f.lasted(f.Link.PhaseAge)
		if f.Link.Ledger.Peer != nil || f.Link.Ledger.Local.Read > 0 {
			known = false // something came, the tap does not say when
		}
	}
	if !known {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("No frame of any kind has come for %s; pings are due every %s.", span(silent), span(ms(f.p.PingMS))),
		evidence: []Evidence{{Fact: "link.in.any_age", Seen: spanBeyond(silent, f.dead()), Expected: "under " + span(f.dead())}},
	}
	if asked, what := f.unheard(silent); asked > 0 && f.ripe(asked, f.grace(silentGrace, silentTrips)) {
		h.sentence = fmt.Sprintf("A %s has not been answered for %s, and no frame of any kind has come since.", what.name, span(asked))
		h.evidence = append(h.evidence, Evidence{Fact: what.fact, Seen: span(asked), Expected: "under " + span(f.grace(silentGrace, silentTrips))})
	} else if !f.ripe(silent, f.dead()) {
		return nil
	}
	f.kernelRepeats(h)
	return h
}

// question is what the other end owes an answer to.
type question struct{ name, fact string }

// unheard is how long the oldest question has waited since which nothing at all came; 0: none
// has. It is asked again before that is taken for silence: a single pong may be lost on its
// own on a path that is odd about control frames, and an answer to a heartbeat is a text.
func (f *facts) unheard(silent time.Duration) (asked time.Duration, what question) {
	if t := f.Link.TCP; t != nil && some(t.Unsent) || f.Link.In.PartialFrame != nil {
		return 0, what // it may not have left yet; or bytes come, if no frame
	}
	for _, q := range []struct {
		question
		age *time.Duration
	}{
		{question{"ping", "link.ledger.ping_pending"}, f.Link.Ledger.PingPending},
		{question{"heartbeat", "link.heartbeat_pending"}, f.Link.HeartbeatPending},
	} {
		if d, known := f.lasted(q.age); known && d <= silent && d > asked {
			asked, what = d, q.question
		}
	}
	if t := f.Link.TCP; t != nil {
		if came, known := f.lasted(t.ReceivedAge); known && came < asked {
			return 0, what
		}
	}
	if asked > 0 && f.ripe(asked, f.grace(askAgain, gapRoundTrips)) && asked < f.grace(silentGrace, silentTrips) {
		f.ping = true
	}
	return asked, what
}

func lookHandshake(f *facts, r *rule) *hit {
	l := &f.Link
	if l.Phase == PhaseUnknown || l.Phase == PhaseVerified || l.Asked != "" {
		return nil
	}
	phase := Evidence{Fact: "link.phase", Seen: string(l.Phase), Expected: string(PhaseVerified)}
	if l.Failure != nil && l.Attempts >= 1 {
		h := &hit{
			sentence: fmt.Sprintf("No link after %s; the last failed with %s.", count(l.Attempts, "attempt"), l.Failure),
			evidence: []Evidence{
				{Fact: "link.failure", Seen: l.Failure.String(), Expected: "none"},
				{Fact: "link.attempts", Seen: number(l.Attempts)}, phase,
			},
		}
		switch {
		case l.Failure.Status == 401:
			h.action = "Check that the agent is still enrolled with this server, and that no copy of it was enrolled anew."
		case l.Phase == PhaseWaiting && l.NextDial != nil:
			h.sentence += fmt.Sprintf(" The next is due in %s.", span(max(0, *l.NextDial-f.carried)))
		}
		return h
	}
	// No failure was told, but it takes longer than any attempt may.
	age, known := f.lasted(l.PhaseAge)
	if !known || l.Phase == PhaseWaiting || !f.ripe(age, ms(f.p.VerifyMS)) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("The link has been %s for %s; it must be verified within %s.", l.Phase, span(age), span(ms(f.p.VerifyMS))),
		evidence: []Evidence{phase, {Fact: "link.phase_age", Seen: spanBeyond(age, ms(f.p.VerifyMS)), Expected: "under " + span(ms(f.p.VerifyMS))}},
	}
}

func lookConnecting(f *facts, r *rule) *hit {
	if !f.Worker.Running {
		return &hit{
			sentence: fmt.Sprintf("The worker has exited; the next one is about to start. Its end: %s.", strings.TrimRight(orNone(f.Worker.LastExit), ".")),
			evidence: []Evidence{{Fact: "worker.running", Seen: "false", Expected: "true"}},
		}
	}
	if f.Link.Phase == PhaseUnknown || f.Link.Phase == PhaseVerified {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("The link is %s.", f.Link.Phase),
		evidence: []Evidence{{Fact: "link.phase", Seen: string(f.Link.Phase), Expected: string(PhaseVerified)}},
	}
	if f.Link.Asked != "" {
		h.sentence = fmt.Sprintf("The server has asked us to come back later: %s.", f.Link.Asked)
		h.evidence = append(h.evidence, Evidence{Fact: "link.asked", Seen: f.Link.Asked, Expected: "none"})
		if d := f.Link.NextDial; d != nil {
			h.sentence += fmt.Sprintf(" The next attempt is due in %s.", span(max(0, *d-f.carried)))
		}
	} else if age, ok := f.lasted(f.Link.PhaseAge); ok {
		h.sentence = fmt.Sprintf("The link has been %s for %s.", f.Link.Phase, span(age))
	}
	return h
}

func lookFlapping(f *facts, r *rule) *hit {
	if f.Link.Drops < flapLimit {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("%d verified links ended within ten minutes, not by our order.", f.Link.Drops),
		evidence: []Evidence{{Fact: "link.drops", Seen: number(f.Link.Drops), Expected: "under " + number(flapLimit)}},
	}
	if f.Link.Failure != nil {
		h.sentence = fmt.Sprintf("%d verified links ended within ten minutes, not by our order, the last with %s.", f.Link.Drops, f.Link.Failure)
	}
	if quiet, way := f.equalSilence(); quiet > 0 {
		h.sentence += fmt.Sprintf(" The last %d each ended after about %s without %s: so does an idle limit on the path.", flapLimit, span(quiet), way)
		h.action = fmt.Sprintf("Look for a proxy, firewall or NAT on the path whose idle time-out is about %s: raise it above the ping interval (%s), or let the policy's ping_ms be less.", span(quiet), span(ms(f.p.PingMS)))
		for _, d := range f.Link.Dropped[len(f.Link.Dropped)-flapLimit:] {
			h.evidence = append(h.evidence, Evidence{Fact: "link.dropped", Seen: "in " + orAge(d.InMS) + ", out " + orAge(d.OutMS), Expected: "unequal"})
		}
	}
	return h
}

const (
	// silencesDiffer, and a part of the silence itself, is by how much silences may differ that
	// one timer has ended: it is looked at now and then, and its news take their time.
	silencesDiffer = 100 * time.Millisecond
	silencePart    = 10
	// silenceLeast: shorter ones are equal by chance.
	silenceLeast = 200 * time.Millisecond
)

// equalSilence is the silence after which each of the last drops came, if it was about the
// same; 0: it was not. A timer on the path may count both ways, or only what comes.
func (f *facts) equalSilence() (d time.Duration, way string) {
	last := f.Link.Dropped
	if len(last) < flapLimit {
		return 0, ""
	}
	last = last[len(last)-flapLimit:]
	equal := func(of func(Drop) *int64) time.Duration {
		var all []time.Duration
		for _, drop := range last {
			d := of(drop)
			if d == nil {
				return 0
			}
			all = append(all, ms(*d))
		}
		least, most := slices.Min(all), slices.Max(all)
		if least < silenceLeast || most-least > max(silencesDiffer, least/silencePart) {
			return 0
		}
		return (least + most) / 2
	}
	any := equal(func(d Drop) *int64 {
		if d.InMS == nil || d.OutMS == nil {
			return nil
		}
		return new(min(*d.InMS, *d.OutMS))
	})
	if any > 0 {
		return any, "any frame"
	}
	return equal(func(d Drop) *int64 { return d.InMS }), "a frame from the server"
}

func lookDuplicate(f *facts, r *rule) *hit {
	age, known := f.viewAge()
	if !known || age > viewFresh {
		return nil
	}
	const presence = "duplicate"
	var others int
	mine := f.seenLink()
	for _, l := range f.OOB.View.Links {
		if f.Worker.Instance != "" && l.Instance != "" && l.Instance != f.Worker.Instance {
			others++
		}
	}
	told := f.OOB.View.Presence == presence
	// Without the server's word both must be alive: an older link of our own, from
	// before a restart, stays in its list until it is found dead.
	if !told && (others == 0 || mine == nil) {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("The server sees %s of another copy of this agent beside ours; commands wait.", count(others, "link")),
		evidence: []Evidence{{Fact: "oob.view.presence", Seen: orNone(f.OOB.View.Presence)}, {Fact: "oob.view.links", Seen: number(others), Expected: "0"}},
	}
	if others == 0 {
		h.sentence = "The server sees another copy of this agent; commands wait."
	}
	if !told && !f.ripe(ms(mine.AgeMS)+age, r.grace) {
		h.suspected = true
		h.sentence += " It may be our own link from before a restart."
	}
	return h
}

// lookUnwritten asks whether the server's writer stands still. A text that waits at the
// moment of the view says nothing yet: each one does, for an instant. So the server must have kept
// it back for longer, it must still not have come when it was due, and whatever the server has said
// since outweighs the view.
func lookUnwritten(f *facts, r *rule) *hit {
	link := f.seenLink()
	taken, known := f.viewAge()
	read := f.Link.Ledger.Local.Read
	if link == nil || !known || taken > viewFresh || link.Kept() == 0 || !f.opened() {
		return nil
	}
	if l := &f.Link.Ledger; l.Peer != nil {
		if said, ok := f.age(l.PeerAge); ok && said < taken && (l.Peer.Written > link.Written || l.Owed == 0) {
			return nil
		}
	}
	if !f.ripe(taken, f.grace(r.grace, gapRoundTrips)) {
		return nil
	}
	f.within(viewFresh - taken)
	// Had the queue moved since, more would have been read than was written then.
	if read > link.Written || f.Link.In.PartialFrame != nil {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("The server kept %s for this link back %s ago, for %s then, with %d written, and nothing has come since.", count(link.Queued, "message"), span(taken), span(link.Kept()), link.Written),
		evidence: append([]Evidence{{Fact: "oob.view.links.held", Seen: spanBeyond(link.Kept(), wire.KeptBack), Expected: "under " + span(wire.KeptBack)}}, f.counts()...),
	}
}

func lookStale(f *facts, r *rule) *hit {
	l := &f.Link.Ledger
	// While the second door delivers, the server rightly keeps commands off the link.
	if f.Link.Phase != PhaseVerified || l.Owed == 0 || l.Down != nil || f.OOB.Delivering {
		return nil
	}
	owed, known := f.lasted(l.OwedAge)
	up, isUp := f.lasted(f.Link.VerifiedAge)
	grace := f.grace(r.grace, staleTrips)
	if !known || !isUp || !f.ripe(min(owed, up), grace) {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("The server owes %s for %s, has written all it counts on this link (%d), and sends nothing.", count(l.Owed, "command"), span(owed), l.Local.Read),
		evidence: append([]Evidence{{Fact: "link.ledger.owed", Seen: number(l.Owed), Expected: "0"}, {Fact: "link.ledger.owed_age", Seen: spanBeyond(owed, grace), Expected: "under " + span(grace)}}, f.counts()...),
	}
	// The peer must have said so at the end of that time, not only at its begin:
	// an acknowledgement sent meanwhile shows only in its next ledger.
	said, fresh := f.age(l.PeerAge)
	if fresh && owed-said >= grace || f.viewOwes(grace, h) {
		return h
	}
	f.ping = true
	return nil
}

// viewOwes reports whether the server's view shows commands that are older than
// grace and that it has not written.
func (f *facts) viewOwes(grace time.Duration, h *hit) bool {
	link := f.seenLink()
	taken, known := f.viewAge()
	if link == nil || !known || taken > viewFresh || link.Queued > 0 || link.Written > f.Link.Ledger.Local.Read {
		return false
	}
	oldest := f.OOB.View.OldestOwed
	up, _ := f.lasted(f.Link.VerifiedAge)
	if oldest == nil || ms(*oldest) < grace || up-taken < grace {
		return false
	}
	h.evidence = append(h.evidence, Evidence{Fact: "oob.view.oldest_owed", Seen: spanBeyond(ms(*oldest), grace), Expected: "under " + span(grace)})
	return true
}

package hub

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"gururmm/internal/moment"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// told is what was last told of an agent, by this process; empty: nothing.
type told struct {
	presence, version string
	who               *wire.Copy
}

// note keeps one change of an agent. It never blocks.
func (h *Hub) note(agent string, e operator.AgentEvent) { h.noteAt(agent, e, time.Now()) }

func (h *Hub) noteAt(agent string, e operator.AgentEvent, at time.Time) {
	e.Agent, e.At = agent, at.UTC()
	e.To, e.Reason = clip(e.To), clipSentence(e.Reason)
	h.opts.Store.NoteEvent(e)
}

// note keeps one change of the link; verdict is what it proves, empty: nothing.
func (l *link) note(from, to string, verdict selfcheck.Code, reason string) {
	l.hub.note(l.agent, operator.AgentEvent{Kind: operator.EventLink, From: from, To: to, Reason: reason, Link: l.id.String(), Verdict: string(verdict)})
}

// maxSteps bounds the steps that are taken from one report.
const maxSteps = 32

// step names one that an agent has taken by its own clock.
type step struct {
	kind string
	told int64 // Unix microseconds
}

// noteSteps tells of the steps in a report that were not told of yet, and of what others have
// come to. Call with mu held.
func (h *Hub) noteSteps(agent string, ep *endpoint, r oob.Report, at time.Time) {
	if len(r.Steps) == 0 && ep.steps == nil {
		return
	}
	known := map[step]bool{} // whether its outcome was told, too
	behind := time.Duration(0)
	if off := r.Snapshot.Clock.Offset; off != nil {
		behind = *off
	}
	for _, s := range r.Steps[max(0, len(r.Steps)-maxSteps):] {
		id := step{clip(string(s.Kind)), s.At.UnixMicro()}
		if !conceivable(s.At) {
			continue
		}
		done, told := ep.steps[id]
		e := operator.AgentEvent{Told: new(time.UnixMicro(id.told).UTC()), Verdict: clip(string(s.Verdict))}
		if !told {
			e.Kind, e.To, e.Reason = operator.EventStep, id.kind, "expected: "+s.Expected
			h.noteAt(agent, e, earlier(s.At.Add(behind), at))
		}
		if known[id] = done || s.Outcome != ""; known[id] && !done {
			e.Kind, e.From, e.To, e.Reason = operator.EventOutcome, id.kind, operator.StepNoBetter, s.Outcome
			if strings.HasPrefix(s.Outcome, "helped") {
				e.To = operator.StepHelped
			}
			ended := at
			if conceivable(r.At) {
				ended = earlier(r.At, at)
			}
			h.noteAt(agent, e, ended)
		}
	}
	ep.steps = known
}

// conceivable reports whether a clock can say t, however wrong it is. JSON has no word for
// some others, and a list that holds one could not be told.
func conceivable(t time.Time) bool { return t.UnixMicro() > 0 && t.Year() < 2200 }

// earlier is t, unless that lies ahead of now.
func earlier(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

// noteWorker tells of the worker's process. Call with mu held.
func (h *Hub) noteWorker(agent string, ep *endpoint, w selfcheck.WorkerFacts) {
	is := operator.NoProcess
	if w.PID != 0 && w.Running {
		is = fmt.Sprint(w.PID)
	}
	if is == ep.worker {
		return
	}
	ep.worker = is
	h.note(agent, operator.AgentEvent{Kind: operator.EventProcess, To: is, Reason: w.LastExit})
}

// observe tells what has changed of an agent's presence, instance and version. Whatever
// may change them calls it at once; time alone is looked at by [Hub.flush]. Call without mu.
func (h *Hub) observe(agent string) {
	h.mu.Lock()
	watch := h.endpoint(agent).watch
	h.mu.Unlock()
	watch.Lock() // one look at a time, or an older one could be told after a newer
	defer watch.Unlock()
	now := time.Now()
	s := h.sight(agent, now)
	h.mu.Lock()
	ep := h.endpoint(agent)
	if h.draining != nil { // what ends now ends here, not there
		h.mu.Unlock()
		return
	}
	mine := h.speaks(agent, ep)
	was, is := ep.told, ep.told
	if p := s.presence(now); ep.removed {
		is.presence = Gone
	} else if !(p == Degraded && s.suspected()) && !(p == Offline && (ep.ending > 0 || s.ending)) { // it is told with why
		is.presence = p
	}
	// While several machines hold the identity theirs come in turns.
	if who, version := ep.speaks(); ep.state == identitySole {
		is.version = cmp.Or(version, was.version)
		if who != nil {
			is.who = who
		}
	}
	ep.told = is
	ended := ep.linkEnded
	connected := is.presence == Verified && was.presence != Verified && ep.verdict == string(selfcheck.CodeLinkConnecting)
	h.mu.Unlock()
	h.share(agent)
	if !mine {
		return
	}

	if is.version != was.version {
		h.note(agent, operator.AgentEvent{Kind: operator.EventVersion, To: is.version, Reason: "as instance " + short(is.who.Instance) + " says"})
	}
	if is.who.Instance != was.who.Instance {
		h.note(agent, operator.AgentEvent{Kind: operator.EventInstance, To: is.who.Instance, Reason: started(*was.who, *is.who)})
	}
	if is.presence != was.presence {
		h.note(agent, operator.AgentEvent{Kind: operator.EventPresence, To: is.presence, Reason: s.because(is.presence, ended, h.started, now)})
	}
	if connected { // its own word of it comes with the next heartbeat, and is no change then
		h.note(agent, operator.AgentEvent{Kind: operator.EventVerdict, To: string(selfcheck.CodeOK), Reason: "the link that it was seeking is verified"})
	}
}

// speaks gives the copy that is heard and its version: by its newest link, else by the
// second door, which tells no version; nil: none is. Call with mu held.
func (ep *endpoint) speaks() (who *wire.Copy, version string) {
	for _, l := range ep.links { // oldest first
		if _, authed := l.presence(); authed {
			who, version = l.who, l.version
		}
	}
	if who != nil {
		return who, version
	}
	last := uint64(0)
	for _, c := range ep.copies {
		if c.last >= last {
			who, last = c.who, c.last
		}
	}
	return who, ""
}

// started tells how one instance came after another.
func started(before, after wire.Copy) string {
	switch {
	case before.Instance == "":
		return "the first one heard since this server started"
	case after.SameBoot(before):
		return "the guardian was started again on the same boot"
	case after.Fingerprint != before.Fingerprint:
		return "another machine, by its fingerprint, or new hardware"
	}
	return "the machine has booted since"
}

func short(id string) string { return id[:min(len(id), 8)] }

// suspected reports whether what is held against the links may be a mere delay: that is told
// once it is proven.
func (s sight) suspected() bool {
	for _, l := range s.links {
		if strings.Contains(l.Verdict, " suspected") {
			return true
		}
	}
	return false
}

// because tells why presence is what it is.
func (s sight) because(presence, ended string, hearing, now time.Time) string {
	said := strings.TrimSuffix(s.ep.verdict+": "+s.ep.sentence, ": ")
	switch presence {
	case Verified:
		return "text went both ways on its link"
	case Degraded:
		for _, l := range s.links {
			if l.Verdict != "" {
				_, clause := s.whyLink(l, now)
				return clause
			}
		}
		if !s.ill() && !s.unacked.IsZero() {
			return fmt.Sprintf("a command is unacknowledged for %v", now.Sub(s.unacked).Round(time.Second))
		}
		return "the agent says " + said
	case OutOfBand:
		return "it asks for its commands by the second door; its own word: " + cmp.Or(said, "none yet")
	case Silent:
		_, clause := s.whyLink(s.links[len(s.links)-1], now)
		return clause
	case Connecting:
		if len(s.links) > 0 {
			return "it has opened a link from " + cmp.Or(s.ep.addr, "an unknown address")
		}
		return "it has no link, but reports by the second door: " + cmp.Or(said, "no verdict yet")
	case Quarantined:
		return s.quarantine()
	case Duplicate:
		return s.rivals()
	case Gone:
		return "an operator removed it"
	}
	switch {
	case s.ep.stopped:
		return "it was stopped in order, as it said itself"
	case ended != "":
		return "its link ended: " + ended
	case s.ep.seenAt.IsZero():
		return "not heard of since this server started at " + moment.UTC(hearing)
	}
	return fmt.Sprintf("last heard of %v ago by %s", now.Sub(s.ep.seenAt).Round(time.Second), s.ep.via)
}

// noteVerdict tells of a changed verdict of the server on a link.
func (l *link) noteVerdict(before, after selfcheck.Code, v selfcheck.LedgerView) {
	if after == "" {
		l.note(Degraded, "recovered", "", string(before)+": "+recovered(before))
		return
	}
	l.note("", Degraded, after, quote(after, v))
}

// noteEnded tells of a link that has gone, with the verdict that its end leaves, unless one that is
// nearer to the cause was proven before, and keeps why for the presence that follows.
func (l *link) noteEnded(why string, said selfcheck.Code) {
	l.mu.Lock()
	from := Connecting
	switch {
	case l.verdict != "":
		from, said = Degraded, nearer(l.verdict, said)
	case !l.verifiedAt.IsZero():
		from = Verified
	}
	l.mu.Unlock()
	l.note(from, "ended", said, fmt.Sprintf("%s; open for %v", why, time.Since(l.opened).Round(time.Millisecond)))
	l.hub.mu.Lock()
	ep := l.hub.endpoint(l.agent)
	ep.linkEnded = why
	ep.ending--
	l.hub.mu.Unlock()
}

// missed tells, once, of agents that have not come back since the server started: their last
// stored presence is of before.
func (h *Hub) missed(now time.Time) {
	h.mu.Lock()
	due := !h.counted && now.Sub(h.started) > oobWindow
	h.counted = h.counted || due
	h.mu.Unlock()
	if !due {
		return
	}
	all, err := h.opts.Store.Agents(h.ctx)
	if err != nil {
		h.log.Error("agents that have not come back are not told of", "error", err)
		return
	}
	for _, a := range all {
		if a.LastSeen != nil {
			h.observe(a.ID)
		}
	}
}

// Package evidence makes a case of what a server holds of one agent: the stages of its
// last command, its links and ledgers, its own word, its beacon, its neighbours.
//
// Rules that hold here:
//   - pure, but for [Ask]: what is held comes in, the time too;
//   - what is not held is not made up: no observation, which is unknown and not no;
//   - what is of a moment counts for that moment only: an old beacon says nothing of now;
//   - a suspicion is an inference, a proof of either end is measured.
package evidence

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// How long what is held speaks for now.
const (
	// settled: a claim is given back after 5 s or some round trips, and a write has 10 s.
	// What a command has not reached by then is no.
	settled = 12 * time.Second
	// ackWithin: so long a claim waits for the acknowledgement of what was read.
	ackWithin = 5 * time.Second
	// fresh: an agent that is ill sends a beacon every 30 s, and some are late.
	fresh = 2 * time.Minute
	// heardWithin: heartbeats come every 30 s or so; by pings it is known sooner.
	heardWithin = 2 * time.Minute
	// loopStalls and writerStalls are the graces of the agent's own rules.
	loopStalls   = 5 * time.Second
	writerStalls = 15 * time.Second
	refusedShown = time.Minute
	deadWindow   = 90 * time.Second
	lately       = 24 * time.Hour // how long a change may have been the cause
	skewed       = time.Minute    // what a token is valid for
	flaps        = 3              // ends of links in an hour
	// proofStands: of a path that stays broken, each link that is tried proves it again.
	proofStands = time.Hour
)

// Held is what a server holds of one agent.
type Held struct {
	Now   time.Time // by the server's clock, as near as it is known
	Agent operator.Agent
	// Trace is of the command to be judged by; nil: it never had one.
	Trace *operator.Trace
	// Beacons are the last ones, the newest first; none: it has sent none.
	Beacons []operator.Beacon
	// Events of the last day, and Fleet, which may hold the agent itself; nil: not asked.
	Events []operator.AgentEvent
	Fleet  []operator.Agent
}

// report is what matters here of a beacon's report (oob.Report).
type report struct {
	Verdict  selfcheck.Verdict      `json:"verdict"`
	Snapshot selfcheck.Snapshot     `json:"snapshot"`
	Steps    []selfcheck.StepRecord `json:"steps"`
	at       time.Time              // it came
}

// made gathers observations; the first word on one thing from one source stands.
type made struct {
	Held
	episode
	byDoor bool // the command went by the second door, too
	// waits is since when a command that was written to a link is not acknowledged; zero: none is.
	waits    time.Time
	provenAt time.Time // when a link was last proven to lose text, by events, and none was verified since; zero: none was
	ladder   string    // what the last probe of the way of commands came to; empty: nothing that stands
	probedAt time.Time // when that was, if it lost texts; zero: it did not
	out      []diagnosis.Observation
}

// Case makes a case of what is held.
func Case(h Held) diagnosis.Case {
	m := &made{Held: h, out: []diagnosis.Observation{}}
	m.episode = recent(h)
	if len(m.troubles) == 0 { // else the agent's own proof is nearer to the cause
		m.ended()
	}
	m.probed()
	m.way()
	m.seen()
	m.told()
	m.registered()
	m.around()
	c := diagnosis.Case{
		Version: diagnosis.CaseVersion, Subject: "what the server holds of " + h.Agent.Name,
		Agents: []diagnosis.Agent{{Name: h.Agent.Name, Site: h.Agent.Site, Note: h.Agent.Version}}, Observations: m.out,
	}
	if m.ladder == operator.ProbePassed { // no size is lost: which are has no answer
		c.Cannot = append(c.Cannot, "sizes")
	}
	if h.Trace != nil {
		c.Description = fmt.Sprintf("Judged by command %s of %s. %s", h.Trace.Command.ID, h.Trace.Command.CreatedAt.UTC().Format(time.DateTime), h.Trace.Stopped)
	}
	return c
}

func (m *made) say(name, value string, grade diagnosis.Grade, source string) {
	for _, o := range m.out {
		if o.Name == name && o.Source == source {
			return
		}
	}
	m.out = append(m.out, diagnosis.Observation{Name: name, Value: value, Grade: grade, Agent: m.Agent.Name, Source: source})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

const (
	byTrace  = "the command's trace"
	byServer = "the server, now"
	byBeacon = "the agent's beacon"
	byEvents = "the server's events"
	byFleet  = "the server, of the others"
)

// seen tells what the server itself sees of the agent and its links.
func (m *made) seen() {
	a := m.Agent
	heard := a.LastSeen != nil && m.Now.Sub(*a.LastSeen) < heardWithin
	switch {
	case a.Stopped:
		m.say("heard", "stopped", diagnosis.OneEnd, byServer)
	case heard && a.Presence != "offline":
		m.say("heard", "now", diagnosis.OneEnd, byServer)
	case a.Presence == "offline":
		m.say("heard", "no", diagnosis.OneEnd, byServer)
	}
	if heard && a.LastVia == "text" && a.LastSeen.After(m.provenAt) && (a.Presence == "verified" || m.Now.Sub(*a.LastSeen) < settled) { // else it may have been before
		m.say("text.up", "yes", diagnosis.OneEnd, byServer)
	}
	switch {
	case a.RemovedAt != nil:
		m.verdict(string(selfcheck.CodeAgentRemoved), false, byServer)
	case a.Presence == "quarantined":
		m.verdict(string(selfcheck.CodeLinkQuarantined), false, byServer)
	case a.Presence == "duplicate":
		m.verdict(string(selfcheck.CodeRouteDuplicate), false, byServer)
	}
	m.copies()
	if len(a.Links) > 0 {
		m.say("handshake", "opens", diagnosis.OneEnd, byServer)
		m.say("links", map[bool]string{true: "one", false: "several"}[len(a.Links) == 1], diagnosis.OneEnd, byServer)
		l := newest(a.Links)
		if l.Verdict != "" && !(m.late && strings.HasPrefix(l.Verdict, string(selfcheck.CodeLinkTextLost))) {
			m.verdict(l.Verdict, false, "the server, of the link")
		}
		// Pongs on a fresh link answer nothing about one that had the trouble before it.
		if m.inQuestion() == l.Link.String() {
			m.pongs(l)
		}
		if age := time.Duration(l.AgeMS) * time.Millisecond; l.State == "connecting" && age > settled {
			m.say("verified", "no", diagnosis.OneEnd, byServer)
		}
		if l.State == "verified" && l.Verdict == "" && len(m.troubles) == 0 { // else it is only one more fresh link
			m.say("verified", "yes", diagnosis.BothEnds, byServer)
			m.small()
			if l.PeerRead != nil && *l.PeerRead >= l.Written && !m.said("ledger.down", "gap") && !m.said("ledger.down", "late") {
				m.say("ledger.down", "even", diagnosis.BothEnds, byServer)
			}
		}
	}
	m.queue()
	waits := m.Trace != nil && !m.byDoor && m.Trace.Command.EndedAt == nil && m.Trace.Command.AckedAt == nil && m.Now.Sub(m.Trace.Command.CreatedAt) > settled
	switch {
	case a.Owed > 0 && waits:
		m.say("ledger.owed", "standing", diagnosis.OneEnd, byServer)
	case a.Owed == 0 && waits:
		m.say("ledger.owed", "missing", diagnosis.OneEnd, byServer)
	case a.Owed == 0 && !m.byDoor: // else it is not the link that has paid
		m.say("ledger.owed", "none", diagnosis.OneEnd, byServer)
	}
	if a.ClockSkew != nil {
		m.skew(time.Duration(*a.ClockSkew)*time.Millisecond, byServer)
	}
	// This system negotiates none, at either end.
	m.say("compression", "off", diagnosis.BothEnds, "the protocol")
}

// inQuestion is the link that has the trouble, or had it, and without any the newest; empty:
// there is none.
func (m *made) inQuestion() string {
	switch {
	case m.fell != nil:
		return m.fell.Link
	case len(m.troubles) > 0 && m.report != nil && m.report.Snapshot.Link.ID != 0:
		return m.report.Snapshot.Link.ID.String()
	case len(m.Agent.Links) > 0:
		return newest(m.Agent.Links).Link.String()
	}
	return ""
}

// queue tells whether the server keeps texts back. That nothing waits for a fresh link says nothing
// of the one in question; how that one ended does. What another node has is not known here.
func (m *made) queue() {
	link := m.inQuestion()
	kept := m.proven(selfcheck.CodeRouteUnwritten) || m.said("verdict", string(selfcheck.CodeRouteUnwritten))
	open := link == ""
	for _, l := range m.Agent.Links {
		mine := l.Link.String() == link
		open = open || mine
		switch {
		case l.Node != "":
		case l.Kept() > 0:
			m.say("server.queue", "standing", diagnosis.OneEnd, byServer)
			return
		case mine && l.Queued == 0 && !kept:
			m.say("server.queue", "empty", diagnosis.OneEnd, byServer)
			return
		}
	}
	ended := func(e operator.AgentEvent) bool {
		return e.Kind == operator.EventLink && e.To == "ended" && e.Link == link
	}
	if i := slices.IndexFunc(m.Events, ended); i >= 0 && !open && !kept { // its end would tell
		m.say("server.queue", "empty", diagnosis.OneEnd, byEvents+", at "+clock(m.Events[i].At))
	}
}

// pongs tells whether the agent's come back. What another node has is not known here, nor is
// what the first pings of a link come to.
func (m *made) pongs(l wire.LinkView) {
	over := func(ms *int64, d time.Duration) bool { return ms != nil && time.Duration(*ms)*time.Millisecond > d }
	switch {
	case l.Node != "":
	case over(l.PingPendingMS, settled), l.PongAgeMS == nil && over(&l.AgeMS, deadWindow):
		m.say("pong.up", "no", diagnosis.OneEnd, byServer)
	case l.PongAgeMS != nil && !over(l.PongAgeMS, deadWindow): // else no ping was written for long
		m.say("pong.up", "yes", diagnosis.OneEnd, byServer)
	}
}

func newest(links []wire.LinkView) wire.LinkView {
	return slices.MaxFunc(links, func(a, b wire.LinkView) int { return cmp.Compare(a.Generation, b.Generation) })
}

func (m *made) said(name, value string) bool {
	return slices.ContainsFunc(m.out, func(o diagnosis.Observation) bool { return o.Name == name && o.Value == value })
}

func (m *made) skew(off time.Duration, source string) {
	m.say("clock", map[bool]string{true: "wrong", false: "right"}[off.Abs() > skewed], diagnosis.BothEnds, source)
}

// copies tells whether others use the identity.
func (m *made) copies() {
	var alive []operator.Copy
	for _, c := range m.Agent.Copies {
		if c.Standing == operator.CopyRival {
			alive = append(alive, c)
		}
	}
	switch {
	case len(m.Agent.Copies) == 0:
		m.say("instances", "one", diagnosis.OneEnd, byServer)
	case len(alive) < 2: // it is being asked
	case slices.ContainsFunc(alive, func(c operator.Copy) bool {
		return c.Fingerprint != alive[0].Fingerprint || c.BootID != alive[0].BootID
	}):
		m.say("instances", "other_machine", diagnosis.BothEnds, byServer)
	default:
		m.say("instances", "same_machine", diagnosis.BothEnds, byServer)
	}
}

// verdict gives a verdict that is known; a suspicion is an inference.
func (m *made) verdict(code string, suspected bool, source string) {
	code, marked := strings.CutSuffix(code, " suspected")
	if well := code == string(selfcheck.CodeOK) || code == string(selfcheck.CodeOKIdle); well && m.outdone(m.Agent.VerdictAt) {
		return
	}
	if !slices.ContainsFunc(diagnosis.Vocabulary(), func(t diagnosis.Term) bool {
		return t.ID == "verdict" && slices.ContainsFunc(t.Values, func(v diagnosis.TermValue) bool { return v.Value == code })
	}) {
		return
	}
	grade := diagnosis.OneEnd
	if suspected || marked {
		grade = diagnosis.Inferred
	}
	m.say("verdict", code, grade, source)
}

// ofBeacon is the beacon that came at that time as a source.
func ofBeacon(at time.Time) string { return byBeacon + " of " + clock(at) }

func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }

// proof is where the trouble that the agent is in was told, and, where it says meanwhile that it
// is over, since when.
func (m *made) proof() string {
	source, at := ofBeacon(m.report.at), m.report.at
	if m.fell != nil {
		source, at = byEvents+", at "+clock(m.fell.At), m.fell.At
	}
	if since := wellSince(m.Held); isWell(m.Agent.Verdict) && since.After(at) {
		source += fmt.Sprintf(" (it says that it is well since %s; a trouble is over %d s after)", clock(since), recovered/time.Second)
	}
	return source
}

// told tells what the agent says of itself.
func (m *made) told() {
	a := m.Agent
	if m.report == nil {
		// Its word of the last heartbeat or beacon stands while it is heard.
		if a.Verdict != "" && m.said("heard", "now") && !(a.VerdictAt != nil && m.early(a.Verdict, *a.VerdictAt)) {
			m.verdict(a.Verdict, false, "the agent's last word")
		}
		return
	}
	if len(m.troubles) == 0 && a.VerdictAt != nil && a.VerdictAt.After(m.toldAt) && a.Verdict != string(m.report.Verdict.Code) {
		m.verdict(a.Verdict, false, "the agent's last word")
		return // the beacon's facts are of another moment
	}
	switch v := m.report.Verdict; {
	case len(m.troubles) > 0: // the newest: what was proven before it may be its doing
		m.verdict(string(m.troubles[0].Code), false, m.proof())
	case v.Code == selfcheck.CodeLinkHandshake && unverified(m.report.Snapshot):
		// That a link which opens is not verified is no fault of its own.
	case !m.early(string(v.Code), m.report.at):
		m.verdict(string(v.Code), v.Suspected, ofBeacon(m.report.at))
	}
	s := m.report.Snapshot
	m.inside(s)
	m.link(s)
	m.route(s.Link)
	if m.late {
		m.say("ledger.down", "late", diagnosis.BothEnds, byBeacon)
	}
	m.digests()
	m.lost()
	m.stopped()
	m.steps()
}

// registered tells that a command which was not taken for any link had one to be taken for:
// the one that the register has, verified.
func (m *made) registered() {
	a := m.Agent
	if m.said("stage.claimed", "no") && len(a.Links) == 1 && len(a.Copies) == 0 && a.Links[0].State == "verified" && a.Presence != "duplicate" {
		m.say("route", "same", diagnosis.OneEnd, byServer)
	}
}

// early reports whether it was told too soon that all is well: a command that is not acknowledged was
// not written yet, or not long enough ago to be missed.
func (m *made) early(verdict string, told time.Time) bool {
	return isWell(verdict) && !m.waits.IsZero() && told.Before(m.waits.Add(loopStalls))
}

// steps tells what the agent has tried by itself against its verdict, and what came of it.
func (m *made) steps() {
	for _, s := range slices.Backward(m.reports[0].Steps) {
		if s.Outcome == "" || m.Now.Sub(s.At) > fresh || s.Verdict != m.report.Verdict.Code {
			continue // of another trouble
		}
		link, process := "no_help", "no_help"
		switch helped := strings.HasPrefix(s.Outcome, "helped"); {
		case helped && m.proven(s.Verdict): // it is back
			link, process = "while", "once"
		case helped:
			link, process = "cured", "cured"
		}
		switch s.Kind {
		case selfcheck.StepReconnect, selfcheck.StepAlternative, selfcheck.StepRetryLink:
			if m.probedAt.IsZero() { // a ladder that loses texts goes on on fresh links
				m.say("fresh_link", link, diagnosis.OneEnd, byBeacon)
			}
		case selfcheck.StepRestartWorker, selfcheck.StepRestartService:
			m.say("restart.agent", process, diagnosis.OneEnd, byBeacon)
		}
	}
}

// inside tells what the beacon says of the agent itself.
func (m *made) inside(s selfcheck.Snapshot) {
	reports := s.Worker.Running && s.Worker.Silent != nil && *s.Worker.Silent < loopStalls
	if !reports {
		return // all that follows is as of its last report
	}
	m.say("agent.process", "runs", diagnosis.OneEnd, byBeacon)
	loop := "turns"
	for _, name := range []string{"reader", "dispatcher", "writer", "executor"} {
		l, known := s.Loops[name]
		if known && l.Pending != nil && *l.Pending > loopStalls && (!l.Waits || *l.Pending > writerStalls) {
			loop = name
			break
		}
	}
	if len(s.Loops) > 0 && !(loop == "turns" && m.early("ok", m.report.at)) {
		m.say("agent.loop", loop, diagnosis.OneEnd, byBeacon)
		m.say("agent.reader", map[bool]string{true: "busy", false: "free"}[loop == "reader"], diagnosis.OneEnd, byBeacon)
	}
	if loop == "writer" { // it is the link's only one, for heartbeats and acknowledgements alike
		m.say("text.up", "no", diagnosis.Inferred, byBeacon)
	}
	if s.Jobs.Limit > 0 {
		m.say("agent.slots", map[bool]string{true: "working", false: "free"}[s.Jobs.Running >= s.Jobs.Limit], diagnosis.OneEnd, byBeacon)
	}
	m.say("agent.disk", map[bool]string{true: "ok", false: "full"}[s.Jobs.Journal == ""], diagnosis.OneEnd, byBeacon)
	recent := func(age *time.Duration) bool { return age != nil && *age < refusedShown }
	switch {
	case recent(s.UndecodedAge):
		m.say("refused", "unparseable", diagnosis.OneEnd, byBeacon)
	case recent(s.RejectedAge):
		if value := refusal(": " + string(s.RejectedCode)); value != "" && !(value == "busy" && len(m.troubles) > 0) {
			m.say("refused", value, diagnosis.OneEnd, byBeacon)
		}
	case s.Stages.Undecoded+s.Stages.Rejected == 0 && s.Stages.Read > 0:
		m.say("refused", "none", diagnosis.OneEnd, byBeacon)
	}
	if s.Clock.Offset != nil {
		m.skew(*s.Clock.Offset, byBeacon)
	}
}

// link tells what the beacon says of the link.
func (m *made) link(s selfcheck.Snapshot) {
	l := s.Link
	open := slices.Contains([]selfcheck.Phase{selfcheck.PhaseAuth, selfcheck.PhaseConfiguring, selfcheck.PhaseProbing, selfcheck.PhaseVerified}, l.Phase)
	if l.Drops >= flaps { // not by its own order; a worker that was started afresh has forgotten some
		m.say("drops", "often", diagnosis.OneEnd, byBeacon)
	}
	if !open {
		if l.Failure != nil && l.Attempts > 0 && !strings.HasPrefix(l.Failure.Type, "ws.") {
			m.say("handshake", "fails", diagnosis.OneEnd, byBeacon)
		}
		return
	}
	m.say("handshake", "opens", diagnosis.OneEnd, byBeacon)
	up := time.Duration(0)
	if l.PhaseAge != nil {
		up = *l.PhaseAge
	}
	within := func(age *time.Duration, d time.Duration) bool { return age != nil && *age < d }
	switch {
	case m.said("agent.loop", "reader") || m.proven(selfcheck.CodeLinkSilent): // what came, came before
	case within(l.In.PingAge, deadWindow):
		m.say("ping.down", "yes", diagnosis.OneEnd, byBeacon)
	case up > deadWindow:
		m.say("ping.down", "no", diagnosis.OneEnd, byBeacon)
	}
	texts, missing := l.In.Frames[selfcheck.FrameText.String()].Count, l.Ledger.Down != nil
	switch {
	case texts == 0 && (missing || up > settled):
		m.say("text.down", "none", diagnosis.OneEnd, byBeacon)
	case within(l.In.TextAge, deadWindow) && !missing && !m.proven(selfcheck.CodeLinkSilent): // else what came, came before
		m.say("text.down", "flows", diagnosis.OneEnd, byBeacon)
	}
	if l.In.OpenFragment == nil {
		m.say("fragment", "none", diagnosis.OneEnd, byBeacon)
	} else if *l.In.OpenFragment > loopStalls {
		m.say("fragment", "open", diagnosis.OneEnd, byBeacon)
	}
	if l.Ledger.Peer == nil {
		return
	}
	switch foreign := l.Ledger.Foreign+l.Ledger.Stripped > 0; {
	case !foreign && l.Ledger.PeerVia == "ping":
		m.say("ping.ledger", "server", diagnosis.BothEnds, byBeacon)
	case foreign && l.Ledger.PeerVia != "ping":
		m.say("ping.ledger", "foreign", diagnosis.OneEnd, byBeacon)
	}
	here, there := l.Ledger.Local, *l.Ledger.Peer
	if l.Ledger.Up == nil && !m.said("ledger.up", "gap") && (l.Phase == selfcheck.PhaseVerified || there.Read > 0 && there.Read == here.Written) {
		m.say("ledger.up", "even", diagnosis.BothEnds, byBeacon)
	}
	if l.Ledger.Down == nil && l.Ledger.Local.Read >= l.Ledger.Peer.Written && texts > 0 && !m.said("ledger.down", "gap") && !m.late {
		m.say("ledger.down", "even", diagnosis.BothEnds, byBeacon)
	}
}

// around tells how others are, and what changed before.
func (m *made) around() {
	a := m.Agent
	well, others, siteWell, siteOthers, same, sameWell := 0, 0, 0, 0, 0, 0
	for _, o := range m.Fleet {
		if o.ID == a.ID || o.Presence == "offline" || o.Presence == "removed" || o.Presence == "quarantined" {
			continue
		}
		others++
		ok := o.Presence == "verified"
		if ok {
			well++
		}
		if o.Site == a.Site {
			siteOthers++
			if ok {
				siteWell++
			}
		}
		if o.Version == a.Version {
			same++
			if ok {
				sameWell++
			}
		}
	}
	// One agent that is well shows that not all are ill; that all are takes several.
	const several = 3
	if well > 0 {
		m.say("fleet", "fine", diagnosis.OneEnd, byFleet)
	} else if others >= several {
		m.say("fleet", "all", diagnosis.OneEnd, byFleet)
	}
	if siteWell > 0 {
		m.say("site", "fine", diagnosis.OneEnd, byFleet)
	} else if siteOthers > 0 {
		m.say("site", "same", diagnosis.OneEnd, byFleet)
	}
	if sameWell > 0 {
		m.say("version.peers", "yes", diagnosis.OneEnd, byFleet)
	} else if same >= several {
		m.say("version.peers", "no", diagnosis.OneEnd, byFleet)
	}
	if m.Events == nil {
		return
	}
	ends := 0
	for _, e := range m.Events {
		age := m.Now.Sub(e.At)
		if e.Kind == operator.EventVersion && e.From != "" && age < lately {
			m.say("change", "agent_update", diagnosis.OneEnd, byEvents)
		}
		if e.Kind == operator.EventLink && e.To == "ended" && age < time.Hour {
			ends++
		}
	}
	// Of many it can't be told from here which the agent ended itself, to make a fresh one.
	if ends < flaps {
		m.say("drops", "rare", diagnosis.OneEnd, byEvents)
	}
}

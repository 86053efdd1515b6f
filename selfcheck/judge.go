package selfcheck

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/wire"
)

const (
	// ReportEvery is the longest a worker goes without a report to its guardian. What
	// changes is told at once; this is for the time in which nothing does, and each wake
	// of an idle process costs far more than what it then does.
	ReportEvery = 4 * time.Second
	// ReportUneasy is the same while something in the report could grow worse by time alone.
	ReportUneasy = 2500 * time.Millisecond
	// ReportMissed is the silence from which a report is missing. The guardian asks for
	// one then, and looks at the worker from outside.
	ReportMissed = ReportEvery + ReportEvery/2
	// reportLate is the silence from which a report is told of as one of the past.
	reportLate = ReportEvery + ReportEvery/4
	// reportSlack is how far facts may be carried forward by the clock alone. Beyond it
	// no suspicion ripens, for the worker would have said by now what became of it.
	reportSlack = ReportUneasy + ReportUneasy/4
	// minGapGrace and gapRoundTrips: a ping may overtake text by as much on some
	// paths; a text that comes within this is delayed, not lost.
	minGapGrace   = time.Second
	gapRoundTrips = 4
)

// Judge gives the verdict of one moment: it looks at s by each rule of the
// table, hides what a deeper cause explains, and shows the gravest of the rest.
// It is pure. What the guardian knows (Worker.Running, Silent, Exits; OOB) must
// have been filled in; with Taken zero nothing of the link counts as known.
func Judge(s Snapshot, now time.Time, p wire.Policy) Judgement {
	f := look(s, now, p.WithDefaults())
	hits := f.hits()
	j := Judgement{Verdict: unknownVerdict(f), Findings: f.findings(), Recheck: f.recheck, Ping: f.ping}
	if best := gravest(hits); best != nil {
		j.Verdict = best.verdict()
		if late := f.late(); late > 0 && !inFamily(best.code, CodeAgentHung) {
			j.Verdict.Sentence += fmt.Sprintf(" All this as of the worker's last report, %s ago.", span(late))
		}
	}
	return j
}

// facts are a snapshot brought to now.
type facts struct {
	Snapshot
	p wire.Policy
	// known: a worker has reported.
	known bool
	// carried is how far ages are brought forward.
	carried time.Duration
	// taken is how long ago the worker reported; known tells whether it did.
	taken time.Duration
	// overdue is what somebody else has brought ages forward beyond that.
	overdue time.Duration
	// awake is how long the machine has run since its last suspend; 0: no suspend known.
	awake time.Duration

	recheck time.Duration
	ping    bool
}

func look(s Snapshot, now time.Time, p wire.Policy) *facts {
	f := &facts{Snapshot: s, p: p, known: !s.Taken.IsZero()}
	if f.known {
		f.taken = max(0, now.Sub(s.Taken))
		f.carried = min(f.taken, reportSlack)
		if s.Worker.Running && s.Worker.Silent != nil {
			f.Worker.Silent = new(max(*s.Worker.Silent, now.Sub(s.Taken)))
		}
	}
	if f.Worker.Silent != nil && f.carried < reportSlack {
		f.overdue = max(0, *f.Worker.Silent-reportSlack)
	}
	if !s.Worker.Running { // what its last report said died with it
		f.Link, f.Loops, f.Stages, f.Jobs = LinkFacts{}, nil, wire.StageCounters{}, JobFacts{}
	}
	if s.Suspend != nil {
		f.awake = max(s.Suspend.Age+f.carried, time.Millisecond)
	}
	return f
}

// late is how long ago the worker reported, if that is too long for the ages of
// its report to be taken as of now; else 0.
func (f *facts) late() time.Duration {
	if !f.known || !f.Worker.Running {
		return 0
	}
	late := f.taken
	if f.Worker.Silent != nil {
		late = max(late, f.sinceAwake(*f.Worker.Silent))
	}
	if late <= reportLate {
		return 0
	}
	return late
}

// age brings a to now; ok is false if it is not known.
func (f *facts) age(a *time.Duration) (d time.Duration, ok bool) {
	if a == nil {
		return 0, false
	}
	return max(0, *a) + f.carried, true
}

// lasted is age, but never counts time before the machine resumed: nobody could
// have been heard then.
func (f *facts) lasted(a *time.Duration) (d time.Duration, ok bool) {
	d, ok = f.age(a)
	return f.sinceAwake(max(0, d-f.overdue)), ok
}

func (f *facts) sinceAwake(d time.Duration) time.Duration {
	if f.awake > 0 {
		return min(d, f.awake)
	}
	return d
}

// spanned is for ages that only fresh evidence makes older, not the clock: how
// long ledgers have shown a gap.
func (f *facts) spanned(g *Gap) time.Duration { return f.sinceAwake(g.Age) }

// within says that the judgement changes after d if nothing happens.
func (f *facts) within(d time.Duration) {
	d = max(d, time.Millisecond)
	if f.recheck == 0 || d < f.recheck {
		f.recheck = d
	}
}

// ripe reports whether what has lasted for age is past its grace; if not, the
// judgement is due again when it is.
func (f *facts) ripe(age, grace time.Duration) bool {
	if age >= grace {
		return true
	}
	f.within(grace - age)
	return false
}

func (f *facts) dead() time.Duration      { return ms(f.p.DeadMS) }
func (f *facts) heartbeat() time.Duration { return ms(f.p.HeartbeatMS) }

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// rtt is the round trip, 0 if it is not known.
func (f *facts) rtt() time.Duration {
	if r := f.Link.Ledger.RTT; r != nil {
		return max(0, *r)
	}
	return 0
}

// grace is n round trips, at least least. A round trip of minutes is a clock's
// error or a suspend, not a path: it is bounded by the dead window.
func (f *facts) grace(least time.Duration, n int) time.Duration {
	return max(least, min(time.Duration(n)*f.rtt(), f.dead()))
}

// hit is what one rule has found.
type hit struct {
	rule      *rule
	code      Code // the rule's, or one of its family
	suspected bool
	sentence  string
	evidence  []Evidence
	masks     []Code // beside the rule's
	action    string // instead of the rule's

	hidden bool
	hides  []Code
}

func (f *facts) hits() []*hit {
	var hits []*hit
	for i := range rules {
		r := &rules[i]
		if !f.known && !r.unreported {
			continue
		}
		h := r.look(f, r)
		if h == nil {
			continue
		}
		h.rule = r
		if h.code == "" {
			h.code = r.code
		}
		hits = append(hits, h)
	}
	for _, cause := range hits {
		if cause.hidden {
			continue
		}
		for _, h := range hits {
			if h != cause && !h.hidden && (!cause.suspected || h.suspected) && cause.explains(h) {
				h.hidden = true
				cause.hides = append(cause.hides, h.code)
			}
		}
	}
	return slices.DeleteFunc(hits, func(h *hit) bool { return h.hidden })
}

func (h *hit) explains(other *hit) bool {
	fits := func(c Code) bool { return inFamily(other.code, c) }
	return slices.ContainsFunc(h.rule.masks, fits) || slices.ContainsFunc(h.masks, fits)
}

// inFamily reports whether code is c, or lies below it ("agent" above "agent.hung").
func inFamily(code, c Code) bool {
	return code == c || strings.HasPrefix(string(code), string(c)+".")
}

var ranks = map[Severity]int{SeverityWell: 1, SeverityNotice: 2, SeverityWarning: 3, SeverityError: 4}

// gravest gives the hit to show: the first of the highest severity.
func gravest(hits []*hit) *hit {
	var best *hit
	for _, h := range hits {
		if best == nil || ranks[h.severity()] > ranks[best.severity()] {
			best = h
		}
	}
	return best
}

// severity of a suspicion is at most a warning: nothing is proven.
func (h *hit) severity() Severity {
	if h.suspected && h.rule.severity == SeverityError {
		return SeverityWarning
	}
	return h.rule.severity
}

func (h *hit) verdict() Verdict {
	v := Verdict{
		Code: h.code, Severity: h.severity(), Title: h.rule.title, Sentence: h.sentence,
		Suspected: h.suspected, Evidence: h.evidence, Masks: h.hides, Action: h.rule.action,
	}
	if h.action != "" {
		v.Action = h.action
	}
	return v
}

const unknownTitle = "Nothing is known yet"

func unknownVerdict(f *facts) Verdict {
	sentence := "The worker has not reported yet."
	if f.known {
		sentence = "The worker reports, but what it says of its link is not enough to judge by."
	}
	return Verdict{
		Code: CodeUnknown, Severity: SeverityUnknown, Title: unknownTitle, Sentence: sentence,
		Action:   unknownAction,
		Evidence: []Evidence{{Fact: "link.phase", Seen: orNone(string(f.Link.Phase)), Expected: string(PhaseVerified)}},
	}
}

const unknownAction = "Wait for the first report; if none comes, look at the worker's log."

// Describe tells what a verdict's or finding's code means: its title, its
// severity when proven, and what a human would do. A code that is not in the
// table has no title and severity unknown.
func Describe(c Code) (title string, severity Severity, action string) {
	if c == CodeUnknown {
		return unknownTitle, SeverityUnknown, unknownAction
	}
	if r := ruleOf(c); r != nil {
		return r.title, r.severity, r.action
	}
	for _, d := range findings {
		if d.code == c {
			return d.title, SeverityNotice, d.action
		}
	}
	return "", SeverityUnknown, ""
}

// ruleOf gives the rule that yields c; nil: none does.
func ruleOf(c Code) *rule {
	for i := range rules {
		if r := &rules[i]; r.code == c || r.family && inFamily(c, r.code) {
			return r
		}
	}
	return nil
}

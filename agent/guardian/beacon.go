package guardian

import (
	"context"
	"errors"
	"time"

	"gururmm/agent/local"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Causes of a beacon.
const (
	causeStart    = "start"
	causeStop     = oob.CauseStop
	causeVerdict  = "verdict"
	causeSchedule = "schedule"
	causeRequest  = "request" // a directive was carried out
)

const (
	// flushLimit bounds one emptying of the spool; the rest follows in the next.
	flushLimit = 10 * time.Minute
	// verdictsPerMinute bounds the beacons of a verdict that flaps; its last
	// change is told when the minute has room again.
	verdictsPerMinute = 12
)

// beaconState is what the loop knows of reports.
type beaconState struct {
	told    selfcheck.Code // the verdict last beaconed, CodeOK for all that is well; "" at first
	changes []time.Time    // verdict beacons of the last minute
	next    time.Time      // of the schedule
	putting int            // reports on their way to the spool
	waiting int            // reports in the spool
	dropped int
	last    *local.BeaconStatus
}

// announce beacons what has changed, and what is due. Suspicions and
// transitions are not told: they are over before anybody could act.
func (g *Guardian) announce(now time.Time) {
	if g.cfg.Door == nil {
		return
	}
	b, v := &g.beacons, g.judgement.Verdict
	code := v.Code
	if v.Severity == selfcheck.SeverityWell {
		code = selfcheck.CodeOK // ok and ok.idle are one thing to tell
	}
	settled := !v.Suspected && v.Severity != selfcheck.SeverityUnknown && v.Severity != selfcheck.SeverityNotice
	if settled && code != b.told {
		first := b.told == selfcheck.CodeUnknown
		switch {
		case first && code == selfcheck.CodeOK:
			b.told = code // the beacon of the start has said that we are there
			b.next = oob.Schedule(now, selfcheck.SeverityWell, g.policy, time.Time{}, g.rng)
		case b.mayTell(now):
			b.told = code
			g.beacon(causeVerdict)
		}
	}
	if !b.next.After(now) {
		g.beacon(causeSchedule)
	}
}

// mayTell reports whether one more change of verdict may be told in this minute.
func (b *beaconState) mayTell(now time.Time) bool {
	for len(b.changes) > 0 && now.Sub(b.changes[0]) > time.Minute {
		b.changes = b.changes[1:]
	}
	if len(b.changes) >= verdictsPerMinute {
		return false
	}
	b.changes = append(b.changes, now)
	return true
}

// beacon reports the state of this moment by the second door, through the spool.
func (g *Guardian) beacon(cause string) {
	if g.cfg.Door == nil {
		return
	}
	now := time.Now()
	b := &g.beacons
	severity := selfcheck.SeverityWell
	if b.told != selfcheck.CodeOK && b.told != selfcheck.CodeUnknown {
		severity = selfcheck.SeverityError
	}
	b.next = oob.Schedule(now, severity, g.policy, time.Time{}, g.rng)
	report := g.compose(cause, now)
	b.putting++
	g.keep(job{what: jobReport, do: func() error { return g.cfg.Spool.Put(report) }})
	if cause != causeSchedule {
		g.door.requests[askFlush].at = now // news do not wait for a back-off
	}
}

// compose writes the report of this moment.
func (g *Guardian) compose(cause string, now time.Time) oob.Report {
	findings := g.judgement.Findings
	if g.judgement.Verdict.Code == selfcheck.CodeUnknown { // the first one: nothing is judged yet
		findings = g.ownFindings()
	}
	return oob.Report{
		Schema: oob.SchemaVersion, ReportID: wire.NewID(), Agent: g.cfg.Agent,
		At: g.now(), Cause: cause, Presence: g.cfg.Presence,
		Verdict: g.judgement.Verdict, Findings: findings,
		Snapshot: g.picture(now),
		Steps:    g.ladder.Recent(), Budgets: g.ladder.Budgets(now),
	}
}

// flush sends what is spooled, oldest first, until it is empty or the door fails.
func (g *Guardian) flush() {
	door, spool := g.cfg.Door, g.cfg.Spool
	g.ask(askFlush, flushLimit, func(ctx context.Context) answer {
		for {
			id, report, ok := spool.Next()
			if !ok {
				return answer{none: true, report: nil}
			}
			one, cancel := context.WithTimeout(ctx, requestMargin)
			resp, err := door.Beacon(one, report)
			cancel()
			status := &local.BeaconStatus{At: time.Now(), ReportID: report.ReportID, Cause: report.Cause, OK: err == nil}
			if err == nil {
				status.Door = door.Door()
			} else {
				status.Error = err.Error()
				if at, ok := errors.AsType[*oob.DoorError](err); ok {
					status.Door = at.Door
				}
				return answer{err: err, report: status}
			}
			if err := spool.Done(id); err != nil {
				g.log.Warn("a report that arrived stays in the spool", "report", report.ReportID, "error", err)
				return answer{resp: resp, report: status} // the server knows its id: a repeat is harmless
			}
			g.hand(func() { g.answered(answer{kind: askFlush, resp: resp, report: status}) })
		}
	})
}

// farewellSaid reports whether nothing is left to be told before the end.
func (g *Guardian) farewellSaid() bool {
	d := &g.door
	return g.cfg.Door == nil || g.beacons.putting == 0 && g.beacons.waiting == 0 && len(d.up) == 0 &&
		!d.requests[askFlush].busy && !d.requests[askUpload].busy
}

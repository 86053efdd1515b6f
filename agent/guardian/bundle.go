package guardian

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/agent/history"
	"gururmm/selfcheck"
)

// Bundles makes support bundles and hands them to the server. Both calls obey their
// context and leave nothing running behind them.
type Bundles interface {
	// Make makes one and leaves it to Upload.
	Make(ctx context.Context, reason string) (detail string, err error)
	// Upload hands over what was made, also before this start, until ctx ends.
	Upload(ctx context.Context)
}

const (
	// bundleAfter lets stacks and ledgers come in that a fresh verdict has asked for.
	bundleAfter = 5 * time.Second
	// bundleGap spaces bundles of the same verdict; bundlesADay bounds all of them,
	// one for several verdicts counted once:
	// a verdict that flaps must not fill a disk, or a line that is paid by the byte.
	bundleGap   = time.Hour
	bundlesADay = 8
	// bundleLimit bounds the making of one.
	bundleLimit = 3 * time.Minute
)

// bundleMade is a verdict for which a bundle was begun by itself; one for several
// verdicts has several of these, all of the same time.
type bundleMade struct {
	At   time.Time      `json:"at"`
	Code selfcheck.Code `json:"code"`
}

// bundleState is what the loop knows of bundles made by themselves.
type bundleState struct {
	settled selfcheck.Code   // last verdict that settled
	codes   []selfcheck.Code // what the next is for, in the order of their settling
	due     time.Time        // zero: none is
	making  bool
	made    []bundleMade // of the last day; outlives this process
}

// startUploads hands over what waits, as long as this guardian runs.
func (g *Guardian) startUploads() {
	if g.cfg.Bundles != nil && g.cfg.Door != nil {
		g.wg.Go(func() { g.cfg.Bundles.Upload(g.helpers) })
	}
}

// wantBundle plans a bundle for a verdict of an error that has just settled. One
// on the second door itself would not arrive; in an outage that the server knows to
// be everybody's it needs no thousand of them.
func (g *Guardian) wantBundle(v selfcheck.Verdict, now time.Time) {
	b := &g.bundle
	if v.Suspected || v.Severity == selfcheck.SeverityUnknown || v.Code == b.settled {
		return
	}
	b.settled = v.Code
	if v.Severity != selfcheck.SeverityError || strings.HasPrefix(string(v.Code), "oob.") || !g.mayBundle(v.Code, now) {
		return
	}
	if !slices.Contains(b.codes, v.Code) {
		b.codes = append(b.codes, v.Code)
	}
	if b.due.IsZero() {
		b.due = now.Add(bundleAfter)
	}
}

// mayBundle tells whether the budget and the policy have room for one more.
func (g *Guardian) mayBundle(code selfcheck.Code, now time.Time) bool {
	if g.cfg.Bundles == nil || g.cfg.Door == nil || g.policy.NoBundles || g.policy.HoldRecovery {
		return false
	}
	var kept []bundleMade
	begun := map[time.Time]bool{}
	recent := false
	for _, m := range g.bundle.made {
		age := now.Sub(m.At).Abs() // a clock set back must not block it for long
		if age < 24*time.Hour {
			kept, begun[m.At.UTC()] = append(kept, m), true
			recent = recent || m.Code == code && age < bundleGap
		}
	}
	g.bundle.made = kept
	return !recent && len(begun) < bundlesADay
}

// bundleDue makes the bundle whose time has come: one for all verdicts that settled
// meanwhile, each of which spends its own budget.
func (g *Guardian) bundleDue(now time.Time) {
	b := &g.bundle
	if b.due.IsZero() || now.Before(b.due) || b.making || g.stopping {
		return
	}
	codes := slices.DeleteFunc(b.codes, func(code selfcheck.Code) bool { return !g.mayBundle(code, now) })
	b.due, b.codes = time.Time{}, nil
	if len(codes) == 0 {
		return
	}
	b.making = true
	for _, code := range codes {
		b.made = append(b.made, bundleMade{now.Round(0).UTC(), code})
	}
	g.memory.dirty, g.memory.urgent = true, true
	why := bundleReason(codes)
	g.wg.Go(func() {
		ctx, cancel := context.WithTimeout(g.helpers, bundleLimit)
		defer cancel()
		detail, err := g.cfg.Bundles.Make(ctx, why)
		g.hand(func() { g.bundleEnded(why, detail, err) })
	})
}

// bundleReason names the verdicts that a bundle is for, in the order of their settling.
func bundleReason(codes []selfcheck.Code) string {
	names := make([]string, len(codes))
	for i, code := range codes {
		names[i] = string(code)
	}
	return "verdict " + strings.Join(names, ", then ")
}

// bundleEnded notes what came of a bundle.
func (g *Guardian) bundleEnded(why, detail string, err error) {
	g.bundle.making = false
	e := history.Event{Kind: history.KindGuardian, Code: "bundle", Detail: detail,
		Sentence: fmt.Sprintf("A support bundle was made by itself, for the %s.", why)}
	if err != nil {
		g.log.Error("no support bundle could be made", "why", why, "error", err)
		e.Sentence, e.Detail = fmt.Sprintf("No support bundle could be made for the %s.", why), err.Error()
	} else {
		g.log.Info("support bundle made", "why", why, "detail", detail)
	}
	g.note(e)
}

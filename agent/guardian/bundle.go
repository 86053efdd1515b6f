package guardian

import (
	"context"
	"fmt"
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
	// bundleGap spaces bundles of the same verdict; bundlesADay bounds all of them:
	// a verdict that flaps must not fill a disk, or a line that is paid by the byte.
	bundleGap   = time.Hour
	bundlesADay = 8
	// bundleLimit bounds the making of one.
	bundleLimit = 3 * time.Minute
)

// bundleMade is a bundle that was begun by itself.
type bundleMade struct {
	At   time.Time      `json:"at"`
	Code selfcheck.Code `json:"code"`
}

// bundleState is what the loop knows of bundles made by themselves.
type bundleState struct {
	settled selfcheck.Code // last verdict that settled
	code    selfcheck.Code // what the next is for
	due     time.Time      // zero: none is
	making  bool
	made    []bundleMade // of the last day; outlives this process
}

// startUploads hands over what waits, as long as this guardian runs.
func (g *Guardian) startUploads(helpers context.Context) {
	if g.cfg.Bundles != nil && g.cfg.Door != nil {
		g.wg.Go(func() { g.cfg.Bundles.Upload(helpers) })
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
	if b.code = v.Code; b.due.IsZero() {
		b.due = now.Add(bundleAfter)
	}
}

// mayBundle tells whether the budget and the policy have room for one more.
func (g *Guardian) mayBundle(code selfcheck.Code, now time.Time) bool {
	if g.cfg.Bundles == nil || g.cfg.Door == nil || g.policy.NoBundles || g.policy.HoldRecovery {
		return false
	}
	var kept []bundleMade
	recent := false
	for _, m := range g.bundle.made {
		age := now.Sub(m.At).Abs() // a clock set back must not block it for long
		if age < 24*time.Hour {
			kept = append(kept, m)
			recent = recent || m.Code == code && age < bundleGap
		}
	}
	g.bundle.made = kept
	return !recent && len(kept) < bundlesADay
}

// bundleDue makes the bundle whose time has come.
func (g *Guardian) bundleDue(now time.Time) {
	b := &g.bundle
	if b.due.IsZero() || now.Before(b.due) || b.making || g.stopping {
		return
	}
	b.due = time.Time{}
	code := b.code
	if !g.mayBundle(code, now) {
		return
	}
	b.making = true
	b.made = append(b.made, bundleMade{now.Round(0).UTC(), code})
	g.memory.dirty, g.memory.urgent = true, true
	g.wg.Go(func() {
		ctx, cancel := context.WithTimeout(g.helpers, bundleLimit)
		defer cancel()
		detail, err := g.cfg.Bundles.Make(ctx, "verdict "+string(code))
		select {
		case g.steps <- func() { g.bundleEnded(code, detail, err) }:
		case <-g.helpers.Done():
		}
	})
}

// bundleEnded notes what came of a bundle.
func (g *Guardian) bundleEnded(code selfcheck.Code, detail string, err error) {
	g.bundle.making = false
	e := history.Event{Kind: history.KindGuardian, Code: "bundle", Detail: detail,
		Sentence: fmt.Sprintf("A support bundle was made by itself, for the verdict %s.", code)}
	if err != nil {
		g.log.Error("no support bundle could be made", "verdict", code, "error", err)
		e.Sentence, e.Detail = fmt.Sprintf("No support bundle could be made for the verdict %s.", code), err.Error()
	} else {
		g.log.Info("support bundle made", "verdict", code, "detail", detail)
	}
	g.note(e)
}

package guardian

import (
	"slices"
	"strconv"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/versions"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// rolledBackShown is how long a rollback stands beside each verdict.
const rolledBackShown = 7 * 24 * time.Hour

// failUpdate ends an order of which nothing runs.
func (g *Guardian) failUpdate(st versions.State) {
	g.update.enter(local.UpdateNone)
	g.saveUpdate(st, "update.rolled_back", g.pruneVersions)
	g.tellOutcome(*st.Last)
}

// tellUpdate answers for an order that is known: under way, or over.
func (g *Guardian) tellUpdate(id string) bool {
	st := g.update.state
	if st.Order != nil && st.Order.ID == id {
		return true // told when it is over
	}
	if st.Last != nil && st.Last.Order != nil && st.Last.Order.ID == id {
		g.tellOutcome(*st.Last)
		return true
	}
	if f, ok := st.FailedOrder(id); ok {
		g.tellOutcome(f)
		return true
	}
	return false
}

// tellOutcome tells the server what became of an order, and beacons what stands here now.
func (g *Guardian) tellOutcome(o versions.Outcome) {
	if o.Order != nil {
		d := wire.Directive{ID: o.Order.ID, Kind: o.Order.Kind}
		if o.Done {
			g.result(d, wire.DirectiveDone, o.Version+" runs", nil)
		} else {
			g.fail(d, o.Code, sentenceOf(o))
		}
	}
	g.noteOutcome(o)
	if g.stopping {
		return
	}
	// As the next judgement would have it: the one in force was made before this.
	found := slices.DeleteFunc(slices.Clone(g.judgement.Findings), func(f selfcheck.Finding) bool { return f.Code == selfcheck.FindUpdateRolledBack })
	if f, ok := g.updateFinding(); ok {
		found = append(found, f)
	}
	g.judgement.Findings = found
	g.beacon(causeRequest)
}

// toldUpdate notes that the server knows an outcome.
func (g *Guardian) toldUpdate(id string) {
	st := g.update.state
	if g.cfg.Updates == nil || g.update.unsure != nil || st.Last == nil || st.Last.Told || st.Last.Order == nil || st.Last.Order.ID != id {
		return
	}
	g.saveUpdate(st.Tell(), "update.told", nil)
}

// sentenceOf says what became of an order that is not done.
func sentenceOf(o versions.Outcome) string {
	what := "The update to " + o.Version + " failed: "
	if o.RolledBack {
		what = "The update to " + o.Version + " was rolled back: "
	}
	if o.Order != nil && o.Order.Kind == wire.DirectiveRollback {
		what = "The rollback failed: "
	}
	return what + o.Reason
}

// updateFinding stands beside each verdict while a rollback is fresh.
func (g *Guardian) updateFinding() (selfcheck.Finding, bool) {
	o := g.update.state.Last
	if g.cfg.Updates == nil || o == nil || !o.RolledBack || g.now().Sub(o.At) > rolledBackShown {
		return selfcheck.Finding{}, false
	}
	return selfcheck.Finding{Code: selfcheck.FindUpdateRolledBack, Sentence: sentenceOf(*o) + "."}, true
}

// noteUpdate tells of a step, in the log and the history.
func (g *Guardian) noteUpdate(code, sentence string) {
	g.log.Warn("update", "what", code, "sentence", sentence)
	g.note(history.Event{Kind: history.KindUpdate, Code: code, Sentence: sentence})
}

// noteOutcome tells of the end of one. It may be told by several processes, since the
// first may have died before it was kept; it is one event by its time.
func (g *Guardian) noteOutcome(o versions.Outcome) {
	code, sentence := "confirmed", "Version "+o.Version+" has taken over."
	switch {
	case o.RolledBack:
		code, sentence = "rolled_back", sentenceOf(o)+"."
	case !o.Done:
		code, sentence = "failed", sentenceOf(o)+"."
	}
	g.log.Warn("update", "what", code, "sentence", sentence)
	g.note(history.Event{ID: "u" + strconv.FormatInt(o.At.UnixNano(), 36), Kind: history.KindUpdate, Code: code, Sentence: sentence})
}

package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/selfcheck"
	"gururmm/wire"
)

// Errand is long work that a directive asks for. It runs in a goroutine that the
// guardian owns and waits for, one of a kind at a time. It ends when ctx does: at
// a stop, or after [errandLimit]; then its children must be gone. Detail is for people;
// report may be nil. An error that a person can act on is worth more than a code.
type Errand func(ctx context.Context, d wire.Directive) (detail string, report json.RawMessage, err error)

// errandLimit bounds one errand: a bundle or doctor's visit over a bad path.
const errandLimit = 15 * time.Minute

// begin starts the errand that d orders.
func (g *Guardian) begin(d wire.Directive, e Errand) error {
	if g.errands[d.Kind] != "" {
		return refuse(wire.CodeBusy, string(d.Kind)+" is under way already, ordered by directive "+g.errands[d.Kind])
	}
	g.errands[d.Kind] = d.ID
	g.result(d, wire.DirectiveAccepted, "", nil)
	g.wg.Go(func() {
		ctx, cancel := context.WithTimeout(g.helpers, errandLimit)
		defer cancel()
		detail, report, err := e(ctx, d)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %v: %w", errandLimit, err)
		}
		g.hand(func() { g.errandEnded(d, detail, report, err) })
	})
	return nil
}

// errandEnded tells the server what came of an errand.
func (g *Guardian) errandEnded(d wire.Directive, detail string, report json.RawMessage, err error) {
	delete(g.errands, d.Kind)
	if err != nil {
		g.log.Error("errand failed", "id", d.ID, "kind", d.Kind, "error", err)
		g.result(d, wire.DirectiveFailed, err.Error(), report)
		return
	}
	g.log.Info("errand done", "id", d.ID, "kind", d.Kind, "detail", detail)
	g.result(d, wire.DirectiveDone, detail, report)
	if d.Kind == wire.DirectiveReenroll {
		g.renewed, g.stopping = true, true
	}
}

// result is the receipt of a directive: it goes up by the second door, and what is
// not told when this process ends is told by the next.
func (g *Guardian) result(d wire.Directive, state wire.DirectiveState, detail string, report json.RawMessage) {
	g.tell(d, wire.DirectiveResult{State: state, Detail: detail, Report: report})
}

// fail is the receipt of a directive that failed; code is set if the cause is of the moment.
func (g *Guardian) fail(d wire.Directive, code wire.Code, detail string) {
	g.tell(d, wire.DirectiveResult{State: wire.DirectiveFailed, Code: code, Detail: detail})
}

// tell sends r as d's receipt.
func (g *Guardian) tell(d wire.Directive, r wire.DirectiveResult) {
	g.noteResult(d, r.State, r.Detail)
	if g.cfg.Door == nil {
		return
	}
	if len(r.Report) > wire.MaxDirectiveReport {
		r.Detail += fmt.Sprintf(" (its report of %d bytes is too large to be sent)", len(r.Report))
		r.Report = nil
	}
	r.ID, r.Kind, r.At = d.ID, d.Kind, g.now()
	m, err := wire.Seal(wire.TypeDirectiveResult, r)
	if err != nil {
		g.log.Error("receipt can't be encoded", "id", d.ID, "error", err)
		return
	}
	g.owe(r)
	g.send(m)
	g.door.requests[askUpload].at = time.Time{} // news do not wait for a back-off
}

// receipt is what came of a directive whose outcome the server may not know, as the
// next run of this program must tell it.
type receipt struct {
	State    wire.DirectiveState `json:"state"`
	Detail   string              `json:"detail,omitempty"`
	Code     wire.Code           `json:"code,omitempty"`
	At       time.Time           `json:"at"`
	Reported bool                `json:"reported,omitempty"` // a report went along, which is not kept
}

// maxReceipts bounds the receipts that are kept word by word, maxReceiptDetail each
// one's detail, in bytes.
const (
	maxReceipts      = 128
	maxReceiptDetail = 1 << 10
)

// owe remembers a receipt until the server has it. One for which there is no room is
// told by its kind alone, if that is enough to be true.
func (g *Guardian) owe(r wire.DirectiveResult) {
	m := &g.memory
	m.dirty, m.urgent = true, true
	m.untold[r.ID] = r.Kind
	_, known := m.receipts[r.ID]
	switch {
	case known || len(m.receipts) < maxReceipts:
		detail := strings.ToValidUTF8(r.Detail[:min(len(r.Detail), maxReceiptDetail)], "")
		m.receipts[r.ID] = receipt{State: r.State, Detail: detail, Code: r.Code, At: r.At, Reported: r.Report != nil}
	case r.Kind == wire.DirectiveRestartService: // its kind alone would say that it was done
		delete(m.untold, r.ID)
	}
}

// settle forgets a receipt.
func (g *Guardian) settle(id string) {
	delete(g.memory.untold, id)
	delete(g.memory.receipts, id)
	g.memory.dirty = true
}

// told forgets receipts that have arrived.
func (g *Guardian) told(messages []wire.Envelope) {
	for _, m := range messages {
		if m.Type != wire.TypeDirectiveResult {
			continue
		}
		r, err := wire.DecodePayload[wire.DirectiveResult](m)
		if err == nil && r.State != wire.DirectiveAccepted {
			g.toldUpdate(r.ID)
			g.settle(r.ID)
		}
	}
}

// tellOld sends the receipts that the last run of this program still owed: what it
// knew itself in its own words, of the rest what this run can know.
func (g *Guardian) tellOld() {
	for id, kind := range g.memory.untold {
		if g.ownsDirective(kind) && g.tellUpdate(id) {
			continue
		}
		d := wire.Directive{ID: id, Kind: kind}
		old, known := g.memory.receipts[id]
		switch {
		case known && old.State != wire.DirectiveAccepted && !old.Reported:
			g.tell(d, wire.DirectiveResult{State: old.State, Detail: old.Detail, Code: old.Code})
		case kind == wire.DirectiveRestartService && !g.cfg.Service:
			g.result(d, wire.DirectiveFailed, "the agent ended for it, but no service manager has started it again: it runs by hand now", nil)
		case kind == wire.DirectiveRestartService:
			g.restarted(d)
		case known, slices.Contains(longKinds, kind):
			g.fail(d, wire.CodeInterrupted, "the agent ended before this was done, or before it could tell")
		default: // it is done before it is told
			g.result(d, wire.DirectiveDone, "", nil)
		}
	}
}

// restarted answers an ordered restart of the service, which this run is: once its link is
// verified, if one is let in and the step is still known.
func (g *Guardian) restarted(d wire.Directive) {
	note := "the service was restarted: this is instance " + g.cfg.Presence.Instance
	for _, s := range slices.Backward(g.ladder.Recent()) {
		if s.Kind == selfcheck.StepRestartService && s.Outcome == "" && !g.quarantined() {
			g.await(s, d, note+"; ")
			return
		}
	}
	g.result(d, wire.DirectiveDone, note, nil)
}

// longKinds are not done yet when they are first told.
var longKinds = []wire.DirectiveKind{
	wire.DirectiveRunProbes, wire.DirectiveSendBundle, wire.DirectiveUpdate, wire.DirectiveRollback, wire.DirectiveReenroll,
}

package guardian

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/internal/atomicfile"
	"gururmm/internal/endpoint"
	"gururmm/internal/moment"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// maxDirectives bounds the directives remembered; they are forgotten when they have
	// expired. With the longest ids the state file stays below maxMemory.
	maxDirectives = 4096
	// keptPlaces of them are for those that must get through on a bad day, however
	// many others came before: see urgentKinds.
	keptPlaces = 256
	// maxLife bounds how far ahead a directive may expire: longer ones could not
	// be remembered as long as they could be replayed.
	maxLife = 7 * 24 * time.Hour
	// directiveSlack is how long an expired directive is still remembered: our
	// idea of the server's clock may change.
	directiveSlack = time.Hour
	// deliverBatch bounds the payload bytes of one order, well below a pipe's line.
	deliverBatch = 1 << 20
)

// errRefused carries the nack of a directive that is not carried out.
type errRefused struct {
	code   wire.Code
	detail string
}

func (e *errRefused) Error() string { return string(e.code) + ": " + e.detail }

func refuse(code wire.Code, detail string) error { return &errRefused{code, detail} }

// receive takes in what a door sent down. Directives are ours; commands and
// what belongs to them go to the worker, which checks them as if they had come by the link.
func (g *Guardian) receive(messages []wire.Envelope) {
	var batch []wire.Envelope
	bytes := 0
	deliver := func() {
		if len(batch) > 0 && !g.order(pipe.Order{Deliver: batch}) {
			// No loss: the server's claims run out and it offers them again.
			g.log.Warn("no worker to hand messages to: the server will offer them again", "messages", len(batch))
		}
		batch, bytes = nil, 0
	}
	for _, m := range messages {
		if m.Type == wire.TypeConfigUpdate { // how recovery is paced, above all: it holds for a worker that hangs
			g.adoptUpdate(m)
		}
		switch m.Type {
		case wire.TypeDirective:
			g.directive(m)
		case wire.TypeCommand, wire.TypeProbe, wire.TypeCancelCommand, wire.TypeResultAck, wire.TypeConfigUpdate:
			if n := size(m); bytes+n > deliverBatch {
				deliver()
			}
			batch, bytes = append(batch, m), bytes+size(m)
		default:
			g.log.Warn("unknown message by the second door", "type", m.Type)
			g.nack(wire.Nack{Code: wire.CodeUnsupported, Type: m.Type, Detail: "unknown message"})
		}
	}
	deliver()
}

// orderedSteps are the steps that directives order: status and beacons tell of them.
var orderedSteps = map[wire.DirectiveKind]selfcheck.StepKind{
	wire.DirectiveReconnect:      selfcheck.StepReconnect,
	wire.DirectiveUseEndpoint:    selfcheck.StepAlternative,
	wire.DirectiveRestartWorker:  selfcheck.StepRestartWorker,
	wire.DirectiveRestartService: selfcheck.StepRestartService,
	wire.DirectivePoll:           selfcheck.StepOOB,
	wire.DirectiveRelease:        selfcheck.StepRelease,
}

// directive carries out one directive, or answers why not.
func (g *Guardian) directive(m wire.Envelope) {
	d, err := g.admit(m)
	admitted := err == nil
	if admitted {
		g.noteDirective(d)
		if g.toDisk(d) {
			return // answered once the disk has
		}
		err = g.obey(d)
	}
	g.obeyed(d, admitted, err)
}

// obeyed answers what came of a directive that is no long work.
func (g *Guardian) obeyed(d wire.Directive, admitted bool, err error) {
	if err == nil {
		g.log.Warn("directive carried out", "id", d.ID, "kind", d.Kind, "reason", d.Reason)
		awaited := g.orderedBy(d)
		switch {
		case g.errands[d.Kind] == d.ID, g.ownsDirective(d.Kind): // told when it ends
		case d.Kind == wire.DirectiveRestartService && g.restart: // told by the next run
		case d.Kind == wire.DirectiveRestartService:
			g.result(d, wire.DirectiveFailed, "not run by a service manager: only its worker was restarted", nil)
		case awaited: // told once it is known what came of it
			g.result(d, wire.DirectiveAccepted, "", nil)
		default:
			g.result(d, wire.DirectiveDone, "", nil)
		}
		if !g.stopping {
			g.beacon(causeRequest)
		}
		return
	}
	refused, ok := errors.AsType[*errRefused](err)
	if !ok {
		refused = &errRefused{wire.CodeUnsupported, err.Error()}
	}
	g.log.Warn("directive refused", "id", d.ID, "kind", d.Kind, "code", refused.code, "detail", refused.detail)
	g.noteRefused(d, admitted, refused)
	g.nack(wire.Nack{Code: refused.code, ID: d.ID, Type: wire.TypeDirective, Detail: refused.detail})
}

// ordered notes a step that somebody ordered, and gives its record. In quarantine no
// link is let in, so none is expected of it.
func (g *Guardian) ordered(kind selfcheck.StepKind, reason string, now time.Time) selfcheck.StepRecord {
	o := selfcheck.Order{Kind: kind, Reason: reason, Alone: g.quarantined()}
	return g.ladder.Ordered(o, g.judgement.Verdict.Code, g.snapshot, now)
}

func (g *Guardian) quarantined() bool { return g.cfg.Quarantine != nil && g.cfg.Quarantine() != "" }

// orderedBy notes the step that d ordered, if it is one. awaited: d is done once the step
// has led to a verified link, and failed if it did not in its time.
func (g *Guardian) orderedBy(d wire.Directive) (awaited bool) {
	kind, ok := orderedSteps[d.Kind]
	if !ok {
		return false
	}
	if kind == selfcheck.StepRestartService && !g.restart {
		kind = selfcheck.StepRestartWorker // as much as can be restarted here
	}
	r := g.ordered(kind, cmp.Or(d.Reason, "ordered by the server"), time.Now())
	switch d.Kind {
	case wire.DirectiveReconnect, wire.DirectiveUseEndpoint, wire.DirectiveRestartWorker:
		if g.quarantined() {
			return false
		}
		g.await(r, d, "")
		return true
	}
	return false
}

// awaitedStep is a directive that is told when the step that it ordered is over.
type awaitedStep struct {
	d    wire.Directive
	step string // its history.StepID
	note string // said before the outcome
}

func (g *Guardian) await(r selfcheck.StepRecord, d wire.Directive, note string) {
	g.awaited = append(g.awaited, awaitedStep{d, history.StepID(r), note})
}

// tellOrdered tells what came of ordered steps, once it is known. At a stop nothing more
// becomes known: the next run says so.
func (g *Guardian) tellOrdered() {
	if len(g.awaited) == 0 || g.stopping {
		return
	}
	outcomes := map[string]string{}
	for _, s := range g.ladder.Recent() {
		outcomes[history.StepID(s)] = s.Outcome
	}
	g.awaited = slices.DeleteFunc(g.awaited, func(a awaitedStep) bool {
		said, known := outcomes[a.step]
		switch {
		case !known: // many others came since
			said = "what came of it is not known: too many steps were taken since"
		case said == "":
			return false
		}
		how, helped := strings.CutPrefix(said, "helped: ")
		state := wire.DirectiveFailed
		if helped {
			state = wire.DirectiveDone
		}
		g.result(a.d, state, a.note+strings.TrimPrefix(how, "no better: "), nil)
		return true
	})
}

// urgentKinds are what an operator reaches for when something is wrong.
var urgentKinds = []wire.DirectiveKind{
	wire.DirectiveQuarantine, wire.DirectiveRollback, wire.DirectiveRestartWorker, wire.DirectiveRestartService,
}

// hasPlace reports whether one more directive of kind can be remembered.
func (g *Guardian) hasPlace(kind wire.DirectiveKind) bool {
	places := maxDirectives - keptPlaces
	if slices.Contains(urgentKinds, kind) {
		places = maxDirectives
	}
	if len(g.memory.done) >= places {
		g.forgetExpired()
	}
	return len(g.memory.done) < places
}

// admit checks that m is a directive of our server, for us, in time and new.
// From here on it counts as done: it runs at most once.
func (g *Guardian) admit(m wire.Envelope) (wire.Directive, error) {
	if err := g.keys.Verify(m); err != nil {
		return wire.Directive{}, refuse(wire.CodeBadSignature, err.Error())
	}
	d, err := wire.DecodePayload[wire.Directive](m)
	if err != nil {
		return d, refuse(wire.CodeUnparseable, err.Error())
	}
	now := g.now()
	_, known := g.memory.done[d.ID]
	switch {
	case d.ID == "" || len(d.ID) > 64:
		return d, refuse(wire.CodeUnparseable, "directive without a usable id")
	case d.Agent != g.cfg.Agent:
		return d, refuse(wire.CodeWrongAgent, "directive for another agent")
	case d.Kind == wire.DirectiveReenroll && !g.meant(d.Reenroll):
		return d, refuse(wire.CodeWrongAgent, "it names another machine with this identity")
	case !now.Before(d.ExpiresAt):
		return d, refuse(wire.CodeExpired, "expired at "+moment.UTC(d.ExpiresAt))
	case d.ExpiresAt.Sub(now) > maxLife:
		return d, refuse(wire.CodeUnsupported, "expires too far ahead to be remembered")
	case known:
		return d, refuse(wire.CodeDuplicate, "carried out already")
	case !g.hasPlace(d.Kind):
		return d, refuse(wire.CodeBusy, "too many directives are still remembered")
	}
	g.memory.done[d.ID] = d.ExpiresAt
	g.memory.dirty, g.memory.urgent = true, true
	return d, nil
}

// meant reports whether the machine that is to take a new identity is this one, as
// this very guardian: one of several with the same key.
func (g *Guardian) meant(r *wire.Reenroll) bool {
	p := g.cfg.Presence
	return r != nil && r.Instance == p.Instance && (r.Fingerprint == "" || r.Fingerprint == p.Fingerprint)
}

// obey does what d orders. The list is closed; what is not in it is refused, never ignored.
func (g *Guardian) obey(d wire.Directive) error {
	reason := d.Reason
	if reason == "" {
		reason = "ordered by the server"
	}
	switch d.Kind {
	case wire.DirectiveReconnect:
		return g.obeyReconnect(pipe.ReconnectOrder{Reason: reason})
	case wire.DirectiveUseEndpoint:
		if err := endpoint.Check(d.Endpoint, "wss", "ws"); err != nil {
			return refuse(wire.CodeUnparseable, "endpoint: "+err.Error())
		}
		return g.obeyReconnect(pipe.ReconnectOrder{Reason: reason, URL: d.Endpoint})
	case wire.DirectiveRestartWorker:
		if step := g.update.step; step == local.UpdateDrain || step == local.UpdateTrial { // its end would be blamed on the build
			return refuse(wire.CodeBusy, "an update is under way, and exchanges the worker itself: "+string(step))
		}
		g.restartWorker(reason)
	case wire.DirectiveRestartService:
		if g.handover { // the new program would tell of a restart that never was
			return refuse(wire.CodeBusy, "an update is under way, and this process becomes another program")
		}
		g.restartService(reason)
	case wire.DirectivePoll:
		g.door.forced = true
	case wire.DirectiveRelease:
		g.door.forced = false
		if g.ladder.Delivering() {
			// The link was proven deaf: it is taken back when its probes have passed, not
			// by word. So let it try now.
			return g.obeyReconnect(pipe.ReconnectOrder{Reason: reason, Probe: true})
		}
	case wire.DirectiveSetPolicy:
		if d.Policy == nil {
			return refuse(wire.CodeUnparseable, "no policy")
		}
		if err := g.adopt(*d.Policy, nil); err != nil {
			return refuse(wire.CodeUnparseable, err.Error())
		}
		g.tellPolicy()
	case wire.DirectiveUpdate:
		return g.orderUpdate(d)
	case wire.DirectiveRollback:
		return g.orderRollback(d)
	case wire.DirectiveQuarantine:
		if g.cfg.SetQuarantine == nil {
			return refuse(wire.CodeUnsupported, "nothing here remembers a quarantine")
		}
		g.judge(time.Now())                                             // the beacon that tells of it must say it
		if d.Lift && g.snapshot.Link.Phase != selfcheck.PhaseVerified { // it was refused until now: don't wait out a back-off
			g.order(pipe.Order{Reconnect: &pipe.ReconnectOrder{Reason: "its quarantine is lifted"}})
		}
	default:
		errand, ok := g.cfg.Errands[d.Kind]
		if !ok {
			return refuse(wire.CodeUnsupported, "this version can't do "+string(d.Kind))
		}
		return g.begin(d, errand)
	}
	return nil
}

// diskWait is how long a directive waits for the disk before it is refused.
const diskWait = 10 * time.Second

// diskOrder is a directive that waits for the disk.
type diskOrder struct {
	d        wire.Directive
	by       time.Time
	answered bool
}

// toDisk has the keeper write what must last before d is carried out, or told: a
// quarantine, because whoever ordered it relies on it; a restart of the service,
// because its replay would be a loop. Before a rollback the disk is asked for what it
// goes back to. False: d needs nothing of the disk.
func (g *Guardian) toDisk(d wire.Directive) bool {
	j := job{what: string(d.Kind)}
	var refused error
	switch {
	case d.Kind == wire.DirectiveQuarantine && g.cfg.SetQuarantine != nil:
		reason := cmp.Or(d.Reason, "ordered by the server")
		j.do = func() error { return g.cfg.SetQuarantine(!d.Lift, reason) }
	case d.Kind == wire.DirectiveRollback && g.asksInstalled():
		j.do = func() error { refused = g.cfg.Updates.askInstalled(); return nil }
	case d.Kind == wire.DirectiveRestartService && g.cfg.StateFile != "":
		g.memory.untold[d.ID] = d.Kind
		raw, err := g.encode()
		if err != nil {
			g.diskAnswered(&diskOrder{d: d}, err)
			return true
		}
		j.do = func() error { return atomicfile.Write(g.cfg.StateFile, raw, 0o600) }
	default:
		return false
	}
	o := &diskOrder{d: d, by: time.Now().Add(diskWait)}
	j.then = func(err error) {
		if refused != nil {
			err = refuse(wire.CodeUnsupported, refused.Error())
		}
		g.diskAnswered(o, err)
	}
	if !g.keep(j) {
		g.diskAnswered(o, errors.New("the disk does not keep up"))
		return true
	}
	g.diskOrders = append(g.diskOrders, o)
	return true
}

// diskAnswered goes on with a directive once the disk has answered. One that was
// refused meanwhile is not carried out: it was told so. A quarantine that is on disk
// all the same holds, and the next verdict says it.
func (g *Guardian) diskAnswered(o *diskOrder, err error) {
	g.diskOrders = slices.DeleteFunc(g.diskOrders, func(other *diskOrder) bool { return other == o })
	if o.answered {
		return
	}
	o.answered = true
	if err != nil {
		g.settle(o.d.ID)
		g.memory.urgent = true
		if _, refused := errors.AsType[*errRefused](err); !refused {
			err = refuse(wire.CodeJournal, "can't be remembered: "+err.Error())
		}
		g.obeyed(o.d, true, err)
		return
	}
	g.obeyed(o.d, true, g.obey(o.d))
}

// diskOrdersDue refuses what the disk has not answered in time.
func (g *Guardian) diskOrdersDue(now time.Time) {
	for _, o := range slices.Clone(g.diskOrders) {
		if !now.Before(o.by) {
			g.diskAnswered(o, fmt.Errorf("the disk did not answer within %v", diskWait))
		}
	}
}

func (g *Guardian) obeyReconnect(r pipe.ReconnectOrder) error {
	if !g.order(pipe.Order{Reconnect: &r}) {
		return refuse(wire.CodeBusy, "there is no worker that takes orders now")
	}
	return nil
}

// nack answers by the second door, with the next messages that go up.
func (g *Guardian) nack(n wire.Nack) {
	m, err := wire.Seal(wire.TypeNack, n)
	if err != nil {
		g.log.Error("nack can't be encoded", "error", err)
		return
	}
	g.send(m)
}

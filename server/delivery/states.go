package delivery

import (
	"time"

	"gururmm/server/store"
	"gururmm/wire"
)

// Phase is a command's state, told apart further where the rules differ: who was
// never offered a command knows nothing of it, who has only been offered it may have
// it taken back, who acknowledged it may not.
type Phase string

// The phases that have not ended. A command that has ended is in the phase of its
// terminal state's name.
const (
	Pending  Phase = "pending"  // never offered
	Returned Phase = "returned" // offered before, and given back; it may have arrived all the same
	Claimed  Phase = "claimed"  // offered by one door, not acknowledged
	Recalled Phase = "recalled" // the same, and its end was asked for
	Acked    Phase = "acked"    // journaled by the agent
	Stopping Phase = "stopping" // the same, and its end was asked for
)

// The phases that have ended.
const (
	Completed     = Phase(wire.StateCompleted)
	Failed        = Phase(wire.StateFailed)
	Cancelled     = Phase(wire.StateCancelled)
	Expired       = Phase(wire.StateExpired)
	Interrupted   = Phase(wire.StateInterrupted)
	Undeliverable = Phase(wire.StateUndeliverable)
)

// State gives the phase's state as stored and shown.
func (p Phase) State() wire.State {
	switch p {
	case Pending, Returned:
		return wire.StatePending
	case Claimed, Recalled, Acked, Stopping:
		return wire.StateRunning
	}
	return wire.State(p)
}

// waits reports whether no door holds the command.
func (p Phase) waits() bool { return p == Pending || p == Returned }

// out reports whether one door holds it, unacknowledged.
func (p Phase) out() bool { return p == Claimed || p == Recalled }

// taken reports whether the agent has acknowledged it.
func (p Phase) taken() bool { return p == Acked || p == Stopping }

// calledOff reports whether the agent is to be asked to end it.
func (p Phase) calledOff() bool { return p == Recalled || p == Stopping }

// phaseOf is the phase of a stored command: all of it is stored, so that a restart
// changes no rule.
func phaseOf(c store.Command) Phase {
	acked, asked := c.AckedAt != nil, c.CancelAt != nil
	switch {
	case c.State == wire.StatePending && c.Attempts > 0:
		return Returned
	case c.State != wire.StateRunning:
		return Phase(c.State)
	case acked && asked:
		return Stopping
	case acked:
		return Acked
	case asked:
		return Recalled
	}
	return Claimed
}

// Event is what can happen to a command.
type Event string

// The events.
const (
	Claim    Event = "claim"     // a door takes it, the next attempt
	Release  Event = "release"   // the claim is over, or proven lost
	Exhaust  Event = "exhaust"   // so is the last one there may be
	Expire   Event = "expire"    // its time is over and no claim is out
	Ack      Event = "ack"       // the agent has journaled it
	Refuse   Event = "refuse"    // the agent will never take it
	TooLate  Event = "too_late"  // the agent found it expired
	Cancel   Event = "cancel"    // an operator wants its end
	Retire   Event = "retire"    // the agent was removed
	NoResult Event = "no_result" // acknowledged, and silence since
	Complete Event = "complete"  // results:
	Fail     Event = "fail"
	Stop     Event = "stop"      // cancelled at the agent
	Break    Event = "interrupt" // interrupted at the agent
	Lapse    Event = "lapse"     // expired at the agent, after its ack
)

// Effects are what a move does beside changing the phase.
type Effects uint16

// The effects; route.move carries them out.
const (
	// Count: this is the next attempt, by the door that is told, and its lease runs.
	Count Effects = 1 << iota
	// Soon: it may be stored a moment later, together with what comes next. Lost with the
	// process, it is as if it had not come: the claim goes back, is offered again, and the
	// agent, which has journaled the command, says so again.
	Soon
	// Again: its claim is over; any other open door may have it at once, the same
	// one with the agent's next sign of life.
	Again
	// StampAck: the time of the acknowledgement is stored; it is never offered again.
	StampAck
	// StampCancel: when its end was asked for is stored, and who did.
	StampCancel
	// CallOff: the agent is asked to end it, by each door that is open.
	CallOff
	// Slot: the agent has room for one more; one that was refused as busy may go.
	Slot
	// Note: it came too late to change anything, and the trace says so.
	Note
	// End: the time is stored, and nothing of it is kept in memory.
	End
)

// Has reports whether all of f is among e.
func (e Effects) Has(f Effects) bool { return e&f == f }

// Rule is what one event does in one phase.
type Rule struct {
	To Phase
	Do Effects
}

// Next gives what event e does to a command in phase p; ok is false if it has no
// effect there.
func Next(p Phase, e Event) (rule Rule, ok bool) {
	rule, ok = table[p][e]
	return rule, ok
}

// table is every move there is; what is not in it is ignored. A number is that of the
// rule in docs/protocol.md, "Delivery". Results have a row only where the command is
// acknowledged: who has a result has taken the command, so it is an Ack first.
var table = map[Phase]map[Event]Rule{
	Pending: {
		Claim:   {Claimed, Count},               // 3
		Expire:  {Expired, End},                 // 5
		Cancel:  {Cancelled, StampCancel | End}, // 8: nobody knows of it, so nobody is asked
		Retire:  {Cancelled, End},               // 9: the same
		Ack:     {Acked, StampAck | Soon},       // 2: a database from a backup is older than the agent's journal
		Refuse:  {Undeliverable, End},           // 4
		TooLate: {Expired, End},                 // 5
	},
	Returned: {
		Claim:   {Claimed, Count},               // 3
		Exhaust: {Undeliverable, End},           // 4: fewer attempts are allowed than when it was offered
		Expire:  {Expired, End},                 // 5
		Cancel:  {Cancelled, StampCancel | End}, // 8: if it did arrive, its ack is answered with a cancel
		Retire:  {Interrupted, End},             // 9: it may have arrived
		Ack:     {Acked, StampAck | Soon},       // 2: of a claim that was given back too early
		Refuse:  {Undeliverable, End},           // 4
		TooLate: {Expired, End},                 // 5
	},
	// No Expire: the ack may be on its way, so the lease is awaited.
	Claimed: {
		Release: {Returned, Again},                 // 3
		Exhaust: {Undeliverable, End},              // 4
		Cancel:  {Recalled, StampCancel | CallOff}, // 8: it may be running
		Retire:  {Interrupted, End},                // 9
		Ack:     {Acked, StampAck | Soon},          // 2
		Refuse:  {Undeliverable, End},              // 4
		TooLate: {Expired, End},                    // 5
	},
	Recalled: {
		Release: {Cancelled, End},               // 8: not offered again
		Exhaust: {Cancelled, End},               // 8: before 4
		Cancel:  {Recalled, 0},                  // 8: asked for already
		Retire:  {Interrupted, End},             // 9
		Ack:     {Stopping, StampAck | CallOff}, // 2, 8
		Refuse:  {Undeliverable, End},           // 4
		TooLate: {Expired, End},                 // 5
	},
	// No Release and no Expire: what is acknowledged is never offered again.
	Acked: {
		Cancel:   {Stopping, StampCancel | CallOff}, // 8
		Retire:   {Interrupted, End},                // 9
		Ack:      {Acked, 0},                        // 2: a repeat
		NoResult: {Interrupted, End},                // 7
		Complete: {Completed, Slot | End},           // 6, 7
		Fail:     {Failed, Slot | End},
		Stop:     {Cancelled, Slot | End},
		Break:    {Interrupted, Slot | End},
		Lapse:    {Expired, Slot | End},
	},
	Stopping: {
		Cancel:   {Stopping, 0},           // 8: asked for already
		Retire:   {Interrupted, End},      // 9
		Ack:      {Stopping, 0},           // 2: a repeat
		NoResult: {Interrupted, End},      // 7
		Complete: {Completed, Slot | End}, // 8: it was faster than the cancel
		Fail:     {Failed, Slot | End},
		Stop:     {Cancelled, Slot | End},
		Break:    {Interrupted, Slot | End},
		Lapse:    {Expired, Slot | End},
	},
	// 1: a command ends once. An acknowledgement that comes later is noted; that of a
	// cancelled one is answered with a cancel, for the agent is about to run it.
	Completed:     {Ack: {Completed, Note}},
	Failed:        {Ack: {Failed, Note}},
	Cancelled:     {Ack: {Cancelled, Note | CallOff}}, // 8
	Expired:       {Ack: {Expired, Note}},
	Interrupted:   {Ack: {Interrupted, Note}},
	Undeliverable: {Ack: {Undeliverable, Note}},
}

// told is what comes with an event: what a move stores, beside the phase.
type told struct {
	at     time.Time            // of the event; zero: now
	by     string               // the operator token's name, of Cancel
	claim  *claim               // of Claim
	reason string               // of an end
	result func(*store.Command) // what a result says further
}

// apply gives c as it is stored after the rule; now is the time of the move.
func (rule Rule) apply(c store.Command, t told, now time.Time) store.Command {
	if t.at.IsZero() {
		t.at = now
	}
	c.State = rule.To.State()
	if rule.Do.Has(Count) {
		c.Attempts, c.Channel = t.claim.attempt, t.claim.channel
	}
	if rule.Do.Has(StampAck) {
		c.AckedAt = &t.at
	}
	if rule.Do.Has(StampCancel) {
		c.CancelAt, c.CancelBy = &t.at, t.by
	}
	if rule.Do.Has(End) {
		c.EndedAt, c.Reason = &now, cut(t.reason)
		if t.result != nil {
			t.result(&c)
		}
	}
	return c
}

// resultEvents names the event of each state a result may report.
var resultEvents = map[wire.State]Event{
	wire.StateCompleted:   Complete,
	wire.StateFailed:      Fail,
	wire.StateCancelled:   Stop,
	wire.StateInterrupted: Break,
	wire.StateExpired:     Lapse,
}

// Stages that only the server knows, beside those of package wire.
const (
	StageLost     wire.Stage = "lost"     // the agent's ledger proves that this attempt was not read
	StageReleased wire.Stage = "released" // the claim was given back without such a proof
	StageCancel   wire.Stage = "cancel"   // an operator asked for its end
	StageNote     wire.Stage = "note"     // came too late to change anything
)

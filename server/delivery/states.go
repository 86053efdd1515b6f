package delivery

import "gururmm/wire"

// Phase is a command's state, with "running" split in two: who has only been
// offered a command may have it taken back, who acknowledged it may not.
type Phase string

// The phases that have not ended; a command that has ended is in the phase of
// its terminal state's name.
const (
	Pending Phase = "pending"
	Claimed Phase = "claimed" // offered by one door, not acknowledged
	Acked   Phase = "acked"   // journaled by the agent
)

// State gives the phase's state as stored and shown.
func (p Phase) State() wire.State {
	switch p {
	case Claimed, Acked:
		return wire.StateRunning
	}
	return wire.State(p)
}

// phaseOf is the phase of a stored command.
func phaseOf(s wire.State, acked bool) Phase {
	switch {
	case s == wire.StateRunning && acked:
		return Acked
	case s == wire.StateRunning:
		return Claimed
	}
	return Phase(s)
}

// Event is what can happen to a command.
type Event string

// The events.
const (
	Claim    Event = "claim"     // a door takes it, the next attempt
	Release  Event = "release"   // the claim is over, or proven lost
	Exhaust  Event = "exhaust"   // the last attempt was released
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

// table is every move there is. What is not in it is ignored: terminal phases
// have no row, so a command ends once.
var table = map[Phase]map[Event]Phase{
	Pending: {
		Claim:   Claimed,
		Exhaust: Phase(wire.StateUndeliverable),
		Expire:  Phase(wire.StateExpired),
		Cancel:  Phase(wire.StateCancelled),
		Retire:  Phase(wire.StateCancelled),
		// From an attempt whose claim was given back too early:
		Ack:      Acked,
		Refuse:   Phase(wire.StateUndeliverable),
		TooLate:  Phase(wire.StateExpired),
		Complete: Phase(wire.StateCompleted),
		Fail:     Phase(wire.StateFailed),
		Stop:     Phase(wire.StateCancelled),
		Break:    Phase(wire.StateInterrupted),
		Lapse:    Phase(wire.StateExpired),
	},
	Claimed: {
		Release:  Pending,
		Ack:      Acked,
		Refuse:   Phase(wire.StateUndeliverable),
		TooLate:  Phase(wire.StateExpired),
		Retire:   Phase(wire.StateInterrupted), // whether it was read is not known
		Cancel:   Claimed,                      // asked of the agent; carried out here if the claim is released
		Complete: Phase(wire.StateCompleted),
		Fail:     Phase(wire.StateFailed),
		Stop:     Phase(wire.StateCancelled),
		Break:    Phase(wire.StateInterrupted),
		Lapse:    Phase(wire.StateExpired),
	},
	Acked: {
		Cancel:   Acked, // asked of the agent
		Retire:   Phase(wire.StateInterrupted),
		NoResult: Phase(wire.StateInterrupted),
		Complete: Phase(wire.StateCompleted),
		Fail:     Phase(wire.StateFailed),
		Stop:     Phase(wire.StateCancelled),
		Break:    Phase(wire.StateInterrupted),
		Lapse:    Phase(wire.StateExpired),
	},
}

// Next gives the phase that event e leads to from p; ok is false if e has no
// effect there.
func Next(p Phase, e Event) (next Phase, ok bool) {
	next, ok = table[p][e]
	return next, ok
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

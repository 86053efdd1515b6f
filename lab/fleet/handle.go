package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"gururmm/session"
	"gururmm/wire"
)

// handle takes one text, from the reader.
func (a *agent) handle(l *link, m session.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counters.Read++
	if !a.deafAt.IsZero() || a.frozen {
		return
	}
	var env wire.Envelope
	var err error
	if m.TooLarge || m.Binary {
		err = wire.ErrUnparseable
	} else {
		env, err = wire.Decode(m.Text)
	}
	if err != nil {
		a.counters.Undecoded++
		a.send(l, wire.TypeNack, wire.Nack{Code: wire.CodeUnparseable, Seq: m.Number, Detail: err.Error()}, false)
		return
	}
	a.counters.Decoded++
	if wire.Signed(env.Type) && !(a.fleet.trusting && env.Type == wire.TypeCommand) {
		if err := a.fleet.ring.Verify(env); err != nil {
			a.refuse(l, env, m, wire.CodeBadSignature, err.Error())
			return
		}
	}
	switch env.Type {
	case wire.TypeAuthAck, wire.TypeNack:
	case wire.TypeEchoReply:
		a.answered(nil)
	case wire.TypeConfigUpdate:
		take(a, l, env, m, a.configure)
	case wire.TypeProbe, wire.TypeCommand:
		take(a, l, env, m, a.command)
	case wire.TypeHeartbeatAck:
		take(a, l, env, m, a.beaten)
	case wire.TypeResultAck:
		take(a, l, env, m, a.acked)
	default:
		a.refuse(l, env, m, wire.CodeUnsupported, "the fleet's agents do not handle it")
	}
}

// take decodes the payload and handles it, or refuses the text.
func take[T any](a *agent, l *link, env wire.Envelope, m session.Message, do func(*link, wire.Envelope, session.Message, T)) {
	v, err := wire.DecodePayload[T](env)
	if err != nil {
		a.refuse(l, env, m, wire.CodeUnparseable, err.Error())
		return
	}
	do(l, env, m, v)
}

func (a *agent) refuse(l *link, env wire.Envelope, m session.Message, code wire.Code, detail string) {
	a.counters.Rejected++
	t := wire.TypeNack
	if env.Type == wire.TypeCommand || env.Type == wire.TypeProbe {
		t = wire.TypeCommandNack
	}
	a.send(l, t, wire.Nack{Code: code, Type: env.Type, Seq: m.Number, Detail: detail}, false)
}

// configure puts the policy in force.
func (a *agent) configure(l *link, env wire.Envelope, m session.Message, c wire.ConfigUpdate) {
	p := c.Policy.WithDefaults()
	switch err := p.Validate(); {
	case c.Agent != a.identity.Agent:
		a.refuse(l, env, m, wire.CodeWrongAgent, "")
		return
	case err != nil:
		a.refuse(l, env, m, wire.CodeUnsupported, err.Error())
		return
	}
	a.counters.Verified++
	a.timing = timingOf(p)
	now := time.Now()
	// Spread over the interval: a fleet that came at one moment does not ping at one.
	a.next.ping = now.Add(time.Duration(a.rng.Int64N(int64(a.timing.ping))))
	a.next.verify = now.Add(a.timing.verify)
	sum := sha256.Sum256(env.Payload)
	a.send(l, wire.TypeConfigAck, wire.ConfigAck{Version: c.Policy.Version, Hash: hex.EncodeToString(sum[:])}, true)
}

// command takes a probe or a command: noted, acknowledged, and a command answered.
func (a *agent) command(l *link, env wire.Envelope, m session.Message, c wire.Command) {
	now := time.Now()
	known := slices.ContainsFunc(a.tasks, func(t task) bool { return t.id == c.ID })
	switch {
	case c.Agent != a.identity.Agent:
		a.refuse(l, env, m, wire.CodeWrongAgent, "")
		return
	case known:
		a.counters.Duplicates++
		a.again++
		r := result(c.ID, now)
		a.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeDuplicate, ID: c.ID, Result: &r}, true)
		return
	case now.After(c.ExpiresAt):
		a.counters.Rejected++
		a.send(l, wire.TypeCommandNack, wire.Nack{Code: wire.CodeExpired, ID: c.ID, Type: env.Type, Seq: m.Number}, true)
		return
	}
	a.counters.Verified++
	a.counters.Journaled++
	a.counters.Acked++
	a.send(l, wire.TypeCommandAck, wire.CommandAck{ID: c.ID, Pad: c.Pad, Stages: wire.StageTimes{
		wire.StageRead: m.At, wire.StageDecoded: now, wire.StageVerified: now, wire.StageJournaled: now, wire.StageAcked: now,
	}}, false) // the server waits for it, and asks
	if env.Type == wire.TypeProbe {
		if !a.verified && c.Pad != "" { // the last one is the largest
			a.heartbeat(l, now)
		}
		return
	}
	a.tasks = append(a.tasks, task{id: c.ID})
	a.counters.Started++
	a.counters.Finished++
	a.fleet.ran(c.ID)
	a.results(l)
}

// result is that of every command: nothing was run, and it ended well.
func result(id string, at time.Time) wire.CommandResult {
	zero := 0
	return wire.CommandResult{ID: id, State: wire.StateCompleted, ExitCode: &zero, Stages: wire.StageTimes{
		wire.StageStarted: at, wire.StageFinished: at, wire.StageResultWritten: at,
	}}
}

// results sends those that the server has not stored. Call with mu held.
func (a *agent) results(l *link) {
	now := time.Now()
	a.next.repeat = time.Time{}
	for _, t := range a.tasks {
		if !t.stored {
			a.counters.Results++
			a.send(l, wire.TypeCommandResult, result(t.id, now), true)
			a.next.repeat = now.Add(repeatEvery)
		}
	}
}

// acked forgets nothing of a task but that its result is owed.
func (a *agent) acked(_ *link, _ wire.Envelope, _ session.Message, r wire.ResultAck) {
	for i := range a.tasks {
		if a.tasks[i].id == r.ID && r.Stored && !a.tasks[i].stored {
			a.tasks[i].stored = true
			if a.fleet.stored != nil {
				a.fleet.stored(r.ID)
			}
			if a.fleet.trusting { // of hundreds of thousands
				a.tasks = slices.Delete(a.tasks, i, i+1)
			}
			return
		}
	}
}

// beaten takes the answer to a heartbeat, which says whether the link is verified.
func (a *agent) beaten(l *link, _ wire.Envelope, m session.Message, h wire.HeartbeatAck) {
	l.conn.PeerLedger(h.Ledger, m, h.Heartbeat)
	if !h.Verified || a.verified {
		return
	}
	a.verified, a.failures = true, 0
	a.verifications++
	now := time.Now()
	a.verifiedAt = now
	switch a.kind {
	case Flapping:
		a.next.leave = now.Add(flapLeast + time.Duration(a.rng.Int64N(int64(flapMost-flapLeast))))
	case Chatty:
		a.next.chat = now.Add(time.Duration(a.rng.Int64N(int64(chatEvery))))
	}
	a.results(l)
}

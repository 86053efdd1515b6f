package worker

import (
	"context"
	"encoding/json"
	"errors"

	"gururmm/agent/pipe"
	"gururmm/internal/fault"
	"gururmm/session"
	"gururmm/wire"
)

// dispatch handles what came by either door, one piece at a time.
func (w *worker) dispatch(ctx context.Context, by *token) {
	for {
		var posted bool
		select {
		case <-ctx.Done():
			return
		case <-by.C:
			posted = true
		case <-w.inbox.ready:
		}
		turn(by, posted)
		for {
			it, ok := w.inbox.take(by)
			if !ok {
				break
			}
			if ctx.Err() != nil {
				return
			}
			w.handle(it)
			w.inbox.done(by)
			select {
			case <-by.C:
				turn(by, true)
			default:
			}
		}
	}
}

// turn is where the dispatcher can be made to stall, and shows that it does not.
func turn(by *token, posted bool) {
	fault.Stall(faultDispatcher)
	fault.Stall(faultDeadlock)
	if posted {
		by.drained()
	}
}

// handle does one piece of work: decode, verify, act, answer.
func (w *worker) handle(it item) {
	defer w.change()
	if it.do != nil {
		it.do()
		return
	}
	stages := wire.StageTimes{wire.StageRead: w.clock.at(it.at)}
	env, ok := w.decode(it)
	if !ok {
		return
	}
	stages[wire.StageDecoded] = w.clock.Now()
	w.counters.count(it.session, func(c *wire.StageCounters) { c.Decoded++ })
	if wire.Signed(env.Type) {
		if err := w.keys.Verify(env); err != nil {
			// The id is not to be trusted, but tells the server what was refused.
			w.refuse(it, env, claimedID(env), wire.CodeBadSignature, err.Error())
			return
		}
	}
	if it.lost() {
		return
	}
	switch env.Type {
	case wire.TypeCommand, wire.TypeProbe:
		w.command(it, env, stages)
	case wire.TypeCancelCommand:
		w.cancel(it, env)
	case wire.TypeResultAck:
		handleAs(w, it, env, func(a wire.ResultAck) { w.exec.ResultAck(a) })
	case wire.TypeConfigUpdate:
		w.configure(it, env)
	case wire.TypeAuthAck:
		w.authAck(it, env)
	case wire.TypeHeartbeatAck:
		w.heartbeatAck(it, env)
	case wire.TypeCall:
		handleAs(w, it, env, func(struct{}) { w.out.send(pipe.Fact{Call: true}) })
	case wire.TypeEchoReply:
		handleAs(w, it, env, func(r wire.EchoReply) { w.log.Debug("echo came back", "id", r.ID, "bytes", r.Got) })
	case wire.TypeNack:
		handleAs(w, it, env, func(n wire.Nack) {
			w.log.Warn("the server refused a message", "code", n.Code, "type", n.Type, "seq", n.Seq, "detail", n.Detail)
		})
	default:
		w.refuse(it, env, claimedID(env), wire.CodeUnsupported, "this agent does not handle "+quote(string(env.Type)))
	}
}

// decode reads the envelope, and refuses what is none.
func (w *worker) decode(it item) (wire.Envelope, bool) {
	if it.env != nil {
		return *it.env, true // decoded by the pipe
	}
	var unknown wire.Envelope
	switch {
	case it.msg.TooLarge:
		w.refuse(it, unknown, "", wire.CodeTooLarge, "")
		return unknown, false
	case it.msg.Binary:
		w.refuse(it, unknown, "", wire.CodeUnparseable, "a binary message")
		return unknown, false
	}
	env, err := wire.Decode(it.msg.Text)
	switch {
	case errors.Is(err, wire.ErrTooLarge):
		w.refuse(it, unknown, "", wire.CodeTooLarge, "")
	case err != nil:
		unknown.Type = env.Type
		w.refuse(it, unknown, "", wire.CodeUnparseable, err.Error())
	}
	return env, err == nil
}

// handleAs decodes the payload of env for an unsigned message.
func handleAs[T any](w *worker, it item, env wire.Envelope, handle func(T)) {
	v, err := wire.DecodePayload[T](env)
	if err != nil {
		w.refuse(it, env, "", wire.CodeUnparseable, err.Error())
		return
	}
	handle(v)
}

// command handles a command or probe whose signature is verified.
func (w *worker) command(it item, env wire.Envelope, stages wire.StageTimes) {
	probe := env.Type == wire.TypeProbe
	c, err := wire.DecodePayload[wire.Command](env)
	switch {
	case err != nil || c.ID == "":
		w.refuse(it, env, "", wire.CodeUnparseable, "not a command")
		return
	case c.Agent != w.cfg.Identity.Agent:
		w.refuse(it, env, c.ID, wire.CodeWrongAgent, "")
		return
	case len(c.Script) > wire.MaxScript:
		w.refuse(it, env, c.ID, wire.CodeTooLarge, "script")
		return
	}
	if !probe && w.cfg.StateDir.Quarantined() {
		if !w.exec.Knows(c.ID) { // of what was taken before, the outcome is told
			w.refuse(it, env, c.ID, wire.CodeQuarantined, "an operator has quarantined this endpoint")
			return
		}
	}
	stages[wire.StageVerified] = w.clock.Now()
	w.counters.count(it.session, func(c *wire.StageCounters) { c.Verified++ })

	if it.lost() { // a cancel may have passed it by
		return
	}
	// Accept knows repeats before it looks at the expiry: what ran is not expired.
	got := w.exec.Accept(c, probe, stages)
	switch {
	case got.Known && !probe:
		w.duplicate(it, c.ID, got.Result)
		return
	case got.Refused != "":
		w.refuse(it, env, c.ID, got.Refused, got.Detail)
		return
	case got.Known:
		w.counters.refused(it.session, wire.CodeDuplicate)
	default:
		w.counters.count(it.session, func(c *wire.StageCounters) { c.Journaled++ })
	}
	stages[wire.StageAcked] = w.clock.Now()
	w.reply(it, wire.TypeCommandAck, wire.CommandAck{ID: c.ID, Stages: stages, Pad: c.Pad}, false) // the server waits for it, and asks
	if !probe {
		w.exec.Start(c.ID)
		w.log.Info("command accepted", "command", c.ID, "channel", it.channel())
		return
	}
	if it.session != nil && it.session.Probed() {
		w.heartbeat(it.session)
	}
}

// duplicate answers a repeat with what is known of the first.
func (w *worker) duplicate(it item, id string, result *wire.CommandResult) {
	w.counters.refused(it.session, wire.CodeDuplicate)
	w.log.Info("command came again", "command", id, "channel", it.channel(), "ended", result != nil)
	w.reply(it, wire.TypeCommandNack, wire.Nack{Code: wire.CodeDuplicate, ID: id, Result: result}, true)
}

func (w *worker) cancel(it item, env wire.Envelope) {
	c, err := wire.DecodePayload[wire.CancelCommand](env)
	switch {
	case err != nil || c.ID == "":
		w.refuse(it, env, "", wire.CodeUnparseable, "not a cancel_command")
		return
	case c.Agent != w.cfg.Identity.Agent:
		w.refuse(it, env, c.ID, wire.CodeWrongAgent, "")
		return
	case !c.ExpiresAt.IsZero() && w.clock.Now().After(c.ExpiresAt):
		w.refuse(it, env, c.ID, wire.CodeExpired, "")
		return
	}
	w.counters.count(it.session, func(c *wire.StageCounters) { c.Verified++ })
	if w.exec.Cancel(c.ID) {
		w.log.Info("command cancelled", "command", c.ID, "channel", it.channel())
		return
	}
	// Never seen, or ended already: then its result is under way or stored.
	w.exec.Repeat()
	w.reply(it, wire.TypeNack, wire.Nack{
		Code: wire.CodeUnsupported, ID: c.ID, Type: env.Type, Seq: it.msg.Number, Detail: "it is not running here",
	}, false)
}

func (w *worker) authAck(it item, env wire.Envelope) {
	handleAs(w, it, env, func(a wire.AuthAck) {
		if it.session == nil {
			w.refuse(it, env, "", wire.CodeUnsupported, "not by this door")
			return
		}
		it.session.AuthAcked(a)
		w.beatSoon()
	})
}

func (w *worker) heartbeatAck(it item, env wire.Envelope) {
	handleAs(w, it, env, func(a wire.HeartbeatAck) {
		if it.session == nil {
			w.refuse(it, env, "", wire.CodeUnsupported, "not by this door")
			return
		}
		it.session.Conn().PeerLedger(a.Ledger, it.msg, a.Heartbeat)
		if sent, ok := w.beats.answered(it.session, a.Heartbeat); ok {
			w.clock.Observe(a.ServerTime, sent, it.msg.At)
		}
		if it.session.Acked(a) {
			w.log.Info("link verified", "link", it.session.ID())
			w.link.becameVerified(it.session)
			w.beatSoon()
			w.exec.Repeat()
		}
	})
}

// maxQuoted bounds what of a peer's text is put into a log line or a nack, in bytes.
const maxQuoted = 64

func quote(s string) string {
	b, _ := json.Marshal(s[:min(len(s), maxQuoted)])
	return string(b)
}

// claimedID reads the id that a refused message claims, for the answer's sake.
func claimedID(env wire.Envelope) string {
	var p struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(env.Payload, &p) != nil || len(p.ID) > maxQuoted {
		return ""
	}
	return p.ID
}

// refuse answers a message with a coded nack, counts it and logs it.
func (w *worker) refuse(it item, env wire.Envelope, id string, code wire.Code, detail string) {
	w.counters.refused(it.session, code)
	w.log.Warn("message refused", "code", code, "type", quote(string(env.Type)), "id", quote(id),
		"seq", it.msg.Number, "channel", it.channel(), "detail", detail)
	if env.Type == wire.TypeNack {
		return // two ends must not refuse each other's refusals for ever
	}
	t := wire.TypeNack
	if id != "" && (env.Type == wire.TypeCommand || env.Type == wire.TypeProbe) {
		t = wire.TypeCommandNack
	}
	n := wire.Nack{Code: code, ID: id, Type: env.Type, Seq: it.msg.Number, Detail: detail}
	if len(n.Type) > maxQuoted {
		n.Type = n.Type[:maxQuoted]
	}
	w.reply(it, t, n, t == wire.TypeCommandNack)
}

// reply sends an answer by the channel that the question came by; what concerns
// a command goes up the pipe too, or instead, where that channel is not to be relied on.
func (w *worker) reply(it item, t wire.Type, payload any, flush bool) {
	if it.lost() {
		return
	}
	env, err := wire.Seal(t, payload)
	if err != nil {
		w.log.Error("an answer could not be encoded", "type", t, "error", err)
		return
	}
	sent := false
	if it.session != nil {
		sent = it.session.Conn().Send(env, session.SendOptions{Flush: flush}) == nil
	}
	answers := t == wire.TypeCommandAck || t == wire.TypeCommandNack
	if it.session == nil || answers && (!sent || w.oob.Load() && !it.session.Verified().IsZero()) {
		w.out.upstream(env)
		sent = true
	}
	if sent && t == wire.TypeCommandAck {
		w.counters.count(it.session, func(c *wire.StageCounters) { c.Acked++ })
	}
}

// emit takes output and results of jobs upstream: by the link where it is
// trusted, else by the second door. It never blocks.
func (w *worker) emit(t wire.Type, id string, payload any) {
	flush := false
	if t == wire.TypeCommandResult {
		flush = true
		w.counters.result()
	}
	env, err := wire.Seal(t, payload)
	if err != nil {
		w.log.Error("a message could not be encoded", "type", t, "command", id, "error", err)
		return
	}
	if s := w.trusted(); s != nil {
		err := s.Conn().Send(env, session.SendOptions{Flush: flush})
		if err == nil || errors.Is(err, session.ErrQueueFull) && t == wire.TypeCommandOutput {
			return // what the queue has no room for, the server asks for later
		}
	}
	w.out.upstream(env)
	w.change()
}

// hand gives a policy in force to the guardian, which stores it.
func (w *worker) hand(env wire.Envelope) { w.out.send(pipe.Fact{Policy: &env}) }

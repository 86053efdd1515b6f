package hub

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"strings"
	"sync"
	"time"

	"gururmm/internal/fault"
	"gururmm/internal/wrap"
	"gururmm/server/delivery"
	"gururmm/session"
	"gururmm/wire"
)

// handle takes one message of this link, in order. The inbox calls it.
func (l *link) handle(m session.Message) {
	switch {
	case m.TooLarge:
		l.refuse(wire.Envelope{}, wire.CodeTooLarge, "at most 1 MiB a message")
		return
	case m.Binary:
		l.refuse(wire.Envelope{}, wire.CodeUnparseable, "binary message; only text is spoken here")
		return
	}
	env, err := wire.Decode(m.Text)
	if err != nil {
		l.refuse(env, wire.CodeUnparseable, err.Error())
		return
	}
	if err := l.dispatch(env, m); err != nil {
		code := wire.CodeUnparseable
		var r refusal
		if errors.As(err, &r) {
			code = r.code
		}
		l.refuse(env, code, err.Error())
	}
}

// refusal is an error with the code it is nacked with; any other error of
// dispatch means that the payload could not be read.
type refusal struct {
	code   wire.Code
	detail string
}

func (r refusal) Error() string { return r.detail }

func (l *link) dispatch(env wire.Envelope, m session.Message) error {
	l.mu.Lock()
	authed := l.who != nil
	l.mu.Unlock()
	if !authed && env.Type != wire.TypeAuth {
		return refusal{wire.CodeUnsupported, "auth comes first"}
	}
	switch env.Type {
	case wire.TypeAuth:
		return l.auth(env, m.At, authed)
	case wire.TypeConfigAck:
		return l.configAck(env)
	case wire.TypeHeartbeat:
		return l.heartbeat(env, m)
	case wire.TypeMetrics:
		return l.metrics(env)
	case wire.TypeEcho:
		return l.echo(env)
	case wire.TypeNack:
		return l.nacked(env)
	case wire.TypeCommandAck, wire.TypeCommandNack:
		if mine, err := l.probed(env, m.At); mine || err != nil {
			return err
		}
		if p := l.hub.opts.Probes; p != nil && p.Answered(l.agent, wire.ChannelLink, m.At, env) {
			return nil
		}
		return l.upstream(env, m.At)
	case wire.TypeCommandOutput, wire.TypeCommandResult:
		return l.upstream(env, m.At)
	default:
		return refusal{wire.CodeUnsupported, fmt.Sprintf("type %q is not known here", env.Type)}
	}
}

// upstream hands a message of a command's life on, and sends what it is answered with.
func (l *link) upstream(env wire.Envelope, at time.Time) error {
	l.conn.Drain() // what was held back must not wait for the database
	ctx, cancel := l.handling()
	defer cancel()
	replies, err := l.hub.opts.Delivery.Upstream(ctx, l.agent, wire.ChannelLink, l.id, at, env)
	for _, reply := range replies {
		l.reply(reply, session.SendOptions{Flush: wire.Signed(reply.Type)})
	}
	switch {
	case err == nil:
	case errors.Is(err, delivery.ErrUnparseable), errors.Is(err, delivery.ErrForeign), errors.Is(err, delivery.ErrInvalid):
		l.count(wire.CodeUnparseable, env, err.Error()) // the nack is among the replies
	default: // the agent repeats what matters until it is answered
		l.log().Error("message not taken", "type", env.Type, "error", err)
	}
	return nil
}

func (l *link) heartbeat(env wire.Envelope, m session.Message) error {
	hb, err := wire.DecodePayload[wire.Heartbeat](env)
	if err != nil {
		return err
	}
	l.conn.PeerLedger(hb.Ledger, m, 0)
	if fault.Active(fault.Of("hub.garble", l.agent)) {
		if env, err := l.hub.opts.Sign(wire.TypeCommand, 7); err == nil { // signed, but no command
			l.reply(env, session.SendOptions{Flush: true})
		}
	}
	seq := env.Seq
	l.reply(wire.Envelope{}, session.SendOptions{Compose: func(ledger wire.Ledger) (wire.Envelope, error) {
		return wire.Seal(wire.TypeHeartbeatAck, wire.HeartbeatAck{
			Ledger: ledger, Heartbeat: seq, ServerTime: time.Now(), Verified: l.verified(),
		})
	}})
	l.hub.heartbeatSeen(l, hb, m.At)
	l.hub.opts.Delivery.Hint(l.agent)
	return nil
}

func (l *link) metrics(env wire.Envelope) error {
	metrics, err := wire.DecodePayload[wire.Metrics](env)
	if err != nil {
		return err
	}
	l.hub.opts.Store.SaveMetrics(l.agent, metrics)
	return nil
}

func (l *link) echo(env wire.Envelope) error {
	reply, err := echoReply(env)
	if err != nil {
		return err
	}
	l.reply(reply, session.SendOptions{Hold: true}) // written as soon as the inbox is empty
	return nil
}

// echoReply answers an echo with as many bytes as it asks for.
func echoReply(env wire.Envelope) (wire.Envelope, error) {
	echo, err := wire.DecodePayload[wire.Echo](env)
	if err != nil {
		return wire.Envelope{}, err
	}
	if echo.Size < 0 || echo.Size > wire.MaxEcho || len(echo.ID) > maxIDLength {
		return wire.Envelope{}, refusal{wire.CodeTooLarge, "an echo has at most 256 KiB"}
	}
	return wire.Seal(wire.TypeEchoReply, wire.EchoReply{
		ID: echo.ID, Got: len(echo.Pad), Pad: strings.Repeat("x", echo.Size),
	})
}

// maxIDLength bounds what an endpoint may call things.
const maxIDLength = 128

// nacked records that the agent refused a message of ours.
func (l *link) nacked(env wire.Envelope) error {
	nack, err := wire.DecodePayload[wire.Nack](env)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.peerNacks++
	n := l.peerNacks
	l.mu.Unlock()
	if loud(n) {
		l.log().Warn("the agent refused a message", "code", nack.Code, "type", nack.Type, "seq", nack.Seq,
			"detail", clip(nack.Detail), "refused_so_far", n)
	}
	return nil
}

// refuse answers a bad message with a nack, counts and logs it; the link goes on.
func (l *link) refuse(env wire.Envelope, code wire.Code, detail string) {
	l.count(code, env, detail)
	nack, err := wire.Seal(wire.TypeNack, wire.Nack{
		Code: code, Type: wire.Type(clip(string(env.Type))), Seq: env.Seq, Detail: clip(detail),
	})
	if err == nil {
		l.reply(nack, session.SendOptions{})
	}
}

func (l *link) count(code wire.Code, env wire.Envelope, detail string) {
	l.hub.refusals.add(code)
	if l.refused++; loud(l.refused) {
		l.log().Warn("message refused", "code", code, "type", clip(string(env.Type)), "detail", clip(detail), "refused_on_link", l.refused)
	}
}

// refusals counts refused messages of all links by code.
type refusals struct {
	mu sync.Mutex
	by map[wire.Code]uint64
}

func (r *refusals) add(code wire.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[wire.Code]uint64{}
	}
	r.by[code]++
}

// Refused counts the messages of one code that were refused since the start.
func (h *Hub) Refused(code wire.Code) uint64 {
	h.refusals.mu.Lock()
	defer h.refusals.mu.Unlock()
	return h.refusals.by[code]
}

// Refusals counts those of each code.
func (h *Hub) Refusals() map[wire.Code]uint64 {
	h.refusals.mu.Lock()
	defer h.refusals.mu.Unlock()
	return maps.Clone(h.refusals.by)
}

// loud thins repeated log lines: the first ten, then each power of two.
func loud(n uint32) bool { return n <= 10 || bits.OnesCount32(n) == 1 }

// clip bounds text of an endpoint for a log line or an answer.
func clip(s string) string { return wrap.Clip(s, 200) }

// maxSentence bounds what an agent says of itself, in bytes: whole sentences are its proof.
const maxSentence = 2000

func clipSentence(s string) string { return wrap.Clip(s, maxSentence) }

func hash(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

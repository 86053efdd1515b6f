package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// MaxMessage bounds one text message on the link, in bytes, on both sides. A
// larger one is thrown away while it is read and answered with [CodeTooLarge].
const MaxMessage = 1 << 20

// Subprotocol is the WebSocket subprotocol both sides must agree on (RFC 6455 §1.9).
const Subprotocol = "gururmm.v1"

// Header names of the HTTP exchanges.
const (
	// HeaderLinkID carries the fresh random link id, 16 hex digits, in the upgrade response.
	HeaderLinkID = "Gururmm-Link"
	// HeaderTime carries the server's clock, RFC 3339 with nanoseconds, in every response,
	// errors too: an endpoint whose clock is wrong corrects itself from it.
	HeaderTime = "Gururmm-Time"
	// HeaderProbe, "1" on a link upgrade or a poll of the second door, marks a look at
	// the path: same way, same token, but nothing is registered, handed out or taken in.
	HeaderProbe = "Gururmm-Probe"
)

// Type names a message.
type Type string

// The messages. Direction is server → agent (S) or agent → server (A).
const (
	TypeAuth          Type = "auth"           // A
	TypeAuthAck       Type = "auth_ack"       // S
	TypeConfigUpdate  Type = "config_update"  // S, signed
	TypeConfigAck     Type = "config_ack"     // A
	TypeCommand       Type = "command"        // S, signed
	TypeProbe         Type = "probe"          // S, signed: an inert command
	TypeCommandAck    Type = "command_ack"    // A, on receipt, before running
	TypeCommandNack   Type = "command_nack"   // A
	TypeCancelCommand Type = "cancel_command" // S, signed
	TypeCommandOutput Type = "command_output" // A
	TypeCommandResult Type = "command_result" // A, repeated until result_ack
	TypeResultAck     Type = "result_ack"     // S
	TypeHeartbeat     Type = "heartbeat"      // A
	TypeHeartbeatAck  Type = "heartbeat_ack"  // S
	TypeMetrics       Type = "metrics"        // A
	TypeEcho          Type = "echo"           // A
	TypeEchoReply     Type = "echo_reply"     // S
	TypeDirective     Type = "directive"      // S, signed, OOB only
	// TypeDirectiveResult is the receipt of a directive, and its outcome (A, OOB only).
	TypeDirectiveResult Type = "directive_result"
	// TypeCall asks the guardian to call by the second door now: something waits
	// there (S). It orders nothing, so it is not signed; [CapCall].
	TypeCall Type = "call"
	TypeNack Type = "nack" // both
)

// signed tells which types are refused without a valid signature of the server's command key.
var signed = map[Type]bool{
	TypeConfigUpdate: true, TypeCommand: true, TypeProbe: true,
	TypeCancelCommand: true, TypeDirective: true,
}

// Signed reports whether messages of type t must carry a signature.
func Signed(t Type) bool { return signed[t] }

// Envelope is one text message.
//
//	{"type":"command","seq":17,"crc":"89abcdef","kid":"…","sig":"…","payload":{…}}
type Envelope struct {
	Type Type `json:"type"`
	// CRC guards a text of a link against damage on the way, which TLS only does
	// as far as the box that ends it: 8 hex digits of CRC-32C over type, seq and
	// payload. The ledger's digest proves damage too, but after the text was used.
	// [Envelope.Encode] sets it, [Decode] checks it; absent: not checked.
	CRC string `json:"crc,omitempty"`
	// Seq is the number of this text message on this link, from 1, given by the
	// writer. 0: not sent on a link (OOB).
	Seq uint64 `json:"seq,omitempty"`
	// KeyID names the command key of Sig; see [KeyID].
	KeyID string `json:"kid,omitempty"`
	// Sig is Ed25519 (RFC 8032) over [SigningInput](Type, Payload).
	Sig     []byte          `json:"sig,omitempty"`
	Payload json.RawMessage `json:"payload"`
}

// Errors of [Decode] and [DecodePayload]; branch on them with errors.Is.
var (
	ErrTooLarge    = errors.New("message exceeds the size limit")
	ErrUnparseable = errors.New("message is not a valid envelope")
)

// Seal makes an envelope of an unsigned payload.
func Seal(t Type, payload any) (Envelope, error) {
	if p, plain := payload.(plainPayload); plain {
		if raw, ok := p.appendPlain(nil); ok {
			return Envelope{Type: t, Payload: raw}, nil
		}
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		return Envelope{}, fmt.Errorf("encode %s: %w", t, err)
	}
	return Envelope{Type: t, Payload: raw}, nil
}

// Encode gives the text frame of e, of at most [MaxMessage] bytes.
func (e Envelope) Encode() ([]byte, error) {
	if !plainJSON(e.Payload) {
		payload, err := json.Marshal(e.Payload) // as it will stand in the text
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", e.Type, err)
		}
		e.Payload = payload
	}
	crc := hexOf(e.crc())
	e.CRC = string(crc[:])
	raw, ok := e.appendPlain(make([]byte, 0, len(e.Payload)+envelopeSize))
	if !ok {
		var err error
		if raw, err = json.Marshal(e); err != nil {
			return nil, fmt.Errorf("encode %s: %w", e.Type, err)
		}
	}
	if len(raw) > MaxMessage {
		return nil, fmt.Errorf("encode %s of %d bytes: %w", e.Type, len(raw), ErrTooLarge)
	}
	return raw, nil
}

// envelopeSize is about what an envelope takes around its payload, in bytes.
const envelopeSize = 192

// crc is the checksum over what e is to say.
func (e Envelope) crc() uint32 {
	head := append(make([]byte, 0, 64), e.Type...)
	head = append(strconv.AppendUint(append(head, '\n'), e.Seq, 10), '\n')
	return Chain(Chain(0, head), e.Payload)
}

// Decode reads one text frame. It bounds the size, then checks the frame's
// shape and checksum; the payload is left raw, so that its signature can be checked first. It may
// be a part of text, which must not change from then on.
func Decode(text []byte) (Envelope, error) {
	if len(text) > MaxMessage {
		return Envelope{}, ErrTooLarge
	}
	e, ok := decodePlain(text)
	if !ok {
		e = Envelope{}
		if err := json.Unmarshal(text, &e); err != nil {
			return e, fmt.Errorf("%w: %w", ErrUnparseable, err)
		}
	}
	if e.Type == "" {
		return e, fmt.Errorf("%w: no type", ErrUnparseable)
	}
	if len(e.Payload) == 0 || bytes.Equal(e.Payload, []byte("null")) {
		return e, fmt.Errorf("%w: %s without a payload", ErrUnparseable, e.Type)
	}
	if crc := hexOf(e.crc()); e.CRC != "" && e.CRC != string(crc[:]) {
		return e, fmt.Errorf("%w: %s does not fit its checksum: damaged on the way", ErrUnparseable, e.Type)
	}
	return e, nil
}

// DecodePayload reads the payload of e as a T. Unknown fields are ignored, so
// that a newer peer may add some.
func DecodePayload[T any](e Envelope) (T, error) {
	var v T
	if decodePlainPayload(e.Payload, &v) {
		return v, nil
	}
	if err := json.Unmarshal(e.Payload, &v); err != nil {
		return v, fmt.Errorf("%w: payload of %s: %w", ErrUnparseable, e.Type, err)
	}
	return v, nil
}

package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
)

// An envelope as this package writes it has its fields in one order and no spaces. Read and
// written by hand it takes a fraction of what encoding/json needs, and the server does it
// with each text of each agent. What is not written just so goes the long way, so that both
// always agree; a fuzz target holds that. So it is with the payloads that come most often.

// appendPlain writes e as encoding/json does; ok is false where that takes more than this
// knows. The payload must be as json.Marshal gives it.
func (e Envelope) appendPlain(b []byte) (out []byte, ok bool) {
	if !plainWord(string(e.Type)) || !plainWord(e.KeyID) || len(e.Payload) == 0 {
		return nil, false
	}
	b = append(append(b, `{"type":"`...), e.Type...)
	b = append(append(b, `","crc":"`...), e.CRC...)
	b = append(b, '"')
	if e.Seq != 0 {
		b = strconv.AppendUint(append(b, `,"seq":`...), e.Seq, 10)
	}
	if e.KeyID != "" {
		b = append(append(append(b, `,"kid":"`...), e.KeyID...), '"')
	}
	if len(e.Sig) > 0 {
		b = append(base64.StdEncoding.AppendEncode(append(b, `,"sig":"`...), e.Sig), '"')
	}
	b = append(append(b, `,"payload":`...), e.Payload...)
	return append(b, '}'), true
}

// decodePlain reads what appendPlain writes; ok is false of all else.
func decodePlain(text []byte) (e Envelope, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(`{"type":"`))
	if !ok {
		return e, false
	}
	kind, rest, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || !plainWord(string(kind)) {
		return e, false
	}
	if e.Type, ok = known[string(kind)]; !ok {
		e.Type = Type(kind)
	}
	if e.CRC, rest, ok = plainField(rest, `,"crc":"`); !ok {
		return e, false
	}
	if after, there := bytes.CutPrefix(rest, []byte(`,"seq":`)); there {
		n := bytes.IndexByte(after, ',')
		if n < 1 || n > 19 || after[0] < '1' || after[0] > '9' {
			return e, false
		}
		seq, err := strconv.ParseUint(string(after[:n]), 10, 64)
		if err != nil {
			return e, false
		}
		e.Seq, rest = seq, after[n:]
	}
	if e.KeyID, rest, ok = plainField(rest, `,"kid":"`); !ok {
		return e, false
	}
	if after, there := bytes.CutPrefix(rest, []byte(`,"sig":"`)); there {
		sig, after, whole := bytes.Cut(after, []byte(`"`))
		if e.Sig = make([]byte, base64.StdEncoding.DecodedLen(len(sig))); !whole || bytes.ContainsAny(sig, "\\\r\n") {
			return e, false
		}
		n, err := base64.StdEncoding.Decode(e.Sig, sig)
		if err != nil {
			return e, false
		}
		e.Sig, rest = e.Sig[:n], after
	}
	payload, ok := bytes.CutPrefix(rest, []byte(`,"payload":`))
	if !ok || len(payload) < 2 || payload[len(payload)-1] != '}' {
		return e, false
	}
	payload = payload[:len(payload)-1]
	// White space around it is no part of it: the long way takes it off.
	if !plainJSON(payload) && (len(bytes.TrimSpace(payload)) != len(payload) || !json.Valid(payload)) {
		return e, false
	}
	e.Payload = payload[:len(payload):len(payload)]
	return e, true
}

// known are the types that have a name here already.
var known = func() map[string]Type {
	all := map[string]Type{}
	for _, t := range []Type{
		TypeAuth, TypeAuthAck, TypeConfigUpdate, TypeConfigAck, TypeCommand, TypeProbe, TypeCommandAck, TypeCommandNack,
		TypeCancelCommand, TypeCommandOutput, TypeCommandResult, TypeResultAck, TypeHeartbeat, TypeHeartbeatAck, TypeMetrics,
		TypeEcho, TypeEchoReply, TypeDirective, TypeDirectiveResult, TypeCall, TypeNack,
	} {
		all[string(t)] = t
	}
	return all
}()

// plainField takes a word behind its name, if it is there.
func plainField(text []byte, name string) (value string, rest []byte, ok bool) {
	after, there := bytes.CutPrefix(text, []byte(name))
	if !there {
		return "", text, true
	}
	word, rest, whole := bytes.Cut(after, []byte(`"`))
	return string(word), rest, whole && len(word) > 0 && plainWord(string(word))
}

// plainWord reports whether s stands in JSON as it is.
func plainWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// hexOf is a checksum as eight hex digits.
func hexOf(crc uint32) (digits [8]byte) {
	hex.Encode(digits[:], []byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)})
	return digits
}

// plainJSON reports whether b is JSON just as json.Marshal gives it: valid, with no white space,
// and with nothing in it that would be escaped. Of what is nested deep it knows nothing.
func plainJSON(b []byte) bool {
	n := plainValue(b, 0, 32)
	return n == len(b)
}

// plainValue gives where the value at i ends; -1: it is not plain.
func plainValue(b []byte, i, depth int) int {
	if i >= len(b) || depth == 0 {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return plainString(b, i)
	case c == '{', c == '[':
		return plainList(b, i, depth)
	case c == '-', '0' <= c && c <= '9':
		return plainNumber(b, i)
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			return i + len(word)
		}
	}
	return -1
}

// plainList takes an object or an array.
func plainList(b []byte, i, depth int) int {
	object := b[i] == '{'
	end := byte(']')
	if object {
		end = '}'
	}
	if i++; i < len(b) && b[i] == end {
		return i + 1
	}
	for {
		if object {
			if i = plainString(b, i); i < 0 || i >= len(b) || b[i] != ':' {
				return -1
			}
			i++
		}
		if i = plainValue(b, i, depth-1); i < 0 || i >= len(b) {
			return -1
		}
		switch b[i] {
		case end:
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

func plainString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i++; i >= len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(b) || !isHex(b[i]) {
						return -1
					}
				}
			default:
				return -1
			}
		case c < ' ', c == '<', c == '>', c == '&', c == 0xe2: // begins U+2028, which is escaped
			return -1
		}
	}
	return -1
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func plainNumber(b []byte, i int) int {
	digits := func() bool {
		from := i
		for i < len(b) && '0' <= b[i] && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if b[i] == '-' {
		i++
	}
	if first := i; !digits() || b[first] == '0' && i > first+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return -1
		}
	}
	return i
}

// plainPayload is one that can be written and read without encoding/json; ok is false where
// that takes more than it knows.
type plainPayload interface {
	appendPlain(b []byte) (out []byte, ok bool)
}

func (e Echo) appendPlain(b []byte) ([]byte, bool) {
	return appendEcho(b, e.ID, `","size":`, e.Size, e.Pad)
}

func (e EchoReply) appendPlain(b []byte) ([]byte, bool) {
	return appendEcho(b, e.ID, `","got":`, e.Got, e.Pad)
}

func appendEcho(b []byte, id, name string, n int, pad string) ([]byte, bool) {
	if !plainWord(id) || !plainWord(pad) {
		return nil, false
	}
	b = slices.Grow(b, len(id)+len(pad)+len(`{"id":"","size":,"pad":""}`)+len("-9223372036854775808"))
	b = append(append(b, `{"id":"`...), id...)
	b = strconv.AppendInt(append(b, name...), int64(n), 10)
	if pad != "" {
		b = append(append(append(b, `,"pad":"`...), pad...), '"')
	}
	return append(b, '}'), true
}

// decodePlainPayload reads into v, a pointer, what its type writes plainly.
func decodePlainPayload(payload []byte, v any) bool {
	switch v := v.(type) {
	case *Echo:
		return decodeEcho(payload, `,"size":`, &v.ID, &v.Size, &v.Pad)
	case *EchoReply:
		return decodeEcho(payload, `,"got":`, &v.ID, &v.Got, &v.Pad)
	}
	return false
}

func decodeEcho(b []byte, name string, id *string, n *int, pad *string) bool {
	text, rest, ok := plainField(b, `{"id":"`)
	if !ok {
		return false
	}
	rest, there := bytes.CutPrefix(rest, []byte(name))
	if !there {
		return false
	}
	end := bytes.IndexAny(rest, ",}")
	if end < 1 || plainNumber(rest, 0) != end {
		return false
	}
	size, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return false
	}
	more, rest, ok := plainField(rest[end:], `,"pad":"`)
	if !ok || string(rest) != "}" {
		return false
	}
	*id, *n, *pad = text, size, more
	return true
}

package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// An envelope as this package writes it has its fields in one order and no spaces. Read and
// written by hand it takes a fraction of what encoding/json needs, and the server does it
// with each text of each agent. What is not written just so goes the long way, so that both
// always agree; a fuzz target holds that.

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
	e.Type = Type(kind)
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
	if len(bytes.TrimSpace(payload)) != len(payload) || !json.Valid(payload) {
		return e, false
	}
	e.Payload = bytes.Clone(payload)
	return e, true
}

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
func hexOf(crc uint32) string {
	return hex.EncodeToString([]byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)})
}

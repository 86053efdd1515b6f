package wire

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// NewID makes a time-ordered id, a UUIDv7 (RFC 9562 §5.7), for agents,
// commands, reports and instances. Time order keeps database inserts local.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	ms := uint64(time.Now().UnixMilli())
	var t [8]byte
	binary.BigEndian.PutUint64(t[:], ms<<16)
	copy(b[:6], t[:6])
	b[6] = 0x70 | b[6]&0x0f
	b[8] = 0x80 | b[8]&0x3f
	var out [36]byte
	hex.Encode(out[:8], b[:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:], b[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

// LinkID is the fresh random id of one link, 8 bytes as in the ledger.
type LinkID uint64

// NewLinkID draws a link id; never 0, which means "none".
func NewLinkID() LinkID {
	var b [8]byte
	for {
		rand.Read(b[:])
		if id := LinkID(binary.BigEndian.Uint64(b[:])); id != 0 {
			return id
		}
	}
}

// String gives 16 hex digits.
func (id LinkID) String() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return hex.EncodeToString(b[:])
}

// ParseLinkID reads what [LinkID.String] wrote; ok is false for anything else.
func ParseLinkID(s string) (id LinkID, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 8 {
		return 0, false
	}
	return LinkID(binary.BigEndian.Uint64(b)), true
}

// MarshalText writes 16 hex digits: a 64-bit number would lose digits in JSON readers.
func (id LinkID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 16 hex digits.
func (id *LinkID) UnmarshalText(b []byte) error {
	v, ok := ParseLinkID(string(b))
	if !ok {
		return ErrUnparseable
	}
	*id = v
	return nil
}

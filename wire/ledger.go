package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// LedgerSize is the length of an encoded ledger in bytes; RFC 6455 §5.5 allows
// a control frame 125.
const LedgerSize = 56

// ledgerMagic opens each ledger: "GL", version 1. The fourth byte holds flags.
var ledgerMagic = [3]byte{'G', 'L', 1}

// Flag bits of the fourth byte.
const flagAnswer = 1 << 0

// ErrNoLedger says that a ping or pong carries no ledger of this version: its
// counts are unknown (not zero).
var ErrNoLedger = errors.New("no ledger in this frame")

// Ledger is what one end of a link has written and read on it, as carried in
// ping frames and heartbeats. Counts are data messages since the link opened.
//
//	offset size field
//	0      3+1  magic "GL" and version; flags
//	4      8    Link
//	12     8    Written       messages fully written before this frame
//	20     8    WrittenBytes  their payload bytes
//	28     8    Read          messages fully read
//	36     4    WrittenCRC    CRC-32C chained over payloads written
//	40     4    ReadCRC       CRC-32C chained over payloads read
//	44     4    Owed          commands held for this agent, not acknowledged
//	48     8    Clock         sender's wall clock, µs since 1970
//
// All integers are big endian.
type Ledger struct {
	Link         LinkID `json:"link"`
	Written      uint64 `json:"written"`
	WrittenBytes uint64 `json:"written_bytes"`
	Read         uint64 `json:"read"`
	WrittenCRC   uint32 `json:"written_crc"`
	ReadCRC      uint32 `json:"read_crc"`
	Owed         uint32 `json:"owed"`
	ClockMicros  int64  `json:"clock_us"`
	// Answer asks the reader to send its own ledger at once (a flush ping). An
	// answer never asks again, so two ends cannot ping each other for ever.
	Answer bool `json:"answer,omitempty"`
}

// Clock is the sender's wall clock.
func (l Ledger) Clock() time.Time { return time.UnixMicro(l.ClockMicros) }

// AppendTo appends the 56 bytes of l to b; it allocates only to grow b.
func (l Ledger) AppendTo(b []byte) []byte {
	var flags byte
	if l.Answer {
		flags |= flagAnswer
	}
	b = append(b, ledgerMagic[0], ledgerMagic[1], ledgerMagic[2], flags)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Link))
	b = binary.BigEndian.AppendUint64(b, l.Written)
	b = binary.BigEndian.AppendUint64(b, l.WrittenBytes)
	b = binary.BigEndian.AppendUint64(b, l.Read)
	b = binary.BigEndian.AppendUint32(b, l.WrittenCRC)
	b = binary.BigEndian.AppendUint32(b, l.ReadCRC)
	b = binary.BigEndian.AppendUint32(b, l.Owed)
	return binary.BigEndian.AppendUint64(b, uint64(l.ClockMicros))
}

// ParseLedger reads a ping's or pong's application data; the error is [ErrNoLedger].
func ParseLedger(b []byte) (Ledger, error) {
	if len(b) != LedgerSize || [3]byte(b[:3]) != ledgerMagic {
		return Ledger{}, ErrNoLedger
	}
	return Ledger{
		Answer:       b[3]&flagAnswer != 0,
		Link:         LinkID(binary.BigEndian.Uint64(b[4:])),
		Written:      binary.BigEndian.Uint64(b[12:]),
		WrittenBytes: binary.BigEndian.Uint64(b[20:]),
		Read:         binary.BigEndian.Uint64(b[28:]),
		WrittenCRC:   binary.BigEndian.Uint32(b[36:]),
		ReadCRC:      binary.BigEndian.Uint32(b[40:]),
		Owed:         binary.BigEndian.Uint32(b[44:]),
		ClockMicros:  int64(binary.BigEndian.Uint64(b[48:])),
	}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Chain extends a running CRC-32C (RFC 3720 appendix B.4) by one payload.
// Chaining over payloads equals the checksum of their concatenation.
func Chain(crc uint32, payload []byte) uint32 { return crc32.Update(crc, castagnoli, payload) }

package proxy

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
)

// Opcodes (RFC 6455 §5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opPing         = 0x9
	opPong         = 0xA
	firstControl   = 0x8
)

// maxFrame bounds one frame's payload in bytes: what the receivers themselves would throw away.
const maxFrame = 32 << 20

// frame is one frame as it came; raw is sent on as it is, unless it is altered.
type frame struct {
	raw    []byte
	head   int // bytes of header, mask key included
	masked bool
}

func (f frame) fin() bool     { return f.raw[0]&0x80 != 0 }
func (f frame) opcode() byte  { return f.raw[0] & 0x0F }
func (f frame) control() bool { return f.opcode() >= firstControl }
func (f frame) size() int     { return len(f.raw) - f.head }

// payload gives an unmasked copy.
func (f frame) payload() []byte {
	p := append([]byte(nil), f.raw[f.head:]...)
	if f.masked {
		mask(p, f.raw[f.head-4:f.head])
	}
	return p
}

// with gives f with another payload and FIN bit, masked with a fresh key if f is masked.
func (f frame) with(payload []byte, fin bool) frame {
	first := f.raw[0] &^ 0x80
	if fin {
		first |= 0x80
	}
	return newFrame(first, payload, f.masked)
}

// newFrame builds a frame; first is its whole first byte.
func newFrame(first byte, payload []byte, masked bool) frame {
	raw := make([]byte, 0, len(payload)+14)
	var bit byte
	if masked {
		bit = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		raw = append(raw, first, bit|byte(n))
	case n <= 0xFFFF:
		raw = binary.BigEndian.AppendUint16(append(raw, first, bit|126), uint16(n))
	default:
		raw = binary.BigEndian.AppendUint64(append(raw, first, bit|127), uint64(n))
	}
	var key [4]byte
	if masked {
		rand.Read(key[:]) // never fails (crypto/rand since Go 1.24)
		raw = append(raw, key[:]...)
	}
	head := len(raw)
	raw = append(raw, payload...)
	if masked {
		mask(raw[head:], key[:])
	}
	return frame{raw: raw, head: head, masked: masked}
}

func mask(b, key []byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// readFrame reads one frame whole.
func readFrame(r *bufio.Reader) (frame, error) {
	raw := make([]byte, 2, 14)
	if _, err := io.ReadFull(r, raw); err != nil {
		return frame{}, err
	}
	f := frame{masked: raw[1]&0x80 != 0}
	size, more := uint64(raw[1]&0x7F), 0
	switch size {
	case 126:
		more = 2
	case 127:
		more = 8
	}
	keyed := more
	if f.masked {
		keyed += 4
	}
	raw = raw[:2+keyed]
	if _, err := io.ReadFull(r, raw[2:]); err != nil {
		return frame{}, err
	}
	switch more {
	case 2:
		size = uint64(binary.BigEndian.Uint16(raw[2:]))
	case 8:
		size = binary.BigEndian.Uint64(raw[2:])
	}
	if size > maxFrame {
		return frame{}, fmt.Errorf("frame of %d bytes, at most %d are passed on", size, maxFrame)
	}
	f.head = len(raw)
	f.raw = make([]byte, f.head+int(size))
	copy(f.raw, raw)
	_, err := io.ReadFull(r, f.raw[f.head:])
	return f, err
}

// message is one data message: a first frame and its continuations.
type message []frame

func (m message) size() (n int) {
	for _, f := range m {
		n += f.size()
	}
	return n
}

// merged gives m as a single frame with the payload that edit makes of its own.
func (m message) merged(fin bool, edit func([]byte) []byte) frame {
	var all []byte
	for _, f := range m {
		all = append(all, f.payload()...)
	}
	return m[0].with(edit(all), fin)
}

func half(b []byte) []byte { return b[:len(b)/2] }

// alter changes the letter or digit nearest to the middle into its neighbour,
// so that text stays text and JSON mostly JSON; without one, a bit is flipped.
func alter(b []byte) []byte {
	mid := len(b) / 2
	for d := 0; d <= mid; d++ {
		for _, i := range []int{mid + d, mid - d} {
			if i >= 0 && i < len(b) && alnum(b[i]) && alnum(b[i]^1) {
				b[i] ^= 1
				return b
			}
		}
	}
	if len(b) > 0 {
		b[mid] ^= 1
	}
	return b
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// otherBytes replaces a payload by one of the same length that is surely not it.
func otherBytes(b []byte) []byte {
	for i := range b {
		b[i] = ^b[i]
	}
	return b
}

package selfcheck

import (
	"sync"
	"time"
)

// RingSize is how many frame headers an endpoint keeps: half an hour of an idle
// link and the last seconds of a busy one, in 16 KiB.
const RingSize = 512

// Ring keeps the headers of the last frames of one connection, both directions
// in the order they went by. It is safe for concurrent use.
type Ring struct {
	mu    sync.Mutex
	base  time.Time // of the entries' times; set by the first tap
	slots []ringSlot
	next  int  // slot to be overwritten
	full  bool // every slot has been used
}

type ringSlot struct {
	at    time.Duration // since base
	size  uint64
	class FrameClass
	fin   bool
	out   bool
}

// NewRing keeps the last n headers; n below 1 stands for [RingSize].
func NewRing(n int) *Ring {
	if n < 1 {
		n = RingSize
	}
	return &Ring{slots: make([]ringSlot, n)}
}

// since gives now on the ring's clock, which the first call starts.
func (r *Ring) since(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.base.IsZero() {
		r.base = now
	}
	return now.Sub(r.base)
}

func (r *Ring) add(class FrameClass, fin, out bool, size uint64, at time.Duration) {
	r.mu.Lock()
	r.slots[r.next] = ringSlot{at: at, size: size, class: class, fin: fin, out: out}
	if r.next++; r.next == len(r.slots) {
		r.next, r.full = 0, true
	}
	r.mu.Unlock()
}

// Last gives up to n of the last headers, oldest first, with their ages at now.
func (r *Ring) Last(n int, now time.Time) []FrameHeader {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.next
	if r.full {
		have = len(r.slots)
	}
	n = min(n, have)
	if n <= 0 {
		return nil
	}
	out := make([]FrameHeader, 0, n)
	at := now.Sub(r.base)
	for i := n; i > 0; i-- {
		s := r.slots[(r.next-i+len(r.slots))%len(r.slots)]
		out = append(out, FrameHeader{Class: s.class, Fin: s.fin, Out: s.out, Size: s.size, Age: max(0, at-s.at)})
	}
	return out
}

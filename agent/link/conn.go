package link

import (
	"net"
	"sync/atomic"
	"time"

	"gururmm/selfcheck"
)

// tapped shows every byte that passes, both ways, to the frame taps, which skip
// the HTTP heads of the upgrade by themselves.
type tapped struct {
	net.Conn
	ring    *selfcheck.Ring
	in, out *selfcheck.Tap
	bytes   atomic.Uint64 // both ways
}

func tap(c net.Conn) *tapped {
	ring := selfcheck.NewRing(selfcheck.RingSize)
	return &tapped{
		Conn: c, ring: ring,
		in: selfcheck.NewTap(ring, false), out: selfcheck.NewTap(ring, true),
	}
}

func (t *tapped) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.bytes.Add(uint64(n))
		t.in.Observe(b[:n], time.Now())
	}
	return n, err
}

func (t *tapped) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	if n > 0 {
		t.bytes.Add(uint64(n))
		t.out.Observe(b[:n], time.Now())
	}
	return n, err
}

package link

import (
	"net"
	"sync/atomic"
	"time"

	"gururmm/internal/tcpinfo"
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

// NetConn is what is tapped.
func (t *tapped) NetConn() net.Conn { return t.Conn }

// kernel asks this machine's kernel about the connection below; nil: it does not tell.
func (t *tapped) kernel() *selfcheck.TCPFacts {
	info, ok := tcpinfo.Of(t)
	if !ok {
		return nil
	}
	f := selfcheck.TCPFacts(info)
	return &f
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

// Package tcpinfo asks this machine's kernel what it knows of a TCP connection:
// what it holds unread for us, what the peer has not acknowledged, what had to be
// sent again. It tells whether bytes wait here, on the way, or beyond whoever
// acknowledged them.
//
// Linux: TCP_INFO (tcp(7)), SIOCINQ and SIOCOUTQ. Windows: SIO_TCP_INFO, FIONREAD.
// macOS: TCP_CONNECTION_INFO, SO_NREAD. Elsewhere nothing is known. What a kernel
// does not tell is nil, never zero.
package tcpinfo

import (
	"net"
	"syscall"
	"time"
)

// Info is what is known of one connection.
type Info struct {
	State      string // as RFC 9293 §3.3.2 names it, in lower case
	Congestion string // open, disorder, cwr, recovery or loss

	RTT, RTTVar *time.Duration
	MSS, PMTU   *uint64 // bytes
	// Window is the congestion window in bytes: what may be under way at once.
	Window *uint64

	Unread *uint64 // bytes that have arrived and that we have not read
	// Unacked are the bytes written that the peer's kernel has not acknowledged; with
	// those not yet sent, except on Windows.
	Unacked *uint64
	Unsent  *uint64 // bytes of Unacked that were not sent even once

	// Timeouts counts retransmissions in a row that nothing has answered; 0: the
	// peer's kernel answers.
	Timeouts      *uint64
	Lost          *uint64 // segments thought lost now
	Retransmitted *uint64 // bytes sent again, since the connection began

	// Acked and Received are bytes since the connection began. Linux counts the SYN
	// among the former for whoever connected.
	Acked, Received *uint64
	// SentAge and ReceivedAge are since data last went and came.
	SentAge, ReceivedAge *time.Duration
}

// Of asks about the TCP connection under c, through TLS and other layers that
// have a NetConn method. False: there is none, it is closed, or this platform
// does not tell. It never waits for the network, nor for a read or write under way.
func Of(c net.Conn) (Info, bool) {
	for range maxLayers {
		if raw, ok := c.(syscall.Conn); ok {
			return ofRaw(raw)
		}
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = layer.NetConn()
	}
	return Info{}, false
}

// maxLayers bounds the unwrapping: a tap, TLS, TLS to a proxy, and room.
const maxLayers = 8

func ofRaw(c syscall.Conn) (info Info, ok bool) {
	if _, tcp := c.(*net.TCPConn); !tcp {
		return Info{}, false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Info{}, false
	}
	if err := raw.Control(func(fd uintptr) { info, ok = ask(fd) }); err != nil {
		return Info{}, false
	}
	return info, ok
}

// Queue is one connection of a process as seen from outside of it.
type Queue struct {
	Remote          string // "ip:port"
	State           string
	Unread, Unacked uint64 // bytes: not read by the process; not acknowledged by the peer
}

// Process is what the kernel says of another process.
type Process struct {
	State  string // running, sleeping, waiting for the disk, stopped, …
	Queues []Queue
}

// names gives the n-th name, "" if there is none.
func nameOf(names []string, n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return names[n]
}

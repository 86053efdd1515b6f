package tcpinfo

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// states by number (include/net/tcp_states.h).
var states = []string{1: "established", "syn-sent", "syn-received", "fin-wait-1", "fin-wait-2", "time-wait", "closed", "close-wait", "last-ack", "listen", "closing"}

// congestion by number (enum tcp_ca_state, include/uapi/linux/tcp.h).
var congestion = []string{"open", "disorder", "cwr", "recovery", "loss"}

func ask(fd uintptr) (Info, bool) {
	var t unix.TCPInfo
	// Not unix.GetsockoptTCPInfo: it does not say how much of it an older kernel filled in.
	n := uint32(unsafe.Sizeof(t))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&t)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return Info{}, false
	}
	has := func(offset, size uintptr) bool { return uintptr(n) >= offset+size }
	if !has(unsafe.Offsetof(t.Total_retrans), 4) {
		return Info{}, false // a kernel before 2.6.10
	}
	info := Info{
		State: nameOf(states, int(t.State)), Congestion: nameOf(congestion, int(t.Ca_state)),
		RTT: micros(t.Rtt), RTTVar: micros(t.Rttvar),
		MSS: wide(t.Snd_mss), PMTU: wide(t.Pmtu),
		Window:   new(uint64(t.Snd_cwnd) * uint64(t.Snd_mss)),
		Timeouts: new(uint64(t.Retransmits)), Lost: wide(t.Lost),
	}
	if t.Rtt == 0 {
		info.RTT, info.RTTVar = nil, nil // not measured yet
	}
	if has(unsafe.Offsetof(t.Bytes_received), 8) {
		info.Acked, info.Received = new(t.Bytes_acked), new(t.Bytes_received)
		// The kernel gives these two an age even if nothing ever went or came.
		if t.Bytes_received > 0 {
			info.ReceivedAge = millis(t.Last_data_recv)
		}
	}
	if has(unsafe.Offsetof(t.Bytes_retrans), 8) {
		info.Retransmitted = new(t.Bytes_retrans)
		if t.Bytes_sent > 0 {
			info.SentAge = millis(t.Last_data_sent)
		}
	}
	info.Unread = queue(fd, unix.SIOCINQ)
	info.Unacked = queue(fd, unix.SIOCOUTQ)
	info.Unsent = queue(fd, unix.SIOCOUTQNSD)
	return info, true
}

func queue(fd uintptr, request uint) *uint64 {
	n, err := unix.IoctlGetInt(int(fd), request)
	if err != nil || n < 0 {
		return nil
	}
	return new(uint64(n))
}

func wide(n uint32) *uint64          { return new(uint64(n)) }
func micros(n uint32) *time.Duration { return new(time.Duration(n) * time.Microsecond) }
func millis(n uint32) *time.Duration { return new(time.Duration(n) * time.Millisecond) }

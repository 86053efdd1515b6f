package tcpinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

// states by number (TCPS_*, netinet/tcp_fsm.h).
var states = []string{"closed", "listen", "syn-sent", "syn-received", "established", "close-wait", "fin-wait-1", "closing", "last-ack", "fin-wait-2", "time-wait"}

func ask(fd uintptr) (Info, bool) {
	t, err := unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return Info{}, false
	}
	info := Info{
		State: nameOf(states, int(t.State)),
		MSS:   new(uint64(t.Maxseg)), Window: new(uint64(t.Snd_cwnd)),
		Unacked:       new(uint64(t.Snd_sbbytes)),
		Retransmitted: new(t.Txretransmitbytes), Received: new(t.Rxbytes),
	}
	if t.Srtt > 0 {
		info.RTT, info.RTTVar = new(time.Duration(t.Srtt)*time.Millisecond), new(time.Duration(t.Rttvar)*time.Millisecond)
	}
	if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NREAD); err == nil && n >= 0 {
		info.Unread = new(uint64(n))
	}
	return info, true
}

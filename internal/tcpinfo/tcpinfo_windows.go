package tcpinfo

import (
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// From mstcpip.h and winsock2.h.
const (
	sioTCPInfo = 0xd8000027 // _WSAIORW(IOC_VENDOR, 39), Windows 10 1703 and later
	fionread   = 0x4004667f
)

// tcpInfo is TCP_INFO_v0. Version 1 adds what limits the sender, which is not shown.
type tcpInfo struct {
	State             uint32
	Mss               uint32
	ConnectionTimeMs  uint64
	TimestampsEnabled uint8
	_                 [3]byte
	RttUs             uint32
	MinRttUs          uint32
	BytesInFlight     uint32
	Cwnd              uint32
	SndWnd            uint32
	RcvWnd            uint32
	RcvBuf            uint32
	BytesOut          uint64
	BytesIn           uint64
	BytesReordered    uint32
	BytesRetrans      uint32
	FastRetrans       uint32
	DupAcksIn         uint32
	TimeoutEpisodes   uint32
	SynRetrans        uint8
	_                 [3]byte
}

// states by number (TCPSTATE, mstcpip.h).
var states = []string{"closed", "listen", "syn-sent", "syn-received", "established", "fin-wait-1", "fin-wait-2", "close-wait", "closing", "last-ack", "time-wait"}

func ask(fd uintptr) (Info, bool) {
	var t tcpInfo
	var version, n uint32
	err := windows.WSAIoctl(windows.Handle(fd), sioTCPInfo, (*byte)(unsafe.Pointer(&version)), uint32(unsafe.Sizeof(version)),
		(*byte)(unsafe.Pointer(&t)), uint32(unsafe.Sizeof(t)), &n, nil, 0)
	if err != nil || uintptr(n) < unsafe.Offsetof(t.SynRetrans) {
		return Info{}, false
	}
	info := Info{
		State: nameOf(states, int(t.State)), MSS: new(uint64(t.Mss)), Window: new(uint64(t.Cwnd)),
		Unacked: new(uint64(t.BytesInFlight)), Retransmitted: new(uint64(t.BytesRetrans)), Received: new(t.BytesIn),
	}
	if t.RttUs > 0 {
		info.RTT = new(time.Duration(t.RttUs) * time.Microsecond)
	}
	if t.BytesOut >= uint64(t.BytesInFlight) {
		info.Acked = new(t.BytesOut - uint64(t.BytesInFlight))
	}
	var unread uint32
	err = windows.WSAIoctl(windows.Handle(fd), fionread, nil, 0, (*byte)(unsafe.Pointer(&unread)), uint32(unsafe.Sizeof(unread)), &n, nil, 0)
	if err == nil {
		info.Unread = new(uint64(unread))
	}
	return info, true
}

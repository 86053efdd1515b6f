package probe

import (
	"net"

	"golang.org/x/sys/unix"
)

// pathOf asks the kernel what it knows of the path of conn, ICMP's word on it included.
func pathOf(conn net.Conn) pathFacts {
	var f pathFacts
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return f
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return f
	}
	// An error of Control means that the connection is gone: nothing is known then.
	_ = raw.Control(func(fd uintptr) {
		if mtu, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU); err == nil {
			f.MTU = mtu
		} else if mtu, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU); err == nil {
			f.MTU = mtu
		}
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			f.MSS = int(info.Snd_mss)
		}
	})
	return f
}

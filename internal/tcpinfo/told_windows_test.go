package tcpinfo

import (
	"errors"
	"net"
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"
)

// told reports whether this system knows the question at all: Windows before 1703
// and Wine do not.
func told(t *testing.T, c net.Conn) bool {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var asked error
	var info tcpInfo
	var version, n uint32
	err = raw.Control(func(fd uintptr) {
		asked = windows.WSAIoctl(windows.Handle(fd), sioTCPInfo, (*byte)(unsafe.Pointer(&version)), uint32(unsafe.Sizeof(version)),
			(*byte)(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)), &n, nil, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	return !errors.Is(asked, windows.WSAEOPNOTSUPP)
}

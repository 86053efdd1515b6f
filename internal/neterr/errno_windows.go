package neterr

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Winsock has numbers of its own; the syscall.ECONN… of package syscall are
// invented ones that no call returns.
var errnos = map[syscall.Errno]string{
	windows.WSAECONNREFUSED:           TCPRefused,
	windows.WSAECONNRESET:             TCPReset,
	windows.WSAENETRESET:              TCPReset,
	windows.WSAESHUTDOWN:              TCPClosed,
	windows.WSAEDISCON:                TCPClosed,
	windows.WSAETIMEDOUT:              TCPTimedOut,
	windows.ERROR_SEM_TIMEOUT:         TCPTimedOut,
	windows.WSAECONNABORTED:           TCPAborted,
	windows.WSAEADDRNOTAVAIL:          TCPAddressInvalid,
	windows.WSAEAFNOSUPPORT:           TCPAddressInvalid,
	windows.WSAEHOSTUNREACH:           TCPUnreachable,
	windows.WSAEHOSTDOWN:              TCPUnreachable,
	windows.WSAENETUNREACH:            TCPUnreachable,
	windows.WSAENETDOWN:               TCPUnreachable,
	windows.ERROR_HOST_UNREACHABLE:    TCPUnreachable,
	windows.ERROR_NETWORK_UNREACHABLE: TCPUnreachable,
	windows.ERROR_CONNECTION_REFUSED:  TCPRefused,
	windows.ERROR_CONNECTION_ABORTED:  TCPAborted,
	windows.ERROR_NETNAME_DELETED:     TCPReset,
	windows.WSAEACCES:                 TCPFailed, // a local firewall forbids it
}

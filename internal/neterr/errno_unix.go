//go:build !windows

package neterr

import "syscall"

var errnos = map[syscall.Errno]string{
	syscall.ECONNREFUSED:  TCPRefused,
	syscall.ECONNRESET:    TCPReset,
	syscall.EPIPE:         TCPClosed,
	syscall.ETIMEDOUT:     TCPTimedOut,
	syscall.ECONNABORTED:  TCPAborted,
	syscall.EADDRNOTAVAIL: TCPAddressInvalid,
	syscall.EAFNOSUPPORT:  TCPAddressInvalid,
	syscall.EHOSTUNREACH:  TCPUnreachable,
	syscall.EHOSTDOWN:     TCPUnreachable,
	syscall.ENETUNREACH:   TCPUnreachable,
	syscall.ENETDOWN:      TCPUnreachable,
	syscall.EACCES:        TCPFailed, // a local firewall forbids it
	syscall.EPERM:         TCPFailed,
}

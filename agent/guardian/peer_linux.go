package guardian

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// ownerAsks reports whether root or our own account is at the other end of c
// (SO_PEERCRED, unix(7)). What is no socket is within this process.
func ownerAsks(c net.Conn) (bool, error) {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return c != nil, nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return false, err
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid(), nil
}

//go:build linux || darwin

package local

import (
	"errors"
	"net"
	"os"
)

// ownerAsks reports whether root or our own account is at the other end of c, by
// what the kernel says. What is no socket is within this process.
func ownerAsks(c net.Conn) (bool, error) {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return c != nil, nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false, err
	}
	var uid uint32
	var failed error
	err = raw.Control(func(fd uintptr) { uid, failed = peerUID(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		return false, err
	}
	return uid == 0 || int(uid) == os.Geteuid(), nil
}

//go:build unix

package idle

import "golang.org/x/sys/unix"

const supported = true

// readable tells whether a read would not wait: it leaves the bytes where they are.
func readable(fd uintptr) bool {
	var one [1]byte
	for {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err != unix.EAGAIN
		}
	}
}

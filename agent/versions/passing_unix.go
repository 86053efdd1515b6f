//go:build unix

package versions

import "syscall"

var passing = []syscall.Errno{
	syscall.ETXTBSY, syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR,
}

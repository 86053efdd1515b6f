//go:build unix

package guardian_test

import "syscall"

const passingError = syscall.ETXTBSY

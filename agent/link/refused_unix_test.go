//go:build unix

package link_test

import "syscall"

// refused is what the platform calls a refused connection.
const refused = syscall.ECONNREFUSED

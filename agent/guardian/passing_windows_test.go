package guardian_test

import "syscall"

const passingError = syscall.Errno(32) // ERROR_SHARING_VIOLATION

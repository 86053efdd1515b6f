package versions

import "syscall"

// Of "System Error Codes" in the Windows API's reference.
var passing = []syscall.Errno{
	4,    // ERROR_TOO_MANY_OPEN_FILES
	8,    // ERROR_NOT_ENOUGH_MEMORY
	14,   // ERROR_OUTOFMEMORY
	32,   // ERROR_SHARING_VIOLATION: a scanner looks at what was written just now
	33,   // ERROR_LOCK_VIOLATION
	1450, // ERROR_NO_SYSTEM_RESOURCES
	1455, // ERROR_COMMITMENT_LIMIT
}

package asleep

import (
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// The Go runtime's monotonic clock is the interrupt time, to which the system adds each
// sleep when it wakes (QueryUnbiasedInterruptTime is what is left without them).
const monotonicGoesOn = true

var queryUnbiased = windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")

// total is how long the machine has slept since it booted, to within a tick of some 16 ms.
// Modern standby is no sleep to the system: there the machine goes on, if slowly.
func total() time.Duration {
	return ahead(unbiased, func() (time.Duration, bool) { return windows.DurationSinceBoot(), true })
}

// unbiased is the time since boot without sleep.
func unbiased() (time.Duration, bool) {
	if queryUnbiased.Find() != nil {
		return 0, false
	}
	var hundredNS uint64
	if ok, _, _ := queryUnbiased.Call(uintptr(unsafe.Pointer(&hundredNS))); ok == 0 {
		return 0, false
	}
	return time.Duration(hundredNS) * 100, true
}

// Package clocktest makes times read after somebody set the wall clock. Only tests
// import it.
package clocktest

import (
	"testing"
	"time"
	"unsafe"
)

// Set gives t as it would have been read had the wall clock been set ahead by so much
// before, in whole seconds; its monotonic reading stays.
func Set(t testing.TB, at time.Time, by time.Duration) time.Time {
	t.Helper()
	set := at
	// The only way to one: the first word of a time with a monotonic reading holds, from
	// bit 30 on, the wall clock's seconds. What came of it is looked at below.
	*(*uint64)(unsafe.Pointer(&set)) += uint64(by/time.Second) << 30
	if mono, wall := set.Sub(at), set.Round(0).Sub(at.Round(0)); mono != 0 || wall != by {
		t.Fatalf("a wall clock set ahead by %v became one by %v, with %v on the monotonic one", by, wall, mono)
	}
	return set
}

// Package diskfree tells how much room a disk has left.
package diskfree

// Room is what a disk has, in bytes, and how many files it can hold; Files 0: it does
// not count them.
type Room struct{ Free, Total, FreeFiles, Files uint64 }

// Of gives the room for this process on the disk of dir. It may hang as long as the disk does.
func Of(dir string) (Room, error) { return of(dir) }

// Free is [Of] for the free bytes alone.
func Free(dir string) (uint64, error) {
	r, err := of(dir)
	return r.Free, err
}

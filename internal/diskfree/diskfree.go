// Package diskfree tells how much room a disk has left.
package diskfree

// Of gives the bytes that are free for this process on the disk of dir, and the
// disk's size. It may hang as long as the disk does.
func Of(dir string) (free, total uint64, err error) { return of(dir) }

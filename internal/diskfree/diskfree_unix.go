//go:build unix

package diskfree

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func of(dir string) (Room, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Room{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	size := uint64(s.Bsize)
	return Room{Free: uint64(s.Bavail) * size, Total: uint64(s.Blocks) * size, FreeFiles: uint64(s.Ffree), Files: uint64(s.Files)}, nil
}

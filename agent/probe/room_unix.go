//go:build !windows

package probe

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func roomIn(dir string) (room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return room{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	size := uint64(st.Bsize)
	return room{free: uint64(st.Bavail) * size, total: st.Blocks * size, files: uint64(st.Ffree), filesTotal: st.Files}, nil
}

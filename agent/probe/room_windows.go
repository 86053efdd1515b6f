package probe

import (
	"fmt"

	"golang.org/x/sys/windows"
)

func roomIn(dir string) (room, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return room{}, err
	}
	var r room
	if err := windows.GetDiskFreeSpaceEx(name, &r.free, &r.total, nil); err != nil {
		return room{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return r, nil
}

package diskfree

import (
	"fmt"

	"golang.org/x/sys/windows"
)

func of(dir string) (r Room, err error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(path, &r.Free, &r.Total, nil)
	}
	if err != nil {
		return Room{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return r, nil
}

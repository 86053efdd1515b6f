package agent

import (
	"errors"

	"golang.org/x/sys/windows"
)

// giveWay lets the process pid run after others.
func giveWay(pid int) error {
	h, err := windows.OpenProcess(windows.PROCESS_SET_INFORMATION, false, uint32(pid))
	if err != nil {
		return err
	}
	return errors.Join(windows.SetPriorityClass(h, windows.BELOW_NORMAL_PRIORITY_CLASS), windows.CloseHandle(h))
}

//go:build ignore

// Command suspend lets a process hang: every thread of it stands still. scripts/packages-msi.sh uses it.
package main

import (
	"os"
	"strconv"
	"syscall"
)

func main() {
	pid, _ := strconv.Atoi(os.Args[1])
	h, err := syscall.OpenProcess(0x0800, false, uint32(pid)) // PROCESS_SUSPEND_RESUME
	if err != nil {
		panic(err)
	}
	if status, _, _ := syscall.NewLazyDLL("ntdll.dll").NewProc("NtSuspendProcess").Call(uintptr(h)); status != 0 {
		panic(status)
	}
}

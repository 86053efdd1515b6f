package footprint

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgramPages unmaps the clean, read-only pages of the program's own file
// (code and constants) from this process: madvise(2), MADV_DONTNEED on a file
// mapping. Each comes back from the page cache at its next use. A mapping with
// pages of its own (relocated, then made read-only) is left alone: those would
// come back as they are in the file. Best effort.
func dropProgramPages() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer smaps.Close()
	var from, to uintptr
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var a, b uintptr
		var perms string
		// 00400000-00862000 r-xp 00000000 fe:00 1234  /usr/bin/gururmm-agent
		if n, _ := fmt.Sscanf(line, "%x-%x %4s", &a, &b, &perms); n == 3 {
			from, to = a, b
			ours = strings.HasSuffix(line, " "+program) && !strings.Contains(perms, "w")
			continue
		}
		if ours && strings.HasPrefix(line, "Anonymous:") && strings.Join(strings.Fields(line)[1:], " ") == "0 kB" {
			unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

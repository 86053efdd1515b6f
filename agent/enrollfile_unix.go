//go:build !windows

package agent

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// enrollFile is where an installation leaves an order to enroll: root's alone can be trusted
// with what is in /etc, and another account's agent has none.
func enrollFile(string) string {
	if os.Geteuid() != 0 {
		return ""
	}
	return "/etc/gururmm/enroll.conf"
}

// onlyOurs refuses a file that another account may read or has written: the token in it
// would be known, or the server that it names somebody else's.
func onlyOurs(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may read %s (mode %04o): chmod 600, and better make a new token", path, info.Mode().Perm())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d, the agent is uid %d: chown it", path, st.Uid, os.Geteuid())
	}
	return nil
}

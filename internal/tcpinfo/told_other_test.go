//go:build !windows

package tcpinfo

import (
	"net"
	"runtime"
	"testing"
)

// told reports whether this platform tells of connections at all.
func told(*testing.T, net.Conn) bool {
	return runtime.GOOS == "linux" || runtime.GOOS == "darwin"
}

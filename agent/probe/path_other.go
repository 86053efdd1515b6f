//go:build !linux

package probe

import "net"

// pathOf knows nothing here: only the interface's own MTU can be told.
func pathOf(net.Conn) pathFacts { return pathFacts{} }

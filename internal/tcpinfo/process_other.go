//go:build !linux

package tcpinfo

import (
	"errors"
	"fmt"
)

// OfProcess asks about another process. Here nothing tells.
func OfProcess(pid int) (Process, error) {
	return Process{}, fmt.Errorf("connections of process %d: %w", pid, errors.ErrUnsupported)
}

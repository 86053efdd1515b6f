//go:build !linux

package tcpinfo

import (
	"errors"
	"fmt"
)

// StateOf gives the state of another process; here nothing tells.
func StateOf(pid int) (letter, word string) { return "", "" }

// OfProcess asks about another process. Here nothing tells.
func OfProcess(pid int) (Process, error) {
	return Process{}, fmt.Errorf("connections of process %d: %w", pid, errors.ErrUnsupported)
}

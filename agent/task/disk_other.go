//go:build !linux

package task

import "os"

// dataFile syncs as the system does it (F_FULLFSYNC, FlushFileBuffers).
type dataFile struct{ *os.File }

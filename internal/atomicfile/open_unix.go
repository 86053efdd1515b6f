//go:build !windows

package atomicfile

import "os"

// Open opens path for reading. It lets others rename, replace and remove the file meanwhile.
func Open(path string) (*os.File, error) { return os.Open(path) }

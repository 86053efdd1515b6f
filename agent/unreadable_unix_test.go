//go:build unix

package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// unreadable makes a state that not even root can read: what lies below a file.
func unreadable(_ *testing.T, path string) error {
	return os.WriteFile(filepath.Dir(path), nil, 0o600)
}

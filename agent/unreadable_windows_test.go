package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/windows"
)

// unreadable makes a state that somebody else holds open alone, as a scanner does.
func unreadable(t *testing.T, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	h, err := windows.CreateFile(name, windows.GENERIC_WRITE, 0, nil, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err == nil {
		t.Cleanup(func() { _ = windows.CloseHandle(h) })
	}
	return err
}

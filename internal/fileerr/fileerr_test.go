package fileerr

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestWhy(t *testing.T) {
	dir := t.TempDir()
	_, absent := os.Open(filepath.Join(dir, "absent"))
	below := "/p is a file, or lies below one, where a directory is wanted"
	if runtime.GOOS == "windows" { // one error for both there: ERROR_PATH_NOT_FOUND
		below = "there is no /p"
	}
	for _, c := range []struct {
		err  error
		is   error
		says string
	}{
		{absent, fs.ErrNotExist, "there is no " + filepath.Join(dir, "absent")},
		{fmt.Errorf("read it: %w", absent), fs.ErrNotExist, "there is no " + filepath.Join(dir, "absent")},
		{&fs.PathError{Op: "mkdir", Path: "/p", Err: syscall.ENOENT}, fs.ErrNotExist, "the system makes no directory /p"},
		{&fs.PathError{Op: "open", Path: "/p", Err: syscall.EACCES}, fs.ErrPermission, "at /p"},
		{&fs.PathError{Op: "open", Path: "/p", Err: syscall.ENOTDIR}, syscall.ENOTDIR, below},
		{&fs.PathError{Op: "read", Path: "/p", Err: syscall.EISDIR}, syscall.EISDIR, "/p is a directory where a file is wanted"},
		{&fs.PathError{Op: "open", Path: "/p", Err: syscall.EROFS}, syscall.EROFS, "can't be written"},
		{Said("we know better", fs.ErrExist), fs.ErrExist, "we know better"},
		{errors.ErrUnsupported, errors.ErrUnsupported, errors.ErrUnsupported.Error()},
	} {
		if got := Why(c.err); !errors.Is(got, c.is) || !strings.Contains(got.Error(), c.says) || strings.Contains(got.Error(), "no such file") {
			t.Errorf("%v became %v, which does not say %q", c.err, got, c.says)
		}
	}
	if Why(nil) != nil {
		t.Error("no error became one")
	}
}

package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gururmm/internal/atomicfile"
)

// inPlace runs do, which makes a file in dir; where that is gone, or is no directory,
// it is made anew, and do runs once more: an endpoint whose directories somebody has
// cleared away must not refuse each job until it is started again.
func inPlace(dir string, do func() error) error {
	err := do()
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if _, made := makeDir(dir); made != nil {
		return errors.Join(err, made)
	}
	return do()
}

// makeDir makes dir, private. What stands at its place and is no directory is kept
// aside (had); a link is left alone, for somebody has meant something by it.
func makeDir(dir string) (had bool, err error) {
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
		aside := fmt.Sprintf("%s.corrupt-%s", dir, time.Now().UTC().Format("20060102T150405.000000000Z"))
		if err := atomicfile.Rename(dir, aside); err != nil {
			return true, fmt.Errorf("%s is no directory: %w", filepath.Base(dir), err)
		}
		had = true
	}
	return had, os.MkdirAll(dir, 0o700)
}

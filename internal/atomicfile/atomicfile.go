// Package atomicfile writes files whole or not at all: whoever reads after a
// crash, a full disk or a power cut finds the old bytes or the new, never a mix.
//
// A file that can't be understood is set aside under a telling name and kept:
// state is never reset in silence.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ErrNotFile: at the path is something else, a pipe or a directory.
var ErrNotFile = errors.New("not a regular file")

// Write replaces the file at path by data with the permissions perm: a temporary file in
// the same directory, synced, renamed over path, and the directory synced. On
// an error path is as it was, and the temporary file is gone.
//
// On Windows perm means little: the directory's access list is inherited.
func Write(path string, data []byte, perm os.FileMode) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	tmp, err := os.CreateTemp(dir, "."+name+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	// CreateTemp made it 0600; before the rename nobody else may have seen more.
	if err = chmod(tmp, perm); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = Rename(tmp.Name(), path); err != nil {
		return err
	}
	if serr := SyncDir(dir); serr != nil {
		// The new file is in place and whole; only its name may not survive a power cut.
		return fmt.Errorf("sync directory: %w", serr)
	}
	return nil
}

// maxQuarantineNames bounds the search for a free name within one second.
const maxQuarantineNames = 100

// Quarantine renames the file at path to path.corrupt-<UTC time> and gives the new path.
// An earlier quarantined file is never overwritten.
func Quarantine(path string, now time.Time) (string, error) {
	base := path + ".corrupt-" + now.UTC().Format("20060102T150405Z")
	for i := range maxQuarantineNames {
		to := base
		if i > 0 {
			to += "." + strconv.Itoa(i)
		}
		if _, err := os.Lstat(to); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("quarantine %s: %w", path, err)
		}
		if err := Rename(path, to); err != nil {
			return "", fmt.Errorf("quarantine %s: %w", path, err)
		}
		if err := SyncDir(filepath.Dir(path)); err != nil {
			return to, fmt.Errorf("quarantine %s: sync directory: %w", path, err)
		}
		return to, nil
	}
	return "", fmt.Errorf("quarantine %s: too many files set aside as %s*", path, filepath.Base(base))
}

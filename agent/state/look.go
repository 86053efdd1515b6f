package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Look gives the state directory as it is, made and mended by nobody: who only looks
// changes nothing. The error says that there is none or that it can't be entered;
// exposed says who else can get at it, nil if nobody can.
func Look(dir string) (d *Dir, exposed, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	fi, err := os.Lstat(abs)
	switch {
	case err != nil:
		return nil, nil, unreadable(abs, err)
	case !fi.IsDir():
		return nil, nil, noDirectory(abs, fi.Mode())
	}
	if _, err := os.ReadDir(abs); err != nil {
		return nil, nil, unreadable(abs, err)
	}
	return &Dir{path: abs}, exposedTo(abs, fi), nil
}

// Trial writes a small file into the directory and removes it again.
func (d *Dir) Trial() error {
	f, err := os.CreateTemp(d.path, ".trial-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString("trial\n")
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

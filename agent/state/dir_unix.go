//go:build !windows

package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// DefaultDir is where the service keeps its state: /var/lib/gururmm-agent, on
// macOS /Library/Application Support/GuruRMM/agent. Without root rights it is
// $XDG_STATE_HOME/gururmm-agent or ~/.local/state/gururmm-agent.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		if runtime.GOOS == "darwin" {
			return "/Library/Application Support/GuruRMM/agent", nil
		}
		return "/var/lib/gururmm-agent", nil
	}
	// The XDG base directory specification wants a relative path ignored.
	if base := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "gururmm-agent"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no state directory by default: %w", err)
	}
	return filepath.Join(home, ".local", "state", "gururmm-agent"), nil
}

func makeParent(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o002 != 0 && fi.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("%w: everybody may rename what is in %s; take that right away (chmod o-w) or name another directory", ErrNotPrivate, dir)
	}
	return nil
}

func makePrivate(dir string) error { return os.Mkdir(dir, 0o700) }

// ensurePrivate looks at and changes the opened directory, so that nobody can
// put another in its place in between.
func ensurePrivate(dir string) error {
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("%w: %s can't be opened by this account (uid %d): %w", ErrNotPrivate, dir, os.Geteuid(), err)
		}
		return fmt.Errorf("%w: %w", ErrNotPrivate, &os.PathError{Op: "open", Path: dir, Err: err})
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotPrivate, err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to uid %d, this is uid %d; give it back with chown, or name another directory",
			ErrNotPrivate, dir, st.Uid, os.Geteuid())
	}
	perm := fi.Mode().Perm()
	if perm&0o077 != 0 {
		names, err := f.Readdirnames(-1)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotPrivate, dir, err)
		}
		own := func(name string) bool {
			fi, err := os.Lstat(filepath.Join(dir, name))
			if err != nil || !fi.Mode().IsRegular() {
				return false
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			return ok && int(st.Uid) == os.Geteuid()
		}
		// A sticky directory is meant for many, also while it is empty.
		if shared := fi.Mode()&os.ModeSticky != 0; taken(names, shared, own) {
			return refuseTaken(dir)
		}
	}
	if perm != 0o700 {
		if err := f.Chmod(0o700); err != nil {
			return fmt.Errorf("%w: %s has mode %#o and chmod 0700 failed: %w", ErrNotPrivate, dir, perm, err)
		}
	}
	return nil
}

// exposedTo says who but this account can get at the directory; nil: nobody.
func exposedTo(dir string, fi os.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("%w: %s belongs to uid %d, this is uid %d", ErrNotPrivate, dir, st.Uid, os.Geteuid())
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %#o, others may enter it", ErrNotPrivate, dir, perm)
	}
	return nil
}

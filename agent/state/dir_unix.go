//go:build !windows

package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"gururmm/internal/fileerr"
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
	if err := exposedAbove(dir, os.Geteuid()); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// maxLinks bounds the symbolic links that are followed on the way to a directory.
const maxLinks = 40

// exposedAbove says which directory on the way to dir, itself included, lets anybody
// but root and the account uid put another one in the place of what is below it; nil:
// none does. So does sshd(8) with StrictModes. What does not exist yet lets nobody.
func exposedAbove(dir string, uid int) error {
	at, rest, links := "/", strings.Split(dir, "/"), 0
	for {
		if err := exposedDir(at, uid); err != nil {
			return err
		}
		for len(rest) > 0 && (rest[0] == "" || rest[0] == ".") {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return nil
		}
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		fi, err := os.Lstat(next)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case fi.Mode()&os.ModeSymlink == 0:
			at = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%w: %s leads through too many symbolic links", ErrNotPrivate, dir)
		}
		// In a sticky directory a link may be anybody's, who could lead it elsewhere.
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != 0 && int(st.Uid) != uid {
			return foreign(next, int(st.Uid))
		}
		to, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
}

func exposedDir(dir string, uid int) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if int(st.Uid) != 0 && int(st.Uid) != uid {
		return foreign(dir, int(st.Uid))
	}
	if fi.Mode()&os.ModeSticky != 0 { // only the owner of what is in it may rename that
		return nil
	}
	switch perm := fi.Mode().Perm(); {
	case perm&0o002 != 0:
		return fmt.Errorf("%w: everybody may rename what is in %s; take that right away (chmod o-w) or name another directory", ErrNotPrivate, dir)
	case perm&0o020 != 0 && st.Gid != 0 && (int(st.Uid) != uid || int(st.Gid) != uid): // an account's own group has its number
		return fmt.Errorf("%w: the group %d may rename what is in %s; take that right away (chmod g-w) or name another directory", ErrNotPrivate, st.Gid, dir)
	}
	return nil
}

func foreign(path string, owner int) error {
	return fmt.Errorf("%w: %s belongs to uid %d, who could put another directory in the place of this one; name one whose parents belong to root or to the agent's account",
		ErrNotPrivate, path, owner)
}

func makePrivate(dir string) error { return os.Mkdir(dir, 0o700) }

// ensurePrivate looks at and changes the opened directory, so that nobody can
// put another in its place in between.
func ensurePrivate(dir string) error {
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, syscall.EACCES) {
			return fileerr.Said(unreadable(dir, &os.PathError{Op: "open", Path: dir, Err: err}).Error(), errors.Join(ErrNotPrivate, err))
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
	account := os.Geteuid() // a doctor may be root's, and the agent's account another
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		account = int(st.Uid)
	}
	return exposedAbove(filepath.Dir(dir), account)
}

// PrivateBy is the command by which a person makes the directory private.
func PrivateBy(string) string { return "chmod 700" }

//go:build unix

package agent

import (
	"context"
	"log/slog"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"gururmm/internal/lockfile"
)

// become makes this process the program at path: same process id, so that a
// service manager sees no restart; same arguments and lock. It returns only what
// went wrong.
func (s *Setup) become(_ context.Context, path string, env []string, lock *lockfile.Lock, log *slog.Logger) error {
	passed, err := lock.Pass()
	if err != nil {
		log.Warn("the lock can't be passed on, only given back", "error", err)
	}
	env = append(append(os.Environ(), env...), envLock+"="+passed)
	if s.FlushLogs != nil {
		s.FlushLogs()
	}
	err = &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, append([]string{path}, os.Args[1:]...), env)}
	if kerr := lock.Keep(); kerr != nil {
		log.Warn("lock", "error", kerr)
	}
	return err
}

// mayExecute says why this account can't execute path: its mode, or a mount without.
func mayExecute(path string) error {
	if err := unix.Access(path, unix.X_OK); err != nil {
		return &os.PathError{Op: "execute", Path: path, Err: err}
	}
	return nil
}

// handedOver: this process itself becomes the next program.
func handedOver(inherited) bool { return false }

// obeyParent has nothing to obey here.
func (s *Setup) obeyParent(ctx context.Context, _ inherited) (context.Context, func()) {
	return ctx, func() {}
}

//go:build unix

package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// maxSocketPath keeps clear of what sockaddr_un holds: 104 bytes on macOS, 108 on Linux.
const maxSocketPath = 100

// SystemSocket is where the guardian of the platform's default directory answers.
const SystemSocket = runDir + "/status.sock"

// SocketPath is where the guardian of stateDir answers: for the platform's
// default directory a fixed place, so that nobody must know the state directory.
func SocketPath(stateDir string, isDefault bool) string {
	if isDefault && os.Geteuid() == 0 {
		return SystemSocket
	}
	return filepath.Join(stateDir, "status.sock")
}

// Listen opens the status socket at path, for root and group only. A
// socket that a dead guardian left is replaced; one that answers is [ErrInUse].
func Listen(path, group string) (net.Listener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if group == "" {
		group = StatusGroup
	}
	gid := groupID(group)
	if dir := filepath.Dir(path); dir == runDir {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("status socket: %w", err)
		}
		if gid >= 0 {
			os.Chown(dir, -1, gid) // without it only root can ask: safe, and seen at once
		}
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("status socket: %s exists and is no socket", path)
		}
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, fmt.Errorf("status socket %s: %w", path, ErrInUse)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("status socket: %w", err)
		}
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	if gid < 0 || os.Chown(path, -1, gid) != nil {
		return l, nil // for its owner only
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("status socket: %w", err), l.Close())
	}
	return l, nil
}

// checkSocketPath says clearly what the kernel calls an invalid argument.
func checkSocketPath(path string) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return fmt.Errorf("status socket: the path has %d bytes, a unix socket's may have %d: %s (choose a shorter one with --status-socket)",
		len(path), maxSocketPath, path)
}

// listenPrivate makes the socket 0600 first; the group gets its right after the
// ownership is set.
func listenPrivate(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// groupID gives the id of group, -1 if there is none.
func groupID(group string) int {
	g, err := user.LookupGroup(group)
	if err != nil {
		return -1
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return id
}

func dialStatus(ctx context.Context, path string) (net.Conn, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// notListening reports whether err says that there is nobody at the socket.
func notListening(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ECONNREFUSED)
}

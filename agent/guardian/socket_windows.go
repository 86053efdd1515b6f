package guardian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// SystemSocket is where the guardian of the platform's default directory answers.
const SystemSocket = `\\.\pipe\gururmm-agent`

// pipeAccess lets SYSTEM and the Administrators ask, and nobody else.
const pipeAccess = "D:P(A;;GA;;;SY)(A;;GA;;;BA)"

// SocketPath is the name of the pipe where the guardian of stateDir answers.
func SocketPath(stateDir string, isDefault bool) string {
	if isDefault {
		return SystemSocket
	}
	sum := sha256.Sum256([]byte(stateDir))
	return SystemSocket + "-" + hex.EncodeToString(sum[:6])
}

// ListenStatus opens the named pipe path. group has no meaning here.
func ListenStatus(path, group string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: pipeAccess})
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, windows.ERROR_PIPE_BUSY):
		return nil, fmt.Errorf("status pipe %s: %w", path, ErrInUse) // the first instance is another's
	case err != nil:
		return nil, fmt.Errorf("status pipe %s: %w", path, err)
	}
	return l, nil
}

func dialStatus(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// notListening reports whether err says that there is no such pipe.
func notListening(err error) bool { return errors.Is(err, os.ErrNotExist) }

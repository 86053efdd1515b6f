package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

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

// Listen opens the named pipe path. group has no meaning here.
func Listen(path, group string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: pipeAccess})
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, windows.ERROR_PIPE_BUSY):
		return nil, fmt.Errorf("status pipe %s: %w", path, ErrInUse) // the first instance is another's
	case err != nil:
		return nil, fmt.Errorf("status pipe %s: %w", path, err)
	}
	wakeUnderWine(path)
	return l, nil
}

// wakeUnderWine makes the first client of a pipe ourselves where Wine plays
// Windows: the library keeps the first instance of a pipe to hold its name and
// never listens on it; Windows passes it over, Wine connects a client to it, for ever.
func wakeUnderWine(path string) {
	if windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() != nil {
		return
	}
	// An error says that somebody else was first: as good.
	if c, err := winio.DialPipe(path, new(100*time.Millisecond)); err == nil {
		c.Close()
	}
}

func dialStatus(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// notListening reports whether err says that there is no such pipe.
func notListening(err error) bool { return errors.Is(err, os.ErrNotExist) }

//go:build unix

package guardian_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/agent/guardian"
)

func TestStaleSocketIsReplacedALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close() // as after kill -9

	if _, err := guardian.NewClient(path).Status(context.Background()); !errors.Is(err, guardian.ErrNotRunning) {
		t.Fatalf("asking a dead socket: %v, want ErrNotRunning", err)
	}
	l, err := guardian.ListenStatus(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Fatalf("socket mode %v, %v: others may ask", info.Mode(), err)
	}
	if _, err := guardian.ListenStatus(path, ""); !errors.Is(err, guardian.ErrInUse) {
		t.Fatalf("a second listener: %v, want ErrInUse", err)
	}
}

func TestSocketPathMustBeShortAndASocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := guardian.ListenStatus(long, ""); err == nil || !strings.Contains(err.Error(), "--status-socket") {
		t.Fatalf("too long a path: %v, want what to do about it", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := guardian.ListenStatus(file, ""); err == nil {
		t.Fatal("a file was taken for a stale socket")
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "mine" {
		t.Fatal("the file was removed")
	}
}

func TestOneGuardianAStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "guardian.lock")
	lock, err := guardian.Lock(file, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = guardian.Lock(file, "")
	held, ok := errors.AsType[*guardian.InUseError](err)
	if !ok || held.PID != os.Getpid() || !errors.Is(err, guardian.ErrInUse) || !strings.Contains(err.Error(), ", since 2") || !strings.HasSuffix(err.Error(), filepath.Dir(file)) {
		t.Fatalf("second lock: %v, want ErrInUse with process %d", err, os.Getpid())
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	lock, err = guardian.Lock(file, "")
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	lock.Release()
}

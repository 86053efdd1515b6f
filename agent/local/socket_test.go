//go:build unix

package local_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/agent/local"
)

func TestStaleSocketIsReplacedALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close() // as after kill -9

	if _, err := local.NewClient(path).Status(context.Background()); !errors.Is(err, local.ErrNotRunning) {
		t.Fatalf("asking a dead socket: %v, want ErrNotRunning", err)
	}
	l, err := local.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Fatalf("socket mode %v, %v: others may ask", info.Mode(), err)
	}
	if _, err := local.Listen(path, ""); !errors.Is(err, local.ErrInUse) {
		t.Fatalf("a second listener: %v, want ErrInUse", err)
	}
}

// A guardian whose loop hangs still has a socket that answers: with nothing to say.
func TestALoopThatHangsIsToldFromOneThatEnds(t *testing.T) {
	for _, c := range []struct {
		err    error
		silent bool
	}{{context.DeadlineExceeded, true}, {errors.New("the guardian is about to end"), false}} {
		path := filepath.Join(t.TempDir(), "s.sock")
		l, err := local.Listen(path, "")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		local.Serve(ctx, &wg, l, local.Handler(local.Answers{Status: func(context.Context) (local.Status, error) {
			return local.Status{}, c.err
		}}))
		_, err = local.NewClient(path).Status(t.Context())
		if err == nil || errors.Is(err, local.ErrSilent) != c.silent {
			t.Errorf("%v became %v", c.err, err)
		}
		cancel()
		wg.Wait()
	}
}

func TestSocketPathMustBeShortAndASocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := local.Listen(long, ""); err == nil || !strings.Contains(err.Error(), "--status-socket") {
		t.Fatalf("too long a path: %v, want what to do about it", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Listen(file, ""); err == nil {
		t.Fatal("a file was taken for a stale socket")
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "mine" {
		t.Fatal("the file was removed")
	}
}

func TestOneGuardianAStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "local.lock")
	lock, err := local.Lock(file, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = local.Lock(file, "")
	held, ok := errors.AsType[*local.InUseError](err)
	if !ok || held.PID != os.Getpid() || !errors.Is(err, local.ErrInUse) || !strings.Contains(err.Error(), ", since 2") || !strings.HasSuffix(err.Error(), filepath.Dir(file)) {
		t.Fatalf("second lock: %v, want ErrInUse with process %d", err, os.Getpid())
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	lock, err = local.Lock(file, "")
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	lock.Release()
}

func TestHalfOpenConnectionsAreFewAndShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := local.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	local.Serve(ctx, &wg, l, local.Handler(local.Answers{Status: func(context.Context) (local.Status, error) {
		return local.Status{Version: "here"}, nil
	}}))
	dial := func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	var held []net.Conn
	for range 32 {
		c := dial()
		defer c.Close()
		if _, err := c.Write([]byte("GET /sta")); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	more := dial()
	defer more.Close()
	if n, err := more.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("one more than 32 is served: %d, %v", n, err)
	}
	for _, c := range held { // each is given up by itself
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("half a request is waited for without end")
		}
	}
	// Its place is free a moment after its end is seen.
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s, err := local.NewClient(path).Status(ctx)
		if err == nil && s.Version == "here" {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("nobody is answered any more: %+v, %v", s, err)
		}
	}
}

package agent

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/pipe"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// ear is systemd's end of the notification socket.
type ear struct {
	t    *testing.T
	conn *net.UnixConn
}

const watchdog = 400 * time.Millisecond

func listenAsSystemd(t *testing.T) *ear {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return &ear{t, conn}
}

// hear gives the next message, "" if none comes within d.
func (e *ear) hear(d time.Duration) string {
	e.t.Helper()
	if err := e.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		e.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := e.conn.Read(b)
	if err != nil && !os.IsTimeout(err) {
		e.t.Fatal(err)
	}
	return string(b[:n])
}

// hearUntil waits for a message with all of want.
func (e *ear) hearUntil(want ...string) {
	e.t.Helper()
	var last string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		m := e.hear(time.Until(end))
		has := true
		for _, w := range want {
			has = has && strings.Contains("\n"+m+"\n", w)
		}
		if has {
			return
		}
		last = m
	}
	e.t.Fatalf("no message with %q; the last was %q", want, last)
}

// reporter is a worker that says it is well, often.
func reporter(context.Context) (guardian.Child, error) {
	in, orders := io.Pipe()
	facts, out := io.Pipe()
	gone := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(gone); out.Close(); in.Close() }) }
	var wg sync.WaitGroup
	wg.Go(func() { // takes the orders; a drain is an end
		for lines := pipe.NewReader[pipe.Order](in); ; {
			if o, err := lines.Read(); err != nil || o.Drain != nil {
				end()
				return
			}
		}
	})
	wg.Go(func() {
		tick := time.NewTicker(watchdog / 20)
		defer tick.Stop()
		for {
			link := selfcheck.LinkFacts{Phase: selfcheck.PhaseVerified, ID: 7, VerifiedAge: new(time.Minute), PhaseAge: new(time.Minute)}
			if pipe.Write(out, pipe.Fact{Snapshot: &selfcheck.Snapshot{Link: link}}) != nil {
				return
			}
			select {
			case <-tick.C:
			case <-gone:
				return
			}
		}
	})
	return guardian.Child{
		PID: 1000, Stdin: orders, Stdout: facts,
		Wait: func() error { <-gone; wg.Wait(); return nil },
		Kill: func([]selfcheck.JobFact) error { end(); return nil },
	}, nil
}

// The loop itself feeds the watchdog: while it hangs, nothing does.
func TestSystemdIsToldByTheLoopAndNotWhileItHangs(t *testing.T) {
	systemd := listenAsSystemd(t)
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var hang atomic.Bool
	hung, wake := make(chan struct{}), make(chan struct{})
	log := slog.New(slog.DiscardHandler)
	tell := (&Setup{}).teller(log)
	g, err := guardian.New(guardian.Config{
		Agent: "agent-1", Presence: wire.Presence{Instance: wire.NewID()}, Keys: []ed25519.PublicKey{key},
		Policy: wire.DefaultPolicy(), Spawn: reporter, WorkerLog: io.Discard, Notify: tell.turn,
		Gate: func() {
			if hang.CompareAndSwap(true, false) {
				close(hung)
				<-wake
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { err := g.Run(ctx); tell.end(err); done <- err }()

	systemd.hearUntil("\nREADY=1\n")
	systemd.hearUntil("\nSTATUS=guarding, ok", "\nWATCHDOG=1\n")
	for range 5 {
		systemd.hearUntil("\nWATCHDOG=1\n")
	}

	hang.Store(true)
	<-hung
	for systemd.hear(watchdog) != "" { // what was under way
	}
	if m := systemd.hear(3 * watchdog); m != "" {
		t.Errorf("the loop hangs, and systemd is told %q", m)
	}
	close(wake)
	systemd.hearUntil("\nWATCHDOG=1\n")

	stop()
	systemd.hearUntil("\nSTOPPING=1\n", "\nEXTEND_TIMEOUT_USEC=", "\nSTATUS=stopping, ok")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// One that waits to be enrolled is ready, and is watched too.
func TestSystemdIsToldWhileItWaitsForAnIdentity(t *testing.T) {
	systemd := listenAsSystemd(t)
	dir := t.TempDir()
	s, err := Prepare(Options{StateDir: dir, Service: true, StatusSocket: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, s, slog.New(slog.DiscardHandler), io.Discard) }()
	systemd.hearUntil("\nREADY=1\n", "\nSTATUS=Not enrolled", "\nWATCHDOG=1\n")
	stop()
	systemd.hearUntil("\nSTOPPING=1\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

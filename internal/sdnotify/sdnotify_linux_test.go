package sdnotify

import (
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestChildrenCantSpeakForUs(t *testing.T) {
	env := []string{"PATH=/bin", "NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=1", "WATCHDOG_PID=2", "NOTIFY_SOCKET_OF_OTHERS=1"}
	if got, want := Strip(env), []string{"PATH=/bin", "NOTIFY_SOCKET_OF_OTHERS=1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if env[1] != "NOTIFY_SOCKET=/run/n" {
		t.Error("the caller's environment was changed")
	}
}

func TestNobodyToTell(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := New(slog.New(slog.DiscardHandler))
	if n != nil || err != nil {
		t.Fatalf("%v, %v: want none", n, err)
	}
	n.Tell(State{Status: "x"}) // must not panic
	n.Close()
}

func TestStatusIsOneBoundedLine(t *testing.T) {
	got := line("a\nREADY=1\r\n" + strings.Repeat("ü", maxStatus))
	if !strings.HasPrefix(got, "a READY=1 üü") || len(got) > maxStatus || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

// A service manager that reads nothing holds nobody up, and in the end gets the newest.
func TestTellNeverBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		for i := range 20000 { // more than any queue of datagrams holds
			n.Tell(State{Status: strings.Repeat("x", 1+i%maxStatus)})
		}
		n.Tell(State{Status: "the last", Stopping: true, Extend: time.Second})
	}()
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("Tell waits for systemd")
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		size, err := conn.Read(b)
		if err != nil {
			t.Fatalf("the newest never came: %v", err)
		}
		if string(b[:size]) == "STOPPING=1\nEXTEND_TIMEOUT_USEC=1000000\nSTATUS=the last\nWATCHDOG=1" {
			break
		}
	}
	n.Close()
}

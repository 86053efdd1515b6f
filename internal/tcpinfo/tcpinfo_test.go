package tcpinfo

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// pair gives two ends of a TCP connection.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if ours, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs = <-accepted; theirs == nil {
		t.Fatal("not accepted")
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// until asks about c until ok, for the kernel delivers in its own time.
func until(t *testing.T, c net.Conn, what string, ok func(Info) bool) Info {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		info, known := Of(c)
		if known != told(t, c) {
			t.Fatalf("known: %v", known)
		}
		if !known || ok(info) {
			return info
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: never so: %+v", what, info)
		}
	}
}

func is(n *uint64, want uint64) bool { return n != nil && *n == want }

func TestWhatIsNotReadIsSeen(t *testing.T) {
	ours, theirs := pair(t)
	before := until(t, ours, "established", func(i Info) bool { return i.State == "established" && is(i.Unread, 0) })
	if before.ReceivedAge != nil {
		t.Errorf("data came %v ago, of none", *before.ReceivedAge)
	}
	if _, err := theirs.Write([]byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	until(t, ours, "ten bytes wait", func(i Info) bool { return is(i.Unread, 10) && is(i.Received, 10) })
	until(t, theirs, "all is acknowledged", func(i Info) bool { return is(i.Unacked, 0) })
	if _, err := io.ReadFull(ours, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	info := until(t, ours, "six bytes wait", func(i Info) bool { return is(i.Unread, 6) })
	if runtime.GOOS == "linux" && (info.ReceivedAge == nil || info.RTT == nil || info.MSS == nil || info.PMTU == nil || info.Congestion != "open") {
		t.Errorf("not told: %+v", info)
	}
}

func TestWhatIsNotAcknowledgedIsSeen(t *testing.T) {
	ours, theirs := pair(t)
	theirs.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	written, err := theirs.Write(make([]byte, 64<<20)) // more than both kernels hold
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes: %v", written, err)
	}
	full := until(t, theirs, "bytes wait", func(i Info) bool { return i.Unacked != nil && *i.Unacked > 0 })
	reading := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, ours, int64(written))
		reading <- err
	}()
	if err := <-reading; err != nil {
		t.Fatal(err)
	}
	empty := until(t, theirs, "none waits", func(i Info) bool { return is(i.Unacked, 0) })
	if runtime.GOOS == "linux" && (full.Unsent == nil || *full.Unsent == 0 || empty.Acked == nil || *empty.Acked-uint64(written) > 1) {
		t.Errorf("full %+v, then empty %+v, written %d", full, empty, written)
	}
}

// layer is a wrapped connection, as the tap is.
type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

func TestLayersAreSeenThrough(t *testing.T) {
	ours, _ := pair(t)
	secure := tls.Client(layer{ours}, &tls.Config{ServerName: "x"})
	if _, known := Of(layer{secure}); known != told(t, ours) {
		t.Errorf("through TLS known: %v", known)
	}
}

func TestWhereThereIsNothingToTell(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if info, known := Of(a); known {
		t.Errorf("a pipe tells %+v", info)
	}
	ours, _ := pair(t)
	ours.Close()
	if info, known := Of(ours); known {
		t.Errorf("a closed connection tells %+v", info)
	}
	var loop layer
	loop.Conn = &loop
	if _, known := Of(loop); known {
		t.Error("a connection around itself tells something")
	}
}

func TestAnotherProcessIsSeenFromOutside(t *testing.T) {
	ours, theirs := pair(t)
	if _, err := theirs.Write([]byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	until(t, ours, "ten bytes wait", func(i Info) bool { return is(i.Unread, 10) })
	p, err := OfProcess(os.Getpid())
	if runtime.GOOS != "linux" {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
		return
	}
	if err != nil || p.State == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, q := range p.Queues {
		if q.Remote == ours.RemoteAddr().String() {
			if q.Unread != 10 || q.State != "established" {
				t.Errorf("seen as %+v", q)
			}
			return
		}
	}
	t.Errorf("%s is not among %+v", ours.RemoteAddr(), p.Queues)
}

func TestAProcessThatIsNotThereIsAnError(t *testing.T) {
	if p, err := OfProcess(1 << 30); err == nil {
		t.Errorf("told %+v", p)
	}
}

func BenchmarkOf(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		Of(c)
	}
}

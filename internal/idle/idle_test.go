//go:build unix

package idle

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func ends(t *testing.T) (near net.Conn, far *Conn) {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := Listener(plain)
	defer ln.Close()
	if near, err = net.Dial("tcp", plain.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		conn.Close()
	})
	return near, Of(layer{layer{conn}})
}

type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

// lend reads once, lent.
func lend(c *Conn, patience time.Duration, buf []byte) (n int, err error) {
	err = c.Lend(patience, func() error {
		n, err = c.Read(buf)
		return err
	})
	return n, err
}

func write(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Fatal(err)
	}
}

func TestALentReadComesBack(t *testing.T) {
	near, far := ends(t)
	buf := make([]byte, 16)
	for _, s := range []string{"one", "two"} {
		if _, err := lend(far, 0, buf); err != ErrNothing {
			t.Fatalf("%v, want nothing", err)
		}
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			far.Wait()
		}()
		write(t, near, s)
		<-waited
		far.Wait() // at once: it has not been read yet
		n, err := lend(far, 0, buf)
		if err != nil || string(buf[:n]) != s {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
}

func TestWaitSeesWhatCameBefore(t *testing.T) {
	near, far := ends(t)
	buf := make([]byte, 1)
	write(t, near, "ab")
	if _, err := io.ReadFull(far, buf); err != nil { // both have come
		t.Fatal(err)
	}
	far.Wait()
	if n, err := lend(far, 0, buf); err != nil || string(buf[:n]) != "b" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestWaitEndsWithTheConnection(t *testing.T) {
	for name, end := range map[string]func(near net.Conn, far *Conn) error{
		"peer": func(near net.Conn, _ *Conn) error { return near.Close() },
		"here": func(_ net.Conn, far *Conn) error { return far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := ends(t)
			waited := make(chan struct{})
			go func() {
				defer close(waited)
				far.Wait()
			}()
			if err := end(near, far); err != nil {
				t.Fatal(err)
			}
			<-waited
			if _, err := lend(far, 0, make([]byte, 1)); err == nil || err == ErrNothing {
				t.Errorf("read after the end: %v", err)
			}
			far.Wait() // at once
		})
	}
}

func TestPatienceIsOfALentReadOnly(t *testing.T) {
	near, far := ends(t)
	const patience = 20 * time.Millisecond
	buf := make([]byte, 16)
	began := time.Now()
	if _, err := lend(far, patience, buf); err != ErrNothing {
		t.Fatalf("%v, want nothing", err)
	}
	if waited := time.Since(began); waited < patience {
		t.Errorf("came back after %v", waited)
	}
	write(t, near, "one")
	n, err := lend(far, time.Minute, buf)
	if err != nil || string(buf[:n]) != "one" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	// One that is not lent outlasts it.
	far.expire(time.Now().Add(patience))
	late := time.AfterFunc(5*patience, func() { io.WriteString(near, "two") }) // the read tells if not
	defer late.Stop()
	if n, err := far.Read(buf); err != nil || string(buf[:n]) != "two" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	// And so does Wait.
	far.expire(time.Now().Add(-time.Second))
	late.Reset(patience)
	far.Wait()
	if n, err := lend(far, 0, buf); err != nil || string(buf[:n]) != "two" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestADeadlineOfOthersStands(t *testing.T) {
	_, far := ends(t)
	far.SetReadDeadline(time.Now().Add(-time.Second))
	var timeout net.Error
	if _, err := far.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v, want a time-out", err)
	}
}

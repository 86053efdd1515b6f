package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/memnet"
	"gururmm/wire"
)

// counted counts writes, and fails them once it is told to.
type counted struct {
	net.Conn
	mu     sync.Mutex
	writes int
	broken error
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	err := c.broken
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// fail has writes give err from now on, as those do whose peer has closed.
func (c *counted) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = err
}

// corkedEnds are two ends of which the server's gathers its frames.
func corkedEnds(t *testing.T) (a, s *Conn, below *counted) {
	t.Helper()
	listener := memnet.Listen("server:443")
	upgraded := make(chan *websocket.Conn, 1)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		ws, err := up.Upgrade(hijacked{w, &below}, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded <- ws
	})}
	go web.Serve(listener)
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.Dial(ctx) }}
	ws, _, err := dialer.Dial("ws://server/v1/link", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, s = New(ws, Options{Link: link}), New(<-upgraded, Options{Link: link, WriteTimeout: 5 * time.Second})
	t.Cleanup(func() {
		a.fail(errors.New("test over"))
		s.fail(errors.New("test over"))
		a.writer.Wait()
		s.writer.Wait()
		web.Close()
	})
	return a, s, below
}

type hijacked struct {
	http.ResponseWriter
	below **counted
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.ResponseWriter.(http.Hijacker).Hijack()
	*h.below = &counted{Conn: conn}
	return Corked(*h.below), rw, err
}

func TestFramesThatWaitTogetherAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, below := corkedEnds(t)
		atAgent := reading(a)
		reading(s)
		synctest.Wait()
		before := below.writes
		var written []uint64
		for range 3 {
			if err := s.Send(envelope(t, wire.Echo{ID: "x"}), SendOptions{Flush: true, Hold: true, Written: func(n uint64, _ time.Time, err error) {
				if err != nil {
					t.Error(err)
				}
				if below.writes == before {
					t.Error("a text was told to be written before it was")
				}
				written = append(written, n)
			}}); err != nil {
				t.Fatal(err)
			}
		}
		s.Drain()
		for want := uint64(1); want <= 3; want++ {
			if m := <-atAgent; m.Number != want {
				t.Errorf("text %d came as %d", want, m.Number)
			}
		}
		synctest.Wait()
		// Three texts and their pings are one; then come pongs of the agent's own pings.
		if got := below.writes - before; got < 1 || got > 3 {
			t.Errorf("%d writes", got)
		}
		if !slices.Equal(written, []uint64{1, 2, 3}) {
			t.Errorf("told of %v", written)
		}
		if v := s.Facts(time.Now()).Ledger; v.RTT == nil || v.Up != nil || v.Peer == nil || v.Peer.Read != 3 {
			t.Errorf("the ledger: %+v", v)
		}
	})
}

func TestGatheredTextsOfABrokenWriteAreNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, below := corkedEnds(t)
		reading(a)
		reading(s)
		synctest.Wait()
		broken := errors.New("broken")
		below.fail(broken)
		told := make(chan error, 2)
		for range 2 {
			if err := s.Send(envelope(t, wire.Echo{}), SendOptions{Flush: true, Hold: true, Written: func(_ uint64, _ time.Time, err error) { told <- err }}); err != nil {
				t.Fatal(err)
			}
		}
		s.Drain()
		for range 2 {
			if err := <-told; !errors.Is(err, broken) {
				t.Errorf("told %v", err)
			}
		}
		if <-s.Done(); !errors.Is(s.Err(), broken) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestTheClosingFrameIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _ := corkedEnds(t)
		s.cork.cork()                                                      // as if frames were gathered just now
		go s.Close(websocket.CloseServiceRestart, errors.New("come back")) // in memory a write waits for its reader
		_, err := a.Read()
		if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != websocket.CloseServiceRestart || closed.Text != "come back" {
			t.Errorf("the peer read %v", err)
		}
	})
}

// timed tells of deadlines.
type timed struct {
	net.Conn
	until time.Time
	set   int
}

func (c *timed) SetWriteDeadline(t time.Time) error { c.until, c.set = t, c.set+1; return nil }
func (c *timed) SetDeadline(t time.Time) error      { return c.SetWriteDeadline(t) }

// A write has nearly the time that it was given, never more, and a busy link's deadline is
// moved seldom.
func TestDeadlinesAreMovedSeldomAndNeverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &timed{}
		c := Corked(below)
		for range 1000 {
			c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if left := time.Until(below.until); left > 10*time.Second || left < 9*time.Second {
				t.Fatalf("%v left of 10 s", left)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if below.set > 20 {
			t.Errorf("set %d times in 10 s", below.set)
		}
		for _, d := range []time.Duration{time.Second, 10 * time.Second, time.Millisecond, time.Hour} {
			c.SetWriteDeadline(time.Now().Add(d))
			if left := time.Until(below.until); left != d {
				t.Errorf("%v left of %v", left, d)
			}
		}
		time.Sleep(2 * time.Hour) // the one in force is long over
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if left := time.Until(below.until); left != time.Second {
			t.Errorf("%v left of 1 s, after one that is over", left)
		}
		c.SetDeadline(time.Time{})
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if left := time.Until(below.until); left != time.Second {
			t.Errorf("%v left of 1 s, after none", left)
		}
		c.SetWriteDeadline(time.Time{})
		if !below.until.IsZero() {
			t.Error("it can't be taken off")
		}
	})
}

// What is written while gathered frames leave comes after them.
func TestGatheredFramesLeaveBeforeLaterOnes(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := &corked{Conn: near}
	c.cork()
	if _, err := c.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- c.uncork() }()
	got := make([]byte, 6)
	if _, err := io.ReadFull(far, got[:1]); err != nil { // it is under way
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, got[1:]); err != nil || string(got) != "onetwo" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	go c.Write([]byte("three")) // at once: nothing is gathered any more
	if _, err := io.ReadFull(far, got[:5]); err != nil || string(got[:5]) != "three" {
		t.Errorf("%q, %v", got[:5], err)
	}
}

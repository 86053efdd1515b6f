package session

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/memnet"
	"gururmm/wire"
)

const link = wire.LinkID(0x1234)

// ends connects two sessions in memory; both are closed with the test. The raw
// sockets allow to write what a Conn never would.
func ends(t *testing.T, agent, server Options) (a, s *Conn, rawAgent, rawServer *websocket.Conn) {
	t.Helper()
	listener := memnet.Listen("server:443")
	upgraded := make(chan *websocket.Conn, 1)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded <- ws
	})}
	go web.Serve(listener)
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := listener.Dial(ctx)
		return &counted{Conn: c}, err
	}}
	rawAgent, _, err := dialer.Dial("ws://server/v1/link", nil)
	if err != nil {
		t.Fatal(err)
	}
	rawServer = <-upgraded
	agent.Link, server.Link = link, link
	a, s = New(rawAgent, agent), New(rawServer, server)
	t.Cleanup(func() {
		a.fail(errors.New("test over"))
		s.fail(errors.New("test over"))
		a.writer.Wait()
		s.writer.Wait()
		web.Close()
	})
	return a, s, rawAgent, rawServer
}

// reading runs c's reader and hands over what it reads.
func reading(c *Conn) <-chan Message {
	out := make(chan Message, 100)
	go func() {
		defer close(out)
		for {
			m, err := c.Read()
			if err != nil {
				return
			}
			out <- m
		}
	}()
	return out
}

func envelope(t testing.TB, payload any) wire.Envelope {
	t.Helper()
	env, err := wire.Seal(wire.TypeEcho, payload)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestTextsArriveInOrderAndLedgersAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{Owed: func() uint32 { return 3 }})
		atServer, atAgent := reading(s), reading(a)
		var written []uint64
		for range 5 {
			err := a.Send(envelope(t, wire.Echo{ID: "x"}), SendOptions{Flush: true, Written: func(n uint64, _ time.Time, err error) {
				if err != nil {
					t.Error(err)
				}
				written = append(written, n)
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for want := uint64(1); want <= 5; want++ {
			m := <-atServer
			env, err := wire.Decode(m.Text)
			if err != nil || env.Seq != want || m.Number != want {
				t.Fatalf("text %d: seq %d, number %d, %v", want, env.Seq, m.Number, err)
			}
		}
		if err := s.Send(envelope(t, wire.EchoReply{ID: "x"}), SendOptions{Flush: true}); err != nil {
			t.Fatal(err)
		}
		<-atAgent
		synctest.Wait()
		if len(written) != 5 || written[4] != 5 {
			t.Errorf("written callbacks: %v", written)
		}
		for name, f := range map[string]Facts{"agent": a.Facts(time.Now()), "server": s.Facts(time.Now())} {
			v := f.Ledger
			if v.Peer == nil || v.Peer.Written != v.Local.Read || v.Peer.WrittenCRC != v.Local.ReadCRC || v.Peer.Read != v.Local.Written || v.Peer.ReadCRC != v.Local.WrittenCRC {
				t.Errorf("%s: local %+v, peer %+v", name, v.Local, v.Peer)
			}
			if v.Down != nil || v.Up != nil || v.Altered != "" || v.RTT == nil || v.UnansweredAge != nil {
				t.Errorf("%s: %+v", name, v)
			}
		}
		if got := a.Facts(time.Now()).Ledger.Owed; got != 3 {
			t.Errorf("owed = %d", got)
		}
	})
}

func TestHeartbeatTellsTheLedgerAsOfItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		atServer := reading(s)
		reading(a)
		for range 3 {
			if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		err := a.Send(wire.Envelope{}, SendOptions{Compose: func(l wire.Ledger) (wire.Envelope, error) {
			return wire.Seal(wire.TypeHeartbeat, wire.Heartbeat{Ledger: l})
		}})
		if err != nil {
			t.Fatal(err)
		}
		var m Message
		for range 4 {
			m = <-atServer
		}
		env, err := wire.Decode(m.Text)
		if err != nil {
			t.Fatal(err)
		}
		beat, err := wire.DecodePayload[wire.Heartbeat](env)
		if err != nil || beat.Ledger.Written != 3 {
			t.Fatalf("ledger tells of %d texts, want the 3 before it (%v)", beat.Ledger.Written, err)
		}
		s.PeerLedger(beat.Ledger, m, 0)
		if v := s.Facts(time.Now()).Ledger; v.Down != nil || v.Excess != nil || v.Altered != "" || v.PeerVia != "text" {
			t.Errorf("%+v", v)
		}
	})
}

// A gap is confirmed by asking again, without anybody else's timer, and ever more rarely.
func TestSuspicionAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		reading(s)
		reading(a)
		a.mu.Lock()
		a.ledgers.Wrote([]byte("a text that dies on the way"))
		a.mu.Unlock()
		a.Ping(true)
		synctest.Wait()
		if up := a.Facts(time.Now()).Ledger.Up; up == nil || up.Age != 0 {
			t.Fatalf("up = %+v", up)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if up := a.Facts(time.Now()).Ledger.Up; up == nil || up.Age < time.Second {
			t.Fatalf("not confirmed over a second: %+v", up)
		}
		if down := s.Facts(time.Now()).Ledger.Down; down == nil || down.Missing != 1 {
			t.Fatalf("server: %+v", down)
		}
		time.Sleep(time.Hour)
		a.mu.Lock()
		asked := a.recheck.asked
		a.mu.Unlock()
		if asked > 150 {
			t.Errorf("asked %d times in an hour", asked)
		}
	})
}

// An echo and its answer go without a ping behind them. Who waits asks once the answer is late,
// and the loss of either is proven, by a gap of a second, as soon as if there had been one.
func TestALostEchoOrAnswerIsProvenByWhoWaits(t *testing.T) {
	echo := []byte("an echo")
	for name, lose := range map[string]func(a, s *Conn){
		"the echo": func(a, _ *Conn) { a.ledgers.Wrote(echo) },
		"the answer": func(a, s *Conn) {
			a.ledgers.Wrote(echo)
			s.ledgers.DidRead(wire.Chain(0, echo), time.Now())
			s.ledgers.Wrote([]byte("its answer"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, s, _, _ := ends(t, Options{}, Options{})
				reading(s)
				reading(a)
				began := time.Now()
				s.mu.Lock()
				a.mu.Lock()
				lose(a, s)
				a.mu.Unlock()
				s.mu.Unlock()
				time.Sleep(Late)
				a.Ping(true)
				for {
					synctest.Wait()
					v := a.Facts(time.Now()).Ledger
					if g := cmp.Or(v.Up, v.Down); g != nil && g.Age >= time.Second {
						break
					}
					if time.Since(began) > time.Minute {
						t.Fatalf("never proven: %+v", v)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(began); took > Late+1100*time.Millisecond {
					t.Errorf("proven after %v", took)
				}
			})
		})
	}
}

// What is held waits for Drain, and shows as unwritten from when it was sent.
func TestHeldTextsAreWrittenByWhoDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		atServer := reading(s)
		began := time.Now()
		for range 2 {
			if err := a.Send(envelope(t, wire.Echo{}), SendOptions{Hold: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if f := a.Facts(time.Now()); f.Queued != 2 || !f.Unwritten.Equal(began) || f.Held != 2*time.Second || f.Ledger.Local.Written != 0 {
			t.Fatalf("before it is drained: %+v", f)
		}
		a.Drain()
		a.Drain() // nothing to do
		for want := uint64(1); want <= 2; want++ {
			if m := <-atServer; m.Number != want {
				t.Errorf("text %d came as %d", want, m.Number)
			}
		}
		if f := a.Facts(time.Now()); f.Queued != 0 || !f.Unwritten.IsZero() || f.Held != 0 || f.Ledger.Local.Written != 2 {
			t.Errorf("afterwards: %+v", f)
		}
		a.Close(websocket.CloseNormalClosure, errors.New("over"))
		a.Drain()
	})
}

// A write that hangs shows since when its text is queued, not since when the next one is.
func TestATextInAHangingWriteIsUnwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _, _ := ends(t, Options{}, Options{})
		began := time.Now()
		for range 2 { // nobody reads: the first one hangs
			if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if f := a.Facts(time.Now()); f.Queued != 2 || !f.Unwritten.Equal(began) || !f.WriterWaits || f.Held != 0 {
			t.Errorf("%+v", f)
		}
	})
}

// What is kept back is counted from when the network took the text before it, and stands, as of
// the end, once the link is over.
func TestWhatIsKeptBackStandsOnceTheLinkIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); err != nil { // nobody reads yet
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stuck := make(chan struct{})
		compose := func(wire.Ledger) (wire.Envelope, error) { <-stuck; return envelope(t, wire.Echo{}), nil }
		if err := a.Send(wire.Envelope{}, SendOptions{Compose: compose}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		reading(s)
		time.Sleep(3 * time.Second)
		if f := a.Facts(time.Now()); f.Queued != 1 || f.Held != 3*time.Second {
			t.Errorf("before its end: %+v", f)
		}
		go a.Close(websocket.CloseNormalClosure, errors.New("over")) // waits for the writer
		synctest.Wait()
		time.Sleep(time.Minute)
		close(stuck)
		synctest.Wait()
		if f := a.Facts(time.Now()); f.Held != 3*time.Second {
			t.Errorf("after its end: %+v", f)
		}
	})
}

// Texts of all sizes around that of the buffer they are read into.
func TestTextsOfAllSizesAreReadWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, raw, _ := ends(t, Options{}, Options{})
		atServer := reading(s)
		var texts []string
		for _, n := range []int{0, 1, len(scratch{}) - 1, len(scratch{}), len(scratch{}) + 1, 3 * len(scratch{}), wire.MaxMessage} {
			texts = append(texts, strings.Repeat("0123456789", n/10+1)[:n])
		}
		go func() {
			for _, text := range texts {
				raw.WriteMessage(websocket.TextMessage, []byte(text))
			}
		}()
		for _, text := range texts {
			if m := <-atServer; string(m.Text) != text || m.TooLarge {
				t.Errorf("of %d bytes %d came", len(text), len(m.Text))
			}
		}
	})
}

func TestOversizedTextIsSkippedNotFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, raw, _ := ends(t, Options{}, Options{})
		atServer := reading(s)
		go func() {
			raw.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", wire.MaxMessage+1)))
			raw.WriteMessage(websocket.BinaryMessage, []byte{1})
			raw.WriteMessage(websocket.TextMessage, []byte("fine"))
		}()
		if m := <-atServer; !m.TooLarge || m.Text != nil || m.Number != 1 {
			t.Fatalf("%+v", m)
		}
		if m := <-atServer; !m.Binary || m.Number != 2 {
			t.Fatalf("%+v", m)
		}
		if m := <-atServer; string(m.Text) != "fine" || m.Number != 3 {
			t.Fatalf("%+v", m)
		}
	})
}

func TestPeerThatTakesNothingEndsTheLinkNotTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _, _ := ends(t, Options{WriteTimeout: 5 * time.Second, MaxQueue: 4096}, Options{})
		go func() {
			for {
				if _, err := a.Read(); err != nil {
					return
				}
			}
		}()
		failed := make(chan error, 100)
		full := false
		for range 50 {
			err := a.Send(envelope(t, wire.Echo{Pad: strings.Repeat("x", 200)}), SendOptions{Written: func(_ uint64, _ time.Time, err error) { failed <- err }})
			if errors.Is(err, ErrQueueFull) {
				full = true
				break
			}
		}
		if !full {
			t.Error("the queue has no bound")
		}
		synctest.Wait()
		if a.Facts(time.Now()).WriterBusy.IsZero() {
			t.Error("a blocked write does not show")
		}
		start := time.Now()
		<-a.Done()
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("ended after %v", d)
		}
		if err := <-failed; err == nil {
			t.Error("a text that was never taken was called written")
		}
		if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("send on an ended link: %v", err)
		}
	})
}

func TestWrittenIsNeverLaterThanRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		began := time.Now()
		written := make(chan time.Time, 1)
		err := a.Send(envelope(t, wire.Echo{}), SendOptions{Written: func(_ uint64, at time.Time, err error) {
			if err != nil {
				t.Error(err)
			}
			written <- at
		}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // virtual: the path takes no byte until the peer reads
		m, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if at := <-written; !at.Equal(began) || at.After(m.At) {
			t.Errorf("written %v and read %v after it was sent", at.Sub(began), m.At.Sub(began))
		}
	})
}

func TestReaderBusyShowsAHandlerInTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second) // the owner does not come back for more
		busy := s.Facts(time.Now()).ReaderBusy
		if busy.IsZero() || time.Since(busy) != 7*time.Second {
			t.Errorf("busy since %v", busy)
		}
		go s.Read()
		synctest.Wait()
		if !s.Facts(time.Now()).ReaderBusy.IsZero() {
			t.Error("a waiting reader shows as busy")
		}
	})
}

func TestCloseTellsThePeerWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		go func() {
			for {
				if _, err := s.Read(); err != nil {
					return
				}
			}
		}()
		go a.Read()
		s.Close(websocket.CloseServiceRestart, errors.New("draining"))
		<-a.Done()
		closed := &websocket.CloseError{}
		if !errors.As(a.Err(), &closed) || closed.Code != websocket.CloseServiceRestart || closed.Text != "draining" {
			t.Errorf("peer saw %v", a.Err())
		}
	})
}

// Whether an account is calm is told as of the last evidence, whoever brought it.
func TestPulseTellsWhetherTheAccountIsCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, _, _ := ends(t, Options{}, Options{})
		atServer := reading(s)
		reading(a)
		is := func(want bool, when string) {
			t.Helper()
			synctest.Wait()
			if _, _, calm := s.Pulse(time.Now()); calm != want {
				t.Errorf("%s: calm is %v", when, calm)
			}
		}
		is(false, "before anything came")
		a.Ping(false)
		is(true, "after a ping")
		if err := a.Send(envelope(t, wire.Echo{ID: "x"}), SendOptions{}); err != nil {
			t.Fatal(err)
		}
		m := <-atServer
		s.PeerLedger(wire.Ledger{Link: link, Written: 5}, m, 0)
		is(false, "after a ledger that tells of more than came")
		m.Number = 6
		s.PeerLedger(wire.Ledger{Link: link, Written: 5}, m, 0)
		is(true, "after one that tells of what came")
	})
}

// A write that fails because the peer has closed does not hide why it did.
func TestAFailedWriteDoesNotHideWhatThePeerSaid(t *testing.T) {
	reset := error(syscall.ECONNRESET)
	breaks := func(t *testing.T, c *Conn, below *counted) {
		t.Helper()
		below.fail(reset)
		told := make(chan error, 2)
		for range 2 {
			if err := c.Send(envelope(t, wire.Echo{}), SendOptions{Hold: true, Written: func(_ uint64, _ time.Time, err error) { told <- err }}); err != nil {
				t.Fatal(err)
			}
		}
		c.Drain()
		for range 2 {
			if err := <-told; !errors.Is(err, reset) && !errors.Is(err, ErrClosed) {
				t.Errorf("of a text: %v", err)
			}
		}
		if err := c.Err(); err != nil {
			t.Errorf("ended before the reader could say why: %v", err)
		}
		if err := c.Send(envelope(t, wire.Echo{}), SendOptions{}); !errors.Is(err, ErrClosed) || !c.Facts(time.Now()).Over {
			t.Errorf("send when nothing can be written: %v", err)
		}
	}
	closing := func(c *Conn) { // in memory a write waits for its reader
		go c.Close(websocket.CloseServiceRestart, errors.New("draining"))
		synctest.Wait()
	}
	isTold := func(t *testing.T, c *Conn) {
		t.Helper()
		c.Read()
		if closed, ok := errors.AsType[*websocket.CloseError](c.Err()); !ok || closed.Text != "draining" {
			t.Errorf("ended with %v", c.Err())
		}
	}
	plain := func(t *testing.T) (a, s *Conn, below *counted) {
		a, s, raw, _ := ends(t, Options{}, Options{})
		return a, s, raw.NetConn().(*counted)
	}
	for _, tt := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"closed in order", func(t *testing.T) {
			a, s, below := plain(t)
			closing(s)
			breaks(t, a, below)
			isTold(t, a)
		}},
		{"closed in order, frames gathered", func(t *testing.T) {
			a, s, below := corkedEnds(t)
			closing(a)
			breaks(t, s, below)
			isTold(t, s)
		}},
		{"cut off", func(t *testing.T) {
			a, s, below := plain(t)
			s.ws.Close()
			breaks(t, a, below)
			if a.Read(); !errors.Is(a.Err(), reset) {
				t.Errorf("ended with %v", a.Err())
			}
		}},
		{"spoken to in another tongue", func(t *testing.T) {
			a, s, below := plain(t)
			go s.ws.NetConn().Write([]byte("HTTP/1.1 403 Forbidden\r\n"))
			breaks(t, a, below)
			if a.Read(); errors.Is(a.Err(), reset) {
				t.Errorf("ended with %v", a.Err())
			}
		}},
		{"nobody reads", func(t *testing.T) {
			a, _, below := plain(t)
			breaks(t, a, below)
			began := time.Now()
			<-a.Done()
			if took := time.Since(began); took != lastWords || !errors.Is(a.Err(), reset) {
				t.Errorf("ended after %v with %v", took, a.Err())
			}
		}},
		{"closed by this end", func(t *testing.T) {
			a, s, _ := plain(t)
			reading(s)
			a.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(closeWait)) // as Close does first
			if err := a.Send(envelope(t, wire.Echo{}), SendOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the writer has failed
			over := errors.New("over")
			if a.Close(websocket.CloseNormalClosure, over); !errors.Is(a.Err(), over) {
				t.Errorf("ended with %v", a.Err())
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { synctest.Test(t, tt.run) })
	}
}

//go:build unix

package session

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/certtest"
	"gururmm/internal/idle"
	"gururmm/wire"
)

type resting struct{ http.ResponseWriter }

func (h resting) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.ResponseWriter.(http.Hijacker).Hijack()
	conn, rw.Reader = Hijacked(conn, rw.Reader)
	return conn, rw, err
}

// server is an end of a link over TCP whose reader rests, and answers each text.
type server struct {
	*Conn
	rests atomic.Int64
	ended chan struct{}
}

func (s *server) run() {
	if s.Each(s.answer) {
		s.rests.Add(1)
		go s.rest()
		return
	}
	close(s.ended)
}

func (s *server) rest() {
	s.Rest()
	s.run()
}

func (s *server) answer(m Message) bool {
	env, err := wire.Decode(m.Text)
	if err != nil {
		return false
	}
	return s.Send(env, SendOptions{}) == nil
}

// restingEnds gives the agent's WebSocket, on what dial makes of a TCP connection, and the server's end.
func restingEnds(t testing.TB, wrap func(net.Listener) net.Listener, dial func(net.Conn) net.Conn) (*websocket.Conn, *server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upgraded := make(chan *websocket.Conn, 1)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{WriteBufferSize: 4096}
		ws, err := up.Upgrade(resting{w}, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded <- ws
	})}
	go web.Serve(wrap(listener))
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return dial(conn), nil
	}}
	ws, _, err := dialer.Dial("ws://"+listener.Addr().String()+"/v1/link", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Conn: New(<-upgraded, Options{Link: link}), ended: make(chan struct{})}
	go s.run()
	t.Cleanup(func() {
		ws.Close()
		<-s.ended
		s.writer.Wait()
		web.Close()
	})
	return ws, s
}

func plain(conn net.Conn) net.Conn { return conn }

// until waits for what the server's end comes to by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came to this: " + what)
		}
	}
}

// dribble writes byte by byte.
type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func ledger(written uint64) []byte {
	return (&wire.Ledger{Link: link, Written: written, Answer: true}).AppendTo(nil)
}

func TestAReaderRestsAndMissesNothing(t *testing.T) {
	ca := certtest.NewCA(t)
	over := func(ln net.Listener) net.Listener {
		return tls.NewListener(idle.Listener(ln), &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}})
	}
	secure := func(conn net.Conn) net.Conn {
		return tls.Client(conn, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	}
	for name, c := range map[string]struct {
		wrap func(net.Listener) net.Listener
		dial func(net.Conn) net.Conn
	}{
		"plain":             {idle.Listener, plain},
		"TLS":               {over, secure},
		"plain, in crumbs":  {idle.Listener, func(conn net.Conn) net.Conn { return dribble{conn} }},
		"TLS, in crumbs":    {over, func(conn net.Conn) net.Conn { return secure(dribble{conn}) }},
		"TLS, many records": {over, func(conn net.Conn) net.Conn { return dribble{secure(conn)} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ws, s := restingEnds(t, c.wrap, c.dial)
			texts := make(chan []byte, 10)
			go func() {
				defer close(texts)
				for {
					_, text, err := ws.ReadMessage()
					if err != nil {
						return
					}
					texts <- text
				}
			}()
			ponged := make(chan string, 10)
			ws.SetPongHandler(func(data string) error { ponged <- data; return nil })
			var sent uint64
			for round := range 3 {
				for _, size := range []int{1, 200, 300, 9000} {
					env := envelope(t, wire.EchoReply{ID: "x", Pad: string(make([]byte, size))})
					raw, err := env.Encode()
					if err != nil {
						t.Fatal(err)
					}
					if err := ws.WriteMessage(websocket.TextMessage, raw); err != nil {
						t.Fatal(err)
					}
					sent++
					data := ledger(sent)
					if err := ws.WriteControl(websocket.PingMessage, data, time.Now().Add(10*time.Second)); err != nil {
						t.Fatal(err)
					}
					if got := <-ponged; got != string(data) {
						t.Fatalf("pong %q", got)
					}
					if text := <-texts; len(text) < size {
						t.Fatalf("%d bytes came back of %d", len(text), size)
					}
				}
				until(t, "rest after a text", func() bool { return s.rests.Load() > int64(round) })
				v := s.Facts(time.Now()).Ledger
				if v.Local.Read != sent || v.Peer == nil || v.Peer.Written != sent || v.Down != nil || v.Foreign != 0 {
					t.Fatalf("after %d texts: %+v", sent, v)
				}
			}
		})
	}
}

// What wakes a reader and is no text lets it rest again at once.
func TestPingsAreAnsweredAtRest(t *testing.T) {
	ws, s := restingEnds(t, idle.Listener, plain)
	ponged := make(chan string, 10)
	ws.SetPongHandler(func(data string) error { ponged <- data; return nil })
	go ws.ReadMessage() // ends with ws
	until(t, "rest", func() bool { return s.rests.Load() > 0 })
	for range 10 {
		data := ledger(0)
		began, rests := time.Now(), s.rests.Load()
		if err := ws.WriteControl(websocket.PingMessage, data, time.Now().Add(10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := <-ponged; got != string(data) {
			t.Fatalf("pong %q", got)
		}
		until(t, "rest after a ping", func() bool { return s.rests.Load() > rests })
		if f := s.Facts(time.Now()); f.Inbound.Before(began) || !f.ReaderBusy.IsZero() {
			t.Errorf("%+v", f)
		}
	}
}

func TestRestEndsWithTheLink(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn, *server){
		"closed here":  func(_ *websocket.Conn, s *server) { s.Close(websocket.CloseGoingAway, errors.New("enough")) },
		"closed there": func(ws *websocket.Conn, _ *server) { ws.Close() },
		"with closing frame": func(ws *websocket.Conn, _ *server) {
			ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1001, "bye"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ws, s := restingEnds(t, idle.Listener, plain)
			until(t, "rest", func() bool { return s.rests.Load() > 0 })
			end(ws, s)
			select {
			case <-s.ended:
			case <-time.After(20 * time.Second):
				t.Fatal("it rests on")
			}
			if s.Err() == nil {
				t.Error("it has not ended")
			}
		})
	}
}

// Frames that break RFC 6455 are the library's to refuse, also at rest.
func TestABadFrameAtRestEndsTheLink(t *testing.T) {
	mask := "\x00\x00\x00\x00"
	for name, frame := range map[string]string{
		"unmasked ping":  "\x89\x01x",
		"ping in pieces": "\x09\x81" + mask + "x",
		"reserved bit":   "\xc9\x81" + mask + "x",
		"too large":      "\x89\xfe\x00\x7e" + mask + string(make([]byte, 126)),
		"unknown opcode": "\x8b\x81" + mask + "x",
	} {
		t.Run(name, func(t *testing.T) {
			ws, s := restingEnds(t, idle.Listener, plain)
			until(t, "rest", func() bool { return s.rests.Load() > 0 })
			if _, err := io.WriteString(ws.NetConn(), frame); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseProtocolError) {
				t.Errorf("%v, want a protocol error", err)
			}
			<-s.ended
		})
	}
}

// A ping between the frames of one text is answered, and the text is whole.
func TestAPingBetweenFramesOfOneText(t *testing.T) {
	ws, s := restingEnds(t, idle.Listener, plain)
	until(t, "rest", func() bool { return s.rests.Load() > 0 })
	env := envelope(t, wire.EchoReply{ID: "x"})
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	frame := func(head byte, payload []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{head, 0x80 | byte(len(payload))}, 0), payload...)
	}
	ponged := make(chan string, 1)
	ws.SetPongHandler(func(data string) error { ponged <- data; return nil })
	for _, f := range [][]byte{frame(0x01, raw[:3]), frame(0x89, []byte("between")), frame(0x80, raw[3:])} {
		if _, err := ws.NetConn().Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, text, err := ws.ReadMessage(); err != nil || len(text) == 0 {
		t.Fatal(err)
	}
	if got := <-ponged; got != "between" {
		t.Errorf("pong %q", got)
	}
}

// BenchmarkRest is what a link costs for each text, and for each ping, and its answer, with a
// reader that rests and with one that does not.
func BenchmarkRest(b *testing.B) {
	for name, wrap := range map[string]func(net.Listener) net.Listener{"rests": idle.Listener, "never": func(l net.Listener) net.Listener { return l }} {
		b.Run(name+"/texts", func(b *testing.B) {
			ws, _ := restingEnds(b, wrap, plain)
			env := envelope(b, wire.EchoReply{ID: "x"})
			raw, err := env.Encode()
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := ws.WriteMessage(websocket.TextMessage, raw); err != nil {
					b.Fatal(err)
				}
				if _, _, err := ws.ReadMessage(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/pings", func(b *testing.B) {
			ws, _ := restingEnds(b, wrap, plain)
			ponged := make(chan struct{}, 1)
			ws.SetPongHandler(func(string) error { ponged <- struct{}{}; return nil })
			go ws.ReadMessage() // ends with ws
			data := ledger(0)
			for b.Loop() {
				if err := ws.WriteControl(websocket.PingMessage, data, time.Now().Add(10*time.Second)); err != nil {
					b.Fatal(err)
				}
				<-ponged
			}
		})
	}
}

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The floor: raw TCP, a goroutine for each connection, frames with their length before
// them. textSize is what a frame carries: as much as a text that asks for an echo.
const textSize = 128

type tcpServer struct {
	l       net.Listener
	working sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newTCPServer() role { return &tcpServer{} }

func (s *tcpServer) do(_ context.Context, o order) (answer, error) {
	switch o.Do {
	case "memory":
		return answer{}, nil
	case "ping":
		s.mu.Lock()
		go pingAll(s.conns) // ends with the process
		s.mu.Unlock()
		return answer{}, nil
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return answer{}, err
	}
	s.l = l
	s.working.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go serveFrames(conn) // ends with its client, which ends before the server
		}
	})
	return answer{Addr: l.Addr().String()}, nil
}

func (s *tcpServer) close() error {
	if s.l == nil {
		return nil
	}
	defer s.working.Wait()
	return s.l.Close()
}

// serveFrames sends each frame back.
func serveFrames(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 512)
	for {
		frame, err := readFrame(conn, buf)
		if err != nil {
			return
		}
		if len(frame) == 4 {
			continue // answers a ping
		}
		if _, err := conn.Write(frame); err != nil {
			return
		}
	}
}

// pingAll writes a ping to each connection in turn, spread over the interval as ours are, in
// the ticks of a wheel.
func pingAll(conns []net.Conn) {
	ping := make([]byte, 64)
	const ticks = int(pingEvery / (50 * time.Millisecond))
	tick := time.NewTicker(pingEvery / time.Duration(ticks))
	for i := 0; ; i = (i + 1) % ticks {
		<-tick.C
		for _, conn := range conns[len(conns)*i/ticks : len(conns)*(i+1)/ticks] {
			conn.Write(ping) // a client that is gone is not looked for
		}
	}
}

// readFrame gives the next frame with its length before it, in buf.
func readFrame(conn net.Conn, buf []byte) ([]byte, error) {
	n, err := io.ReadAtLeast(conn, buf, 4)
	if err != nil {
		return nil, err
	}
	size := 4 + int(binary.BigEndian.Uint32(buf))
	if size > len(buf) {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	if n < size {
		if _, err := io.ReadFull(conn, buf[n:size]); err != nil {
			return nil, err
		}
	}
	return buf[:size], nil
}

// dialMany makes n connections from addresses of their own, for one address has ports for
// 28,000 only, with hello said on each.
func dialMany(ctx context.Context, addr string, n int, hello func(net.Conn) (net.Conn, error)) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	slots := make(chan struct{}, 128)
	var dialing sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		dialing.Go(func() {
			defer func() { <-slots }()
			d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 32, byte(1+i/250), byte(1+i%250))}}
			conn, err := d.DialContext(ctx, "tcp4", addr)
			if err == nil && hello != nil {
				conn, err = hello(conn)
			}
			conns[i], errs[i] = conn, err
		})
	}
	dialing.Wait()
	return conns, errors.Join(errs...)
}

type tcpClients struct{ conns []net.Conn }

func newTCPClients() role { return &tcpClients{} }

func (c *tcpClients) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "connect":
		more, err := dialMany(ctx, o.Addr, o.N, nil)
		c.conns = append(c.conns, more...)
		return a, err
	case "ping":
		for _, conn := range c.conns {
			go answerFrames(conn) // ends with the connection
		}
	case "echo":
		frame := binary.BigEndian.AppendUint32(nil, textSize)
		frame = append(frame, make([]byte, textSize)...)
		a.Load, err = echoes(c.conns, o.InFlight, o.For, func(conn net.Conn, _ int, buf []byte) error {
			if _, err := conn.Write(frame); err != nil {
				return err
			}
			_, err := readFrame(conn, buf)
			return err
		})
	}
	return a, err
}

// answerFrames answers each ping with a frame that has nothing in it.
func answerFrames(conn net.Conn) {
	buf := make([]byte, 64)
	conn.SetDeadline(time.Time{})
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return
		}
		conn.Write(make([]byte, 4)) // an error: the next read says so
	}
}

func (c *tcpClients) close() error { return closeAll(c.conns) }

func closeAll(conns []net.Conn) error {
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
	return nil
}

// echoes has so many round trips under way at once, each worker going round its share of
// the connections.
func echoes(conns []net.Conn, inFlight int, d time.Duration, once func(conn net.Conn, i int, buf []byte) error) (load, error) {
	inFlight = min(inFlight, len(conns))
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var workers sync.WaitGroup
	began := time.Now()
	for w := range inFlight {
		workers.Go(func() {
			var each []time.Duration
			var err error
			buf := make([]byte, 1024)
			for i := w; err == nil && time.Since(began) < d; i += inFlight {
				if i >= len(conns) {
					i = w
				}
				at := time.Now()
				conns[i].SetDeadline(at.Add(patience))
				err = once(conns[i], i, buf)
				each = append(each, time.Since(at))
			}
			mu.Lock()
			all, failed = append(all, each...), errors.Join(failed, err)
			mu.Unlock()
		})
	}
	workers.Wait()
	return loadOf(all, time.Since(began)), failed
}

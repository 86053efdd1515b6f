package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsServer is the well-known peers' engine, embedded. What answers requests is in the
// same process and no network away, as our own server's answers are.
type natsServer struct {
	s    *server.Server
	conn *nats.Conn
}

func newNATSServer() role { return &natsServer{} }

func (s *natsServer) do(_ context.Context, o order) (a answer, err error) {
	if o.Do == "memory" || o.Do == "ping" {
		return a, nil
	}
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, PingInterval: pingEvery}
	switch o.Do {
	case "serve-tls":
		cert, err := selfSigned()
		if err != nil {
			return a, err
		}
		opts.TLS, opts.TLSTimeout = true, patience.Seconds()
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	case "serve-stream":
		opts.JetStream, opts.StoreDir, opts.SyncAlways = true, o.Dir, true
	}
	if s.s, err = server.NewServer(opts); err != nil {
		return a, err
	}
	s.s.Start()
	if !s.s.ReadyForConnections(patience) {
		return a, errors.New("the NATS server did not become ready")
	}
	inside := []nats.Option{nats.InProcessServer(s.s)}
	if o.Do == "serve-tls" {
		inside = append(inside, nats.Secure(&tls.Config{InsecureSkipVerify: true}))
	}
	if s.conn, err = nats.Connect("", inside...); err != nil {
		return a, err
	}
	a.Addr = s.s.Addr().String()
	_, err = s.conn.Subscribe("echo", func(m *nats.Msg) {
		_ = m.Respond(m.Data) // an error: the server ends
	})
	return a, err
}

func (s *natsServer) close() error {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.s != nil {
		s.s.Shutdown()
		s.s.WaitForShutdown()
	}
	return nil
}

// natsClients speak the protocol by themselves: thousands of the Go client would not fit.
type natsClients struct{ conns []net.Conn }

// pingEvery is how often each link is looked at, as our own policy has it.
const pingEvery = 30 * time.Second

func newNATSClients() role { return &natsClients{} }

func (c *natsClients) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "connect", "connect-tls":
		first := len(c.conns)
		more, err := dialMany(ctx, o.Addr, o.N, func(conn net.Conn) (net.Conn, error) { return natsHello(ctx, conn, o.Do == "connect-tls") })
		c.conns = append(c.conns, more...)
		for i := first; err == nil && i < len(c.conns); i++ {
			err = natsSubscribe(c.conns[i], i)
		}
		return a, err
	case "ping":
		for _, conn := range c.conns {
			go func() { // ends with the connection
				buf := make([]byte, 64)
				for {
					conn.SetDeadline(time.Time{})
					if _, err := conn.Read(buf); err != nil {
						return
					}
					conn.Write([]byte("PONG\r\n")) // nothing but pings comes
				}
			}()
		}
	case "cut":
		first := time.Now()
		n := len(c.conns)
		if err := c.close(); err != nil {
			return a, err
		}
		c.conns = nil
		_, err = c.do(ctx, order{Do: "connect-tls", Addr: o.Addr, N: n})
		a.Took = time.Since(first)
	case "echo":
		payload := make([]byte, textSize)
		a.Load, err = echoes(c.conns, o.InFlight, o.For, func(conn net.Conn, i int, buf []byte) error {
			line := fmt.Appendf(buf[:0], "PUB echo in.%d %d\r\n", i, textSize)
			line = append(append(line, payload...), "\r\n"...)
			if _, err := conn.Write(line); err != nil {
				return err
			}
			return natsMessage(conn, buf)
		})
	}
	return a, err
}

func (c *natsClients) close() error { return closeAll(c.conns) }

// natsHello reads the server's first line and introduces the client, over TLS if asked for.
func natsHello(ctx context.Context, conn net.Conn, secure bool) (net.Conn, error) {
	conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 4096)
	if _, err := conn.Read(buf); err != nil || !bytes.HasPrefix(buf, []byte("INFO ")) {
		return conn, fmt.Errorf("no INFO: %.40q (%w)", buf, err)
	}
	if secure {
		over := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // what is measured is the other end
		if err := over.HandshakeContext(ctx); err != nil {
			return conn, err
		}
		conn = over
	}
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"go\",\"protocol\":1}\r\nPING\r\n")); err != nil {
		return conn, err
	}
	return conn, natsAwait(conn, buf, "PONG\r\n")
}

// natsSubscribe has connection i get what is for it, as an agent gets its commands.
func natsSubscribe(conn net.Conn, i int) error {
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "SUB in.%d 1\r\nPING\r\n", i); err != nil {
		return err
	}
	return natsAwait(conn, make([]byte, 1024), "PONG\r\n")
}

// natsAwait reads until word has come; a ping among it is answered.
func natsAwait(conn net.Conn, buf []byte, word string) error {
	held := 0
	for !bytes.Contains(buf[:held], []byte(word)) {
		n, err := conn.Read(buf[held:])
		if err != nil {
			return err
		}
		if held += n; held == len(buf) {
			return fmt.Errorf("more than %d bytes, and no %q among them", held, word)
		}
	}
	if bytes.Contains(buf[:held], []byte("PING\r\n")) {
		_, err := conn.Write([]byte("PONG\r\n"))
		return err
	}
	return nil
}

// natsMessage reads one message; a ping before it is answered.
func natsMessage(conn net.Conn, buf []byte) error {
	held := 0
	for {
		n, err := conn.Read(buf[held:])
		if err != nil {
			return err
		}
		held += n
		if rest, pinged := bytes.CutPrefix(buf[:held], []byte("PING\r\n")); pinged {
			held = copy(buf, rest)
			if _, err := conn.Write([]byte("PONG\r\n")); err != nil {
				return err
			}
		}
		head, body, whole := bytes.Cut(buf[:held], []byte("\r\n"))
		if !whole {
			continue
		}
		size, err := strconv.Atoi(string(head[bytes.LastIndexByte(head, ' ')+1:]))
		if err != nil || !bytes.HasPrefix(head, []byte("MSG ")) {
			return fmt.Errorf("no message: %q", head)
		}
		if len(body) >= size+2 {
			return nil
		}
	}
}

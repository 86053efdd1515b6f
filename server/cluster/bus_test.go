package cluster

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"gururmm/internal/certtest"
)

func start(t *testing.T, o nats.Options) *nats.Server {
	t.Helper()
	o.Host, o.NoSigs, o.NoLog = "127.0.0.1", true, true
	if o.Port == 0 {
		o.Port = nats.RANDOM_PORT
	}
	s, err := nats.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(60 * time.Second) {
		t.Fatal("NATS does not come up")
	}
	return s
}

func end(s *nats.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// runBus runs a bus; the function ends it and waits.
func runBus(t *testing.T, m *member) func() {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, func(got Message) {
			select {
			case m.got <- got:
			default: // nobody asks any more
			}
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// member is a node's end of a bus.
type member struct {
	*NATS
	got chan Message
}

func join(t *testing.T, o NATSOptions) *member {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	b, err := NewNATS(o)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{b, make(chan Message, 100)}
	t.Cleanup(runBus(t, m))
	return m
}

func (m *member) up(t *testing.T, want bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, down := m.State()
		if (down == nil) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("up is not %v: %v", want, down)
		}
	}
}

// hears sends until the other one has it: to be told is no promise.
func (m *member) hears(t *testing.T, from *member, want Message) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	give := time.After(60 * time.Second)
	for {
		from.Send(want)
		select {
		case got := <-m.got:
			if got.Node == want.Node && slices.Equal(got.Topics, want.Topics) && got.Command == want.Command && got.Notice == want.Notice {
				return
			}
		case <-tick.C:
		case <-give:
			t.Fatalf("%+v does not come", want)
		}
	}
}

// Nodes hear each other, not other clusters; NATS may go and come back.
func TestBusComesBack(t *testing.T) {
	s := start(t, nats.Options{})
	url, port := s.ClientURL(), s.Addr().(*net.TCPAddr).Port
	a := join(t, NATSOptions{URLs: url, Space: "x", Name: "a"})
	b := join(t, NATSOptions{URLs: url, Space: "x", Name: "b"})
	other := join(t, NATSOptions{URLs: url, Space: "y", Name: "c"})
	for _, m := range []*member{a, b, other} {
		m.up(t, true)
	}
	b.hears(t, a, Message{Node: "a", Topics: []string{"c/1", "v/2"}})
	a.hears(t, b, Message{Node: "b", Command: "1", Notice: "attempt 1"})
	end(s)
	a.up(t, false)
	for range 2 * maxWaiting { // nobody waits for who is away
		a.Send(Message{Node: "a"})
	}
	s = start(t, nats.Options{Port: port})
	defer end(s)
	a.up(t, true)
	b.up(t, true)
	b.hears(t, a, Message{Node: "a", Topics: []string{"c/3"}})
	if n, _ := a.State(); n == 0 {
		t.Error("nothing was dropped")
	}
	select {
	case m := <-other.got:
		t.Errorf("another cluster heard %+v", m)
	default:
	}
}

// A NATS with TLS and a password is used with its roots and a URL that has the password;
// without either it is not.
func TestBusBehindTLS(t *testing.T) {
	dir := t.TempDir()
	authority := certtest.NewCA(t)
	cert := authority.Leaf(t, nil)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, nats.Options{Username: "u", Password: "hunter2", TLS: true, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}})
	defer end(s)
	host := s.Addr().String()
	a := join(t, NATSOptions{URLs: "tls://u:hunter2@" + host, CA: ca, Space: "x", Name: "a"})
	a.up(t, true)
	for _, o := range []NATSOptions{
		{URLs: "tls://u:hunter2@" + host, Space: "x"},
		{URLs: "tls://u:wrong@" + host, CA: ca, Space: "x"},
	} {
		b := join(t, o)
		time.Sleep(300 * time.Millisecond) // nothing comes of it
		if _, down := b.State(); down == nil {
			t.Errorf("%s: it is up", o.CA)
		} else if strings.Contains(down.Error(), "hunter2") {
			t.Errorf("it tells the password: %v", down)
		}
	}
}

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// maxTopics bounds the topics of one message; together they are well below what a NATS
	// server takes.
	maxTopics = 4000
	// maxWaiting bounds the messages that wait to be sent; more are dropped.
	maxWaiting = 4096
	// reconnectWait is between tries to reach NATS.
	reconnectWait = time.Second
	// maxMessage bounds a message that is taken in, in bytes.
	maxMessage = 1 << 20
)

// Message is a wake-up: topics that changed, or a command.
type Message struct {
	Node    string   `json:"node"` // who sends it
	Topics  []string `json:"topics,omitempty"`
	Command string   `json:"command,omitempty"`
	Notice  string   `json:"notice,omitempty"`
}

// Bus carries messages to all nodes, or loses them.
type Bus interface {
	// Send never blocks.
	Send(m Message)
	// Run takes messages in and sends those of Send, until ctx ends.
	Run(ctx context.Context, take func(Message))
	// State is how many messages it dropped, and why it is cut off; nil: it is not.
	State() (dropped uint64, down error)
}

// NATSOptions of [NewNATS].
type NATSOptions struct {
	// URLs of its servers, comma-separated: nats://, or tls:// for encryption. What they hold
	// beside host and port is a secret.
	URLs string
	// Credentials is a file of NATS credentials, CA one of roots that its certificates are
	// checked by; empty: none, the system's.
	Credentials, CA string
	// Space tells this cluster's messages from those of others at the same NATS.
	Space string
	Name  string // of this node, for NATS's own lists
	Log   *slog.Logger
}

// CheckURLs refuses what is no list of NATS servers; the error has nothing of it.
func CheckURLs(urls string) error {
	for one := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Host == "" {
			return errors.New("want nats://host:4222, or tls://host:4222, several with commas between")
		}
	}
	return nil
}

// NATS is a Bus of NATS servers.
type NATS struct {
	o       NATSOptions
	options []nats.Option
	out     chan Message
	dropped atomic.Uint64
	down    atomic.Pointer[error]
	closing atomic.Bool
}

var errNeverUp = errors.New("NATS was not reached yet")

// NewNATS prepares a bus; Run connects, and goes on trying.
func NewNATS(o NATSOptions) (*NATS, error) {
	if err := CheckURLs(o.URLs); err != nil {
		return nil, err
	}
	b := &NATS{o: o, out: make(chan Message, maxWaiting)}
	b.down.Store(&errNeverUp)
	b.options = []nats.Option{
		nats.Name("gururmm " + o.Name), nats.NoEcho(),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.Timeout(5 * time.Second),
		nats.ReconnectBufSize(-1), // what can't be sent now is of no use later
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(5 * time.Second),
		nats.ConnectHandler(func(*nats.Conn) { b.up() }), nats.ReconnectHandler(func(*nats.Conn) { b.up() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.lost(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.lost(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { o.Log.Warn("NATS", "error", err) }),
	}
	if o.Credentials != "" {
		if _, err := os.ReadFile(o.Credentials); err != nil {
			return nil, err
		}
		b.options = append(b.options, nats.UserCredentials(o.Credentials))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, err
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", o.CA)
		}
	}
	if strings.Contains(o.URLs, "tls://") || o.CA != "" {
		b.options = append(b.options, nats.Secure(conf))
	}
	return b, nil
}

func (b *NATS) up() {
	if was := b.down.Swap(nil); was != nil {
		b.o.Log.Info("NATS is reached: nodes wake each other")
	}
}

func (b *NATS) lost(err error) {
	if b.closing.Load() {
		return
	}
	if err == nil {
		err = errors.New("the connection ended")
	}
	if was := b.down.Swap(&err); was == nil {
		b.o.Log.Error("NATS is away: nodes find each other's changes by looking, which takes some seconds", "error", err)
	}
}

// State implements Bus.
func (b *NATS) State() (dropped uint64, down error) {
	if p := b.down.Load(); p != nil {
		down = *p
	}
	return b.dropped.Load(), down
}

// Send implements Bus.
func (b *NATS) Send(m Message) {
	select {
	case b.out <- m:
	default:
		b.dropped.Add(1)
	}
}

// Run implements Bus.
func (b *NATS) Run(ctx context.Context, take func(Message)) {
	var conn *nats.Conn
	for conn == nil {
		made, err := nats.Connect(b.o.URLs, b.options...)
		if err == nil {
			conn = made
			break
		}
		b.o.Log.Error("NATS can't be used; it is tried again", "error", err)
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return
		}
	}
	defer conn.Close()
	subject := "gururmm." + b.o.Space
	_, err := conn.Subscribe(subject, func(raw *nats.Msg) {
		var m Message
		if len(raw.Data) <= maxMessage && json.Unmarshal(raw.Data, &m) == nil {
			take(m)
		}
	})
	if err != nil { // only of a connection that was closed, or a bad subject
		b.o.Log.Error("NATS can't be listened to", "error", err)
	}
	if conn.IsConnected() {
		b.up()
	}
	for {
		select {
		case m := <-b.out:
			raw, err := json.Marshal(m)
			if err == nil {
				err = conn.Publish(subject, raw)
			}
			if err != nil {
				b.dropped.Add(1)
			}
		case <-ctx.Done():
			b.closing.Store(true)
			if conn.IsConnected() {
				_ = conn.FlushTimeout(time.Second) // the last wake-ups
			}
			return
		}
	}
}

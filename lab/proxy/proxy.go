package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// dialTimeout bounds reaching the server: it is on this machine or next to it.
	dialTimeout = 5 * time.Second
	// helloTimeout bounds TLS and HTTP header of a connection.
	helloTimeout = 15 * time.Second
	// maxHeader bounds one HTTP header in bytes.
	maxHeader = 64 << 10
)

// Options of a Proxy.
type Options struct {
	Listen   string // of the link's door; default 127.0.0.1:0
	Upstream string // host:port of the server's main listener
	// Cert is presented to agents. Without one the door speaks plain HTTP.
	Cert *tls.Certificate
	// UpstreamTLS dials the server; nil: plain HTTP.
	UpstreamTLS *tls.Config
	// OOBListen and OOBUpstream are the second door; it has none if OOBUpstream is empty.
	OOBListen   string
	OOBUpstream string
	// ListenNet and DialNet are the network; nil: the real one. Tests in virtual time
	// give an in-memory one.
	ListenNet func(network, addr string) (net.Listener, error)
	DialNet   func(ctx context.Context, network, addr string) (net.Conn, error)
	// OnEvent is told each event as it is noted; it must not block.
	OnEvent func(Event)
}

// Proxy is a running box on the path.
type Proxy struct {
	opts    Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	journal journal

	change   sync.Mutex // serialises Set
	settings map[Direction]*atomic.Pointer[setting]
	link     *door
	oob      *door
	upstream atomic.Pointer[upstreams]
}

type upstreams struct{ link, oob string }

// New starts a proxy. Close ends it.
func New(opts Options) (*Proxy, error) {
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:0"
	}
	if opts.OOBListen == "" {
		opts.OOBListen = "127.0.0.1:0"
	}
	if opts.ListenNet == nil {
		opts.ListenNet = net.Listen
	}
	if opts.DialNet == nil {
		opts.DialNet = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	p := &Proxy{opts: opts, settings: map[Direction]*atomic.Pointer[setting]{}}
	p.journal.log = opts.OnEvent
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.upstream.Store(&upstreams{opts.Upstream, opts.OOBUpstream})
	for _, dir := range Directions {
		p.settings[dir] = &atomic.Pointer[setting]{}
		p.settings[dir].Store(&setting{over: make(chan struct{})})
	}
	var err error
	if p.link, err = p.newDoor(Link, opts.Listen, p.serveLink); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for links: %w", err), p.Close())
	}
	if p.oob, err = p.newDoor(OOB, opts.OOBListen, p.serveOOB); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for the second door: %w", err), p.Close())
	}
	p.link.start()
	p.oob.start()
	return p, nil
}

// Addr is where links are accepted, OOBAddr where the second door is.
func (p *Proxy) Addr() string { return p.link.addr }

// OOBAddr is the second door's address.
func (p *Proxy) OOBAddr() string { return p.oob.addr }

// SetUpstream names the server's listeners: the server is often started after
// the proxy, whose addresses it must publish.
func (p *Proxy) SetUpstream(link, oob string) { p.upstream.Store(&upstreams{link, oob}) }

// Set puts faults in force in one direction, in place of those there; none
// clears it. A message meets the first of them that concerns it. The error is
// [ErrFault], or that of a door that could not be opened again.
func (p *Proxy) Set(dir Direction, faults ...Fault) error {
	names := make([]string, len(faults))
	for i, f := range faults {
		if err := f.check(dir); err != nil {
			return err
		}
		names[i] = f.String()
	}
	if len(faults) > 1 && (dir == Link || dir == OOB) {
		return fmt.Errorf("%w: a door has one at a time", ErrFault)
	}
	pointer := p.settings[dir]
	if pointer == nil {
		return fmt.Errorf("%w: direction %q", ErrFault, dir)
	}
	p.change.Lock()
	defer p.change.Unlock()
	set := &setting{faults: append([]Fault(nil), faults...), over: make(chan struct{})}
	old := pointer.Swap(set)
	close(old.over)
	detail := strings.Join(names, ", ")
	if detail == "" {
		detail = "clear"
	}
	p.journal.note(Event{Dir: dir, What: "set", Detail: detail})
	switch dir {
	case Link:
		return p.link.apply(set)
	case OOB:
		return p.oob.apply(set)
	}
	return nil
}

// Clear mends one direction.
func (p *Proxy) Clear(dir Direction) error { return p.Set(dir) }

// Faults tells what is in force, by direction; directions in order are absent.
func (p *Proxy) Faults() map[Direction][]Fault {
	out := map[Direction][]Fault{}
	for _, dir := range Directions {
		if s := p.setting(dir); len(s.faults) > 0 {
			out[dir] = append([]Fault(nil), s.faults...)
		}
	}
	return out
}

// Events gives the log, oldest first.
func (p *Proxy) Events() []Event {
	p.journal.mu.Lock()
	defer p.journal.mu.Unlock()
	return append([]Event(nil), p.journal.events...)
}

// Counts gives what happened in one direction so far.
func (p *Proxy) Counts(dir Direction) Counts {
	p.journal.mu.Lock()
	defer p.journal.mu.Unlock()
	c := *p.journal.of(dir)
	c.Struck = maps.Clone(c.Struck)
	return c
}

// Close ends all connections and returns when nothing of the proxy runs any more.
func (p *Proxy) Close() error {
	p.cancel()
	p.change.Lock() // a Set under way ends at once; one that comes later finds the doors closed
	defer p.change.Unlock()
	var errs []error
	for _, d := range []*door{p.link, p.oob} {
		if d != nil {
			errs = append(errs, d.close())
		}
	}
	p.wg.Wait()
	return errors.Join(errs...)
}

func (p *Proxy) setting(dir Direction) *setting { return p.settings[dir].Load() }

// serveOOB passes one connection of the second door through.
func (p *Proxy) serveOOB(ctx context.Context, conn net.Conn, _ int) {
	to := p.upstream.Load().oob
	if to == "" {
		return
	}
	up, err := p.dial(ctx, to)
	if err != nil {
		return
	}
	p.splice(ctx, p.oob, conn, conn, up, up)
}

func (p *Proxy) dial(ctx context.Context, addr string) (net.Conn, error) {
	return p.opts.DialNet(ctx, "tcp", addr)
}

// splice copies bytes both ways until one way ends, then ends both connections.
func (p *Proxy) splice(ctx context.Context, d *door, a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) {
	end := func() { a.Close(); b.Close() }
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { d.copyBytes(ctx, b, fromA); end() })
	both.Go(func() { d.copyBytes(ctx, a, fromB); end() })
	both.Wait()
}

// serveLink takes one connection of the main door: a link, or plain HTTP
// (enrollment, the operator API), which is passed through.
func (p *Proxy) serveLink(ctx context.Context, raw net.Conn, number int) {
	raw.SetDeadline(time.Now().Add(helloTimeout))
	agent := raw
	if p.opts.Cert != nil {
		t := tls.Server(raw, &tls.Config{
			Certificates: []tls.Certificate{*p.opts.Cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		})
		if t.HandshakeContext(ctx) != nil {
			return
		}
		agent = t
	}
	fromAgent := bufio.NewReaderSize(agent, maxHeader)
	head, upgrade, err := readHead(fromAgent)
	if err != nil {
		return
	}
	server, err := p.dialServer(ctx)
	if err != nil {
		p.journal.note(Event{Conn: number, Dir: Link, What: "upstream", Detail: err.Error()})
		io.WriteString(agent, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		agent.Close()
		return
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(helloTimeout))
	if _, err := server.Write(head); err != nil {
		return
	}
	fromServer := bufio.NewReaderSize(server, maxHeader)
	if upgrade {
		answer, status, err := readAnswer(fromServer)
		if err != nil {
			return
		}
		if _, err := agent.Write(answer); err != nil {
			return
		}
		upgrade = status == http.StatusSwitchingProtocols
	}
	raw.SetDeadline(time.Time{})
	server.SetDeadline(time.Time{})
	if !upgrade {
		p.splice(ctx, p.link, agent, fromAgent, server, fromServer)
		return
	}
	p.journal.note(Event{Conn: number, Dir: Link, What: "open"})
	p.frames(ctx, number, agent, fromAgent, server, fromServer)
	p.journal.note(Event{Conn: number, Dir: Link, What: "close"})
}

func (p *Proxy) dialServer(ctx context.Context) (net.Conn, error) {
	to := p.upstream.Load().link
	conn, err := p.dial(ctx, to)
	if err != nil || p.opts.UpstreamTLS == nil {
		return conn, err
	}
	cfg := p.opts.UpstreamTLS.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(to)
	}
	t := tls.Client(conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// frames carries one link until either direction ends.
func (p *Proxy) frames(ctx context.Context, number int, agent net.Conn, fromAgent *bufio.Reader, server net.Conn, fromServer *bufio.Reader) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { agent.Close(); server.Close() })
	defer stop()
	toAgent, toServer := newOutbox(agent, ctx.Done()), newOutbox(server, ctx.Done())
	down := &lane{p: p, dir: Down, conn: number, src: fromServer, out: toAgent, back: toServer, done: ctx.Done()}
	up := &lane{p: p, dir: Up, conn: number, src: fromAgent, out: toServer, back: toAgent, done: ctx.Done()}
	var all sync.WaitGroup
	for _, l := range []*lane{down, up} {
		l.refresh()
		all.Go(func() { l.run(); l.out.finish() })
		all.Go(func() { l.out.run(); cancel() })
	}
	all.Wait()
}

// readHead reads the header of the first request, and tells whether it asks for a WebSocket.
func readHead(r *bufio.Reader) (raw []byte, upgrade bool, err error) {
	raw, err = readUntilBlank(r)
	if err != nil {
		return nil, false, err
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(raw))))
	if err != nil {
		return nil, false, err
	}
	return raw, strings.EqualFold(req.Header.Get("Upgrade"), "websocket"), nil
}

func readAnswer(r *bufio.Reader) (raw []byte, status int, err error) {
	raw, err = readUntilBlank(r)
	if err != nil {
		return nil, 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(raw))), nil)
	if err != nil {
		return nil, 0, err
	}
	return raw, res.StatusCode, nil
}

// errHeader says that an HTTP header did not end within maxHeader.
var errHeader = errors.New("HTTP header is too long")

func readUntilBlank(r *bufio.Reader) ([]byte, error) {
	var raw []byte
	for {
		line, err := r.ReadSlice('\n')
		raw = append(raw, line...)
		switch {
		case err != nil:
			return nil, err
		case len(raw) > maxHeader:
			return nil, errHeader
		case len(strings.TrimRight(string(line), "\r\n")) == 0:
			return raw, nil
		}
	}
}

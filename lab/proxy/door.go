package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// relistenWait bounds how long a door that refused waits to get its port back:
// the kernel may have lent it to an outgoing connection for a moment.
const relistenWait = 10 * time.Second

// door accepts connections at one address and serves each, unless it is broken.
type door struct {
	dir   Direction
	addr  string
	serve func(ctx context.Context, conn net.Conn, number int)
	p     *Proxy

	mu       sync.Mutex
	listener net.Listener // nil while it refuses
	open     map[*doorConn]struct{}
	closed   bool
}

// doorConn is one accepted connection.
type doorConn struct {
	net.Conn
	number int
	cancel context.CancelFunc
}

func (p *Proxy) newDoor(dir Direction, addr string, serve func(context.Context, net.Conn, int)) (*door, error) {
	l, err := p.opts.ListenNet("tcp", addr)
	if err != nil {
		return nil, err
	}
	d := &door{dir: dir, addr: l.Addr().String(), serve: serve, p: p, open: map[*doorConn]struct{}{}}
	d.listener = l
	return d, nil
}

// start accepts, once the proxy is whole.
func (d *door) start() {
	l := d.listener
	d.p.wg.Go(func() { d.accept(l) })
}

func (d *door) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors or aborted by the peer: the next one may do
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-d.p.ctx.Done():
				return
			}
		}
		ctx, cancel := context.WithCancel(d.p.ctx)
		c := &doorConn{Conn: conn, number: d.p.journal.opened(d.dir), cancel: cancel}
		d.mu.Lock()
		d.open[c] = struct{}{}
		set := d.p.setting(d.dir)
		d.mu.Unlock()
		d.p.wg.Go(func() {
			d.one(ctx, c, set)
			cancel()
			conn.Close()
			d.mu.Lock()
			delete(d.open, c)
			d.mu.Unlock()
		})
	}
}

// one serves a connection that was accepted while set was in force.
func (d *door) one(ctx context.Context, c *doorConn, set *setting) {
	if len(set.faults) == 0 {
		d.serve(ctx, c.Conn, c.number)
		return
	}
	kind := set.faults[0].Kind
	d.p.journal.struck(c.number, d.dir, kind, 0, "")
	switch kind {
	case Hang:
		// Not even the peer's giving up is noticed; only the end of the fault is.
		select {
		case <-set.over:
		case <-ctx.Done():
		}
	case Reset:
		c.SetReadDeadline(time.Now().Add(time.Second)) // a peer that waits for us to speak is reset too
		c.Read(make([]byte, 1))
		reset(c.Conn)
	case Refuse:
		reset(c.Conn) // it slipped in before the listener closed
	}
}

// reset ends a TCP connection with RST.
func reset(conn net.Conn) {
	if t, ok := conn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	conn.Close()
}

// apply makes the door as set says, and strikes the connections that are open.
func (d *door) apply(set *setting) error {
	var kind Kind
	if len(set.faults) > 0 {
		kind = set.faults[0].Kind
	}
	d.mu.Lock()
	listener := d.listener
	if kind == Refuse {
		d.listener = nil
	}
	var open []*doorConn
	if kind != "" {
		for c := range d.open {
			open = append(open, c)
		}
	}
	d.mu.Unlock()

	for _, c := range open {
		if kind == Hang { // mute, but open: copyBytes holds what comes
			continue
		}
		d.p.journal.struck(c.number, d.dir, kind, 0, "open connection")
		reset(c.Conn)
		c.cancel()
	}
	switch {
	case kind == Refuse && listener != nil:
		return listener.Close()
	case kind != Refuse && listener == nil:
		return d.relisten()
	}
	return nil
}

func (d *door) relisten() error {
	deadline := time.Now().Add(relistenWait)
	for {
		l, err := d.p.opts.ListenNet("tcp", d.addr)
		if err == nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.closed {
				return l.Close()
			}
			d.listener = l
			d.p.wg.Go(func() { d.accept(l) })
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-d.p.ctx.Done():
			return err
		}
	}
}

func (d *door) close() error {
	d.mu.Lock()
	l := d.listener
	d.listener, d.closed = nil, true
	open := make([]*doorConn, 0, len(d.open))
	for c := range d.open {
		open = append(open, c)
	}
	d.mu.Unlock()
	for _, c := range open {
		c.cancel()
		c.Close()
	}
	if l == nil {
		return nil
	}
	return l.Close()
}

// copyBytes passes bytes on in one direction until either end is over. While
// the door hangs, nothing passes.
func (d *door) copyBytes(ctx context.Context, dst io.Writer, src io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		for set := d.p.setting(d.dir); set.has(Hang); set = d.p.setting(d.dir) {
			select {
			case <-set.over:
			case <-ctx.Done():
				return
			}
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

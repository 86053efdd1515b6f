package guardian_test

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"testing/synctest"

	"gururmm/agent/local"
)

// memListener hands out one end of in-memory pipes: a bubble's clock does not
// pass while a real socket is waited for.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "status", Net: "unix"} }

// status gives b a status listener for its next run, and a way to ask there.
func (b *bench) status() func() local.Status {
	l := &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
	b.cfg.Status = l
	return func() local.Status {
		b.t.Helper()
		var s local.Status
		b.get(l, "/status", &s)
		return s
	}
}

func (b *bench) get(l *memListener, path string, v any) {
	b.t.Helper()
	synctest.Wait()
	ours, theirs := net.Pipe()
	defer ours.Close()
	l.conns <- theirs
	req, err := http.NewRequest(http.MethodGet, "http://guardian"+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Close = true
	if err := req.Write(ours); err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(ours), req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("GET %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		b.t.Fatal(err)
	}
}

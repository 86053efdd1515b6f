package guardian_test

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/pipe"
)

// post gives an order at the status socket and gives the answer's status code.
func (b *bench) post(l *memListener, path, body string) int {
	b.t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	l.conns <- theirs
	req, err := http.NewRequest(http.MethodPost, "http://guardian"+path, strings.NewReader(body))
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
	resp.Body.Close()
	return resp.StatusCode
}

func TestOrdersGivenAtTheSocketAreCarriedOutAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		events := b.remember()
		l := &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
		b.cfg.Status = l
		b.run()
		pass(2 * time.Second)
		if code := b.post(l, "/reconnect", `{"reason":"it is\nslow","alternative":true}`); code != http.StatusOK {
			t.Fatalf("reconnect: HTTP status %d", code)
		}
		pass(time.Second)
		n := orders(b.child(), func(o pipe.Order) bool {
			return o.Reconnect != nil && o.Reconnect.Alternative && o.Reconnect.Reason == "ordered on this machine: it is slow"
		})
		if n != 1 {
			t.Errorf("the worker got %d such orders: %+v", n, b.child().got())
		}
		find(t, events(), "step", "alternative")
		if code := b.post(l, "/beacon", `{}`); code != http.StatusOK {
			t.Fatalf("beacon: HTTP status %d", code)
		}
		pass(time.Second)
		if r := b.door.last(); r.Cause != "request" {
			t.Errorf("the last beacon is of %q", r.Cause)
		}
		for _, bad := range []string{"", "[]", `{"raeson":"x"}`} {
			if code := b.post(l, "/reconnect", bad); code != http.StatusBadRequest {
				t.Errorf("%.20q: HTTP status %d", bad, code)
			}
		}
		b.end()
	})
}

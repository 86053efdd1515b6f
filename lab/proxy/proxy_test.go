package proxy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/lab/proxy"
)

// patience bounds every wait of a test; nothing comes close on a working path.
const patience = 20 * time.Second

// seen is one thing an end of a link received.
type seen struct{ kind, data string }

// end is one end of a link under test.
type end struct {
	ws *websocket.Conn
	in chan seen
}

func newEnd(t *testing.T, ws *websocket.Conn) *end {
	e := &end{ws: ws, in: make(chan seen, 1000)}
	ws.SetPingHandler(func(s string) error { e.in <- seen{"ping", s}; return nil })
	ws.SetPongHandler(func(s string) error { e.in <- seen{"pong", s}; return nil })
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(e.in)
		for {
			_, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			e.in <- seen{"text", string(data)}
		}
	}()
	t.Cleanup(func() { ws.Close(); <-done })
	return e
}

func (e *end) text(t *testing.T, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if err := e.ws.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
}

func (e *end) ping(t *testing.T, data string) {
	t.Helper()
	if err := e.ws.WriteControl(websocket.PingMessage, []byte(data), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// next waits for one thing; the zero seen means that the link ended.
func (e *end) next(t *testing.T) seen {
	t.Helper()
	select {
	case s := <-e.in:
		return s
	case <-time.After(patience):
		t.Fatal("nothing arrived")
		return seen{}
	}
}

func (e *end) expect(t *testing.T, want ...seen) {
	t.Helper()
	for _, w := range want {
		if got := e.next(t); got != w {
			t.Fatalf("got %.80q, want %.80q", got, w)
		}
	}
}

// bench is a server behind a proxy.
type bench struct {
	*proxy.Proxy
	tls     *tls.Config
	servers chan *websocket.Conn
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{servers: make(chan *websocket.Conn, 10)}
	up := websocket.Upgrader{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/link" {
			w.WriteHeader(http.StatusTeapot)
			io.Copy(w, r.Body)
			return
		}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		b.servers <- ws
	}))
	t.Cleanup(srv.Close)
	b.tls = srv.Client().Transport.(*http.Transport).TLSClientConfig
	upstream := b.tls.Clone()
	upstream.ServerName = "example.com"
	addr := strings.TrimPrefix(srv.URL, "https://")
	p, err := proxy.New(proxy.Options{
		Upstream: addr, Cert: &srv.TLS.Certificates[0], UpstreamTLS: upstream, OOBUpstream: addr,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Proxy = p
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// link opens a link through the proxy and gives both its ends.
func (b *bench) link(t *testing.T) (agent, server *end) {
	t.Helper()
	d := websocket.Dialer{TLSClientConfig: b.tls, HandshakeTimeout: patience, WriteBufferSize: 1024}
	ws, _, err := d.Dial("wss://"+b.Addr()+"/link", nil)
	if err != nil {
		t.Fatal(err)
	}
	return newEnd(t, ws), newEnd(t, <-b.servers)
}

func (b *bench) set(t *testing.T, dir proxy.Direction, faults ...string) {
	t.Helper()
	parsed := make([]proxy.Fault, len(faults))
	for i, s := range faults {
		f, err := proxy.ParseFault(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed[i] = f
	}
	if err := b.Set(dir, parsed...); err != nil {
		t.Fatal(err)
	}
}

func text(s string) seen { return seen{"text", s} }
func ping(s string) seen { return seen{"ping", s} }
func pong(s string) seen { return seen{"pong", s} }

// A message of many frames: the client's write buffer is 1 KiB.
var long = strings.Repeat("0123456789abcdef", 600)

// TestFaults sends five texts and a ping through each fault, in each direction,
// on a link that was open before the fault and on one opened under it.
func TestFaults(t *testing.T) {
	t.Parallel()
	sent := []string{"1", "twenty bytes of text", "3", long, "5"}
	all := []seen{text(sent[0]), text(sent[1]), text(sent[2]), text(long), text(sent[4]), ping("p")}
	pick := func(is ...int) (out []seen) {
		for _, i := range is {
			out = append(out, all[i])
		}
		return out
	}
	for _, c := range []struct {
		fault string
		want  []seen
	}{
		{"drop-text", pick(5)},
		{"drop-text-above:100", pick(0, 1, 2, 4, 5)},
		{"drop-text-below:20", pick(1, 3, 5)},
		{"drop-text-after:2", pick(0, 1, 5)},
		{"drop-text-every:2", pick(0, 2, 4, 5)},
		{"drop-text-first", pick(1, 2, 3, 4, 5)},
		{"duplicate-text", pick(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5)},
		{"strip-pings", append(pick(0, 1, 2, 3, 4), ping(""))},
		{"rewrite-pings", append(pick(0, 1, 2, 3, 4), ping("\x8f"))},
		{"alter-text", []seen{text("0"), text("twenty bytds of text"), text("2"), text(long[:len(long)/2] + "1" + long[len(long)/2+1:]), text("4"), ping("p")}},
		{"delay-text:20ms", pick(5, 0, 1, 2, 3, 4)},
	} {
		for _, dir := range []proxy.Direction{proxy.Down, proxy.Up} {
			for _, when := range []string{"open", "new"} {
				t.Run(fmt.Sprintf("%s/%s/%s", c.fault, dir, when), func(t *testing.T) {
					t.Parallel()
					b := newBench(t)
					if when == "new" {
						b.set(t, dir, c.fault)
					}
					from, to := b.link(t)
					if dir == proxy.Down {
						from, to = to, from
					}
					if when == "open" {
						from.text(t, "before")
						to.expect(t, text("before"))
						b.set(t, dir, c.fault)
					}
					from.text(t, sent...)
					from.ping(t, "p")
					to.expect(t, c.want...)

					to.text(t, "back") // the other direction is whole
					from.expect(t, text("back"))
					if err := b.Clear(dir); err != nil {
						t.Fatal(err)
					}
					from.text(t, "after", long)
					to.expect(t, text("after"), text(long))
					if b.Counts(dir).Struck[mustParse(t, c.fault).Kind] == 0 {
						t.Errorf("nothing counted for %s: %+v", c.fault, b.Counts(dir))
					}
				})
			}
		}
	}
}

func mustParse(t *testing.T, s string) proxy.Fault {
	t.Helper()
	f, err := proxy.ParseFault(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAnswerPings(t *testing.T) {
	t.Parallel()
	for _, dir := range []proxy.Direction{proxy.Down, proxy.Up} {
		t.Run(string(dir), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			from, to := b.link(t)
			if dir == proxy.Down {
				from, to = to, from
			}
			b.set(t, dir, "answer-pings")
			from.text(t, "lost")
			from.ping(t, "one")
			from.expect(t, pong("one"))
			if err := b.Clear(dir); err != nil {
				t.Fatal(err)
			}
			from.text(t, "heard")
			to.expect(t, text("heard"))
		})
	}
}

func TestStuckFragment(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Down, "stuck-fragment")
	server.text(t, "never finished", "nor begun")
	server.ping(t, "p")
	agent.expect(t, ping("p"))
	if err := b.Clear(proxy.Down); err != nil {
		t.Fatal(err)
	}
	server.text(t, "still behind the fragment")
	server.ping(t, "q")
	agent.expect(t, ping("q"))

	agent, server = b.link(t)
	server.text(t, "a new link is whole")
	agent.expect(t, text("a new link is whole"))
}

func TestALargeTextHoldsUpAllBehindIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Down, "stall-above:10")
	server.text(t, "small", "larger than that", "tiny")
	server.ping(t, "p")
	agent.text(t, "the other way is open, whatever the size")
	server.expect(t, text("the other way is open, whatever the size"))
	agent.expect(t, text("small"))
	if got := b.Counts(proxy.Down); got.Texts != 1 || got.Controls != 0 {
		t.Fatalf("passed behind the large one: %+v", got)
	}
	if err := b.Clear(proxy.Down); err != nil {
		t.Fatal(err)
	}
	agent.expect(t, text("larger than that"), text("tiny"), ping("p"))
}

func TestFreezeHoldsBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Up, "freeze")
	agent.text(t, "held")
	agent.ping(t, "held too")
	server.text(t, "the other way is open")
	agent.expect(t, text("the other way is open"))
	if got := b.Counts(proxy.Up); got.Texts != 0 || got.Controls != 0 {
		t.Fatalf("passed while frozen: %+v", got)
	}
	if err := b.Clear(proxy.Up); err != nil {
		t.Fatal(err)
	}
	server.expect(t, text("held"), ping("held too"))
}

func TestCutMidFrame(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Down, "cut-mid-frame")
	server.text(t, long)
	agent.expect(t, seen{})
	server.expect(t, seen{})
}

func TestTwoFaultsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Down, "strip-pings", "drop-text-above:10")
	server.text(t, "short", "longer than ten bytes")
	server.ping(t, "ledger")
	agent.expect(t, text("short"), ping(""))
}

func TestDelayKeepsOrderAfterClear(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Down, "delay-text:50ms")
	server.text(t, "held")
	server.ping(t, "p")
	agent.expect(t, ping("p"))
	if err := b.Clear(proxy.Down); err != nil {
		t.Fatal(err)
	}
	server.text(t, "second")
	agent.expect(t, text("held"), text("second"))
}

// TestSecondDoor breaks the OOB door in each way: requests on kept and on new
// connections fail, and work again once it is mended.
func TestSecondDoor(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"refuse", "hang", "reset"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			transport := &http.Transport{TLSClientConfig: b.tls, DialContext: (&net.Dialer{}).DialContext}
			defer transport.CloseIdleConnections()
			ask := func(d time.Duration) error {
				c := http.Client{Transport: transport, Timeout: d}
				res, err := c.Post("https://"+b.OOBAddr()+"/", "text/plain", strings.NewReader("x"))
				if err != nil {
					return err
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); err != nil || string(body) != "x" {
					return fmt.Errorf("answer %q, %v", body, err)
				}
				return nil
			}
			if err := ask(patience); err != nil {
				t.Fatal(err)
			}
			b.set(t, proxy.OOB, fault)
			for range 2 { // on the kept connection, then on a new one
				if err := ask(300 * time.Millisecond); err == nil {
					t.Fatal("answered through a broken door")
				}
			}
			if err := b.Clear(proxy.OOB); err != nil {
				t.Fatal(err)
			}
			if err := ask(patience); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPlainHTTPPasses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.set(t, proxy.Down, "drop-text")
	c := http.Client{Transport: &http.Transport{TLSClientConfig: b.tls, DisableKeepAlives: true}, Timeout: patience}
	res, err := c.Post("https://"+b.Addr()+"/v1/enroll", "text/plain", strings.NewReader(long))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusTeapot || string(body) != long {
		t.Fatalf("status %d, %d bytes, %v", res.StatusCode, len(body), err)
	}
}

func TestLinkDoorResets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	agent, server := b.link(t)
	b.set(t, proxy.Link, "reset")
	agent.expect(t, seen{})
	server.expect(t, seen{})
	if err := b.Clear(proxy.Link); err != nil {
		t.Fatal(err)
	}
	agent, server = b.link(t)
	agent.text(t, "again")
	server.expect(t, text("again"))
}

func TestParseFault(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"drop-text", "drop-text-every:3", "delay-text:1.5s", "refuse"} {
		if f, err := proxy.ParseFault(s); err != nil || f.String() != s {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	for _, s := range []string{"", "drop", "drop-text:3", "drop-text-every", "drop-text-every:x", "delay-text:5"} {
		if f, err := proxy.ParseFault(s); !errors.Is(err, proxy.ErrFault) {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	b := newBench(t)
	for dir, f := range map[proxy.Direction]proxy.Fault{
		proxy.Down: {Kind: proxy.Refuse}, proxy.OOB: {Kind: proxy.DropText},
		proxy.Up: {Kind: proxy.DropTextEvery}, "sideways": {Kind: proxy.DropText},
	} {
		if err := b.Set(dir, f); !errors.Is(err, proxy.ErrFault) {
			t.Errorf("%s %v: %v", dir, f, err)
		}
	}
	if got := b.Faults(); !reflect.DeepEqual(got, map[proxy.Direction][]proxy.Fault{}) {
		t.Errorf("refused faults are in force: %v", got)
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var out strings.Builder
	in := "both drop-text-every:2 and strip-pings\n\nup clear\noob refuse\nsideways freeze\nstatus\n"
	if err := b.Obey(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	want := map[proxy.Direction][]proxy.Fault{
		proxy.Down: {{Kind: proxy.DropTextEvery, N: 2}, {Kind: proxy.StripPings}},
		proxy.OOB:  {{Kind: proxy.Refuse}},
	}
	if got := b.Faults(); !reflect.DeepEqual(got, want) {
		t.Errorf("in force: %v, want %v", got, want)
	}
	for _, part := range []string{"ok\nok\nok\nerror: no such fault", `"kind": "refuse"`, b.Addr()} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("answers lack %q:\n%s", part, out.String())
		}
	}
	if answer, err := b.Order("clear"); answer != "ok" || err != nil || len(b.Faults()) != 0 {
		t.Errorf("clear: %q, %v, still %v", answer, err, b.Faults())
	}
}

//go:build linux

package lab_test

import (
	"bytes"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gururmm/agent/state"
	"gururmm/internal/certtest"
	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Real proxies before the server, with the configuration that is shipped in docs/deploy:
// only addresses and paths in it are changed, and what a test names as set badly.
//
// Who connects has an address of its own, for a proxy on this machine shares the server's.
const (
	endpointAddr = "127.0.0.5"
	operatorAddr = "127.0.0.6"
	strangerAddr = "127.0.0.9"
)

// front is a proxy before the server, and the ways to it.
type front struct {
	t    *testing.T
	addr string // an address of its own, so that shipped ports are free
	dir  string // readable for the account that the proxy drops to
	file string // its configuration

	main, oob, second, operator *relay

	shipped string   // text of the configuration
	change  []string // old and new, of addresses and paths
	process *harness.Process
}

func newFront(t *testing.T, shipped string) *front {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "docs", "deploy", shipped))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, dir: dir, file: filepath.Join(dir, shipped), shipped: string(raw),
		addr: fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))}
	main, oob := f.addr+":4443", f.addr+":8444"
	f.main, f.operator = newRelay(t, endpointAddr, main), newRelay(t, operatorAddr, "")
	f.oob, f.second = newRelay(t, endpointAddr, oob), newRelay(t, endpointAddr, oob)
	return f
}

// passedThrough gives the test a stack without an agent, whose server is behind a front that
// passes TLS through and names clients. Operators go straight to the server.
func (f *front) passedThrough(bin harness.Binaries, dir string) *scene {
	f.t.Helper()
	s := newStage(f.t, bin, dir, eager, func(o *harness.Options) {
		o.Front = &harness.Front{
			Main: f.main.url(), OOB: []string{f.oob.url(), f.second.url()}, Operator: f.operator.addr(),
			Args: []string{"--trusted-proxy", "127.0.0.1", "--proxy-protocol", "main,oob"},
		}
	})
	main, _ := s.Bound()
	f.operator.aim(main)
	return s
}

// write writes the configuration with addresses and paths of this test, then bad, each
// pair of which must be found in it.
func (f *front) write(bad ...string) {
	f.t.Helper()
	text := f.shipped
	for pair := range slices.Chunk(slices.Concat(f.change, bad), 2) {
		if !strings.Contains(text, pair[0]) {
			f.t.Fatalf("%s has no %q: what is tested is not what is shipped", f.file, pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	if err := os.WriteFile(f.file, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// start runs the proxy, and waits until it lets connections in.
func (f *front) start(s *scene, program string, args ...string) {
	f.t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		f.t.Fatalf("%v: `make e2e` installs it, or says how", err)
	}
	if f.process, err = s.Run(program, path, args...); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(f.process.Kill)
	for _, r := range []*relay{f.main, f.oob} {
		s.eventually(program+" to listen", func() (bool, error) {
			select {
			case <-f.process.Done():
				return false, harness.Final(fmt.Errorf("it ended: %s", harness.Tail(f.process.Log, 20)))
			default:
			}
			conn, err := net.Dial("tcp", r.target())
			if err != nil {
				return false, err
			}
			return true, conn.Close()
		})
	}
}

// nginx of this test; certificates behind it are those of the stack's server.
func (f *front) nginx(s *scene) {
	f.t.Helper()
	main, oob := s.Bound()
	f.change = append(f.change,
		"listen 443", "listen "+f.addr+":4443", "listen 8444", "listen "+f.addr+":8444",
		"127.0.0.1:8443;", main+";", "127.0.0.1:8444;", oob+";",
		"/run/nginx.pid", filepath.Join(f.dir, "nginx.pid"), "/var/log/nginx/", f.dir+"/",
		"worker_processes auto", "worker_processes 1") // of the machine, which others use too
	f.write()
	f.start(s, "nginx", "-e", "stderr", "-c", f.file, "-g", "daemon off;")
}

// workers are nginx's worker processes; false: it takes no more connections.
func (f *front) workers() map[int]bool {
	f.t.Helper()
	raw, err := exec.Command("ps", "-o", "pid=,args=", "--ppid", strconv.Itoa(f.process.PID())).Output()
	if err != nil {
		f.t.Fatalf("ps: %v", err)
	}
	pids := map[int]bool{}
	for line := range strings.Lines(string(raw)) {
		first, title, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(first)
		if err != nil {
			f.t.Fatalf("ps says %q: %v", line, err)
		}
		pids[pid] = !strings.Contains(title, "shutting down")
	}
	return pids
}

// reload has nginx read its configuration anew, and waits until new workers alone take
// connections; it gives the workers before.
func (f *front) reload(s *scene) (before []int) {
	f.t.Helper()
	old := f.workers()
	if err := f.process.Signal(syscall.SIGHUP); err != nil {
		f.t.Fatal(err)
	}
	s.eventually("new workers of nginx", func() (bool, error) {
		now, fresh := f.workers(), false
		for pid, serves := range now {
			if _, was := old[pid]; was && serves {
				return false, fmt.Errorf("workers %v, before %v\n%s", now, old, harness.Tail(f.process.Log, 5))
			}
			fresh = fresh || serves
		}
		return fresh, fmt.Errorf("workers %v", now)
	})
	return slices.Collect(maps.Keys(old))
}

// reloadHAProxy has HAProxy's master read its configuration anew, and waits until another
// process takes connections, which it gives.
func (f *front) reloadHAProxy(s *scene) (fresh int) {
	f.t.Helper()
	old := f.workers()
	if err := f.process.Signal(syscall.SIGUSR2); err != nil {
		f.t.Fatal(err)
	}
	s.eventually("a new process of HAProxy", func() (bool, error) {
		for pid := range f.workers() {
			if _, was := old[pid]; !was {
				conn, err := net.Dial("tcp", f.main.target())
				if err != nil {
					return false, err
				}
				fresh = pid
				return true, conn.Close()
			}
		}
		return false, fmt.Errorf("processes %v\n%s", old, harness.Tail(f.process.Log, 5))
	})
	return fresh
}

// relay connects its clients to the front from an address of its own.
type relay struct {
	ln   net.Listener
	from string

	running sync.WaitGroup
	mu      sync.Mutex
	to      string // guarded by mu
	shut    bool
	open    map[net.Conn]bool
}

func newRelay(t *testing.T, from, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, from: from, to: to, open: map[net.Conn]bool{}}
	r.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(r.close)
	return r
}

func (r *relay) addr() string { return r.ln.Addr().String() }
func (r *relay) url() string  { return "https://" + r.addr() }

func (r *relay) target() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to
}

func (r *relay) aim(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// hold keeps conn to be closed with the relay; false: that was closed.
func (r *relay) hold(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		conn.Close()
		return false
	}
	r.open[conn] = true
	return true
}

func (r *relay) drop(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	delete(r.open, conn)
	r.mu.Unlock()
}

func (r *relay) serve(down net.Conn) {
	if !r.hold(down) {
		return
	}
	defer r.drop(down)
	up, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(r.from)}, Timeout: patience}).Dial("tcp", r.target())
	if err != nil || !r.hold(up) {
		return
	}
	defer r.drop(up)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{up, down}, {down, up}} {
		both.Go(func() {
			io.Copy(way[0], way[1]) // ends with either connection
			down.Close()
			up.Close()
		})
	}
	both.Wait()
}

// close ends the relay and what it connects.
func (r *relay) close() {
	r.ln.Close()
	r.mu.Lock()
	r.shut = true
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// seen checks the endpoint's address as the server has it of the link and of a beacon.
func (s *scene) seen(addr string) {
	s.t.Helper()
	if a := s.verified(); a.Addr != addr {
		s.t.Errorf("the agent is seen at %q, want %s", a.Addr, addr)
	}
	s.eventually("a beacon from "+addr, func() (bool, error) {
		all := s.beacons()
		if len(all) == 0 {
			return false, nil
		}
		return all[0].Addr == addr, fmt.Errorf("the last came from %q", all[0].Addr)
	})
}

// guessed tries to enroll with tokens that are none, from one address, naming another with
// each, until the server has had enough of this one.
func (s *scene) guessed(from, url string, trust *x509.CertPool) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trust, ServerName: "127.0.0.1"},
		DialContext:     (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext,
	}}
	defer client.CloseIdleConnections()
	const more = 32 // than a server takes from one address
	for i := range more {
		body := fmt.Sprintf(`{"token":"gre_guess","public_key":"%s","presence":{}}`, "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
		req, err := http.NewRequestWithContext(s.t.Context(), "POST", url+"/v1/enroll", strings.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i))
		resp, err := client.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusTooManyRequests:
			return
		case http.StatusForbidden:
		default:
			s.t.Fatalf("a guess was answered with %s", resp.Status)
		}
	}
	s.t.Errorf("%d guesses by way of %s, each counted for the address that it named", more, url)
}

// reconnected takes a new link and gives it.
func (s *scene) reconnected() wire.LinkID {
	s.t.Helper()
	if out, said, code, err := s.agent.Command(s.t.Context(), "reconnect"); err != nil || code != 0 {
		s.t.Fatalf("reconnect: %d %v\n%s%s", code, err, out, said)
	}
	return s.linkID(s.verified())
}

// held waits for a link that is verified for that long, and gives it.
func (s *scene) held(long time.Duration) (id wire.LinkID) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("a link that holds for %v", long), func() (bool, error) {
		l := s.status().Snapshot.Link
		if l.Phase != selfcheck.PhaseVerified || l.VerifiedAge == nil {
			return false, fmt.Errorf("it is %s", l.Phase)
		}
		id = l.ID
		return *l.VerifiedAge > long, fmt.Errorf("verified for %v", *l.VerifiedAge)
	})
	return id
}

func rootsOf(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	raw, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(raw) {
		t.Fatalf("%s: %v", file, err)
	}
	return roots
}

// TestNginxPassesThrough: pins hold, addresses are the clients', a reload is not seen by a
// link that is open, and one of two second doors is enough.
func TestNginxPassesThrough(t *testing.T) {
	bin, dir := room(t)
	f := newFront(t, "nginx.conf")
	s := f.passedThrough(bin, dir)
	f.nginx(s)
	s.arrive()
	s.seen(endpointAddr)
	s.completed(s.submit(""))

	// Who is no proxy names nobody: the header is not TLS, and what follows is not looked at.
	main, _ := s.Bound()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(strangerAddr)}}).Dial("tcp", main)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PROXY TCP4 198.51.100.7 192.0.2.1 40000 443\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Error("a stranger was let in with a PROXY header")
	}
	s.guessed(strangerAddr, "https://"+main, rootsOf(t, s.CertFile()))
	s.guessed("127.0.0.10", "https://"+f.addr+":4443", rootsOf(t, s.CertFile()))

	link := s.linkID(s.verified())
	running := s.submit("sleep 2")
	f.reload(s)
	s.completed(running)
	s.completed(s.submit(""))
	if now := s.linkID(s.verified()); now != link {
		t.Errorf("a reload of nginx cost the link: %s, then %s", link, now)
	}
	// Set badly: nginx waits a second for what is open, then closes it.
	f.write("worker_shutdown_timeout 1h", "worker_shutdown_timeout 1s")
	f.reload(s)
	link = s.reconnected()
	running = s.submit("sleep 2")
	s.eventually("the command to run", func() (bool, error) { return running.lines() == 1, nil })
	f.reload(s)
	s.completed(running)
	if now := s.linkID(s.verified()); now == link {
		t.Error("the link outlived the worker that held it: nothing was tried")
	}

	f.oob.close()
	s.eventually("the other second door to be used", func() (bool, error) {
		b := s.status().LastBeacon
		return b != nil && b.OK && b.Door == f.second.url(), fmt.Errorf("the last beacon: %+v", b)
	})
	s.beacon(time.Now(), selfcheck.CodeOK, selfcheck.CodeOKIdle)
	s.allOnce()
}

// TestASecondNameForThoseEnrolled: a server that is given another second door tells the
// endpoints that it has, and they use it when theirs fails, restarted or not.
func TestASecondNameForThoseEnrolled(t *testing.T) {
	s := newScene(t, eager)
	other := newRelay(t, endpointAddr, "")
	s.SetFront(&harness.Front{Main: "https://" + s.Proxy.Addr(), OOB: []string{"https://" + s.Proxy.OOBAddr(), other.url()}})
	if err := s.Server().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, oob := s.Bound()
	other.aim(oob)
	s.eventually("a policy with the other door", func() (bool, error) {
		p := s.status().Policy
		return len(p.OOB) == 2, fmt.Errorf("doors %+v", p.OOB)
	})
	s.verified()
	s.order("oob refuse")
	used := func() (bool, error) {
		b := s.status().LastBeacon
		return b != nil && b.OK && b.Door == other.url(), fmt.Errorf("the last beacon: %+v", b)
	}
	s.eventually("the other door to be used", used)
	if err := s.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	s.verified()
	s.eventually("the other door to be used after a restart", used)
}

// TestHAProxyPassesThrough: the main path.
func TestHAProxyPassesThrough(t *testing.T) {
	bin, dir := room(t)
	f := newFront(t, "haproxy.cfg")
	s := f.passedThrough(bin, dir)
	main, oob := s.Bound()
	f.change = []string{"bind :443", "bind " + f.addr + ":4443", "bind :8444", "bind " + f.addr + ":8444",
		"127.0.0.1:8443 send", main + " send", "127.0.0.1:8444 send", oob + " send"}
	f.write()
	f.start(s, "haproxy", "-W", "-db", "-f", f.file)
	s.arrive()
	s.seen(endpointAddr)
	s.completed(s.submit(""))
	s.guessed("127.0.0.11", "https://"+f.addr+":4443", rootsOf(t, s.CertFile()))

	// A reload: the old process keeps the link, and a command that runs on it.
	link := s.linkID(s.verified())
	running := s.submit("sleep 2")
	s.eventually("the command to run", func() (bool, error) { return running.lines() == 1, nil })
	f.reloadHAProxy(s)
	s.completed(running)
	s.completed(s.submit(""))
	if now := s.linkID(s.verified()); now != link {
		t.Errorf("a reload of HAProxy cost the link: %s, then %s", link, now)
	}
	// Set badly: what is open is closed a second after a reload. The next link comes to the
	// new process, and no command is lost or runs twice.
	f.write("hard-stop-after 1h", "hard-stop-after 1s")
	holder := f.reloadHAProxy(s)
	if out, said, code, err := s.agent.Command(t.Context(), "reconnect"); err != nil || code != 0 {
		t.Fatalf("reconnect: %d %v\n%s%s", code, err, out, said)
	}
	link = s.held(time.Second) // by a process that was started with that setting
	running = s.submit("sleep 3")
	s.eventually("the command to run", func() (bool, error) { return running.lines() == 1, nil })
	f.reloadHAProxy(s)
	s.completed(running)
	if now := s.linkID(s.verified()); now == link {
		t.Error("the link outlived the process that held it: nothing was tried")
	}
	s.eventually("the process that held it to end", func() (bool, error) {
		now := f.workers()
		_, there := now[holder]
		return !there, fmt.Errorf("process %d among %v", holder, now)
	})

	f.oob.close()
	f.main.close()
	if c := s.completed(s.submit("")); c.Channel != wire.ChannelOOB {
		t.Errorf("without a way for the link the command came by %s", c.Channel)
	}
	s.allOnce()
}

// TestNginxEndsTLS: as shipped, and with each of its settings set badly.
func TestNginxEndsTLS(t *testing.T) {
	bin, dir := room(t)
	f := newFront(t, "nginx-http.conf")
	ca := certtest.NewNamedCA(t, "the site's authority")
	public := ca.Leaf(t, nil)
	key, err := x509.MarshalPKCS8PrivateKey(public.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"ca.crt":     ca.PEM,
		"public.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public.Certificate[0]}),
		"public.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(f.dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trusted, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t, bin, dir, eager, func(o *harness.Options) {
		o.ServerEnv = append(o.ServerEnv, "GURURMM_RELEASE_KEY="+trusted.String())
		// Only pings go over an idle link.
		o.Policy.HeartbeatMS, o.Policy.MetricsMS = 600_000, 600_000
		o.Front = &harness.Front{
			Main: f.main.url() + "=ca", OOB: []string{f.oob.url() + "=ca", f.second.url() + "=ca"}, CA: filepath.Join(f.dir, "ca.crt"),
			Args: []string{"--trusted-proxy", "127.0.0.1"},
		}
	})
	f.change = []string{
		"/etc/nginx/gururmm/server.crt", s.CertFile(), "/etc/nginx/gururmm/oob.crt", filepath.Join(s.Dir, "server", "oob.crt"),
		"/etc/nginx/gururmm/", f.dir + "/", "/var/lib/nginx/", f.dir + "/",
	}
	f.nginx(s)
	s.arrive()
	s.seen(endpointAddr)
	s.completed(s.submit(""))
	main, _ := s.Bound()
	s.guessed(strangerAddr, "https://"+main, rootsOf(t, s.CertFile()))
	s.guessed("127.0.0.12", "https://"+f.addr+":4443", ca.Pool)

	// Set badly, one: whole bodies are kept back, and a silence of 3 s ends a link. Pings
	// come each second.
	const silence = 3 * time.Second
	buffered := []string{"proxy_buffering off", "proxy_buffering on", "proxy_request_buffering off", "proxy_request_buffering on"}
	f.write(append(buffered, "_timeout 3m", "_timeout 3s")...)
	f.reload(s)
	link := s.reconnected()
	// The operator's way goes through nginx too, or the bodies would not.
	_, _, token := s.Door()
	client, err := operator.New("https://"+f.addr+":4443", token, &tls.Config{RootCAs: ca.Pool, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s.bundled(client)
	s.handedOut(client, private)
	if now := s.held(2 * silence); now != link {
		t.Errorf("the link was cut though pings flow: %s, then %s", link, now)
	}
	s.completed(s.submit(""))

	// Two: less than the pings' interval. Each idle link is cut; the endpoint says so, with
	// what to look for, and no command is lost.
	f.write(append(buffered, "_timeout 3m", "_timeout 300ms")...)
	for _, pid := range f.reload(s) { // the link that is open goes on as it began: end it
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
			t.Error(err)
		}
	}
	var orders []*order
	for range 3 {
		orders = append(orders, s.submit("sleep 1"))
	}
	s.verdict(selfcheck.CodeLinkFlapping)
	if v := s.status().Verdict; !strings.Contains(v.Action, "idle") {
		t.Errorf("the advice is %q", v.Action)
	}
	for _, o := range orders {
		s.completed(o)
	}
	// Mended, the next link holds, over intervals that cut each one before; that links dropped is still told.
	f.write()
	f.reload(s)
	if out, said, code, err := s.agent.Command(t.Context(), "reconnect"); err != nil || code != 0 {
		t.Fatalf("reconnect: %d %v\n%s%s", code, err, out, said)
	}
	link = s.held(time.Second)
	s.completed(s.submit(""))
	if now := s.held(2 * silence / 3); now != link {
		t.Errorf("with nginx mended the link was cut: %s, then %s", link, now)
	}

	// The second door alone: its long poll is answered when there is something, not at its end.
	// Output comes in bodies that fit nginx's own limit.
	f.write(append(buffered, "_timeout 3m", "_timeout 1m", "client_max_body_size 0", "client_max_body_size 1m")...)
	f.reload(s)
	f.main.close()
	if c := s.completed(s.submit("head -c 1000000 /dev/zero | tr '\\0' x")); c.Channel != wire.ChannelOOB {
		t.Errorf("without a way for the link the command came by %s", c.Channel)
	}
	s.allOnce()
}

// bundled has a bundle made and sent, and fetches it as client; what comes is checked there.
func (s *scene) bundled(client *operator.Client) {
	s.t.Helper()
	d, err := client.Direct(s.t.Context(), s.agent.ID, operator.NewDirective{Kind: wire.DirectiveSendBundle})
	if err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the bundle", func() (bool, error) {
		if d, err = client.Directive(s.t.Context(), d.ID); err != nil {
			return false, err
		}
		return d.State == "done", fmt.Errorf("the order is %s: %s", d.State, d.Detail)
	})
	list, err := client.Bundles(s.t.Context(), s.agent.ID)
	i := slices.IndexFunc(list, func(b operator.Bundle) bool { return b.Complete })
	if err != nil || i < 0 {
		s.t.Fatalf("bundles %+v, %v", list, err)
	}
	var got bytes.Buffer
	if err := client.Bundle(s.t.Context(), list[i], &got); err != nil || int64(got.Len()) != list[i].Size {
		s.t.Errorf("the bundle of %d bytes: %d, %v", list[i].Size, got.Len(), err)
	}
}

// handedOut publishes a program as client, and fetches it as the endpoint.
func (s *scene) handedOut(client *operator.Client, key release.PrivateKey) {
	s.t.Helper()
	program := append(unrunnable(), make([]byte, 8<<20)...) // more than any buffer
	cryptorand.Read(program[len(program)-8<<20:])
	b, err := release.Sign(key, bytes.NewReader(program), "v9.9.9", runtime.GOOS, runtime.GOARCH)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := client.Publish(s.t.Context(), b, bytes.NewReader(program)); err != nil {
		s.t.Fatalf("publish: %v", err)
	}
	dir, _, err := state.Look(s.agent.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	id, err := dir.Identity()
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(id.LinkCA))
	door, err := oob.NewClient(oob.ClientOptions{Doors: id.OOB, Token: id.Token, RootCAs: roots})
	if err != nil {
		s.t.Fatal(err)
	}
	defer door.Close()
	var got bytes.Buffer
	if _, err := door.Fetch(s.t.Context(), b.SHA256, b.Size, 0, &got); err != nil || !bytes.Equal(got.Bytes(), program) {
		s.t.Errorf("a program of %d bytes: %d came, %v", len(program), got.Len(), err)
	}
}

package virtual

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/agent/worker"
	"gururmm/internal/memnet"
	"gururmm/lab/proxy"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server"
	"gururmm/wire"
)

// machine is the endpoint's power switch: while it is suspended no timer-driven
// loop of the agent turns, no byte passes its network card.
type machine struct {
	mu     sync.Mutex
	resume chan struct{} // nil: it runs
}

func (m *machine) gate() {
	m.mu.Lock()
	wait := m.resume
	m.mu.Unlock()
	if wait != nil {
		<-wait
	}
}

func (m *machine) suspend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resume = make(chan struct{})
}

func (m *machine) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.resume)
	m.resume = nil
}

type card struct {
	net.Conn
	m *machine
}

func (c card) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.gate()
	return n, err
}

func (c card) Write(b []byte) (int, error) {
	c.m.gate()
	return c.Conn.Write(b)
}

// network is an in-memory one: listeners by address.
type network struct {
	mu sync.Mutex
	at map[string]*memnet.Listener
}

func (n *network) listen(_, addr string) (net.Listener, error) {
	l := memnet.Listen(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[addr] = l
	return l, nil
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.at[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return l.Dial(ctx)
}

// world is one server, one proxy and one agent. What it counts: beacons by
// cause as they come in, dials of the link, and all steps of the ladder.
type world struct {
	t       *testing.T
	net     *network
	machine *machine
	proxy   *proxy.Proxy
	info    server.Info
	agent   state.Identity
	op      *operator.Client
	asking  *http.Client
	dials   int
	mu      sync.Mutex
	door    *countingDoor
}

type secondDoor = guardian.Door

// countingDoor keeps every report that goes out.
type countingDoor struct {
	secondDoor
	mu      sync.Mutex
	reports []oob.Report
}

func (d *countingDoor) Beacon(ctx context.Context, r oob.Report) (wire.PollResponse, error) {
	d.mu.Lock()
	d.reports = append(d.reports, r)
	d.mu.Unlock()
	return d.secondDoor.Beacon(ctx, r)
}

func (d *countingDoor) taken() []oob.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]oob.Report(nil), d.reports...)
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// run brings the world up, lets day live in it, and takes it down. Call it in a bubble.
func run(t *testing.T, day func(w *world)) {
	dir := t.TempDir()
	w := &world{t: t, net: &network{at: map[string]*memnet.Listener{}}, machine: &machine{}}
	const main, second, box, boxOOB = "127.0.0.1:8443", "127.0.0.1:8444", "127.0.0.1:9443", "127.0.0.1:9444"

	srv := must[*server.Server](t)(server.New(server.Config{
		ListenAddr: main, OOBAddr: second, PublicURL: "https://" + box, OOBURLs: []string{"https://" + boxOOB},
		StateDir: filepath.Join(dir, "server"), Listen: w.net.listen,
	}, slog.New(slog.DiscardHandler)))
	w.info = srv.Info()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	wg.Go(func() {
		if err := srv.Run(ctx); err != nil {
			t.Errorf("server: %v", err)
		}
	})

	cert := must[tls.Certificate](t)(tls.LoadX509KeyPair(w.info.CAFile, filepath.Join(dir, "server", "main.key")))
	w.proxy = must[*proxy.Proxy](t)(proxy.New(proxy.Options{
		Listen: box, Upstream: main, Cert: &cert, UpstreamTLS: &tls.Config{InsecureSkipVerify: true},
		OOBListen: boxOOB, OOBUpstream: second, ListenNet: w.net.listen, DialNet: w.net.dial,
	}))

	defer w.proxy.Close()

	conf := must[*tls.Config](t)(operator.TLSConfig("", w.info.Pin))
	w.op = must[*operator.Client](t)(operator.New("https://"+main, w.info.OperatorToken, conf))
	w.op.SetDial(w.net.dial)
	defer w.op.Close()

	home := must[*state.Dir](t)(state.Open(filepath.Join(dir, "agent")))
	presence := must[wire.Presence](t)(state.MachinePresence("test"))
	w.agent, _, _ = enroll(t, home, state.EnrollOptions{
		ServerURL: "https://" + box, Token: w.info.EnrollToken, Pin: w.info.Pin, Presence: presence,
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: w.net.dial, TLSClientConfig: conf, DisableKeepAlives: true}},
	})
	agentCtx, agentStop := context.WithCancel(context.Background())
	agentDone := w.startAgent(agentCtx, home, presence)
	defer func() {
		agentStop()
		<-agentDone
	}()
	day(w)
}

func enroll(t *testing.T, home *state.Dir, o state.EnrollOptions) (state.Identity, time.Time, error) {
	t.Helper()
	id, at, err := home.Enroll(t.Context(), o, false)
	if err != nil {
		t.Fatal(err)
	}
	return id, at, err
}

func (w *world) dialFromAgent(ctx context.Context, netw, addr string) (net.Conn, error) {
	w.machine.gate()
	c, err := w.net.dial(ctx, netw, addr)
	if err != nil {
		return nil, err
	}
	return card{c, w.machine}, nil
}

func (w *world) startAgent(ctx context.Context, home *state.Dir, presence wire.Presence) <-chan struct{} {
	t := w.t
	policy, _, err := home.Policy()
	if err != nil {
		t.Fatal(err)
	}
	client := must[*oob.Client](t)(oob.NewClient(oob.ClientOptions{Doors: w.agent.OOB, Token: w.agent.Token, Dial: w.dialFromAgent}))
	w.door = &countingDoor{secondDoor: client}
	spool := must[*oob.Spool](t)(oob.OpenSpool(home.Path("spool"), 0, 0))
	statusAt := memnet.Listen("status")
	w.asking = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return statusAt.Dial(ctx) },
		DisableKeepAlives: true,
	}}
	var keys []ed25519.PublicKey
	for _, k := range w.agent.CommandKeys {
		keys = append(keys, k)
	}
	g := must[*guardian.Guardian](t)(guardian.New(guardian.Config{
		Agent: w.agent.Agent, Server: w.agent.Server, Presence: presence, Keys: keys, Policy: policy,
		SavePolicy: home.SavePolicy, StateFile: home.Path("guardian.json"),
		Spawn: func(context.Context) (guardian.Child, error) { return w.spawn(home, policy, presence), nil },
		Door:  w.door, Spool: spool, Status: statusAt, Gate: w.machine.gate,
		Rand: rand.New(rand.NewPCG(1, 2)),
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			t.Errorf("guardian: %v", err)
		}
	}()
	return done
}

// spawn runs a worker as goroutines behind the same pipe that a process has.
func (w *world) spawn(home *state.Dir, policy wire.Policy, presence wire.Presence) guardian.Child {
	ordersOut, ordersIn := io.Pipe()
	factsOut, factsIn := io.Pipe()
	ctx, kill := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := worker.Run(ctx, worker.Config{
			StateDir: home, Identity: w.agent, Policy: policy, Presence: presence, Version: "test",
			Dial: func(ctx context.Context, netw, addr string) (net.Conn, error) {
				w.mu.Lock()
				w.dials++
				w.mu.Unlock()
				return w.dialFromAgent(ctx, netw, addr)
			},
			Resolve: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			},
			Gate: w.machine.gate, Metrics: func() wire.Metrics { return wire.Metrics{At: time.Now()} },
		}, ordersOut, factsIn)
		factsIn.Close()
		ordersOut.Close()
		ended <- err
	}()
	return guardian.Child{
		PID: 1, Stdin: ordersIn, Stdout: factsOut,
		Wait: func() error { return <-ended },
		Kill: func([]selfcheck.JobFact) error { kill(); return nil },
	}
}

// status is what `gururmm-agent status` would be told.
func (w *world) status() local.Status {
	w.t.Helper()
	answer, err := w.asking.Get("http://guardian/status")
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	var s local.Status
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) dialCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// verified waits until both ends call the link verified.
func (w *world) verified() {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		a, err := w.op.Agent(w.t.Context(), w.agent.Agent)
		if err == nil && a.Presence == "verified" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not verified: %+v, %v", a, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// well holds that the day had no forced reconnect, one link only, and no
// beacon but the one at start, its recovery to well, and the scheduled ones.
func (w *world) well(day time.Duration, links int) {
	w.t.Helper()
	if got := w.dialCount(); got != links {
		w.t.Errorf("the link was dialed %d times, want %d", got, links)
	}
	s := w.status()
	if len(s.Steps) != 0 {
		w.t.Errorf("steps were taken: %+v", s.Steps)
	}
	if s.Verdict.Severity != selfcheck.SeverityWell {
		w.t.Errorf("verdict at the end of the day: %s %s", s.Verdict.Code, s.Verdict.Sentence)
	}
	causes := map[string]int{}
	for _, r := range w.door.taken() {
		causes[r.Cause]++
		if r.Cause != "schedule" {
			raw, _ := json.Marshal(r.Verdict)
			w.t.Logf("beacon at %s: %s %s", r.At.Format(time.TimeOnly), r.Cause, raw)
		}
	}
	// Every 15 min, jittered by 10 %.
	least, most := int(day/(15*time.Minute)*10/11)-1, int(day/(15*time.Minute)*10/9)+1
	if causes["schedule"] < least || causes["schedule"] > most {
		w.t.Errorf("%d scheduled beacons, want %d to %d", causes["schedule"], least, most)
	}
	if causes["start"] != 1 || causes["verdict"] > 1 || len(causes) > 3 {
		w.t.Errorf("beacons by cause: %v; want start once, the first verdict at most once, and the schedule", causes)
	}
}

const day = 24 * time.Hour

func TestIdleDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run(t, func(w *world) {
			w.verified()
			time.Sleep(day)
			w.well(day, 1)
		})
	})
}

func TestIdleDayWithPingPayloadsStripped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run(t, func(w *world) {
			for _, dir := range []proxy.Direction{proxy.Down, proxy.Up} {
				if err := w.proxy.Set(dir, proxy.Fault{Kind: proxy.StripPings}); err != nil {
					t.Fatal(err)
				}
			}
			w.verified()
			time.Sleep(day)
			w.well(day, 1)
			s := w.status()
			found := false
			for _, f := range s.Findings {
				found = found || f.Code == selfcheck.FindPingsRewritten
			}
			if !found {
				t.Errorf("the stripped pings were not found: %+v", s.Findings)
			}
		})
	})
}

func TestIdleDayWithASuspend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run(t, func(w *world) {
			w.verified()
			time.Sleep(6 * time.Hour)
			w.machine.suspend()
			time.Sleep(10 * time.Minute)
			w.machine.wake()
			w.verified()
			s := w.status()
			found := false
			for _, f := range s.Findings {
				found = found || f.Code == selfcheck.FindSuspendResumed
			}
			if !found {
				t.Errorf("the suspend was not found: %+v", s.Findings)
			}
			time.Sleep(18 * time.Hour)
			// The server ended the silent link meanwhile, so there is a second one: not forced.
			w.well(day, 2)
		})
	})
}

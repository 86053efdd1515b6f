package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"gururmm/agent/link"
	"gururmm/agent/state"
	"gururmm/checkup"
	"gururmm/internal/diskfree"
	"gururmm/internal/fault"
	"gururmm/internal/neterr"
)

// Address is one of the server's, with how it is trusted and reached.
type Address struct {
	Kind Kind
	URL  string
	// CA is a PEM bundle, Pin "sha256/…"; both empty: the system's roots.
	CA, Pin string
	// Proxy as in http.Transport; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
}

// Fact is what another house found out about this machine.
type Fact struct {
	Status  checkup.Status
	Seen    string
	Notes   []string
	Do      string
	Figures map[string]any
}

// Subject is what is looked at.
type Subject struct {
	Agent   string // id; empty: not enrolled
	Version string
	// NotEnrolled says why there is no identity; "": there is one.
	NotEnrolled string
	// Broken says that a file of the state directory can't be understood; "": none.
	Broken string
	// Token makes the JWT of one request; nil: not enrolled.
	Token     func(now time.Time) (string, error)
	Addresses []Address
	// ProxyFrom tells where the way out of link and second door was set.
	ProxyFrom map[Kind]string

	// DialDNS is a seam: it reaches a name server; nil: as the platform does.
	DialDNS func(ctx context.Context, network, addr string) (net.Conn, error)

	// Room is a seam: it tells what is free on the disk of a directory; nil: [diskfree.Of].
	Room func(dir string) (diskfree.Room, error)

	StateDir string
	LockFile string
	// Start says how the agent is started here; "": by the service manager.
	Start string
	// Service, Versions and Guardian are the facts of other houses.
	Service, Versions func(context.Context) Fact
	Guardian          func(context.Context) (Running, error)
}

// Running is what the status socket says of the guardian that answers.
type Running struct {
	Socket  string
	PID     int
	Version string
	Verdict Fact // of the guardian on itself
}

// ErrNotRunning, of Subject.Guardian: nobody answers.
var ErrNotRunning = errors.New("nobody answers at the status socket")

// SilentError, of Subject.Guardian: one is there, and does not answer.
type SilentError struct{ Seen, Do string }

func (e *SilentError) Error() string { return e.Seen }

// Options of [Run].
type Options struct {
	Only    []string
	Timeout time.Duration // of each probe; 0: each has its own
	// Within bounds the whole; what is not reached by then is skipped; 0: nothing does.
	Within time.Duration
	// Told is called before and after each probe, one call at a time; done counts
	// the ended ones, r is nil before. May be nil.
	Told func(p Probe, r *checkup.Result, done, total int)
}

// atOnce bounds the probes under way: enough that one black hole does not hold
// up the rest, few enough not to disturb what they measure.
const atOnce = 6

// overtime is what a probe gets to notice that its time is over.
const overtime = time.Second

// run is one check-up under way.
type run struct {
	subject Subject
	plan    []Probe
	alone   chan struct{} // held by who has a probe link open
	slots   chan struct{}

	mu      sync.Mutex // never held across I/O
	addrs   map[int][]string
	samples []sample
	echoes  map[int]echoed
	narrow  map[int]bool  // endpoints whose TLS needs a small hello
	offset  time.Duration // server's clock minus ours, as far as known
}

// Endpoints gives the addresses as a plan needs them. A proxy that can't be
// chosen is left out: the probes on the way say why.
func (s Subject) Endpoints() []Endpoint {
	var out []Endpoint
	for _, a := range s.Addresses {
		e := Endpoint{Kind: a.Kind, URL: a.URL}
		if via, err := a.via(); err == nil && via != nil {
			e.Via = via.Redacted()
		}
		out = append(out, e)
	}
	return out
}

// via gives the proxy for a; nil: none.
func (a Address) via() (*url.URL, error) {
	u, err := url.Parse(a.URL)
	if err != nil || a.Proxy == nil {
		return nil, err
	}
	switch u.Scheme {
	case "ws", "http":
		return nil, nil // loopback
	}
	u.Scheme = "https"
	return a.Proxy(&http.Request{Method: http.MethodGet, URL: u, Host: u.Host})
}

// Run looks at s. The error says that nothing could be planned; all else is in
// the report.
func Run(ctx context.Context, s Subject, o Options) (checkup.Report, error) {
	plan, err := Plan(Input{Endpoints: s.Endpoints(), NotEnrolled: s.NotEnrolled, Only: o.Only, Timeout: o.Timeout})
	if err != nil {
		return checkup.Report{}, err
	}
	began := time.Now()
	whole := ctx
	if o.Within > 0 {
		var cancel context.CancelFunc
		whole, cancel = context.WithTimeoutCause(ctx, o.Within, fmt.Errorf("not done within %v of the doctor's coming", o.Within))
		defer cancel()
	}
	r := &run{
		subject: s, plan: plan, alone: make(chan struct{}, 1), slots: make(chan struct{}, atOnce),
		addrs: map[int][]string{}, echoes: map[int]echoed{}, narrow: map[int]bool{},
	}
	host, _ := os.Hostname() // unknown stays empty
	report := checkup.Report{
		Schema: checkup.Schema, At: began, Host: host, Agent: s.Agent, Version: s.Version,
		Results: r.all(whole, o.Told),
	}
	report.TookMS = checkup.MS(time.Since(began))
	report.Verdict = report.Worst()
	return report, ctx.Err()
}

// ended is one probe's result, by its place in the plan; begun without one.
type ended struct {
	at     int
	result *checkup.Result
}

// all runs the plan and returns when each probe has a result.
func (r *run) all(ctx context.Context, told func(Probe, *checkup.Result, int, int)) []checkup.Result {
	done := map[string]chan struct{}{}
	for _, p := range r.plan {
		done[p.ID] = make(chan struct{})
	}
	results := make([]checkup.Result, len(r.plan)) // each written by its own probe, read after its done
	place := map[string]int{}
	for i, p := range r.plan {
		place[p.ID] = i
	}
	news := make(chan ended)
	var probes sync.WaitGroup
	for i, p := range r.plan {
		probes.Go(func() {
			defer close(done[p.ID])
			results[i] = checkup.Result{Group: p.Group, Name: p.Name, Target: p.Target}
			for _, id := range append(p.After, p.Needs...) {
				<-done[id] // each ends by its deadline
			}
			for _, id := range p.Needs {
				if need := results[place[id]]; !need.Status.Good() && p.Skip == "" {
					p.Skip = fmt.Sprintf("needs %s, which %s", need.Name, map[checkup.Status]string{
						checkup.Fail: "failed", checkup.Skip: "was skipped"}[need.Status])
				}
			}
			if p.Skip != "" {
				results[i].Status, results[i].Seen = checkup.Skip, p.Skip
			} else {
				r.one(ctx, p, &results[i], func() { news <- ended{at: i} })
			}
			news <- ended{i, &results[i]}
		})
	}
	for n := 0; n < len(r.plan); {
		e := <-news
		if e.result != nil {
			n++
		}
		if told != nil {
			told(r.plan[e.at], e.result, n, len(r.plan))
		}
	}
	probes.Wait()
	return results
}

// one waits for a slot and runs p with its deadline.
func (r *run) one(ctx context.Context, p Probe, result *checkup.Result, begun func()) {
	if p.Alone {
		r.alone <- struct{}{}
		defer func() { <-r.alone }()
	}
	r.slots <- struct{}{}
	defer func() { <-r.slots }()
	if ctx.Err() != nil {
		result.Status, result.Seen = checkup.Skip, interrupted(ctx)
		return
	}
	begun()
	began := time.Now()
	got := make(chan checkup.Result, 1)
	limited, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	mine := *result // of a probe left behind nobody else may read
	go func() {     // left behind if it hangs in the kernel: this process is short-lived
		r.look(limited, p, &mine)
		got <- mine
	}()
	late := time.NewTimer(p.Timeout + overtime)
	defer late.Stop()
	select {
	case *result = <-got:
	case <-late.C:
		fail(result, "it did not end within "+p.Timeout.String(), "Something below it hangs: look at the kernel's log and at the file system.")
	}
	if ctx.Err() != nil && !result.Status.Good() {
		*result = checkup.Result{Group: result.Group, Name: result.Name, Target: result.Target, Status: checkup.Skip, Seen: interrupted(ctx)}
	}
	result.TookMS = checkup.MS(time.Since(began))
}

// interrupted says why a probe was not done.
func interrupted(ctx context.Context) string {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "interrupted"
}

// look runs the probe that p names.
func (r *run) look(ctx context.Context, p Probe, res *checkup.Result) {
	switch p.Name {
	case DNS:
		r.dns(ctx, p, res)
	case TCP:
		r.tcp(ctx, p, res)
	case TLS:
		r.tls(ctx, p, res)
	case Upgrade:
		r.upgrade(ctx, p, res)
	case Ping:
		r.ping(ctx, p, res)
	case Echo:
		r.echo(ctx, p, res)
	case MTU:
		r.mtu(ctx, p, res)
	case Door:
		r.door(ctx, p, res)
	case Proxy:
		r.proxy(res)
	case Clock:
		r.clock(res)
	case State:
		r.state(res)
	case Disk:
		r.disk(res)
	case Service:
		r.fact(ctx, r.subject.Service, res)
	case Versions:
		r.fact(ctx, r.subject.Versions, res)
	case Instance:
		r.instance(ctx, res)
	case Guardian:
		r.guardian(ctx, res)
	}
}

func (r *run) fact(ctx context.Context, ask func(context.Context) Fact, res *checkup.Result) {
	if ask == nil {
		res.Status, res.Seen = checkup.Skip, "nothing is known of it on this platform"
		return
	}
	take(res, ask(ctx))
}

func take(res *checkup.Result, f Fact) {
	res.Status, res.Seen, res.Notes, res.Do, res.Figures = f.Status, f.Seen, f.Notes, f.Do, f.Figures
}

func pass(res *checkup.Result, seen string) { res.Status, res.Seen = checkup.Pass, seen }

func warn(res *checkup.Result, seen, do string) {
	res.Status, res.Seen, res.Do = checkup.Warn, seen, do
}

func fail(res *checkup.Result, seen, do string) {
	res.Status, res.Seen, res.Do = checkup.Fail, seen, do
}

// broke is fail with the network error that err is.
func broke(res *checkup.Result, err error, do string) {
	d := link.Describe(err)
	fail(res, d.Detail, do)
	res.Phase, res.Type = d.Phase, d.Type
	if hint := adviseFor(d.Type); res.Do == "" {
		res.Do = hint
	}
}

// adviseFor says what to do about a network error.
func adviseFor(typ string) string {
	switch typ {
	case neterr.DNSNameNotResolved:
		return "Check the name in link_urls, oob or --server, and the zone it is in: no name server knows an address for it."
	case neterr.DNSUnreachable, neterr.DNSFailed:
		return "This machine's name servers do not answer: check its resolver settings and the way to them."
	case neterr.TCPRefused:
		return "Nothing listens there: is the server running, is the port right, does a firewall reject it?"
	case neterr.TCPTimedOut, neterr.TCPUnreachable:
		return "Packets do not come back: have the firewalls on the way allow this machine to that address and port."
	case neterr.TCPReset, neterr.TCPClosed, neterr.TCPAborted:
		return "Something cuts the connection: look for a firewall or proxy on the way that closes it, then at the server's log."
	case neterr.HTTPError, neterr.HTTPProtocolError, neterr.WSUpgradeRefused:
		return "What answers is not our server, or a box before it refuses WebSockets: compare with the server's own log."
	}
	return ""
}

// at gives the address that p looks at.
func (r *run) at(p Probe) Address { return r.subject.Addresses[p.Endpoint] }

// options are those with which the agent itself would dial a.
func (r *run) options(a Address) (link.Options, error) {
	u, err := url.Parse(a.URL)
	if err != nil {
		return link.Options{}, err
	}
	switch u.Scheme { // the second door is reached in the same way, up to TLS
	case "https":
		u.Scheme = "wss"
	case "http":
		u.Scheme = "ws"
	}
	cfg, err := state.Identity{LinkCA: a.CA, LinkPin: a.Pin}.TLSConfig(r.now)
	if err != nil {
		return link.Options{}, err
	}
	token := r.subject.Token
	if token == nil {
		token = func(time.Time) (string, error) { return "", nil }
	}
	return link.Options{URL: u.String(), Token: token, TLS: cfg, Clock: r, Proxy: a.Proxy}, nil
}

// now is the server's clock as far as known.
func (r *run) now() time.Time { return r.Now() }

// Now is the clock as corrected; run is a link.Clock.
func (r *run) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fault.Now().Add(r.offset)
}

// Observe takes in the server's time; see link.Clock.
func (r *run) Observe(server, sent, received time.Time) {
	took := received.Sub(sent)
	if took < 0 || server.IsZero() {
		return
	}
	sent = fault.Clock(sent)
	s := sample{offset: server.Sub(sent.Add(took / 2).Round(0)), bound: took / 2}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
	if best := tightest(r.samples); best == s {
		r.offset = s.offset
	}
}

// found keeps the addresses of an endpoint for the probes after it.
func (r *run) found(p Probe, addrs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs[p.Endpoint] = addrs
}

func (r *run) addresses(p Probe) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addrs[p.Endpoint]
}

// hostOf is the host part of "host:port".
func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// short gives a duration in at most three digits and a unit.
func short(d time.Duration) string {
	switch {
	case d.Abs() < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d.Abs() < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// bytesOf gives a size for people, exactly where it is a round one.
func bytesOf(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	case n >= 10<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func sentence(parts ...string) string {
	return strings.Join(nonEmpty(parts), "; ")
}

func nonEmpty(parts []string) []string {
	var out []string
	for _, p := range parts {
		if p = cmp.Or(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

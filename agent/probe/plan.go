// Package probe is the doctor: it looks at every step of the way to the server
// and at this machine, and says what a human should do.
//
// Rules that hold here:
//   - what is looked at is planned as data by [Plan], a pure function, and run by
//     [Run]: decisions are tested without a network;
//   - nothing is changed: no link is replaced, no command taken, no file left
//     behind; links and polls are marked as probes (wire.HeaderProbe);
//   - a token goes only where the server's certificate has proven itself;
//   - each probe has a deadline, and one that does not keep it is told as such
//     and left behind: the report comes all the same;
//   - what can't be tried is skipped with the reason, never passed.
package probe

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Names of the probes, in the order of a report.
const (
	DNS     = "dns"
	TCP     = "tcp"
	TLS     = "tls"
	Upgrade = "upgrade"
	Ping    = "ping"
	Echo    = "echo"
	MTU     = "mtu"
	Door    = "door"

	Proxy    = "proxy"
	Clock    = "clock"
	State    = "state"
	Disk     = "disk"
	Service  = "service"
	Versions = "versions"
	Instance = "instance"
	Guardian = "guardian"
)

// Names lists all of them, each with what it looks at.
var Names = []struct{ Name, What string }{
	{DNS, "the host's addresses, and which name servers gave them"},
	{TCP, "a connection to each address"},
	{TLS, "version, certificates, pin, and who stands in between"},
	{Upgrade, "the WebSocket upgrade, or its refusal by our server"},
	{Ping, "pings come back unaltered, and answered by the server itself"},
	{Echo, "texts of 100 B to 256 KiB pass, up and down"},
	{MTU, "the path's packet size"},
	{Door, "the second door answers this endpoint"},
	{Proxy, "which way out is configured, and for what"},
	{Clock, "this machine's clock against the server's"},
	{State, "the state directory: there, private, writable"},
	{Disk, "free bytes and files"},
	{Service, "the service: installed, enabled, running"},
	{Versions, "versions of the agent that are kept here"},
	{Instance, "one guardian, and who holds the lock"},
	{Guardian, "the running agent's own verdict"},
}

// Time limits of the probes; each is more than what its steps may take by themselves.
var limits = map[string]time.Duration{
	DNS:      17 * time.Second, // two questions of 8 s
	TCP:      8 * time.Second,  // addresses side by side, 5 s each
	TLS:      20 * time.Second, // connect and handshake
	Upgrade:  40 * time.Second, // as long as the agent itself would try
	Ping:     30 * time.Second,
	Echo:     85 * time.Second, // two ladders and two dozen steps between their rungs
	MTU:      15 * time.Second,
	Door:     35 * time.Second, // the impatient and the patient round, twice
	Guardian: 10 * time.Second, Service: 15 * time.Second,
}

// defaultLimit is for what asks this machine only.
const defaultLimit = 10 * time.Second

// Kind of an endpoint.
type Kind string

// The kinds; as a report's group they stand before the URL.
const (
	KindLink Kind = "link"
	KindDoor Kind = "second door"
)

// machine is the group of what is no endpoint, noServer of what would need one.
const (
	machine  = "this machine"
	noServer = "the server"
)

// Endpoint is one address of the server, as far as a plan needs it.
type Endpoint struct {
	Kind Kind
	URL  string
	// Via is the proxy on the way, without its password; "": none.
	Via string
}

func (e Endpoint) group() string { return string(e.Kind) + " " + e.URL }

// host is what is connected to: the proxy, if there is one.
func (e Endpoint) host() string {
	for _, raw := range []string{e.Via, e.URL} {
		if u, err := url.Parse(raw); err == nil && u.Hostname() != "" {
			return u.Hostname()
		}
	}
	return e.URL
}

func (e Endpoint) plain() bool {
	return strings.HasPrefix(e.URL, "ws://") || strings.HasPrefix(e.URL, "http://")
}

// Input of a plan.
type Input struct {
	Endpoints []Endpoint
	// NotEnrolled says why there is no identity; "": there is one.
	NotEnrolled string
	// Only names the probes wanted, and takes along what they need; empty: all.
	Only []string
	// Timeout bounds each probe; 0: each has its own.
	Timeout time.Duration
}

// Probe is one thing to look at.
type Probe struct {
	ID       string // unique in a plan
	Name     string
	Group    string
	Target   string
	Endpoint int // index in Input.Endpoints; -1: this machine
	// Needs must have passed for this one to make sense; After only ends before it.
	Needs, After []string
	Timeout      time.Duration
	// Alone: probe links of one agent are opened one at a time.
	Alone bool
	// Skip says why it can't be tried; "": it can.
	Skip string
}

// Plan says what to look at, and in which order. The error names a probe that
// does not exist.
func Plan(in Input) ([]Probe, error) {
	for _, name := range in.Only {
		if !slices.ContainsFunc(Names, func(n struct{ Name, What string }) bool { return n.Name == name }) {
			return nil, fmt.Errorf("there is no probe %q; see --list", name)
		}
	}
	var all []Probe
	for i, e := range in.Endpoints {
		all = append(all, in.endpoint(i, e)...)
	}
	if len(in.Endpoints) == 0 {
		all = append(all, in.unreachable()...)
	}
	all = append(all, in.machine(all)...)
	for i := range all {
		p := &all[i]
		if p.Timeout = limits[p.Name]; p.Timeout == 0 {
			p.Timeout = defaultLimit
		}
		if in.Timeout > 0 {
			p.Timeout = min(p.Timeout, in.Timeout)
		}
	}
	return only(all, in.Only), nil
}

// endpoint plans the way to one of the server's addresses, step by step.
func (in Input) endpoint(i int, e Endpoint) []Probe {
	var steps []Probe
	add := func(name, target string) *Probe {
		steps = append(steps, Probe{ID: name + " " + e.group(), Name: name, Group: e.group(), Target: target, Endpoint: i})
		p := &steps[len(steps)-1]
		if len(steps) > 1 {
			p.Needs = []string{steps[len(steps)-2].ID}
		}
		return p
	}
	add(DNS, e.host())
	tcp := add(TCP, e.host()).ID
	if !e.plain() {
		add(TLS, e.URL)
	}
	if e.Kind == KindDoor {
		add(Door, e.URL)
		return steps
	}
	add(Upgrade, e.URL).Alone = true
	for _, name := range []string{Ping, Echo} {
		p := add(name, e.URL)
		p.Alone = true
		if in.NotEnrolled != "" {
			p.Skip = "needs an identity: " + in.NotEnrolled
		}
	}
	mtu := add(MTU, e.host())
	mtu.After, mtu.Needs = mtu.Needs, []string{tcp} // what the echoes taught the kernel is known then
	return steps
}

// unreachable are the probes asked for that need a server, where none is known.
func (in Input) unreachable() (out []Probe) {
	for _, n := range Names {
		if slices.Contains(in.Only, n.Name) && slices.Contains([]string{DNS, TCP, TLS, Upgrade, Ping, Echo, MTU, Door}, n.Name) {
			out = append(out, Probe{ID: n.Name, Name: n.Name, Group: noServer, Target: noServer, Endpoint: -1,
				Skip: "needs a server, and none is known: give one by --server https://host:port"})
		}
	}
	return out
}

// machine plans what concerns no single endpoint; path is what was planned before.
func (in Input) machine(path []Probe) []Probe {
	var out []Probe
	for _, name := range []string{Proxy, Clock, State, Disk, Service, Versions, Instance, Guardian} {
		out = append(out, Probe{ID: name, Name: name, Group: machine, Target: machine, Endpoint: -1})
	}
	clock := &out[1]
	for _, p := range path {
		if p.Name == Upgrade || p.Name == Door {
			clock.After = append(clock.After, p.ID)
		}
	}
	if len(clock.After) == 0 {
		clock.Skip = "needs a server to compare with: no server is known, give one by --server"
	}
	return out
}

// only keeps the probes named, and what they need or come after.
func only(all []Probe, names []string) []Probe {
	if len(names) == 0 {
		return all
	}
	keep := map[string]bool{}
	for _, p := range slices.Backward(all) { // what is needed stands before who needs it
		if keep[p.ID] || slices.Contains(names, p.Name) {
			keep[p.ID] = true
			for _, id := range slices.Concat(p.Needs, p.After) {
				keep[id] = true
			}
		}
	}
	return slices.DeleteFunc(all, func(p Probe) bool { return !keep[p.ID] })
}

// literal tells an address from a name.
func literal(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

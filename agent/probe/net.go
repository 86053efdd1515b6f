package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/checkup"
	"gururmm/internal/neterr"
)

const (
	// askTimeout bounds one question to the resolver, as the link's own.
	askTimeout = 8 * time.Second
	// connectTimeout, per address: a SYN and its repeats after 1 s and 3 s.
	connectTimeout = 5 * time.Second
	// maxAddresses bounds how many addresses of one name are tried, as the link's own.
	maxAddresses = 8
)

// dns asks for both families, as the agent does: by the system's resolver.
func (r *run) dns(ctx context.Context, p Probe, res *checkup.Result) {
	port := r.port(p)
	if literal(p.Target) {
		r.found(p, []string{net.JoinHostPort(p.Target, port)})
		pass(res, p.Target+" is an address: there is no name to resolve")
		return
	}
	servers := servers{reach: r.subject.DialDNS}
	if servers.reach == nil {
		servers.reach = (&net.Dialer{}).DialContext
	}
	resolver := &net.Resolver{Dial: servers.dial, PreferGo: r.subject.DialDNS != nil}
	type answer struct {
		ips  []netip.Addr
		err  error
		took time.Duration
	}
	families := []string{"ip4", "ip6"}
	answers := make([]answer, len(families))
	var both sync.WaitGroup
	for i, family := range families {
		both.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			began := time.Now()
			ips, err := resolver.LookupNetIP(ctx, family, p.Target)
			answers[i] = answer{ips, err, time.Since(began)}
		})
	}
	both.Wait()

	var addrs, seen []string
	for i, a := range answers {
		name := []string{"A", "AAAA"}[i]
		for _, ip := range a.ips[:min(len(a.ips), maxAddresses/2)] {
			addrs = append(addrs, net.JoinHostPort(ip.Unmap().String(), port))
			seen = append(seen, ip.Unmap().String())
		}
		switch {
		case a.err == nil:
			res.Notes = append(res.Notes, fmt.Sprintf("%s: %s in %s", name, count(len(a.ips), "address", "addresses"), short(a.took)))
		case absent(a.err):
			res.Notes = append(res.Notes, name+": none")
		default:
			res.Notes = append(res.Notes, fmt.Sprintf("%s: %v", name, a.err))
		}
	}
	if asked := servers.list(); len(asked) > 0 {
		res.Notes = append(res.Notes, "asked: "+strings.Join(asked, ", "))
	}
	res.Figures = map[string]any{"addresses": seen, "servers": servers.list()}
	if len(addrs) == 0 {
		err := answers[0].err
		if absent(err) && !absent(answers[1].err) { // what is no mere absence tells more
			err = answers[1].err
		}
		notes := res.Notes
		broke(res, neterr.During(neterr.StepDNS, err), "")
		res.Notes = notes
		return
	}
	r.found(p, addrs)
	pass(res, strings.Join(seen, ", "))
	for _, a := range answers {
		if a.err != nil && !absent(a.err) {
			warn(res, res.Seen, "One family was answered, the other was not: check the name servers named here.")
		}
	}
}

// absent tells that a name has no address of a family: the name server, or the
// hosts file, has said so.
func absent(err error) bool {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e.IsNotFound
	}
	_, ok := errors.AsType[*net.AddrError](err) // of a name in the hosts file
	return ok
}

// port is that of what is connected to: the proxy's, if there is one.
func (r *run) port(p Probe) string {
	a := r.at(p)
	u, err := url.Parse(a.URL)
	if via, verr := a.via(); verr == nil && via != nil {
		u = via
	}
	if err != nil {
		return ""
	}
	if port := u.Port(); port != "" {
		return port
	}
	return map[string]string{"http": "80", "ws": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme] + map[bool]string{true: "443"}[u.Scheme == "https" || u.Scheme == "wss"]
}

// servers notes which name servers the resolver turned to. Where the platform
// resolves by itself, none are known.
type servers struct {
	reach func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	asked []string
}

func (s *servers) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.reach(ctx, network, addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	if host := hostOf(addr); !slices.Contains(s.asked, host) {
		s.asked = append(s.asked, host)
	}
	return conn, err
}

func (s *servers) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// tcp connects to each address, side by side.
func (r *run) tcp(ctx context.Context, p Probe, res *checkup.Result) {
	addrs := r.addresses(p)
	errs := make([]error, len(addrs))
	took := make([]time.Duration, len(addrs))
	var each sync.WaitGroup
	for i, addr := range addrs {
		each.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			began := time.Now()
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			took[i], errs[i] = time.Since(began), err
			if err == nil {
				conn.Close()
			}
		})
	}
	each.Wait()

	var good, bad []string
	figures := map[string]any{}
	for i, addr := range addrs {
		if errs[i] == nil {
			good = append(good, fmt.Sprintf("%s in %s", addr, short(took[i])))
			figures[addr] = checkup.MS(took[i])
		} else {
			bad = append(bad, fmt.Sprintf("%s: %v", addr, reason(errs[i])))
		}
	}
	if len(figures) > 0 {
		res.Figures = map[string]any{"connect_ms": figures}
	}
	err := neterr.During(neterr.StepDial, errors.Join(errs...))
	switch {
	case len(good) == 0:
		broke(res, err, "")
		res.Seen = strings.Join(bad, "; ")
	case len(bad) > 0:
		warn(res, strings.Join(good, "; "), "Mend or withdraw the address that does not answer: each attempt may waste seconds on it.")
		res.Notes = bad
		res.Phase, res.Type = neterr.Classify(err)
	default:
		pass(res, strings.Join(good, "; "))
		if p.Target != targetHost(r.at(p).URL) {
			res.Notes = append(res.Notes, "that is the proxy; it connects onwards")
		}
	}
}

func targetHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Hostname()
}

// reason is the inmost cause of a failed connection, without the address again.
func reason(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}

// mtu tells the packet sizes of the path, and judges the echoes by them.
func (r *run) mtu(ctx context.Context, p Probe, res *checkup.Result) {
	o, err := r.options(r.at(p))
	if err != nil {
		broke(res, err, "")
		return
	}
	conn, remote, err := o.Reach(ctx)
	if err != nil {
		broke(res, err, "")
		return
	}
	defer conn.Close()
	path := pathOf(conn)
	name, card := cardOf(conn)
	r.mu.Lock()
	echo, narrow := r.echoes[p.Endpoint], r.narrow[p.Endpoint]
	r.mu.Unlock()

	var known []string
	res.Figures = map[string]any{}
	if card > 0 {
		known = append(known, fmt.Sprintf("interface %s has an MTU of %d bytes", name, card))
		res.Figures["interface_mtu_bytes"] = card
	}
	if path.MTU > 0 {
		known = append(known, fmt.Sprintf("the path to %s one of %d", hostOf(remote), path.MTU))
		res.Figures["path_mtu_bytes"] = path.MTU
	}
	if path.MSS > 0 {
		known = append(known, fmt.Sprintf("segments carry %d", path.MSS))
		res.Figures["segment_bytes"] = path.MSS
	}
	if len(known) == 0 {
		res.Status, res.Seen = checkup.Skip, "this platform does not tell the path's packet size"
		return
	}
	pass(res, strings.Join(known, "; "))
	segment := path.MSS
	if segment == 0 {
		segment = 1200 // what any IPv6 path carries (RFC 8200 §5), less the headers
	}
	if dir := echo.brokenBeyond(segment); dir != "" {
		warn(res, res.Seen, fmt.Sprintf("Texts of one packet pass %s, longer ones do not: large packets are lost on the way. "+
			"Let ICMP \"fragmentation needed\" through, or lower the MTU of %s (try 1400, then 1280).", dir, name))
	} else if narrow {
		warn(res, res.Seen, "TLS passes with small packets only: see what tls says of the MTU.")
	} else if path.MTU > 0 && card > path.MTU+1 { // loopback's own differ by one
		res.Notes = append(res.Notes, "the path is narrower than the interface: a tunnel or VPN is on it, and it is known")
	}
}

// pathFacts are what the kernel knows of a connection; 0: not known.
type pathFacts struct{ MTU, MSS int }

// cardOf gives the interface that a connection leaves by, and its MTU in bytes.
func cardOf(conn net.Conn) (name string, mtu int) {
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return "", 0
	}
	cards, err := net.Interfaces()
	if err != nil {
		return "", 0
	}
	for _, c := range cards {
		addrs, err := c.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == local.Addr().Unmap().WithZone("") {
					return c.Name, c.MTU
				}
			}
		}
	}
	return "", 0
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

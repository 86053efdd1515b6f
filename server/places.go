package server

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"gururmm/internal/pin"
)

// The listeners as Config.ProxyProtocol names them.
const (
	mainListener = "main"
	oobListener  = "oob"
)

// byCA stands for a key where the endpoint's roots decide.
const byCA = "ca"

// place is where endpoints reach a listener.
type place struct {
	url string // https://host[:port]
	key string // what it is known by: empty (this server's own key), byCA or a pin
}

// parsePlace reads "https://host[:port]", with "=ca" or "=sha256/…" behind it if a proxy ends TLS there.
func parsePlace(s string) (place, error) {
	raw, key, foreign := strings.Cut(s, "=")
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return place{}, err
	case u.Scheme != "https":
		return place{}, fmt.Errorf("%q must begin with https://", raw)
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
		return place{}, fmt.Errorf("%q: want https://host[:port] and nothing more", raw)
	}
	if foreign && key != byCA {
		if err := pin.Check(key); err != nil {
			return place{}, fmt.Errorf("%q: behind = want %s, or the pin of the proxy's key: %w", s, byCA, err)
		}
	}
	return place{url: strings.TrimSuffix(raw, "/"), key: key}, nil
}

// pinned gives the pin that endpoints are told; own is that of this server's key, if it has one.
func (p place) pinned(own string) string {
	if p.key == byCA {
		return ""
	}
	return cmp.Or(p.key, own)
}

func (c Config) checkPlaces() error {
	if c.PublicURL != "" {
		if _, err := parsePlace(c.PublicURL); err != nil {
			return fmt.Errorf("public_url: %w", err)
		}
	}
	seen := map[string]bool{}
	for _, s := range c.OOBURLs {
		p, err := parsePlace(s)
		if err != nil {
			return fmt.Errorf("oob_url: %w", err)
		}
		if seen[p.url] {
			return fmt.Errorf("oob_url: %s is given twice", p.url)
		}
		seen[p.url] = true
	}
	for _, name := range c.ProxyProtocol {
		switch {
		case name != mainListener && name != oobListener:
			return fmt.Errorf("proxy_protocol: %q is not a listener: want %s or %s", name, mainListener, oobListener)
		case len(c.TrustedProxies) == 0:
			return errors.New("proxy_protocol needs trusted_proxy: else anybody could name himself")
		}
	}
	return nil
}

// places gives those of a listener: the one it listens at, if none is given.
func places(given []string, ln net.Listener) ([]place, error) {
	var all []place
	for _, s := range given {
		p, err := parsePlace(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) > 0 {
		return all, nil
	}
	own, err := urlOf(ln.Addr())
	return []place{{url: own}}, err
}

// proxied tells whether trusted proxies speak the PROXY protocol to that listener.
func (c Config) proxied(listener string) bool { return slices.Contains(c.ProxyProtocol, listener) }

// forwarded tells whether trusted proxies name the client there in X-Forwarded-For.
func (c Config) forwarded(listener string) bool {
	if len(c.TrustedProxies) == 0 || c.proxied(listener) {
		return false
	}
	// The second door's own key can't be shown by who ends TLS.
	return listener == mainListener || slices.ContainsFunc(c.OOBURLs, func(s string) bool { return strings.Contains(s, "=") })
}

// namedListener reads the client's address from the PROXY protocol's header that each
// connection of a trusted proxy begins with, version 1 or 2; one without is closed. What
// others send is left as it is.
type namedListener struct {
	net.Listener
	log  *slog.Logger
	told atomic.Int64 // when a proxy was last complained of, Unix seconds
}

// tellEvery bounds how often a proxy is complained of.
const tellEvery = time.Minute

func (s *Server) named(ln net.Listener) net.Listener {
	return &namedListener{log: s.log.With("part", "http"), Listener: &proxyproto.Listener{
		Listener: ln, ReadHeaderTimeout: headerTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if s.cfg.trusted(o.Upstream) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}}
}

func (l *namedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if named, ok := conn.(*proxyproto.Conn); ok {
		return &namedConn{named, l}, err
	}
	return conn, err
}

// namedConn tells the log of a proxy that names nobody.
type namedConn struct {
	*proxyproto.Conn
	from *namedListener
}

// NetConn is the proxy's connection.
func (c *namedConn) NetConn() net.Conn { return c.Raw() }

func (c *namedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, proxyproto.ErrNoProxyProtocol) {
		now, last := time.Now().Unix(), c.from.told.Load()
		if now-last >= int64(tellEvery/time.Second) && c.from.told.CompareAndSwap(last, now) {
			c.from.log.Warn("a trusted proxy does not speak the PROXY protocol here, its connections are closed: have it send that, or take this listener out of proxy_protocol",
				"addr", c.Raw().RemoteAddr(), "listen", c.Raw().LocalAddr())
		}
	}
	return n, err
}

func (c Config) trusted(addr net.Addr) bool {
	peer, err := netip.ParseAddrPort(addr.String())
	return err == nil && slices.ContainsFunc(c.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(peer.Addr().Unmap()) })
}

// nameless begins a connection of this server to itself, if it counts as a proxy's.
func (c Config) nameless(conn net.Conn) error {
	if !c.proxied(mainListener) || !c.trusted(conn.LocalAddr()) {
		return nil
	}
	_, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).WriteTo(conn)
	return err
}

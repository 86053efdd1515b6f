package server

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"gururmm/internal/endpoint"
	"gururmm/internal/fileerr"
	"gururmm/release"
	"gururmm/server/hub"
	"gururmm/server/retention"
	"gururmm/wire"
)

// Config of a Server. The zero value of a field means its default.
type Config struct {
	ListenAddr string // main listener: link, enrollment, operators; default ":8443"
	OOBAddr    string // the second door; default ":8444"
	// PublicURL is what endpoints are told of the main listener, OOBURLs of the second
	// door, in order of preference; default: as listened on. Behind "=" may stand what
	// they shall know it by where that is not this server's own key, since a proxy of
	// yours ends TLS there: "ca" (their roots decide) or a pin ("sha256/…").
	PublicURL string
	OOBURLs   []string
	StateDir  string // needed
	// NoFirstTokens: the first start makes no tokens, which would have to be shown to somebody.
	NoFirstTokens bool
	// DatabaseURL names a PostgreSQL, as store.OpenPostgres takes it; empty: SQLite, in
	// StateDir. It may hold a password: it is never logged nor shown.
	DatabaseURL string
	// ClusterURL names the NATS by which several nodes on one PostgreSQL wake each other, as
	// cluster.NATSOptions have it; empty: there is one node alone. It may hold a secret: it is
	// never logged nor shown. ClusterCreds and ClusterCA are files of its credentials and roots.
	ClusterURL, ClusterCreds, ClusterCA string
	// NodeName is what people call this node; default: the host's name.
	NodeName string
	// SharedDir is where all nodes keep programs and support bundles: one directory, of a
	// file system that all of them have. Needed with ClusterURL.
	SharedDir string
	// CertFile and KeyFile of the main listener (PEM); default: self-signed, kept in StateDir.
	CertFile, KeyFile string
	// TrustedProxies may name the client. At a listener of ProxyProtocol they do so by that
	// and must. Else by X-Forwarded-For: at the main listener, and at the second door if one
	// of OOBURLs says that a proxy ends TLS there; who passes TLS through writes no headers,
	// so what it brings is the client's own word. With no certificate given, and the main
	// listener not in ProxyProtocol, a proxy ends TLS: the main listener then speaks
	// plain HTTP, on loopback only, and PublicURL is needed (OOBURLs too, if OOBAddr is loopback).
	TrustedProxies []netip.Prefix
	// ProxyProtocol names the listeners ("main", "oob") to which trusted proxies pass TLS
	// through, each connection begun with the PROXY protocol's header.
	ProxyProtocol []string
	// AdminAddr serves health, metrics and profiles; empty: nowhere. On loopback it is
	// plain HTTP. Elsewhere it is TLS with the main listener's certificate, and needs a token.
	AdminAddr string
	// AdminTokenFile holds the bearer token for metrics and profiles.
	AdminTokenFile string
	// KeepCommands is how long commands, jobs and orders are kept once they have ended;
	// default 90 days, below 0 for ever.
	KeepCommands time.Duration
	// FleetRecovery is how agents' recovery is paced while many of them come to one verdict:
	// "spread" (default), "hold" or "as-usual".
	FleetRecovery string
	// Limits of each agent and each operator token in a second; see [Limits].
	Limits Limits
	Policy wire.Policy // zero fields: defaults
	// ReleaseKeys are minisign public keys ("RW…"). Programs signed with one of them can
	// be published, and endpoints that enroll are told to trust them for updates.
	ReleaseKeys []string

	// Ended is told of each command that has ended. Must not block. May be nil.
	Ended func(command string)

	// Listen opens a listener; default net.Listen. Tests give in-memory ones.
	Listen func(network, addr string) (net.Listener, error)
}

// Limits are what one may do in a second; 0: the default, below 0: any number. What exceeds
// waits, or is refused with 429; nobody else is held up. At once ten seconds' worth may come.
type Limits struct {
	AgentFrames   float64 // on its links, and messages by the second door
	AgentBytes    float64 // of these
	AgentRequests float64
	Operator      float64 // requests of one token
}

// DefaultLimits are more than any agent has use for, and little work for a server.
func DefaultLimits() Limits {
	return Limits{
		AgentFrames:   1000,     // at rest it sends some ten in a minute; the rest is for output
		AgentBytes:    16 << 20, // a line of 130 Mbit/s
		AgentRequests: 20,       // by the second door alone it makes three
		Operator:      200,      // a script that orders something of each of 10,000 takes a minute
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.AgentFrames, l.AgentBytes = cmp.Or(l.AgentFrames, d.AgentFrames), cmp.Or(l.AgentBytes, d.AgentBytes)
	l.AgentRequests, l.Operator = cmp.Or(l.AgentRequests, d.AgentRequests), cmp.Or(l.Operator, d.Operator)
	return l
}

// Defaults of the listeners' addresses.
const (
	DefaultListen = ":8443"
	DefaultOOB    = ":8444"
)

// plain tells whether the main listener speaks plain HTTP.
func (c Config) plain() bool {
	return len(c.TrustedProxies) > 0 && c.CertFile == "" && !c.proxied(mainListener)
}

// complete fills in defaults and refuses what can't work, naming the setting.
func (c Config) complete() (_ Config, err error) {
	if c.ListenAddr == "" {
		c.ListenAddr = DefaultListen
	}
	if c.OOBAddr == "" {
		c.OOBAddr = DefaultOOB
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	if c.KeepCommands == 0 {
		c.KeepCommands = retention.Default
	}
	if c.KeepCommands > 0 && c.KeepCommands < retention.Least {
		return c, fmt.Errorf("keep_commands: %v is too short: at least %v, or 0 for ever", c.KeepCommands, retention.Least)
	}
	c.Limits = c.Limits.withDefaults()
	c.FleetRecovery = cmp.Or(c.FleetRecovery, string(hub.RecoverySpread))
	if !slices.Contains([]hub.Recovery{hub.RecoverySpread, hub.RecoveryHold, hub.RecoveryAsUsual}, hub.Recovery(c.FleetRecovery)) {
		return c, fmt.Errorf("fleet_recovery: %q: want %s, %s or %s", c.FleetRecovery, hub.RecoverySpread, hub.RecoveryHold, hub.RecoveryAsUsual)
	}
	if c.Policy.Version == 0 {
		c.Policy.Version = 1
	}
	c.Policy = c.Policy.WithDefaults()
	if err := c.Policy.Validate(); err != nil {
		return c, err
	}
	if _, err := release.ParseKeys(c.ReleaseKeys); err != nil {
		return c, fmt.Errorf("release_key: %w", err)
	}
	if c.StateDir == "" {
		return c, errors.New("state_dir is not set")
	}
	if c, err = c.completeNode(); err != nil {
		return c, err
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return c, errors.New("cert and key go together: one of them is missing")
	}
	if c.CertFile != "" { // a bad pair fails here, not at the first handshake
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			return c, fmt.Errorf("cert and key: %w", fileerr.Why(err))
		}
	}
	for name, addr := range map[string]string{"listen": c.ListenAddr, "oob_listen": c.OOBAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := c.checkPlaces(); err != nil {
		return c, err
	}
	if err := c.checkAdmin(); err != nil {
		return c, err
	}
	if c.plain() {
		host, _, _ := net.SplitHostPort(c.ListenAddr)
		if !endpoint.Loopback(host) {
			return c, fmt.Errorf("listen: %q with trusted_proxy and no cert is plain HTTP, which is only for loopback (127.0.0.1:8080)", c.ListenAddr)
		}
		if c.PublicURL == "" {
			return c, errors.New("public_url is needed with trusted_proxy and no cert: endpoints can't reach loopback")
		}
		if oob, _, _ := net.SplitHostPort(c.OOBAddr); len(c.OOBURLs) == 0 && endpoint.Loopback(oob) {
			return c, fmt.Errorf("oob_url is needed with trusted_proxy and oob_listen on loopback (%s): endpoints would be told an address they can't reach", c.OOBAddr)
		}
	}
	return c, nil
}

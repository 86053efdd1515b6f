package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

func TestEndpointsAreToldEachSecondDoorAndItsKey(t *testing.T) {
	proxys := "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	n := start(t, false, func(c *Config) {
		c.OOBURLs = []string{"https://a.example:8444/", "https://b.example=ca", "https://c.example=" + proxys}
		c.PublicURL = "https://rmm.example=ca"
	})
	if i := n.Info(); i.URL != "https://rmm.example" || i.Pin != "" || i.OOBURL != "https://a.example:8444" || len(i.OOBURLs) != 3 {
		t.Errorf("told: %+v", i)
	}
	n.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.dial(ctx, network, n.Info().Listen)
	}
	id := n.enroll("alpha")
	want := []wire.OOBDoor{{URL: "https://a.example:8444", Pin: n.Info().OOBPin}, {URL: "https://b.example"}, {URL: "https://c.example", Pin: proxys}}
	if !slices.Equal(id.OOB, want) {
		t.Errorf("doors %+v, want %+v", id.OOB, want)
	}
	if !slices.Equal(id.LinkURLs, []string{"wss://rmm.example/v1/link"}) {
		t.Errorf("links %v", id.LinkURLs)
	}
	// Who is enrolled already learns of them with the policy.
	var update wire.ConfigUpdate
	if err := json.Unmarshal(id.Policy.Payload, &update); err != nil || !slices.Equal(update.Policy.OOB, want) {
		t.Errorf("the policy has %+v, %v", update.Policy.OOB, err)
	}
	// The line that enrolls: the server's own key is not the one shown there.
	if token := operate[operator.EnrollToken](n, "POST", "/v1/enroll-tokens", operator.NewEnrollToken{}); token.Pin != "" {
		t.Errorf("the enrollment token comes with %s", token.Pin)
	}
}

// reported sends a beacon from an address of this machine, on a connection that begins with
// head, and gives the address that the server noted; empty: it was not let in.
func (n *node) reported(id identity, from, head, forwarded string) string {
	n.t.Helper()
	raw, err := json.Marshal(report(id, false))
	if err != nil {
		n.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // pins are tested where agents are
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, network, to)
			if err == nil {
				_, err = io.WriteString(conn, head)
			}
			return conn, err
		},
	}}
	req, err := http.NewRequestWithContext(n.t.Context(), "POST", "https://"+n.Info().OOBListen+"/v1/oob/beacon", bytes.NewReader(zip(raw)))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+id.token(nil))
	req.Header.Set("Content-Encoding", "gzip")
	if forwarded != "" {
		req.Header.Set("X-Forwarded-For", forwarded)
	}
	beacons := func() []operator.Beacon {
		return operate[operator.List[operator.Beacon]](n, "GET", "/v1/beacons?agent=alpha", nil).Items
	}
	before := len(beacons())
	resp, err := client.Do(req)
	if err != nil {
		return ""
	}
	resp.Body.Close()
	now := beacons()
	if resp.StatusCode != http.StatusOK || len(now) != before+1 {
		n.t.Fatalf("%s, %d beacons after %d", resp.Status, len(now), before)
	}
	return now[0].Addr
}

const (
	proxyAddr = "127.0.0.8" // of the trusted proxy
	otherAddr = "127.0.0.9" // of anybody else
	v1        = "PROXY TCP4 198.51.100.7 192.0.2.1 40000 443\r\n"
	v2        = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x08\xc0\x00\x02\x01\x9c\x40\x01\xbb"
	v2Local   = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

func behind(listeners ...string) func(*Config) {
	return func(c *Config) {
		c.TrustedProxies, c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix(proxyAddr + "/32")}, listeners
	}
}

// What a client writes itself, before TLS or in a header, names nobody.
func TestTheProxyProtocolNamesTheClientFromTrustedProxiesOnly(t *testing.T) {
	n := start(t, false, behind("main", "oob"))
	id := n.enroll("alpha") // straight, without a header
	for name, c := range map[string]struct{ from, head, forwarded, want string }{
		"proxy, version 1":              {proxyAddr, v1, "", "198.51.100.7"},
		"proxy, version 2":              {proxyAddr, v2, "", "198.51.100.8"},
		"proxy, client adds a header":   {proxyAddr, v1, "203.0.113.9", "198.51.100.7"},
		"proxy on its own":              {proxyAddr, v2Local, "203.0.113.9", proxyAddr},
		"proxy that names nobody":       {proxyAddr, "", "203.0.113.9", ""},
		"anybody":                       {otherAddr, "", "", otherAddr},
		"anybody with a header":         {otherAddr, "", "203.0.113.9", otherAddr},
		"anybody who plays proxy":       {otherAddr, v1, "", ""},
		"anybody who plays proxy newly": {otherAddr, v2, "", ""},
	} {
		if got := n.reported(id, c.from, c.head, c.forwarded); got != c.want {
			t.Errorf("%s: seen as %q, want %q", name, got, c.want)
		}
	}
}

// Who passes TLS through to the second door can't have written a header.
func TestHeadersNameTheClientOnlyWhereAProxyEndsTLS(t *testing.T) {
	ended := func(c *Config) { behind()(c); c.OOBURLs = []string{"https://b.example=ca"} }
	for name, c := range map[string]struct {
		change func(*Config)
		from   string
		want   string
	}{
		"passed through, not named":   {behind("main"), proxyAddr, proxyAddr},
		"TLS ended by the proxy":      {ended, proxyAddr, "198.51.100.7"},
		"TLS ended, but not by proxy": {ended, otherAddr, otherAddr},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, false, func(cfg *Config) {
				c.change(cfg)
				if len(cfg.ProxyProtocol) == 0 {
					cfg.CertFile, cfg.KeyFile = ownCertificate(t)
				}
			})
			id := n.enroll("alpha")
			if got := n.reported(id, c.from, "", "203.0.113.9, 198.51.100.7"); got != c.want {
				t.Errorf("seen as %q, want %q", got, c.want)
			}
		})
	}
}

func ownCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := selfSigned(dir, "own", time.Now()); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "own.crt"), filepath.Join(dir, "own.key")
}

// The node's own look at its door must not be taken for a proxy that names nobody.
func TestReadyBehindTheProxyProtocol(t *testing.T) {
	n := start(t, false, func(c *Config) {
		c.TrustedProxies, c.ProxyProtocol = loopback, []string{"main"}
		c.AdminAddr = "127.0.0.1:0"
	})
	if status, body := n.watch("/readyz", "", ""); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

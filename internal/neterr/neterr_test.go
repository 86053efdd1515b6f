package neterr_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"gururmm/internal/certtest"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
)

// TestRealErrors makes each failure happen on the loopback and names it.
func TestRealErrors(t *testing.T) {
	ca := certtest.NewCA(t)
	trusting := &tls.Config{RootCAs: ca.Pool}
	for _, c := range []struct {
		name, phase, typ string
		err              func(t *testing.T) error
	}{
		{"refused", "connection", "tcp.refused", func(t *testing.T) error {
			return get(t, "https://"+closedPort(t), trusting)
		}},
		{"reset instead of an answer", "connection", "tcp.reset", func(t *testing.T) error {
			return get(t, "http://"+serve(t, func(conn net.Conn) {
				conn.Read(make([]byte, 1)) // unread data as well makes a close a reset
				conn.(*net.TCPConn).SetLinger(0)
			}), nil)
		}},
		{"reset during TLS", "connection", "tcp.reset", func(t *testing.T) error {
			return get(t, "https://"+serve(t, func(conn net.Conn) {
				conn.Read(make([]byte, 1))
				conn.(*net.TCPConn).SetLinger(0)
			}), trusting)
		}},
		{"closed instead of an answer", "connection", "tcp.closed", func(t *testing.T) error {
			return get(t, "http://"+serve(t, func(conn net.Conn) {
				http.ReadRequest(newReader(conn))
			}), nil)
		}},
		{"plain HTTP on a TLS port", "connection", "tls.protocol.error", func(t *testing.T) error {
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return get(t, strings.Replace(s.URL, "http:", "https:", 1), trusting)
		}},
		{"something else on a TLS port", "connection", "tls.protocol.error", func(t *testing.T) error {
			return get(t, "https://"+serve(t, func(conn net.Conn) {
				io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
				conn.Read(make([]byte, 4096))
			}), trusting)
		}},
		{"unknown authority", "connection", "tls.cert.authority_invalid", func(t *testing.T) error {
			return get(t, tlsServer(t, certtest.NewCA(t).Leaf(t, nil), nil), trusting)
		}},
		{"expired", "connection", "tls.cert.date_invalid", func(t *testing.T) error {
			return get(t, tlsServer(t, ca.Leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil), trusting)
		}},
		{"not yet valid", "connection", "tls.cert.date_invalid", func(t *testing.T) error {
			return get(t, tlsServer(t, ca.Leaf(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), nil), trusting)
		}},
		{"other name", "connection", "tls.cert.name_invalid", func(t *testing.T) error {
			return get(t, tlsServer(t, ca.Leaf(t, func(c *x509.Certificate) {
				c.IPAddresses, c.DNSNames = nil, []string{"other.test"}
			}), nil), trusting)
		}},
		{"not for servers", "connection", "tls.cert.invalid", func(t *testing.T) error {
			return get(t, tlsServer(t, ca.Leaf(t, func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			}), nil), trusting)
		}},
		{"other key than pinned", "connection", "tls.cert.pinned_key_not_in_cert_chain", func(t *testing.T) error {
			cfg := &tls.Config{}
			if err := pin.Require(cfg, pin.Of(ca.Cert)); err != nil {
				t.Fatal(err)
			}
			return get(t, tlsServer(t, ca.Leaf(t, nil), nil), cfg)
		}},
		{"no common TLS version", "connection", "tls.version_or_cipher_mismatch", func(t *testing.T) error {
			return get(t, tlsServer(t, ca.Leaf(t, nil), &tls.Config{MaxVersion: tls.VersionTLS12}),
				&tls.Config{RootCAs: ca.Pool, MinVersion: tls.VersionTLS13})
		}},
		{"client certificate wanted", "connection", "tls.bad_client_auth_cert", func(t *testing.T) error {
			// Only read: a written request could turn the server's close into a reset
			// that overtakes its alert.
			url := tlsServer(t, ca.Leaf(t, nil), &tls.Config{ClientAuth: tls.RequireAnyClientCert})
			conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), trusting)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
			return err
		}},
		{"mute on accept", "connection", "tcp.timed_out", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := (&net.Dialer{}).DialContext(expired{ctx}, "tcp", "127.0.0.1:1")
			return err
		}},
		{"abandoned", "application", "abandoned", func(t *testing.T) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := (&net.Dialer{}).DialContext(ctx, "tcp", closedPort(t))
			return err
		}},
		{"no such address family", "connection", "tcp.address_invalid", func(t *testing.T) error {
			_, err := net.Dial("tcp4", "[::1]:80")
			return err
		}},
		{"no port", "connection", "tcp.address_invalid", func(t *testing.T) error {
			_, err := net.Dial("tcp", "127.0.0.1")
			return err
		}},
		{"unanswered DNS", "dns", "dns.unreachable", func(t *testing.T) error {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions, never answers
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pc.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err = resolver(pc.LocalAddr().String()).LookupHost(ctx, "name.test.")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.err(t)
			if err == nil {
				t.Fatal("no error")
			}
			phase, typ := neterr.Classify(err)
			if phase != c.phase || typ != c.typ {
				t.Errorf("%v (%T) is %s/%s, want %s/%s", err, err, phase, typ, c.phase, c.typ)
			}
			// Whoever wraps it keeps it recognisable.
			if p, ty := neterr.Classify(fmt.Errorf("dial: %w", err)); p != phase || ty != typ {
				t.Errorf("wrapped it is %s/%s", p, ty)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		name, phase, typ string
		err              error
	}{
		{"nil", "", "", nil},
		{"not found", "dns", "dns.name_not_resolved", &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}},
		{"no answer", "dns", "dns.unreachable", &net.DNSError{IsTimeout: true}},
		{"servfail", "dns", "dns.failed", &net.DNSError{IsTemporary: true}},
		{"unknown", "", "unknown", errors.New("connection refused")}, // never by text
		{"plain error in TLS", "connection", "tls.failed", neterr.During(neterr.StepTLS, errors.New("x"))},
		{"time-out in DNS", "dns", "dns.unreachable", neterr.During(neterr.StepDNS, context.DeadlineExceeded)},
		{"time-out in dial", "connection", "tcp.timed_out", neterr.During(neterr.StepDial, context.DeadlineExceeded)},
		{"time-out in TLS", "connection", "tls.failed", neterr.During(neterr.StepTLS, context.DeadlineExceeded)},
		{"time-out in HTTP", "application", "http.failed", neterr.During(neterr.StepHTTP, context.DeadlineExceeded)},
		{"end in HTTP", "application", "tcp.closed", neterr.During(neterr.StepHTTP, io.ErrUnexpectedEOF)},
		{"ours closed", "application", "abandoned", net.ErrClosed},
		{"redirects", "application", "http.response.redirect_loop", neterr.ErrRedirectLoop},
		{"protocol", "application", "http.protocol.error", neterr.During(neterr.StepHTTP, textproto.ProtocolError("malformed"))},
		{"no roots", "connection", "tls.cert.authority_invalid", x509.SystemRootsError{}},
		{"constraints", "connection", "tls.cert.name_invalid", x509.CertificateInvalidError{Reason: x509.CANotAuthorizedForThisName}},
		{"alert of QUIC", "connection", "tls.version_or_cipher_mismatch", tls.AlertError(70)},
	} {
		if phase, typ := neterr.Classify(c.err); phase != c.phase || typ != c.typ {
			t.Errorf("%s: %s/%s, want %s/%s", c.name, phase, typ, c.phase, c.typ)
		}
	}
	if neterr.During(neterr.StepTLS, nil) != nil {
		t.Error("During(nil) is an error")
	}
	for typ, phase := range map[string]string{neterr.WSSilent: "application", neterr.HTTPError: "application", neterr.TLSFailed: "connection", neterr.Unknown: ""} {
		if got := neterr.Phase(typ); got != phase {
			t.Errorf("Phase(%s) = %s, want %s", typ, got, phase)
		}
	}
}

// expired is a context whose deadline is over, without being cancelled by hand.
type expired struct{ context.Context }

func (expired) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func get(t *testing.T, url string, cfg *tls.Config) error {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// serve runs handle on each connection, then closes it.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func tlsServer(t *testing.T, cert tls.Certificate, cfg *tls.Config) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = cfg
	if cfg == nil {
		s.TLS = &tls.Config{}
	}
	s.TLS.Certificates = []tls.Certificate{cert}
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

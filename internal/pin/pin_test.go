package pin_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"gururmm/internal/certtest"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
)

// handshake connects cfg to a TLS server that shows cert.
func handshake(t *testing.T, cert tls.Certificate, cfg *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.(*tls.Conn).HandshakeContext(t.Context())
	}()
	defer func() { l.Close(); <-done }()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	cfg.ServerName = "localhost"
	return tls.Client(raw, cfg).HandshakeContext(t.Context())
}

func TestRequire(t *testing.T) {
	ca, foreign := certtest.NewCA(t), certtest.NewCA(t)
	leaf := ca.Leaf(t, nil)
	expired := ca.Leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	appended := ca.Leaf(t, nil) // the pinned key's certificate only rides along
	appended.Certificate = append(appended.Certificate, leaf.Certificate[0])
	for _, c := range []struct {
		name  string
		show  tls.Certificate
		pin   string
		roots *x509.CertPool
		want  error // nil: accepted; ErrPin; or any other
	}{
		{"pinned key", leaf, pin.Of(leaf.Leaf), nil, nil},
		{"pinned key of an expired certificate", expired, pin.Of(expired.Leaf), nil, nil},
		{"other key", ca.Leaf(t, nil), pin.Of(leaf.Leaf), nil, neterr.ErrPin},
		{"pinned key second in the chain", appended, pin.Of(leaf.Leaf), nil, neterr.ErrPin},
		{"pinned key and its CA", leaf, pin.Of(leaf.Leaf), ca.Pool, nil},
		{"other key of the right CA", ca.Leaf(t, nil), pin.Of(leaf.Leaf), ca.Pool, neterr.ErrPin},
		{"pinned key, foreign CA", leaf, pin.Of(leaf.Leaf), foreign.Pool, x509.UnknownAuthorityError{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &tls.Config{RootCAs: c.roots}
			if err := pin.Require(cfg, c.pin); err != nil {
				t.Fatal(err)
			}
			err := handshake(t, c.show, cfg)
			switch {
			case c.want == nil && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != nil && err == nil:
				t.Error("accepted")
			case errors.Is(c.want, neterr.ErrPin) != errors.Is(err, neterr.ErrPin):
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	good := pin.Of(certtest.NewCA(t).Cert)
	if err := pin.Check(good); err != nil {
		t.Errorf("%s: %v", good, err)
	}
	for _, bad := range []string{"", "sha256/", good[7:], "sha1/" + good[7:], good + "=", good[:len(good)-4], "sha256/!!!!", good + "\n"} {
		if pin.Check(bad) == nil {
			t.Errorf("%q is taken for a pin", bad)
		}
		if pin.Require(&tls.Config{}, bad) == nil {
			t.Errorf("%q is required as a pin", bad)
		}
	}
}

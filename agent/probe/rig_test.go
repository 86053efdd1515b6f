package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/checkup"
	"gururmm/internal/certtest"
	"gururmm/internal/pin"
	"gururmm/lab/proxy"
	"gururmm/session"
	"gururmm/wire"
)

// patience bounds each check-up of a test: whole ones over a broken path take seconds.
const patience = 2 * time.Minute

// server answers as ours does to probes.
type server struct {
	*httptest.Server
	ca     *certtest.CA
	leaf   *x509.Certificate
	skew   time.Duration
	known  string       // the token that is let in
	tokens atomic.Int64 // requests that brought one
	links  atomic.Int64 // upgrades without the probe's mark
}

func newServer(t *testing.T, bend func(*x509.Certificate)) *server {
	t.Helper()
	return newServerOf(t, certtest.NewCA(t), bend)
}

func newServerOf(t *testing.T, ca *certtest.CA, bend func(*x509.Certificate)) *server {
	t.Helper()
	s := &server{ca: ca, known: "good"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/link", s.link)
	mux.HandleFunc("POST /v1/oob/poll", s.poll)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(wire.HeaderTime, time.Now().Add(s.skew).UTC().Format(time.RFC3339Nano))
		token := r.Header.Get("Authorization")
		if token != "" {
			s.tokens.Add(1)
		}
		if token != "Bearer "+s.known {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			json.NewEncoder(w).Encode(wire.Problem{Title: "Unauthorized", Status: 401, Code: wire.ProblemUnauthorized})
			return
		}
		if r.Header.Get(wire.HeaderProbe) != "1" {
			s.links.Add(1)
		}
		mux.ServeHTTP(w, r)
	}))
	cert := s.ca.Leaf(t, func(c *x509.Certificate) {
		c.NotAfter = time.Now().Add(60 * 24 * time.Hour)
		if bend != nil {
			bend(c)
		}
	})
	s.leaf = cert.Leaf
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *server) link(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{wire.Subprotocol}}
	id := wire.NewLinkID()
	ws, err := up.Upgrade(w, r, http.Header{
		wire.HeaderLinkID: {id.String()}, wire.HeaderTime: {time.Now().Add(s.skew).UTC().Format(time.RFC3339Nano)},
	})
	if err != nil {
		return
	}
	conn := session.New(ws, session.Options{Link: id})
	defer conn.Close(websocket.CloseNormalClosure, errors.New("looked at"))
	for {
		m, err := conn.Read()
		if err != nil {
			return
		}
		env, err := wire.Decode(m.Text)
		if err != nil {
			nack, _ := wire.Seal(wire.TypeNack, wire.Nack{Code: wire.CodeUnparseable})
			conn.Send(nack, session.SendOptions{Flush: true})
			continue
		}
		echo, _ := wire.DecodePayload[wire.Echo](env)
		reply, _ := wire.Seal(wire.TypeEchoReply, wire.EchoReply{ID: echo.ID, Got: len(echo.Pad), Pad: strings.Repeat("x", echo.Size)})
		conn.Send(reply, session.SendOptions{Flush: true})
	}
}

func (s *server) poll(w http.ResponseWriter, r *http.Request) {
	json.NewEncoder(w).Encode(wire.PollResponse{ServerTime: time.Now().Add(s.skew)})
}

func token(time.Time) (string, error) { return "good", nil }

func wss(httpsURL string) string { return strings.Replace(httpsURL, "https:", "wss:", 1) + "/v1/link" }

// enrolled is an endpoint whose server is s, by the address url.
func (s *server) enrolled(t *testing.T, url string) Subject {
	dir := t.TempDir()
	return Subject{
		Agent: "agent-1", Version: "v1", Token: token, StateDir: dir, LockFile: filepath.Join(dir, "guardian.lock"),
		Addresses: []Address{
			{Kind: KindLink, URL: wss(url), CA: string(s.ca.PEM)},
			{Kind: KindDoor, URL: s.URL, Pin: pin.Of(s.leaf)},
		},
		ProxyFrom: map[Kind]string{KindLink: "from the environment", KindDoor: "by default"},
	}
}

// boxed puts a proxy before s that presents s' own kind of certificate.
func (s *server) boxed(t *testing.T) (*proxy.Proxy, Subject) {
	t.Helper()
	cert := s.ca.Leaf(t, nil)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.PEM)
	p, err := proxy.New(proxy.Options{Cert: &cert, Upstream: s.Listener.Addr().String(), UpstreamTLS: &tls.Config{RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, s.enrolled(t, "https://"+p.Addr())
}

func order(t *testing.T, p *proxy.Proxy, line string) {
	t.Helper()
	if line == "" {
		return
	}
	if _, err := p.Order(line); err != nil {
		t.Fatal(err)
	}
}

// visit runs a check-up and gives its results by name; of several the first.
func visit(t *testing.T, s Subject, only ...string) map[string]checkup.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	report, err := Run(ctx, s, Options{Only: only})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]checkup.Result{}
	for _, r := range report.Results {
		if _, twice := out[r.Name]; !twice {
			out[r.Name] = r
		}
		t.Logf("%s %s %s: %s %q %s (%s)", r.Status, r.Group, r.Name, r.Seen, r.Notes, r.Type, r.Do)
	}
	return out
}

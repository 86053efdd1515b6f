package state_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"gururmm/agent/state"
	"gururmm/internal/certtest"
	"gururmm/wire"
)

// enrollServer answers as a server would, then change bends the answer.
type enrollServer struct {
	*httptest.Server
	ca    *certtest.CA
	leaf  *x509.Certificate
	calls int
	keys  [][]byte // public keys that came
}

func newEnrollServer(t *testing.T, bendCert func(*x509.Certificate), change func(*wire.EnrollResponse)) *enrollServer {
	t.Helper()
	s := &enrollServer{ca: certtest.NewCA(t)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls++
		var req wire.EnrollRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.URL.Path != "/v1/enroll" || len(req.PublicKey) != ed25519.PublicKeySize {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		s.keys = append(s.keys, req.PublicKey)
		w.Header().Set("Content-Type", "application/json")
		if req.Token != "good" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(wire.Problem{Title: "token is spent", Status: 403, Code: wire.ProblemToken})
			return
		}
		answer := wire.EnrollResponse{
			Agent: "agent-1", Server: "server-1",
			CommandKeys: [][]byte{commandKey(1).Public().(ed25519.PublicKey)},
			LinkURLs:    []string{"wss://" + r.Host + "/v1/link"},
			OOB:         []wire.OOBDoor{{URL: "https://" + r.Host, Pin: state.PinOf(s.leaf)}},
			Policy:      policy(t, 1, "agent-1", wire.Policy{Version: 1}),
			ServerTime:  time.Now(),
		}
		if change != nil {
			change(&answer)
		}
		json.NewEncoder(w).Encode(answer)
	}))
	cert := s.ca.Leaf(t, bendCert)
	s.leaf = cert.Leaf
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestEnrollStoresIdentityAndPolicy(t *testing.T) {
	for _, by := range []string{"ca", "pin"} {
		s := newEnrollServer(t, nil, nil)
		d := open(t)
		o := state.EnrollOptions{ServerURL: s.URL + "/", Token: "good"}
		if by == "ca" {
			o.CAPEM = s.ca.PEM
		} else {
			o.Pin = state.PinOf(s.leaf)
		}
		id, serverTime, err := d.Enroll(t.Context(), o, false)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(serverTime).Abs() > time.Minute || !bytes.Equal(s.keys[0], id.Key.Public().(ed25519.PublicKey)) {
			t.Errorf("server time %v, key fits: %v", serverTime, bytes.Equal(s.keys[0], id.Key.Public().(ed25519.PublicKey)))
		}
		got, err := d.Identity()
		if err != nil || got.Agent != "agent-1" || got.LinkCA != string(o.CAPEM) || got.LinkPin != o.Pin || !got.Key.Equal(id.Key) {
			t.Errorf("stored %v, %v", got, err)
		}
		if p, stored, err := d.Policy(); err != nil || !stored || p.Version != 1 {
			t.Errorf("policy %+v, %v, %v", p, stored, err)
		}

		// Again: the token is not even spent, unless forced.
		if _, _, err := d.Enroll(t.Context(), o, false); !errors.Is(err, state.ErrEnrolled) || s.calls != 1 {
			t.Errorf("again: %v after %d calls", err, s.calls)
		}
		again, _, err := d.Enroll(t.Context(), o, true)
		if err != nil || again.Key.Equal(id.Key) {
			t.Errorf("forced: %v, same key: %v", err, again.Key.Equal(id.Key))
		}
	}
}

func TestEnrollDoesNotSpendTheTokenInVain(t *testing.T) {
	s := newEnrollServer(t, nil, nil)
	d := open(t)
	if err := os.RemoveAll(d.Path(".")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Enroll(t.Context(), state.EnrollOptions{ServerURL: s.URL, Token: "good", CAPEM: s.ca.PEM}, false); err == nil || s.calls != 0 {
		t.Errorf("unwritable directory: %v after %d calls", err, s.calls)
	}
}

func TestEnrollRefusesAnAnswerThatDoesNotHold(t *testing.T) {
	for name, change := range map[string]func(*wire.EnrollResponse){
		"no agent":             func(r *wire.EnrollResponse) { r.Agent = "" },
		"no server":            func(r *wire.EnrollResponse) { r.Server = "" },
		"no command keys":      func(r *wire.EnrollResponse) { r.CommandKeys = nil },
		"short command key":    func(r *wire.EnrollResponse) { r.CommandKeys[0] = r.CommandKeys[0][1:] },
		"no link":              func(r *wire.EnrollResponse) { r.LinkURLs = nil },
		"bad pin":              func(r *wire.EnrollResponse) { r.OOB[0].Pin = "x" },
		"policy of another":    func(r *wire.EnrollResponse) { r.Policy = policy(t, 1, "agent-2", wire.Policy{}) },
		"policy of other keys": func(r *wire.EnrollResponse) { r.Policy = policy(t, 2, "agent-1", wire.Policy{}) },
		"no policy":            func(r *wire.EnrollResponse) { r.Policy = wire.Envelope{} },
		"too large":            func(r *wire.EnrollResponse) { r.Agent = strings.Repeat("a", 3<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newEnrollServer(t, nil, change)
			d := open(t)
			_, _, err := d.Enroll(t.Context(), state.EnrollOptions{ServerURL: s.URL, Token: "good", CAPEM: s.ca.PEM}, false)
			var ee *state.EnrollError
			if !errors.As(err, &ee) {
				t.Fatalf("error %v", err)
			}
			if _, err := d.Identity(); !errors.Is(err, state.ErrNotEnrolled) {
				t.Errorf("something was stored: %v", err)
			}
		})
	}
}

func TestEnrollHints(t *testing.T) {
	good := newEnrollServer(t, nil, nil)
	expired := newEnrollServer(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil)
	named := newEnrollServer(t, func(c *x509.Certificate) { c.IPAddresses = nil }, nil)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	website := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }))
	defer website.Close()
	moved := httptest.NewServer(http.RedirectHandler("https://elsewhere.example/", http.StatusMovedPermanently))
	defer moved.Close()
	for name, c := range map[string]struct {
		o    state.EnrollOptions
		want []string
	}{
		"spent token":     {state.EnrollOptions{ServerURL: good.URL, Token: "bad", CAPEM: good.ca.PEM}, []string{"token is spent", "enroll-token"}},
		"no token":        {state.EnrollOptions{ServerURL: good.URL}, []string{"empty", "enroll-token"}},
		"unknown CA":      {state.EnrollOptions{ServerURL: good.URL, Token: "good"}, []string{"--ca", "--pin", state.PinOf(good.leaf)}},
		"wrong pin":       {state.EnrollOptions{ServerURL: good.URL, Token: "good", Pin: state.PinOf(expired.leaf)}, []string{"pin is not the one"}},
		"expired":         {state.EnrollOptions{ServerURL: expired.URL, Token: "good", CAPEM: expired.ca.PEM}, []string{"clock"}},
		"wrong name":      {state.EnrollOptions{ServerURL: named.URL, Token: "good", CAPEM: named.ca.PEM}, []string{"another name"}},
		"HTTP port":       {state.EnrollOptions{ServerURL: strings.Replace(plain.URL, "http:", "https:", 1), Token: "good"}, []string{"wrong port"}},
		"TLS port":        {state.EnrollOptions{ServerURL: strings.Replace(good.URL, "https:", "http:", 1), Token: "good"}, []string{"use https: " + good.URL}},
		"refused":         {state.EnrollOptions{ServerURL: closed.URL, Token: "good"}, []string{"nothing listens"}},
		"no scheme":       {state.EnrollOptions{ServerURL: "rmm.example:8443", Token: "good"}, []string{"https://host:port"}},
		"not encrypted":   {state.EnrollOptions{ServerURL: "http://rmm.example", Token: "good"}, []string{"not encrypted"}},
		"another website": {state.EnrollOptions{ServerURL: website.URL, Token: "good"}, []string{"server's URL"}},
		"no such page":    {state.EnrollOptions{ServerURL: plain.URL, Token: "good"}, []string{"404", "server's URL"}},
		"moved":           {state.EnrollOptions{ServerURL: moved.URL, Token: "good"}, []string{"elsewhere.example"}},
		"CA file is none": {state.EnrollOptions{ServerURL: good.URL, Token: "good", CAPEM: []byte("x")}, []string{"no certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := state.Enroll(t.Context(), c.o)
			var ee *state.EnrollError
			if !errors.As(err, &ee) {
				t.Fatalf("error %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: does not say %q", err, want)
				}
			}
			if c.o.Token != "" && strings.Contains(err.Error(), "\""+c.o.Token+"\"") {
				t.Errorf("%v: shows the token", err)
			}
		})
	}
	// A wrong clock does not matter with a pin.
	if _, _, _, err := state.Enroll(t.Context(), state.EnrollOptions{ServerURL: expired.URL, Token: "good", Pin: state.PinOf(expired.leaf)}); err != nil {
		t.Error(err)
	}
}

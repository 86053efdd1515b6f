package operator

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gururmm/wire"
)

func pinOf(s *httptest.Server) string {
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

func client(t *testing.T, s *httptest.Server) *Client {
	t.Helper()
	conf, err := TLSConfig("", pinOf(s))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(s.URL, "secret", conf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPinDecidesAlone(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || strings.Contains(r.URL.String(), "secret") {
			t.Errorf("the token must ride in its header only: %s", r.URL)
		}
		io.WriteString(w, `{"items":[{"id":"1","name":"web"}]}`)
	}))
	defer s.Close()
	agents, err := client(t, s).Agents(t.Context())
	if err != nil || len(agents) != 1 || agents[0].Name != "web" {
		t.Fatalf("%v, %v", agents, err)
	}
	other := "sha256/" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	conf, err := TLSConfig("", other)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(s.URL, "secret", conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Agents(t.Context()); err == nil || !strings.Contains(err.Error(), "not the pinned one") {
		t.Errorf("another key: %v", err)
	}
	for _, bad := range []string{"sha256/short", "md5/" + other[7:], "sha256/!!"} {
		if _, err := TLSConfig("", bad); err == nil {
			t.Errorf("pin %q accepted", bad)
		}
	}
}

func TestPlainHTTPOnlyForLoopback(t *testing.T) {
	for url, ok := range map[string]bool{
		"http://127.0.0.1:80": true, "http://localhost": true, "http://[::1]:80": true, "https://example.org": true,
		"http://example.org": false, "http://127.example.org": false, "http://127.0.0.1.example.org": false, "ftp://example.org": false, "example.org": false, "": false,
	} {
		if _, err := New(url, "t", nil); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestRefusalsAreProblems(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/agents/a%2Fb" || r.URL.Path == "/v1/agents/a/b" {
			w.WriteHeader(http.StatusNotFound)
			json.NewEncoder(w).Encode(wire.Problem{Title: "no such agent", Code: wire.ProblemNotFound, Status: 404})
			return
		}
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, "<html>a proxy's page</html>")
	}))
	defer s.Close()
	c := client(t, s)
	var p wire.Problem
	if _, err := c.Agent(t.Context(), "a/b"); !errors.As(err, &p) || p.Code != wire.ProblemNotFound {
		t.Errorf("%v", err)
	}
	if _, err := c.Agents(t.Context()); !errors.As(err, &p) || p.Status != http.StatusBadGateway {
		t.Errorf("%v", err)
	}
}

func TestFollowEndsWithTheCommandOrSaysThatItDidNot(t *testing.T) {
	whole := true
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		enc.Encode(Event{Kind: "state", Command: &Command{State: wire.StateRunning}})
		enc.Encode(Event{Kind: "output", Stream: wire.Stdout, Data: []byte("hi\n")})
		if whole {
			enc.Encode(Event{Kind: "end", Command: &Command{State: wire.StateCompleted}})
		}
	}))
	defer s.Close()
	c := client(t, s)
	var kinds []string
	each := func(ev Event) error { kinds = append(kinds, ev.Kind); return nil }
	if err := c.Follow(t.Context(), "1", each); err != nil || strings.Join(kinds, " ") != "state output end" {
		t.Fatalf("%v, %v", kinds, err)
	}
	whole = false
	if err := c.Follow(t.Context(), "1", each); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a cut stream must not read as an end: %v", err)
	}
}

// What JSON would silently change never leaves this machine.
func TestOnlyUTF8IsSent(t *testing.T) {
	sent := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent++
		io.WriteString(w, `{"id":"1"}`)
	}))
	defer s.Close()
	c := client(t, s)
	for _, n := range []NewCommand{{Script: "rm caf\xe9"}, {Script: "true", IdempotencyKey: "k\xff"}} {
		_, err := c.Submit(t.Context(), "a", n)
		if bad, ok := errors.AsType[*NotUTF8Error](err); !ok || bad.Offset == 0 {
			t.Errorf("%q %q: %v", n.Script, n.IdempotencyKey, err)
		}
	}
	if sent != 0 {
		t.Errorf("%d requests were made", sent)
	}
	if _, err := c.Submit(t.Context(), "a", NewCommand{Script: "echo \ufffd é"}); err != nil || sent != 1 {
		t.Errorf("the replacement character itself is text: %v, %d sent", err, sent)
	}
}

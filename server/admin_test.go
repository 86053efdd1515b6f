package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

const adminToken = "a-token-of-forty-characters-for-the-test"

func tokenFile(t *testing.T, token string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// watch asks the admin listener; host, if any, stands in for the one asked by.
func (n *node) watch(path, bearer, host string) (int, string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), "GET", n.Info().AdminURL+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := n.http.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

func TestAdminListenerIsClosedToOthers(t *testing.T) {
	plain := func(c *Config) {
		c.TrustedProxies, c.PublicURL, c.OOBURLs = loopback, "https://rmm.example", []string{"https://door.example"}
	}
	good := tokenFile(t, adminToken, 0o600)
	for name, c := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"all addresses, no token": {func(c *Config) { c.AdminAddr = ":0" }, "admin_token_file"},
		"a name, no token":        {func(c *Config) { c.AdminAddr = "rmm.example:9464" }, "admin_token_file"},
		"no TLS":                  {func(c *Config) { plain(c); c.AdminAddr, c.AdminTokenFile = "0.0.0.0:0", good }, "plain HTTP"},
		"no port":                 {func(c *Config) { c.AdminAddr = "127.0.0.1" }, "admin_listen"},
		"a token for nothing":     {func(c *Config) { c.AdminTokenFile = good }, "admin_listen"},
		"no such token":           {func(c *Config) { c.AdminAddr, c.AdminTokenFile = "127.0.0.1:0", "/nowhere/t" }, "/nowhere/t"},
		"a short token":           {func(c *Config) { c.AdminAddr, c.AdminTokenFile = "127.0.0.1:0", tokenFile(t, "short", 0o600) }, "20 characters"},
		"a token for all to read": {func(c *Config) { c.AdminAddr, c.AdminTokenFile = "127.0.0.1:0", tokenFile(t, adminToken, 0o644) }, "chmod"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: t.TempDir()}
			c.change(&cfg)
			s, err := New(cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				s.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not name %s", err, c.says)
			}
			if strings.Contains(err.Error(), adminToken) {
				t.Errorf("%v tells the token", err)
			}
		})
	}
}

func TestAdminListenerAsksForItsToken(t *testing.T) {
	n := start(t, false, func(c *Config) {
		c.AdminAddr, c.AdminTokenFile = "0.0.0.0:0", tokenFile(t, adminToken, 0o640)
	})
	_, port, _ := strings.Cut(n.Info().AdminURL, "://[::]:")
	if port == "" {
		_, port, _ = strings.Cut(n.Info().AdminURL, "://0.0.0.0:")
	}
	if !strings.HasPrefix(n.Info().AdminURL, "https://") {
		t.Errorf("%s is not encrypted", n.Info().AdminURL)
	}
	n.info.AdminURL = "https://127.0.0.1:" + port
	for path, open := range map[string]bool{
		"/healthz": true, "/readyz": true, "/metrics": false, "/debug/pprof/": false, "/debug/pprof/heap": false, "/nothing": false,
	} {
		status, body := n.watch(path, "", "")
		if (status == http.StatusOK) != open || !open && status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d %.100s", path, status, body)
		}
		if status, _ := n.watch(path, adminToken+"x", ""); !open && status != http.StatusUnauthorized {
			t.Errorf("%s with a wrong token: %d", path, status)
		}
		if status, body := n.watch(path, adminToken, ""); status != http.StatusOK && path != "/nothing" {
			t.Errorf("%s with the token: %d %.100s", path, status, body)
		}
	}
	if status, _ := n.watch("/debug/pprof/cmdline", adminToken, ""); status != http.StatusNotFound {
		t.Errorf("the command line is told: %d", status)
	}
	for _, url := range []string{n.Info().URL, n.Info().OOBURL} {
		for _, path := range []string{"/metrics", "/debug/pprof/"} {
			if status, _, _ := n.request("GET", url+path, n.Info().OperatorToken, nil); status != http.StatusNotFound {
				t.Errorf("%s%s: %d", url, path, status)
			}
		}
	}
}

func TestAdminListenerOnLoopbackHeedsNoOtherName(t *testing.T) {
	n := start(t, false, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	for host, want := range map[string]int{"": 200, "localhost:1": 200, "[::1]": 200, "evil.example": 403, "127.0.0.1.evil.example:80": 403} {
		if status, body := n.watch("/metrics", "", host); status != want {
			t.Errorf("asked by %q: %d %.100s", host, status, body)
		}
	}
}

// A command goes through, and each metric on its way has moved; no label names the agent.
func TestMetricsTellWhatANodeDoes(t *testing.T) {
	n := start(t, false, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	id := n.enroll("counted-host")
	m := n.link(id, presence("i", "b", "f")).awaitVerified()
	cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", Shell: wire.ShellSh})
	select {
	case <-m.commands:
	case <-time.After(20 * time.Second):
		t.Fatal("the command did not come")
	}
	now := time.Now()
	m.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID, Stages: wire.StageTimes{wire.StageRead: now}}, true)
	m.send(wire.TypeCommandResult, wire.CommandResult{ID: cmd.ID, State: wire.StateCompleted, ExitCode: new(0)}, true)
	var body string
	scrape := func() string {
		_, body = n.watch("/metrics", "", "")
		return body
	}
	// What happens at one moment is counted one after the other: each line is waited for.
	for _, line := range []string{
		`gururmm_commands_ended_total{state="completed"} 1`,
		`gururmm_agents{presence="verified"} 1`,
		`gururmm_agents{presence="offline"} 0`,
		`gururmm_links{state="verified",verdict=""} 1`,
		`gururmm_command_stages_total{channel="",stage="accepted"} 1`,
		`gururmm_command_stages_total{channel="link",stage="written"} 1`,
		`gururmm_command_stages_total{channel="link",stage="read"} 1`,
		`gururmm_command_stages_total{channel="link",stage="result_stored"} 1`,
		`gururmm_command_claims_total{channel="link"} 1`,
		`gururmm_command_reoffers_total{channel="link"} 0`,
		`gururmm_command_ack_seconds_count{channel="link"} 1`,
		`gururmm_commands_owed 0`,
		`gururmm_agents_unacknowledged 0`,
		`gururmm_link_evictions_total{reason="replaced"} 0`,
	} {
		await(t, line, func() bool { return strings.Contains(scrape(), line+"\n") })
	}
	newer := n.link(id, presence("i", "b", "f")).awaitVerified() // the same machine dials again
	m.closedWith(20 * time.Second)
	await(t, "the older link counts as replaced", func() bool {
		return strings.Contains(scrape(), `gururmm_link_evictions_total{reason="replaced"} 1`+"\n")
	})
	newer.close() // by the agent's own wish: no eviction
	await(t, "the agent is offline", func() bool {
		return strings.Contains(scrape(), `gururmm_agents{presence="offline"} 1`+"\n")
	})
	for _, secret := range []string{id.Agent, cmd.ID, "counted-host"} {
		if strings.Contains(body, secret) {
			t.Errorf("%q is told", secret)
		}
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "gururmm_link_evictions_total") && !strings.Contains(line, "replaced") && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("counted as evicted: %s", line)
		}
	}
}

func TestReadyTellsWhatFails(t *testing.T) {
	n := start(t, false, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	if status, body := n.watch("/readyz", "", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	n.hub.Drain(t.Context(), errors.New("test"), returning)
	if status, body := n.watch("/readyz", "", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "going down") {
		t.Errorf("while it drains: %d %s", status, body)
	}

	// The door and the database, each by itself: asked behind the answer's second of life.
	a := &admin{s: n.Server, log: slog.New(slog.DiscardHandler)}
	cert, _, err := n.certificates(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.cert = cert
	if err := a.doorServes(t.Context()); err != nil {
		t.Errorf("a door that serves: %v", err)
	}
	_, other, err := n.certificates(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.cert = other
	if err := a.doorServes(t.Context()); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("a door with another key: %v", err)
	}
	a.cert = cert
	n.main.Close()
	if err := a.doorServes(t.Context()); err == nil {
		t.Error("a door that is closed serves")
	}
	if err := a.storeWritable(t.Context()); err != nil {
		t.Errorf("a database that is well: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.storeWritable(gone); err == nil {
		t.Error("a database that could not be asked is ready")
	}
}

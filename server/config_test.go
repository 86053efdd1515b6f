package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

func TestConfigThatCannotWorkIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"no state directory":   {func(c *Config) { c.StateDir = "" }, "state_dir"},
		"cert without key":     {func(c *Config) { c.CertFile = "x.pem" }, "key"},
		"cert that is not":     {func(c *Config) { c.CertFile, c.KeyFile = "x.pem", "y.pem" }, "cert"},
		"address without port": {func(c *Config) { c.ListenAddr = "localhost" }, "listen"},
		"public URL by http":   {func(c *Config) { c.PublicURL = "http://rmm.example" }, "public_url"},
		"URL with a path":      {func(c *Config) { c.OOBURLs = []string{"https://rmm.example/x"} }, "oob_url"},
		"second door within": {func(c *Config) {
			c.TrustedProxies, c.PublicURL = loopback, "https://rmm.example"
		}, "oob_url"},
		"a door twice":          {func(c *Config) { c.OOBURLs = []string{"https://a.example", "https://a.example/=ca"} }, "oob_url"},
		"a key that is none":    {func(c *Config) { c.PublicURL = "https://a.example=sha256/x" }, "public_url"},
		"anybody's word":        {func(c *Config) { c.ProxyProtocol = []string{"oob"} }, "trusted_proxy"},
		"no such listener":      {func(c *Config) { c.TrustedProxies, c.ProxyProtocol = loopback, []string{"admin"} }, "proxy_protocol"},
		"plain, not loopback":   {func(c *Config) { c.TrustedProxies, c.ListenAddr = loopback, ":8080" }, "loopback"},
		"plain, no public URL":  {func(c *Config) { c.TrustedProxies, c.ListenAddr = loopback, "127.0.0.1:0" }, "public_url"},
		"policy that cuts off":  {func(c *Config) { c.Policy = wire.Policy{PingMS: 90_000, DeadMS: 30_000} }, "dead_ms"},
		"kept for an hour":      {func(c *Config) { c.KeepCommands = time.Hour }, "keep_commands"},
		"address taken or bad":  {func(c *Config) { c.OOBAddr = "127.0.0.1:99999" }, "oob_listen"},
		"state others can read": {func(c *Config) { c.StateDir = crowded(t) }, "state_dir"},
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
		})
	}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

func crowded(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "diary"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStateIsMadeOncePrivateAndNeverReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	open := func() (Info, error) {
		s, err := New(Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: dir}, slog.New(slog.DiscardHandler))
		if err != nil {
			return Info{}, err
		}
		return s.Info(), s.Close()
	}
	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if first.OperatorToken == "" || first.EnrollToken == "" {
		t.Errorf("first start: %+v", first)
	}
	for file, mode := range map[string]os.FileMode{
		".": 0o700, "command.key": 0o600, "server.id": 0o600, "gururmm.db": 0o600, "main.key": 0o600, "oob.key": 0o600,
	} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", file, info, err, mode)
		}
	}
	second, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if second.OperatorToken != "" || second.EnrollToken != "" || second.Pin != first.Pin || second.OOBPin != first.OOBPin {
		t.Errorf("second start: %+v after %+v", second, first)
	}
	for _, file := range []string{"server.id", "command.key", "main.key", "oob.crt"} {
		path := filepath.Join(dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("damaged %s: %v", file, err)
		}
		if now, _ := os.ReadFile(path); string(now) != "garbage" {
			t.Errorf("%s was replaced", file)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A service's output is kept by a log: it makes no tokens that would have to be shown.
func TestServiceMakesNoFirstTokens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	log := slog.New(slog.DiscardHandler)
	cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: dir, NoFirstTokens: true}
	started := func() bool { _, err := os.Stat(filepath.Join(dir, fileStarted)); return err == nil }
	for made := range 2 { // before and after somebody made a token by hand
		for range 2 {
			s, err := New(cfg, log)
			if err != nil {
				t.Fatal(err)
			}
			if info := s.Info(); info.OperatorToken != "" || info.EnrollToken != "" {
				t.Errorf("tokens were made: %+v", info)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if started() != (made > 0) {
				t.Errorf("%d tokens made by hand; a database belongs here: %v", made, started())
			}
		}
		if _, err := NewOperatorToken(t.Context(), cfg, fmt.Sprint("t", made), log); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoServersNeverShareAStateDirectory(t *testing.T) {
	n := start(t, false, nil)
	log := slog.New(slog.DiscardHandler)
	cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: n.cfg.StateDir}
	want := fmt.Sprintf("another server is running on this state directory: process %d", os.Getpid())
	if _, err := New(cfg, log); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("the second server: %v, want …%s", err, want)
	}
	if _, err := NewOperatorToken(t.Context(), n.cfg, "second", log); err != nil {
		t.Errorf("operator token while it runs: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, log)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatEveryAgentTrustsIsNeverMadeAnewBesideADatabase(t *testing.T) {
	for _, name := range []string{fileServerID, fileCommandKey, fileOOBKey} {
		t.Run(name, func(t *testing.T) {
			n := start(t, false, nil)
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(n.cfg.StateDir, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: n.cfg.StateDir}
			if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path+" is missing") {
				t.Errorf("started without it: %v", err)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("it was made anew")
			}
		})
	}
}

// The file of a young database holds next to nothing: all is in its write-ahead log.
func TestALostWriteAheadLogIsNotAFirstStart(t *testing.T) {
	n := start(t, false, nil)
	path, log := filepath.Join(n.cfg.StateDir, fileDatabase), slog.New(slog.DiscardHandler)
	alone, err := os.ReadFile(path) // as a backup of that file has it
	if err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, alone, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: n.cfg.StateDir}
	const lost = "gururmm.db-wal, which held the rest, was lost"
	if _, err := New(cfg, log); err == nil || !strings.Contains(err.Error(), lost) {
		t.Errorf("started without its log: %v", err)
	}
	if _, err := NewOperatorToken(t.Context(), n.cfg, "second", log); err == nil || !strings.Contains(err.Error(), lost) {
		t.Errorf("a token of a database that has lost its log: %v", err)
	}
}

// A database that is gone must not read as a first start: nobody enrolled in it would be known.
func TestALostDatabaseIsNotAFirstStart(t *testing.T) {
	for name, lose := range map[string]func(string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, false, nil)
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(n.cfg.StateDir, fileDatabase)
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: n.cfg.StateDir}
			if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path+" is missing or empty") {
				t.Errorf("started without its database: %v", err)
			}
		})
	}
}

func TestLostOperatorTokenIsReplacedOnTheServersMachine(t *testing.T) {
	n := start(t, false, nil)
	log := slog.New(slog.DiscardHandler)
	token, err := NewOperatorToken(t.Context(), n.cfg, "second", log)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents", token, nil); status != 200 {
		t.Errorf("the new token: %d %s", status, raw)
	}
	if all, err := OperatorTokens(t.Context(), n.cfg, log); err != nil || len(all) != 2 {
		t.Errorf("listed %+v, %v", all, err)
	}
	if _, err := NewOperatorToken(t.Context(), n.cfg, "second", log); err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := NewOperatorToken(t.Context(), Config{StateDir: t.TempDir()}, "x", log); err == nil {
		t.Error("a token for no server")
	}
	if err := RevokeOperatorToken(t.Context(), n.cfg, "second", log); err != nil {
		t.Error(err)
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents", token, nil); status != http.StatusUnauthorized {
		t.Errorf("the revoked token: %d %s", status, raw)
	}
	if err := RevokeOperatorToken(t.Context(), n.cfg, "second", log); err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestPlainHTTPBehindAProxy(t *testing.T) {
	n := start(t, false, func(c *Config) {
		c.TrustedProxies, c.PublicURL, c.OOBURLs = loopback, "https://rmm.example", []string{"https://rmm.example:8444"}
	})
	url := "http://" + n.Info().Listen
	if status, _, _ := n.request("GET", url+"/readyz", "", nil); status != 200 {
		t.Errorf("readyz: %d", status)
	}
	if n.Info().Pin != "" || n.Info().URL != "https://rmm.example" {
		t.Errorf("%+v", n.Info())
	}
}

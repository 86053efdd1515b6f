package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/server/store"
	"gururmm/server/store/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// One server works on a PostgreSQL, its operator tokens are made beside it, and neither its
// keys nor its database are made anew where the other of both is there.
func TestAServerOnPostgres(t *testing.T) {
	db := pgtest.Shared(t)
	url := db.Database(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := OperatorTokens(t.Context(), Config{DatabaseURL: url}, log); err == nil || !strings.Contains(err.Error(), "no server has been started") {
		t.Errorf("tokens of no server: %v", err)
	}
	n := start(t, false, func(c *Config) { c.DatabaseURL = url })
	n.cfg.DatabaseURL = url
	again := func(dir, url string) error {
		s, err := New(Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: dir, DatabaseURL: url}, log)
		if err == nil {
			err = s.Close()
			t.Error("started")
		}
		return err
	}
	if err := again(t.TempDir(), url); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second server on the database: %v", err)
	}
	token, err := NewOperatorToken(t.Context(), n.cfg, "second", log)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents", token, nil); status != 200 {
		t.Errorf("the new token: %d %s", status, raw)
	}
	if err := RevokeOperatorToken(t.Context(), n.cfg, "second", log); err != nil {
		t.Error(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.StateDir, fileDatabase)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file, too: %v", err)
	}
	if err := again(n.cfg.StateDir, ""); err == nil || !strings.Contains(err.Error(), "--database-url") {
		t.Errorf("without its PostgreSQL: %v", err)
	}
	if err := again(n.cfg.StateDir, db.Database(t)); err == nil || !strings.Contains(err.Error(), "is empty, but this server has run before") {
		t.Errorf("with an empty database: %v", err)
	}
	key := filepath.Join(n.cfg.StateDir, fileCommandKey)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := again(n.cfg.StateDir, url); err == nil || !strings.Contains(err.Error(), key+" is missing") {
		t.Errorf("without its key: %v", err)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("the key was made anew")
	}
}

// A server that is moved to PostgreSQL starts with it, and with its SQLite no more, until the
// mark is removed.
func TestAServerIsMovedToPostgres(t *testing.T) {
	db := pgtest.Shared(t)
	url := db.Database(t)
	log := slog.New(slog.DiscardHandler)
	n := start(t, false, nil)
	first := n.Info()
	cfg := Config{StateDir: n.cfg.StateDir}
	refused := func(what, url, says string) {
		t.Helper()
		s, err := New(Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: cfg.StateDir, DatabaseURL: url}, log)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Migrate(t.Context(), cfg, url, log, nil); !errors.Is(err, errInUse) {
		t.Errorf("beside a running server: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := Migrate(t.Context(), Config{StateDir: t.TempDir()}, url, log, nil); err == nil || !strings.Contains(err.Error(), "nothing to move") {
		t.Errorf("of nothing: %v", err)
	}
	refused("a PostgreSQL beside a SQLite in use", url, "gururmm migrate")
	tables := 0
	all, err := Migrate(t.Context(), cfg, url, log, func(Moved) { tables++ })
	if err != nil || len(all) != tables || tables == 0 {
		t.Fatalf("%d tables told of, %d moved: %v", tables, len(all), err)
	}
	mark := filepath.Join(cfg.StateDir, fileMoved)
	refused("the SQLite", "", "remove "+mark+" to go back")
	if _, err := NewOperatorToken(t.Context(), cfg, "late", log); !errors.Is(err, errMoved) {
		t.Errorf("a token into the SQLite: %v", err)
	}
	if _, err := Migrate(t.Context(), cfg, url, log, nil); !errors.Is(err, errMoved) {
		t.Errorf("once more: %v", err)
	}
	n = start(t, false, func(c *Config) { c.StateDir, c.DatabaseURL = cfg.StateDir, url })
	if n.Info().OperatorToken != "" || n.Info().Pin != first.Pin {
		t.Errorf("it began anew: %+v", n.Info())
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents", first.OperatorToken, nil); status != 200 {
		t.Errorf("the first token: %d %s", status, raw)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, []byte("no JSON"), 0o600); err != nil { // it still stands for what it is
		t.Fatal(err)
	}
	refused("the SQLite with a damaged mark", "", "remove "+mark)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if err := start(t, false, func(c *Config) { c.StateDir = cfg.StateDir }).stop(); err != nil {
		t.Errorf("back with SQLite: %v", err)
	}
}

//go:build unix

package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/server/store/pgtest"
)

// TestMovedToPostgres: a server that has worked with SQLite is moved while a command runs.
// The move is killed before its commit, and behind it: each time one side is whole and the
// command says what to do. Then the server with PostgreSQL knows what it knew.
func TestMovedToPostgres(t *testing.T) {
	db := pgtest.Own(t)
	var config, url string
	s := newScene(t, func(o *harness.Options) {
		config, url = filepath.Join(o.Dir, "server.yaml"), filepath.Join(o.Dir, "database.url")
		for file, text := range map[string]string{config: "", url: db.URL("postgres") + "\n"} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o.ServerEnv = append(o.ServerEnv, "GURURMM_CONFIG="+config)
	})
	state := filepath.Join(s.Dir, "server")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	migrate := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), bin.Server, "migrate", "--state-dir", state, "--to-url-file", url)
		cmd.Env = append(os.Environ(), "GURURMM_FAULTS="+s.Faults())
		said, err := cmd.CombinedOutput()
		return strings.Join(strings.Fields(string(said)), " "), err
	}
	// killed stops the server and ends a move in the midst.
	killed := func(label string) {
		t.Helper()
		if err := s.Server().Stop(); err != nil {
			t.Fatal(err)
		}
		s.fault(label, true)
		if said, err := migrate(); err == nil || strings.Contains(said, "gururmm:") {
			t.Fatalf("a move that was killed at %s: %v, %s", label, err, said)
		}
	}
	restarted := func() {
		t.Helper()
		if err := s.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.verified()
	}
	configured := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := s.submit("")
	s.completed(before)
	running := s.sleeper()
	if said, err := migrate(); err == nil || !strings.Contains(said, "a move needs the server stopped") {
		t.Errorf("beside the server: %v, %s", err, said)
	}

	killed("move.copied")
	restarted() // with SQLite, as if nothing had been
	between := s.submit("")
	s.completed(between)

	killed("move.committed")
	configured("database_url_file: " + url + "\n")
	if err := s.StartServer(t.Context()); err == nil || !strings.Contains(err.Error(), "finishes a move that was cut off") {
		t.Errorf("with a move that was cut off: %v", err)
	}
	said, err := migrate()
	if err != nil || !strings.Contains(said, "both sides have the same rows and sums") {
		t.Fatalf("again: %v, %s", err, said)
	}
	configured("")
	if err := s.StartServer(t.Context()); err == nil || !strings.Contains(err.Error(), "moved to PostgreSQL") {
		t.Errorf("with the SQLite that was moved: %v", err)
	}
	configured("database_url_file: " + url + "\n")
	restarted()
	s.open(running)
	s.completed(running.order)
	s.completed(s.submit(""))
	list, err := s.Client().Commands(t.Context(), operator.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range list {
		known[c.ID] = true
	}
	for _, o := range []*order{before, between, running.order} {
		if !known[o.id] {
			t.Errorf("command %s is not listed", o.id)
		}
		s.completed(o)
	}
	s.allOnce()
}

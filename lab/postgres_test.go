//go:build unix

package lab_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/server/store/pgtest"
	"gururmm/wire"
)

// TestPostgresKilled: kill -9 of the database while a command runs, others are ordered and
// results come. What was acknowledged is there, each ran once, and the server goes on by
// itself; then kill -9 of the server, too.
func TestPostgresKilled(t *testing.T) {
	db := pgtest.Own(t)
	s := newScene(t, func(o *harness.Options) {
		file := filepath.Join(o.Dir, "database.url")
		if err := os.WriteFile(file, []byte(db.URL("postgres")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.ServerEnv = append(o.ServerEnv, "GURURMM_DATABASE_URL_FILE="+file)
	})
	running := s.sleeper()
	before := s.submit("")
	if err := db.Kill(); err != nil {
		t.Fatal(err)
	}
	s.open(running)
	s.eventually("the command to end while there is no database", func() (bool, error) {
		return !alive(s.shellOf(running)), nil
	})
	_, err := s.Client().Submit(t.Context(), s.agent.ID, operator.NewCommand{Script: "true"})
	if p, ok := errors.AsType[wire.Problem](err); !ok || p.Code != wire.ProblemDatabase || p.Status != 503 {
		t.Errorf("without a database: %v", err)
	}
	if err := db.Start(); err != nil {
		t.Fatal(err)
	}
	s.completed(running.order)
	s.completed(before)
	s.verified()

	running = s.sleeper()
	s.Server().KillAlone()
	s.open(running)
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.completed(running.order)
	s.verified()
	s.completed(s.submit(""))
	s.allOnce()
	if _, err := os.Stat(filepath.Join(s.Dir, "server", "gururmm.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server made a database of its own: %v", err)
	}
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gururmm/server/cluster"
	"gururmm/server/store"
)

// openStore opens the database before anything is made beside it: neither a database nor
// the keys that its endpoints trust are made anew where the other of both is there already.
func (s *Server) openStore() error {
	if s.cfg.DatabaseURL != "" {
		return s.openPostgres()
	}
	if err := wholeState(s.cfg.StateDir); err != nil {
		return err
	}
	st, err := store.OpenTold(filepath.Join(s.cfg.StateDir, fileDatabase), s.log, s.metrics.Committed)
	if err != nil {
		return err
	}
	s.keep(st)
	return nil
}

func (s *Server) keep(st store.Store) {
	s.store = s.metrics.Meter(st)
	s.cleanup = append(s.cleanup, s.store.Close)
}

func (s *Server) openPostgres() error {
	if err := nothingBeside(s.cfg.StateDir); err != nil {
		return err
	}
	var st store.Store
	var err error
	if s.cfg.ClusterURL != "" {
		st, s.nodes, err = store.OpenNode(s.cfg.DatabaseURL, store.PostgresOptions{Log: s.log, Told: s.committed},
			store.NodeOptions{Name: s.cfg.NodeName, Lease: cluster.Lease})
		if errors.Is(err, store.ErrInUse) {
			err = fmt.Errorf("%w; a server without --cluster-url excludes nodes with it", err)
		}
	} else {
		st, err = store.OpenPostgres(s.cfg.DatabaseURL, store.PostgresOptions{Log: s.log, Told: s.metrics.Committed})
	}
	if err != nil {
		return err
	}
	s.keep(st)
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	agents, err := st.CountAgents(ctx)
	if err != nil {
		return err
	}
	tokens, err := st.OperatorTokens(ctx)
	if err != nil {
		return err
	}
	return wholeBeside(s.cfg.StateDir, agents+len(tokens) > 0)
}

// nothingBeside refuses a PostgreSQL where a SQLite is that was not moved: one of both is not
// what the fleet is in. It is looked at before anything is written to the PostgreSQL, from
// which a move that was cut off sees that no server has worked on it.
func nothingBeside(dir string) error {
	path := filepath.Join(dir, fileDatabase)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 || errors.Is(movedAway(dir), errMoved) {
		return nil
	}
	return fmt.Errorf("%s is in use, and database_url names a PostgreSQL: `gururmm migrate` moves what the one holds to the other, if it is empty, or finishes a move that was cut off; to leave behind what %[1]s holds, move it away", path)
}

// wholeBeside checks as wholeState does, for a database elsewhere that a server has worked
// on, or none yet.
func wholeBeside(dir string, begun bool) error {
	if !begun {
		if _, err := os.Stat(filepath.Join(dir, fileStarted)); err == nil {
			return fmt.Errorf("the database that database_url names is empty, but this server has run before: restore it from a backup, every agent is enrolled in it; or remove %s to begin anew",
				filepath.Join(dir, fileStarted))
		}
		return nil
	}
	for _, name := range []string{fileServerID, fileCommandKey, fileOOBKey} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing, but a server has worked on this database: restore it from a backup, every agent trusts it; or name an empty database to begin anew", path)
		}
	}
	return nil
}

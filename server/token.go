package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"gururmm/server/api"
	"gururmm/server/store"
)

// NewOperatorToken makes another operator token in the database that cfg names (StateDir,
// DatabaseURL), for another operator or because the first one was lost. A server may be
// running on it.
func NewOperatorToken(ctx context.Context, cfg Config, name string, log *slog.Logger) (token string, err error) {
	err = withStore(cfg, log, func(st store.Store) error {
		token = api.NewOperatorToken()
		err := st.CreateOperatorToken(ctx, name, store.HashToken(token), time.Now())
		if errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("there is an operator token named %q already", name)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

// OperatorTokens lists the operator tokens there, without their secrets.
func OperatorTokens(ctx context.Context, cfg Config, log *slog.Logger) (all []store.OperatorToken, err error) {
	err = withStore(cfg, log, func(st store.Store) error {
		all, err = st.OperatorTokens(ctx)
		return err
	})
	return all, err
}

// RevokeOperatorToken makes a token useless, at once also for a running server.
func RevokeOperatorToken(ctx context.Context, cfg Config, name string, log *slog.Logger) error {
	return withStore(cfg, log, func(st store.Store) error {
		err := st.DeleteOperatorToken(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("there is no operator token named %q", name)
		}
		return err
	})
}

// withStore opens the database, beside a server that may be running on it.
func withStore(cfg Config, log *slog.Logger, do func(store.Store) error) (err error) {
	st, err := openBeside(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := do(st); err != nil || cfg.DatabaseURL != "" {
		return err
	}
	return movedAway(cfg.StateDir) // meanwhile: a move reads all before, and nothing after
}

func openBeside(cfg Config, log *slog.Logger) (store.Store, error) {
	if cfg.DatabaseURL != "" {
		st, err := store.OpenPostgres(cfg.DatabaseURL, store.PostgresOptions{Log: log, Beside: true})
		if errors.Is(err, store.ErrNotFound) {
			err = errors.New("database_url: no server has been started on this database yet")
		}
		return st, err
	}
	path := filepath.Join(cfg.StateDir, fileDatabase)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no server has been started here yet, or one with a PostgreSQL: give its --database-url", cfg.StateDir)
	}
	if err := errors.Join(halfRestored(cfg.StateDir), movedAway(cfg.StateDir), knowsItself(cfg.StateDir)); err != nil {
		return nil, err
	}
	return store.Open(path, log)
}

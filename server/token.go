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

// NewOperatorToken makes another operator token in the state directory, for
// another operator or because the first one was lost. A server may be running on it.
func NewOperatorToken(ctx context.Context, stateDir, name string, log *slog.Logger) (token string, err error) {
	err = withStore(stateDir, log, func(st store.Store) error {
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

// OperatorTokens lists the operator tokens of a state directory, without their secrets.
func OperatorTokens(ctx context.Context, stateDir string, log *slog.Logger) (all []store.OperatorToken, err error) {
	err = withStore(stateDir, log, func(st store.Store) error {
		all, err = st.OperatorTokens(ctx)
		return err
	})
	return all, err
}

// RevokeOperatorToken makes a token useless, at once also for a running server.
func RevokeOperatorToken(ctx context.Context, stateDir, name string, log *slog.Logger) error {
	return withStore(stateDir, log, func(st store.Store) error {
		err := st.DeleteOperatorToken(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("there is no operator token named %q", name)
		}
		return err
	})
}

// withStore opens the database of a state directory, beside a server that may be running on it.
func withStore(stateDir string, log *slog.Logger, do func(store.Store) error) (err error) {
	path := filepath.Join(stateDir, fileDatabase)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: no server has been started here yet", stateDir)
	}
	if err := knowsItself(stateDir); err != nil {
		return err
	}
	st, err := store.Open(path, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return do(st)
}

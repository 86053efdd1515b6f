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
	path := filepath.Join(stateDir, fileDatabase)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: no server has been started here yet", stateDir)
	}
	st, err := store.Open(path, log)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	token = api.NewOperatorToken()
	err = st.CreateOperatorToken(ctx, name, store.HashToken(token), time.Now())
	if errors.Is(err, store.ErrConflict) {
		return "", fmt.Errorf("there is an operator token named %q already", name)
	}
	return token, err
}

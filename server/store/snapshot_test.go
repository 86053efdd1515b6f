package store_test

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/server/store"
	"gururmm/server/store/storetest"
)

// A copy answers as the database did, is private and small, and is made beside a store that
// is open; over no file, and of no database that is not there.
func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	path, into := filepath.Join(dir, "server.db"), filepath.Join(dir, "it's a copy.db")
	if err := store.Snapshot(t.Context(), path, into); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	st := open(t, path)
	storetest.Grow(t, st)
	if err := store.Snapshot(t.Context(), path, into); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(into); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := store.Check(into); err != nil {
		t.Error(err)
	}
	if all, err := filepath.Glob(into + "-*"); err != nil || len(all) > 0 {
		t.Errorf("beside it: %v, %v", all, err)
	}
	same(t, open(t, into), storetest.Answers(t, st))
	if err := store.Snapshot(t.Context(), path, into); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
}

func TestCheckRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	raw := func(statement string) {
		t.Helper()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	raw(`CREATE TABLE x (y)`)
	if err := store.Check(path); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("with nothing in it: %v", err)
	}
	raw(`PRAGMA user_version = 9999`)
	if err := store.Check(path); !errors.Is(err, store.ErrNewerSchema) {
		t.Errorf("of a newer program: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(path); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("of something else: %v", err)
	}
}

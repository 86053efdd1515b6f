package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/server/store/storetest"
)

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "server.db")
		return func() store.Store { return open(t, path) }
	})
}

func open(t *testing.T, path string) store.Store {
	t.Helper()
	st, err := store.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() }) // a second Close is harmless
	return st
}

func TestFilesArePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // modes mean nothing there; the directory's ACL holds
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "server.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil { // left too open by someone
		t.Fatal(err)
	}
	st := open(t, path)
	if err := st.CreateOperatorToken(t.Context(), "ops", store.HashToken("x"), time.Now()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 { // the database, its log and the log's index
		t.Fatalf("only %v", files)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", f.Name(), info.Mode(), err)
		}
	}
}

func TestPathIsNotReadAsURI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%41?x=1#é")
	if runtime.GOOS == "windows" {
		dir = filepath.Join(t.TempDir(), "a b%41#é")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "server.db")
	st := open(t, path)
	if err := st.CreateOperatorToken(t.Context(), "ops", store.HashToken("x"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Fatalf("the database is elsewhere: %v", err)
	}
}

func TestDamagedFileIsNamedAndLeftAlone(t *testing.T) {
	filled := func(t *testing.T) (path string, raw []byte) {
		path = filepath.Join(t.TempDir(), "server.db")
		st := open(t, path)
		for i := range 200 {
			if err := st.CreateOperatorToken(t.Context(), strings.Repeat("n", i+1), store.HashToken(strings.Repeat("x", i)), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, raw
	}
	for name, damage := range map[string]func([]byte) []byte{
		"not a database": func([]byte) []byte { return []byte(strings.Repeat("no database at all ", 100)) },
		"torn header":    func(raw []byte) []byte { copy(raw, "garbage here"); return raw },
		"torn pages": func(raw []byte) []byte {
			for i := 4096; i < len(raw); i++ {
				raw[i] ^= 0x5a
			}
			return raw
		},
		"cut off": func(raw []byte) []byte { return raw[:len(raw)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			path, raw := filled(t)
			raw = damage(raw)
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			st, err := store.Open(path, nil)
			if err == nil {
				st.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error is %v", err)
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != string(raw) {
				t.Fatalf("the file was changed (%v)", err)
			}
		})
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	open(t, path).Close()
	raw(t, path, "PRAGMA user_version = 999")
	_, err := store.Open(path, nil)
	if !errors.Is(err, store.ErrNewerSchema) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "999") {
		t.Fatalf("error is %v", err)
	}
}

func raw(t *testing.T, path, statement string) {
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

func TestUnwritablePathIsAClearError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "server.db")
	if _, err := store.Open(path, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Fatalf("error is %v", err)
	}
}

func TestNoTokenIsInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	st := open(t, path)
	const secret = "grt_this-is-the-secret-itself"
	now := time.Now()
	if err := st.CreateOperatorToken(t.Context(), "ops", store.HashToken(secret), now); err != nil {
		t.Fatal(err)
	}
	if err := st.CreateEnrollToken(t.Context(), store.HashToken(secret), operator.EnrollToken{
		ID: "t", Token: secret, Site: "s", UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), secret) {
		t.Fatalf("the secret is in the file (%v)", err)
	}
}

// A write whose caller has gone before its turn is not done behind its back.
func TestGivenUpWriteIsNotDone(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "server.db"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 50 {
		name := fmt.Sprint(i)
		err := st.CreateOperatorToken(gone, name, store.HashToken(name), time.Now())
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		_, found := st.OperatorToken(t.Context(), store.HashToken(name), time.Now())
		if (err == nil) != (found == nil) {
			t.Fatalf("the caller was told %v, and the token is there: %v", err, found == nil)
		}
	}
}

func BenchmarkGroupCommit(b *testing.B) {
	st, err := store.Open(filepath.Join(b.TempDir(), "server.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := st.Ready(b.Context()); err != nil {
				b.Error(err)
			}
			if err := st.DirectivesDelivered(b.Context(), []string{"none"}, time.Now()); err != nil {
				b.Error(err)
			}
		}
	})
}

package store

import (
	"database/sql"
	"path/filepath"
	"testing"
)

func TestMigrationsGoOnFromWhereTheyStopped(t *testing.T) {
	db, err := connect(filepath.Join(t.TempDir(), "x.db"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	one, two := "CREATE TABLE a (x)", "CREATE TABLE b (x); INSERT INTO b VALUES (1)"
	if err := migrate(db, []string{one}); err != nil {
		t.Fatal(err)
	}
	if err := migrate(db, []string{one, two + "; nonsense"}); err == nil {
		t.Fatal("a broken step was taken")
	}
	if v := version(t, db); v != 1 {
		t.Fatalf("a broken step left schema %d", v)
	}
	for range 2 { // the second finds nothing to do
		if err := migrate(db, []string{one, two}); err != nil {
			t.Fatal(err)
		}
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM b").Scan(&n); err != nil || n != 1 || version(t, db) != 2 {
		t.Fatalf("%d rows, %v", n, err)
	}
}

func version(t *testing.T, db *sql.DB) (v int) {
	t.Helper()
	if err := db.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

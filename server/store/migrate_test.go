package store

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"gururmm/server/store/pgtest"
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

func TestMigrationsOfPostgresGoOnFromWhereTheyStopped(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.Own(t).URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	at := func(want int) {
		t.Helper()
		if v, err := schema(t.Context(), conn); err != nil || v != want {
			t.Fatalf("schema is %d, want %d: %v", v, want, err)
		}
	}
	one, two := "CREATE TABLE a (x INT)", "CREATE TABLE b (x INT); INSERT INTO b VALUES (1)"
	if err := migratePostgres(t.Context(), conn, []string{one + "; nonsense"}); err == nil {
		t.Fatal("a broken first step was taken")
	}
	at(0)
	if err := migratePostgres(t.Context(), conn, []string{one}); err != nil {
		t.Fatal(err)
	}
	if err := migratePostgres(t.Context(), conn, []string{one, two + "; nonsense"}); err == nil {
		t.Fatal("a broken step was taken")
	}
	at(firstPostgres)
	for range 2 { // the second finds nothing to do
		if err := migratePostgres(t.Context(), conn, []string{one, two}); err != nil {
			t.Fatal(err)
		}
	}
	at(firstPostgres + 1)
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM b").Scan(&n); err != nil || n != 1 {
		t.Fatalf("%d rows, %v", n, err)
	}
	if err := migratePostgres(t.Context(), conn, []string{one}); !errors.Is(err, ErrNewerSchema) {
		t.Fatalf("a newer schema: %v", err)
	}
}

// Both have the same schema under the same number.
func TestBothDatabasesEndAtTheSameSchema(t *testing.T) {
	if lite, pg := len(steps("migrations", 1)), firstPostgres-1+len(steps("migrations/postgres", firstPostgres)); lite != pg {
		t.Errorf("SQLite ends at %04d, PostgreSQL at %04d", lite, pg)
	}
}

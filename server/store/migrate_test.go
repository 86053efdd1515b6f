package store

import (
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"gururmm/operator"
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

// The stages that an older program stored are the trace of their command, in their order.
func TestStagesBecomeTraces(t *testing.T) {
	note := "it said \"no\": 'é'\n\t\\ <&>"
	fill := func(exec func(query string, args ...any) error) {
		t.Helper()
		for _, err := range []error{
			exec(`INSERT INTO agents (id, public_key, name, site, platform, version, fingerprint, enrolled_at, enroll_token)
				VALUES ('a', '12', 'a', 's', '{}', '1', 'f', 1, 't')`),
			exec(`INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, state)
				VALUES ('c', 'a', 'sh', 'true', 1, 1, 1, 'ops', 1, 'completed'), ('none', 'a', 'sh', 'true', 1, 1, 1, 'ops', 1, 'pending')`),
			exec(`INSERT INTO stages (command, stage, attempt, side, channel, link, at, note) VALUES
				('c', 'written', 2, 'server', 'link', '07', 1700000000000001, $1), ('c', 'accepted', 0, 'server', '', '', 1700000000000000, '')`, note),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(st Store, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		want := []Stage{
			{"c", 1, operator.TraceEntry{Stage: "written", Attempt: 2, End: "server", Channel: "link", Link: "07", At: timeOf(1700000000000001), Note: note}},
			{"c", 2, operator.TraceEntry{Stage: "accepted", End: "server", At: timeOf(1700000000000000)}},
		}
		if got, err := st.Stages(t.Context(), "c", 0); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
		if got, err := st.Stages(t.Context(), "none", 0); err != nil || len(got) != 0 {
			t.Errorf("one without stages has %+v, %v", got, err)
		}
	}
	const before = 13

	path := filepath.Join(t.TempDir(), "x.db")
	db, err := connect(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(db, steps("migrations", 1)[:before]); err != nil {
		t.Fatal(err)
	}
	fill(func(query string, args ...any) error { _, err := db.Exec(query, args...); return err })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(Open(path, nil))

	url := pgtest.Own(t).URL("postgres")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if err := migratePostgres(t.Context(), conn, steps("migrations/postgres", firstPostgres)[:before-firstPostgres+1]); err != nil {
		t.Fatal(err)
	}
	fill(func(query string, args ...any) error { _, err := conn.Exec(t.Context(), query, args...); return err })
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(OpenPostgres(url, PostgresOptions{}))
}

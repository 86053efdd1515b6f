package store_test

import (
	"database/sql"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/server/store/storetest"
)

// asked are the queries of a store, each with what it was given last.
type asked struct {
	mu sync.Mutex
	by map[string]question
}

type question struct {
	args   []any
	single bool
}

func (a *asked) note(query string, args []any, single bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[string]question{}
	}
	a.by[query] = question{slices.Clone(args), single}
}

// TestEveryQueryHasAnIndex asks both databases how they would answer each query that the
// whole suite asks. Reading all of a table that grows with the fleet or with time is a
// mistake, but where all of it is what was asked for.
func TestEveryQueryHasAnIndex(t *testing.T) {
	var all asked
	storetest.Run(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "server.db")
		return func() store.Store {
			st := open(t, path)
			store.Watch(st, all.note)
			return st
		}
	})
	if len(all.by) < 80 {
		t.Fatalf("only %d queries were asked", len(all.by))
	}
	t.Run("sqlite", func(t *testing.T) { explainSQLite(t, all.by) })
	t.Run("postgres", func(t *testing.T) { explainPostgres(t, all.by) })
}

// The same of what only nodes of a cluster ask.
func TestEveryQueryOfANodeHasAnIndex(t *testing.T) {
	var all asked
	url := pgtest.Shared(t).Database(t)
	st, n, err := store.OpenNode(url, store.PostgresOptions{}, store.NodeOptions{Name: "a", Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	store.Watch(st, all.note)
	ctx := t.Context()
	agent := enroll(t, st, 1)[0]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n.Join(ctx, "same"))
	for range 2 {
		_, err = n.Beat(ctx)
		must(err)
	}
	_, err = n.Orphaned(ctx)
	must(err)
	_, after, err := n.Changes(ctx, 0)
	must(err)
	_, _, err = n.Changes(ctx, after)
	must(err)
	_, err = n.NextGeneration(ctx)
	must(err)
	must(n.SaveViews(ctx, map[string]string{agent: "{}", "gone": ""}))
	_, err = n.Views(ctx)
	must(err)
	_, err = n.Views(ctx, agent)
	must(err)
	_, err = n.Lives(ctx, n.Node())
	must(err)
	for range 2 {
		_, err = n.UseToken(ctx, agent, "id", time.Now())
		must(err)
	}
	_, err = n.TakeDirectives(ctx, []string{"none"}, time.Now())
	must(err)
	_, err = n.CountOwed(ctx, "")
	must(err)
	_, err = n.CountOwed(ctx, agent)
	must(err)
	must(n.Leave(ctx))
	if len(all.by) < 20 {
		t.Fatalf("only %d queries were asked", len(all.by))
	}
	explainPostgres(t, all.by)
}

// whole reports whether a query asks for all of a table, which may be read whole then.
func whole(table, query string) bool {
	switch table {
	case "operator_tokens", "enroll_tokens", "builds", "bundles", "rollouts", "rollout_agents", "resolutions", "writer":
		return true // some rows, made by hand
	case "views": // all of them, by a node that joins
		return !strings.Contains(query, "agent =") && strings.HasPrefix(query, "SELECT")
	case "nodes", "leader":
		return true // as many as there are nodes
	case "agents": // the list of all, and their number
		return allAgents.MatchString(query)
	case "agent_tags": // all
		return !strings.Contains(query, "WHERE")
	case "beacons": // the newest of all, in the order in which SQLite has them
		return !strings.Contains(query, "WHERE") && strings.Contains(query, "LIMIT")
	}
	return false
}

var allAgents = regexp.MustCompile(`^SELECT (id, public_key, [a-z_, ]*|count\(\*\)) FROM agents WHERE removed_at IS (NOT NULL AND purged = 0|NULL)( ORDER BY lower\(name\), id)?$`)

func explainSQLite(t *testing.T, all map[string]question) {
	path := filepath.Join(t.TempDir(), "server.db")
	open(t, path).Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	alias := regexp.MustCompile(`(?:FROM|JOIN) (\w+) (\w)\b`)
	for query, q := range all {
		if q.single || control(query) {
			continue
		}
		names := map[string]string{}
		for _, m := range alias.FindAllStringSubmatch(query, -1) {
			names[m[2]] = m[1]
		}
		rows, err := db.Query("EXPLAIN QUERY PLAN "+query, q.args...)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		for rows.Next() {
			var n int
			var step string
			if err := rows.Scan(&n, &n, &n, &step); err != nil {
				t.Fatal(err)
			}
			table, ok := strings.CutPrefix(step, "SCAN ")
			if !ok || strings.Contains(step, " USING ") || table == "CONSTANT ROW" || strings.HasSuffix(table, "VALUES CLAUSE") {
				continue
			}
			if long := names[table]; long != "" {
				table = long
			}
			if !whole(table, query) {
				t.Errorf("%s\n  reads all of %s (%s)", query, table, step)
			}
		}
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	}
}

// control reports whether a statement begins or ends a transaction.
func control(query string) bool {
	return !strings.Contains(query, " ") || strings.HasPrefix(query, "SAVEPOINT") || strings.HasPrefix(query, "ROLLBACK") || strings.HasPrefix(query, "RELEASE")
}

// fill makes a fleet of thousands that has worked for a while. Ids are as many bytes as real ones.
var fill = []string{
	`SET session_replication_role = replica`, // no foreign key, no trigger: faster
	// Of the times some are before those that the suite deletes up to.
	`CREATE FUNCTION pg_temp.at(i int) RETURNS bigint LANGUAGE sql AS 'SELECT 1709247590000000 + i * 1000000::bigint'`,
	`CREATE FUNCTION pg_temp.id(i int) RETURNS text LANGUAGE sql AS 'SELECT md5(i::text)'`,
	`INSERT INTO agents (id, public_key, name, site, platform, version, fingerprint, enrolled_at, enroll_token)
		SELECT pg_temp.id(i), decode(md5(i::text), 'hex'), 'host-' || i, 's', '{}', '1', 'f', pg_temp.at(i), 't' FROM generate_series(1, 5000) i`,
	`INSERT INTO commands (id, agent, shell, script, timeout_ms, max_output, created_at, created_by, expires_at, state, acked_at, ended_at, idem_key)
		SELECT pg_temp.id(i), pg_temp.id(i % 5000 + 1), 'sh', 'true', 1, 1, pg_temp.at(i), 'ops', pg_temp.at(i), CASE WHEN i % 100 = 0 THEN 'pending' ELSE 'completed' END,
		CASE WHEN i % 100 > 0 THEN pg_temp.at(i) END, CASE WHEN i % 100 > 0 THEN pg_temp.at(i) END, 'key' || i FROM generate_series(1, 40000) i`,
	`INSERT INTO outputs (command, stream, start, data) SELECT pg_temp.id(i), 'stdout', 0, 'x' FROM generate_series(1, 40000) i`,
	`INSERT INTO directives (id, agent, payload, created_by, created_at, expires_at, ended_at)
		SELECT pg_temp.id(i), pg_temp.id(i % 5000 + 1), '{}', 'ops', pg_temp.at(i), pg_temp.at(i), CASE WHEN i % 100 > 0 THEN pg_temp.at(i) END FROM generate_series(1, 40000) i`,
	`INSERT INTO beacons (report_id, agent, received_at, verdict, sentence, report, addr)
		SELECT pg_temp.id(i), pg_temp.id(i % 5000 + 1), pg_temp.at(i), 'v', 's', 'x', '' FROM generate_series(1, 40000) i`,
	`INSERT INTO agent_events (agent, n, at, kind, was, now, reason, link)
		SELECT pg_temp.id(i % 5000 + 1), i / 5000, pg_temp.at(i), 'k', '', '', '', '' FROM generate_series(1, 40000) i`,
	`INSERT INTO agent_state (agent, kind, value) SELECT pg_temp.id(i % 5000 + 1), 'k' || i / 5000, '' FROM generate_series(1, 20000) i`,
	`INSERT INTO agent_tags (agent, tag) SELECT pg_temp.id(i % 5000 + 1), 't' || i / 5000 FROM generate_series(1, 20000) i`,
	`INSERT INTO jobs (id, pick, shell, script, timeout_ms, max_output, at_once, stop_after, state, created_by, created_at, expires_at, ended_at, members, idem_key)
		SELECT pg_temp.id(i), '{}', 'sh', 'true', 1, 1, 0, '', 'done', 'ops', pg_temp.at(i), pg_temp.at(i), CASE WHEN i % 100 > 0 THEN pg_temp.at(i) END, 2, 'key' || i FROM generate_series(1, 5000) i`,
	`INSERT INTO job_agents (job, n, agent, command) SELECT pg_temp.id(i / 8 + 1), i % 8, pg_temp.id(i % 5000 + 1), pg_temp.id(i) FROM generate_series(1, 40000) i`,
	`SET session_replication_role = origin`,
	`INSERT INTO views (agent, node, seen) SELECT md5(i::text), 'node' || i % 20, '{}' FROM generate_series(1, 20000) i`,
	`INSERT INTO changes (xid, node, at, topics) SELECT -i, 'node', (extract(epoch FROM now()) * 1000000)::bigint + i * 1000::bigint, '{x}' FROM generate_series(1, 20000) i`,
	`INSERT INTO used_tokens (agent, id, until) SELECT md5(i::text), i::text, (extract(epoch FROM now()) * 1000000)::bigint + i * 1000::bigint FROM generate_series(1, 20000) i`,
	`ANALYZE`,
}

func explainPostgres(t *testing.T, all map[string]question) {
	url := pgtest.Shared(t).Database(t)
	openPostgres(t, url).Close() // its schema
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, statement := range fill {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	scan := regexp.MustCompile(`Seq Scan on (\w+)`)
	for query, q := range all {
		if control(query) {
			continue
		}
		plan, err := explained(t, conn, store.Dollars(query), q.args)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		for _, m := range scan.FindAllStringSubmatch(plan, -1) {
			if !whole(m[1], query) {
				t.Errorf("%s\n%v\n%s", query, q.args, plan)
			}
		}
	}
}

func explained(t *testing.T, conn *pgx.Conn, query string, args []any) (string, error) {
	rows, err := conn.Query(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}

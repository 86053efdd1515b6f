package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/server/store/storetest"
	"gururmm/wire"
)

var errStop = errors.New("stopped here")

// grown is a SQLite database that has been used for a while, closed, and what it answers.
func grown(t *testing.T) (path string, answers map[string]any) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "server.db")
	st := open(t, path)
	storetest.Grow(t, st)
	answers = storetest.Answers(t, st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return path, answers
}

func move(t *testing.T, path, url string, mark func(string) error) ([]store.Moved, error) {
	t.Helper()
	if mark == nil {
		mark = func(string) error { return nil }
	}
	return store.Move(t.Context(), path, url, store.MoveOptions{Mark: mark})
}

func same(t *testing.T, st store.Store, want map[string]any) {
	t.Helper()
	got := storetest.Answers(t, st)
	for question, answer := range want {
		if !reflect.DeepEqual(got[question], answer) {
			t.Errorf("%s:\n%+v, was\n%+v", question, got[question], answer)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d answers, were %d", len(got), len(want))
	}
}

// What a grown installation knows is the same after a move, in each list, and goes on: no
// number is given twice, and agents that were removed stay so.
func TestAMoveKeepsEachAnswer(t *testing.T) {
	path, answers := grown(t)
	db := pgtest.Shared(t)
	// Its owner, as the documentation has it made, and nothing more.
	db.Exec(t, "postgres", `CREATE ROLE mover LOGIN`)
	db.Exec(t, "postgres", `CREATE DATABASE moved OWNER mover`)
	t.Cleanup(func() { // another run on this server makes them again
		db.Exec(t, "postgres", `DROP DATABASE moved WITH (FORCE)`)
		db.Exec(t, "postgres", `DROP ROLE mover`)
	})
	url := strings.Replace(db.URL("moved"), "gururmm@", "mover@", 1)
	var marked string
	all, err := move(t, path, url, func(database string) error { marked = database; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Rows < 30 || m.Altered != 0 {
			t.Errorf("%+v", m) // the fixture must have rows in each
		}
	}
	if !strings.HasPrefix(marked, "postgres://mover@127.0.0.1:") {
		t.Errorf("marked as moved to %q", marked)
	}
	st := openPostgres(t, url)
	same(t, st, answers)
	same(t, open(t, path), answers) // it stayed as it was

	agents, removed := answers["agents"].([]store.Agent), answers["removed agents"].([]store.Agent)
	if _, _, err := st.CreateCommand(t.Context(), store.Command{Command: operator.Command{ID: wire.NewID(), Agent: removed[0].ID}}); !errors.Is(err, store.ErrRemoved) {
		t.Errorf("a command for one that was removed: %v", err)
	}
	commands := answers["commands of "+agents[0].ID].([]store.Command)
	before := answers["stages of "+commands[0].ID].([]store.Stage)
	late := store.Stage{Command: commands[0].ID, TraceEntry: operator.TraceEntry{Stage: "late", At: time.Now(), End: "server"}}
	if err := st.AddStages(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	after, err := st.Stages(t.Context(), commands[0].ID, 0)
	if err != nil || len(after) != len(before)+1 || after[len(before)].Stage != "late" {
		t.Errorf("a stage after the move: %+v, %v", after, err)
	}
	// Now there is a server's data.
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, path, url, nil); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("over a server's data: %v", err)
	}
}

// Numbers of rows that are gone are not given again either.
func TestAMoveKeepsWhatWasCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	st := open(t, path)
	agent := enroll(t, st, 1)[0]
	for i := range store.KeepBeacons + 5 {
		b := operator.Beacon{ReportID: wire.NewID(), Agent: agent, ReceivedAt: time.Unix(int64(i), 0), Sentence: "a\x00b \xff", Report: json.RawMessage(`{}`)}
		if _, err := st.SaveBeacon(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.RemoveAgent(t.Context(), agent, "ops", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	url := pgtest.Shared(t).Database(t)
	all, err := move(t, path, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Table == "beacons" && (m.Rows != store.KeepBeacons || m.Altered != store.KeepBeacons) {
			t.Errorf("%+v", m)
		}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var next int64
	if err := conn.QueryRow(t.Context(), `SELECT nextval(pg_get_serial_sequence('beacons', 'seq'))`).Scan(&next); err != nil || next != store.KeepBeacons+6 {
		t.Errorf("the next beacon is number %d, %v", next, err)
	}
	var off int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_trigger WHERE tgenabled = 'D'`).Scan(&off); err != nil || off != 0 {
		t.Errorf("%d triggers are off, %v", off, err)
	}
	var text string
	if err := conn.QueryRow(t.Context(), `SELECT DISTINCT sentence FROM beacons`).Scan(&text); err != nil || text != "a\ufffdb \ufffd" {
		t.Errorf("the text is %q, %v", text, err)
	}
}

// A move that ended behind its commit is finished, unless either side has changed since.
func TestAMoveGoesOn(t *testing.T) {
	path, answers := grown(t)
	db := pgtest.Shared(t)
	url := db.Database(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := store.Move(ctx, path, url, store.MoveOptions{Mark: func(string) error { return nil }, Told: func(store.Moved) {
		if n++; n == 5 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("ended in the midst: %v", err)
	}
	same(t, open(t, path), answers)
	if _, err := move(t, path, url, func(string) error { return errStop }); !errors.Is(err, errStop) {
		t.Fatalf("before the mark: %v", err)
	}
	marked := false
	if _, err := move(t, path, url, func(string) error { marked = true; return nil }); err != nil || !marked {
		t.Fatalf("again: marked %v, %v", marked, err)
	}
	st := open(t, path)
	if err := st.CreateOperatorToken(t.Context(), "late", store.HashToken("late"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, path, url, nil); !errors.Is(err, store.ErrNotEmpty) || !strings.Contains(err.Error(), "operator_tokens") {
		t.Errorf("changed since: %v", err)
	}
	same(t, openPostgres(t, url), answers)
}

func TestAMoveRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	db := pgtest.Shared(t)
	if _, err := move(t, path, db.Database(t), nil); err == nil {
		t.Error("a database that is not there was moved")
	}
	open(t, path).Close()

	used := db.Database(t)
	st := openPostgres(t, used)
	if _, err := move(t, path, used, nil); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a running server's: %v", err)
	}
	if err := st.CreateOperatorToken(t.Context(), "first", store.HashToken("x"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, path, used, nil); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("a server's: %v", err)
	}

	other := db.Database(t)
	conn, err := pgx.Connect(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `CREATE TABLE theirs (x int)`); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, path, other, nil); !errors.Is(err, store.ErrNotEmpty) || !strings.Contains(err.Error(), "theirs") {
		t.Errorf("another program's: %v", err)
	}
	// What has no place there is not left behind.
	lacking := db.Database(t)
	openPostgres(t, lacking).Close()
	conn, err = pgx.Connect(t.Context(), lacking)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `ALTER TABLE commands DROP COLUMN orphans`); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, path, lacking, nil); err == nil || !strings.Contains(err.Error(), "table commands: SQLite has the columns") {
		t.Errorf("a column less: %v", err)
	}
}

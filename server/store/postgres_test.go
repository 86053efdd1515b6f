package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/server/store/storetest"
	"gururmm/wire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestPostgres(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		url := pgtest.Shared(t).Database(t)
		return func() store.Store { return openPostgres(t, url) }
	})
	// A write whose statement fails is done another way: slower, so nothing but this would tell.
	if said := pgtest.Shared(t).Misunderstood(t); len(said) > 0 {
		t.Errorf("statements that PostgreSQL did not understand:\n%s", strings.Join(said, ""))
	}
}

func openPostgres(t testing.TB, url string) store.Store {
	t.Helper()
	st, err := store.OpenPostgres(url, store.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() }) // a second Close is harmless
	return st
}

// Kill -9 of the database in mid-load, again and again: what was acknowledged is there, what
// was refused is not, and the store goes on by itself.
func TestPostgresKilledInMidLoad(t *testing.T) {
	const callers, kills, between = 32, 3, 300
	db := pgtest.Own(t)
	url := db.URL("postgres")
	st := openPostgres(t, url)
	agents := enroll(t, st, callers)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		stored  = map[string]bool{} // by id: acknowledged, or refused
		unknown int
	)
	acks := make(chan struct{}, 1) // poked at each
	for i := range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				c := command(agents[i])
				_, _, err := st.CreateCommand(context.WithoutCancel(ctx), c, stage(c, wire.StageAccepted))
				mu.Lock()
				switch {
				case err == nil:
					stored[c.ID] = true
				case errors.Is(err, store.ErrUnavailable):
					stored[c.ID] = false
				case errors.Is(err, store.ErrUnknown):
					unknown++
				default:
					t.Errorf("create: %v", err)
				}
				mu.Unlock()
				select {
				case acks <- struct{}{}:
				default:
				}
				if err != nil { // as a client that is told to come back
					select {
					case <-time.After(20 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	count := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, ok := range stored {
			if ok {
				n++
			}
		}
		return n
	}
	for range kills {
		for had := count(); count() < had+between; {
			select {
			case <-acks:
			case <-time.After(30 * time.Second):
				t.Fatalf("nothing is stored any more; %d were", count())
			}
		}
		if err := db.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := db.Start(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	// Seen by another, without a goodbye of the first: it might have been killed, too.
	beside, err := store.OpenPostgres(url, store.PostgresOptions{Beside: true})
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	yes, no := 0, 0
	for id, want := range stored {
		_, err := beside.Command(t.Context(), id)
		if want && err != nil {
			t.Errorf("acknowledged, and lost: %s: %v", id, err)
		}
		if !want && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("refused, and there: %s: %v", id, err)
		}
		if want {
			if s, err := beside.Stages(t.Context(), id, 0); err != nil || len(s) != 1 {
				t.Errorf("%s has %d stages, %v", id, len(s), err)
			}
			yes++
		} else {
			no++
		}
	}
	t.Logf("%d acknowledged, %d refused, %d unknown", yes, no, unknown)
}

// cutter is a proxy that breaks the connection at a commit: before the server has it, or
// once the server has answered it.
type cutter struct {
	ln   net.Listener
	to   string
	cut  atomic.Pointer[string] // "before" or "after", once
	seen atomic.Int64
	wg   sync.WaitGroup
}

func newCutter(t *testing.T, url string) (*cutter, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, to: net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))}
	c.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.serve(client) })
		}
	})
	return c, strings.Replace(url, c.to, ln.Addr().String(), 1)
}

func (c *cutter) serve(client net.Conn) {
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		client.Close()
		return
	}
	var mute atomic.Bool
	answered := make(chan struct{}, 1)
	c.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if mute.Load() {
				answered <- struct{}{}
				return
			}
			if err == nil {
				_, err = client.Write(buf[:n])
			}
			if err != nil {
				client.Close()
				return
			}
		}
	})
	defer client.Close()
	defer server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if how := c.cut.Load(); how != nil && bytes.Contains(buf[:n], []byte("COMMIT\x00")) && c.cut.CompareAndSwap(how, nil) {
			c.seen.Add(1)
			if *how == "before" {
				return
			}
			mute.Store(true)
			if _, err := server.Write(buf[:n]); err == nil {
				<-answered
			}
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A connection that breaks at the commit leaves nobody guessing.
func TestABrokenCommitIsFoundOut(t *testing.T) {
	db := pgtest.Shared(t)
	proxy, url := newCutter(t, db.Database(t))
	defer proxy.wg.Wait()
	defer proxy.ln.Close()
	st := openPostgres(t, url)
	defer st.Close()
	agent := enroll(t, st, 1)[0]
	for i, how := range []string{"before", "after", "after", "before"} {
		c := command(agent)
		proxy.cut.Store(&how)
		_, _, err := st.CreateCommand(t.Context(), c, stage(c, wire.StageAccepted))
		_, there := st.Command(t.Context(), c.ID)
		if proxy.seen.Load() != int64(i+1) {
			t.Fatalf("%s: no commit was cut", how)
		}
		switch how {
		case "before":
			if !errors.Is(err, store.ErrUnavailable) || !errors.Is(there, store.ErrNotFound) {
				t.Errorf("cut before: told %v, and found %v", err, there)
			}
		case "after":
			if err != nil || there != nil {
				t.Errorf("cut after: told %v, and found %v", err, there)
			}
		}
	}
}

// A connection that the server ended while it rested is made anew without a word.
func TestARestedConnectionMayBeLost(t *testing.T) {
	db := pgtest.Shared(t)
	url := db.Database(t)
	st := openPostgres(t, url)
	agent := enroll(t, st, 1)[0]
	for range 3 {
		if _, err := st.Agent(t.Context(), agent); err != nil { // so that a reader rests, too
			t.Fatal(err)
		}
		db.Exec(t, "postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gururmm' AND datname = $1`, path.Base(strings.Split(url, "?")[0]))
		if _, err := st.Agent(t.Context(), agent); err != nil {
			t.Errorf("read: %v", err)
		}
		c := command(agent)
		if _, created, err := st.CreateCommand(t.Context(), c); err != nil || !created {
			t.Errorf("write: %v, %v", created, err)
		}
		if err := st.SetQuarantined(t.Context(), agent, false); err != nil {
			t.Errorf("write of another kind: %v", err)
		}
	}
}

// A server that another one has replaced stores nothing more.
func TestOneServerWrites(t *testing.T) {
	db := pgtest.Shared(t)
	url := db.Database(t)
	st := openPostgres(t, url)
	if _, err := store.OpenPostgres(url, store.PostgresOptions{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	beside, err := store.OpenPostgres(url, store.PostgresOptions{Beside: true})
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	if err := beside.CreateOperatorToken(t.Context(), "beside", store.HashToken("x"), time.Now()); err != nil {
		t.Errorf("beside it: %v", err)
	}
	db.Exec(t, path.Base(strings.Split(url, "?")[0]), `UPDATE writer SET owner = 'another'`)
	if err := st.CreateOperatorToken(t.Context(), "late", store.HashToken("y"), time.Now()); !errors.Is(err, store.ErrInUse) {
		t.Errorf("replaced: %v", err)
	}
	if _, err := beside.OperatorToken(t.Context(), store.HashToken("y"), time.Now()); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("what it wrote: %v", err)
	}
}

// What PostgreSQL can't hold as text is held as near as can be, and takes nothing with it.
func TestTextThatPostgresHasNot(t *testing.T) {
	st := openPostgres(t, pgtest.Shared(t).Database(t))
	agent := enroll(t, st, 1)[0]
	c := command(agent)
	s := stage(c, wire.StageAccepted)
	s.Note = "a\x00b\xffc"
	if _, _, err := st.CreateCommand(t.Context(), c, s); err != nil {
		t.Fatal(err)
	}
	if err := st.AddStages(t.Context(), s); err != nil { // the same once more
		t.Fatal(err)
	}
	if all, err := st.Stages(t.Context(), c.ID, 0); err != nil || len(all) != 1 || all[0].Note != "a\x00b\ufffdc" {
		t.Errorf("%+v, %v", all, err)
	}
	if found, err := st.FindAgents(t.Context(), "\x00\xff"); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// No error names the password that the URL has.
func TestNoErrorTellsThePassword(t *testing.T) {
	for _, url := range []string{
		"postgres://u:hunter2@127.0.0.1:1/x", "postgres://u:hunter2@127.0.0.1:x/x", "postgres://u:hunter2@127.0.0.1:1/x?sslmode=no", "mysql://u:hunter2@h/x",
		"postgres://u@127.0.0.1:1/x?password=hunter2&connect_timeout=no",
	} {
		st, err := store.OpenPostgres(url, store.PostgresOptions{})
		if err == nil {
			st.Close()
			t.Errorf("%s was opened", url)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("it tells: %v", err)
		}
	}
}

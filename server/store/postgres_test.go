package store_test

import (
	"strings"
	"testing"

	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/server/store/storetest"
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

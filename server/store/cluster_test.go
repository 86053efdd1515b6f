package store_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/server/store/storetest"
	"gururmm/wire"
)

// TestNodeIsAStore: a node's store is one as any other, also where a node does more.
func TestNodeIsAStore(t *testing.T) {
	more := regexp.MustCompile(`^(commands are|an idempotency|a command changed|output merges|directives|events are what|an agent that was removed|a rollout and|an order is|a failed write|what was stored is there|after closing)`)
	storetest.Some(t, func(t *testing.T) func() store.Store {
		url := pgtest.Shared(t).Database(t)
		return func() store.Store {
			st, _ := openNode(t, url, "a")
			return st
		}
	}, more.MatchString)
	if said := pgtest.Shared(t).Misunderstood(t); len(said) > 0 {
		t.Errorf("statements that PostgreSQL did not understand:\n%s", strings.Join(said, ""))
	}
}

const lease = time.Minute

func openNode(t testing.TB, url, name string) (store.Store, store.Nodes) {
	t.Helper()
	st, n, err := store.OpenNode(url, store.PostgresOptions{}, store.NodeOptions{Name: name, Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if err := n.Join(t.Context(), "same"); err != nil {
		t.Fatal(err)
	}
	return st, n
}

// expire ends a node's lease as time would.
func expire(t testing.TB, url, name string) {
	t.Helper()
	pgtest.Shared(t).Exec(t, path.Base(strings.Split(url, "?")[0]), `UPDATE nodes SET until = 0 WHERE name = $1`, name)
}

// A node whose lease is over writes nothing more, whatever it believes; then it joins anew.
func TestNodeWhoseLeaseIsOverWritesNothing(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	sa, a := openNode(t, url, "a")
	_, b := openNode(t, url, "b")
	agent := enroll(t, sa, 1)[0]
	first, err := a.Beat(t.Context())
	if err != nil || !first.Leads || len(first.Living) != 2 {
		t.Fatalf("%+v, %v", first, err)
	}
	if other, err := b.Beat(t.Context()); err != nil || other.Leads || len(other.Ended) != 0 {
		t.Fatalf("two lead: %+v, %v", other, err)
	}
	c := command(agent)
	stored, _, err := sa.CreateCommand(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	stored.State, stored.Attempts, stored.Owner = wire.StateRunning, 1, a.Node()
	if stored.Rev, err = sa.SaveCommand(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if err := a.SaveViews(t.Context(), map[string]string{agent: "{}"}); err != nil {
		t.Fatal(err)
	}
	if lost, err := b.Orphaned(t.Context()); err != nil || len(lost) != 0 {
		t.Errorf("a claim of a node that lives: %v, %v", lost, err)
	}
	expire(t, url, "a")
	after, err := b.Beat(t.Context())
	if err != nil || !after.Leads || len(after.Ended) != 1 || after.Ended[0].Name != "a" || len(after.Living) != 1 {
		t.Fatalf("%+v, %v", after, err)
	}
	if lost, err := b.Orphaned(t.Context()); err != nil || !slices.Equal(lost, []string{agent}) {
		t.Errorf("claims without an owner: %v, %v", lost, err)
	}
	if seen, err := b.Views(t.Context()); err != nil || len(seen) != 0 {
		t.Errorf("what the node saw is shown still: %v, %v", seen, err)
	}
	for range 2 {
		if _, err := sa.SaveCommand(t.Context(), stored); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("it wrote all the same: %v", err)
		}
	}
	if _, err := a.Beat(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("it beats on: %v", err)
	}
	was := a.Node()
	if err := a.Join(t.Context(), "same"); err != nil || a.Node() == was {
		t.Fatalf("it does not join anew: %v", err)
	}
	if again, err := a.Beat(t.Context()); err != nil || again.Leads || len(again.Living) != 2 {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := sa.SaveCommand(t.Context(), stored); err != nil {
		t.Errorf("it writes no more: %v", err)
	}
}

// One server alone and nodes exclude each other; nodes must be of one cluster.
func TestNodesShareNothingWithAServer(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	st := openPostgres(t, url)
	if _, _, err := store.OpenNode(url, store.PostgresOptions{}, store.NodeOptions{Name: "a", Lease: lease}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a node beside a server: %v", err)
	}
	st.Close()
	openNode(t, url, "a")
	if _, err := store.OpenPostgres(url, store.PostgresOptions{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a server beside a node: %v", err)
	}
	other, n, err := store.OpenNode(url, store.PostgresOptions{}, store.NodeOptions{Name: "b", Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := n.Join(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "node a has another") {
		t.Errorf("a node with other keys: %v", err)
	}
}

// What a node changes the others find, also what was committed late; no number is given twice.
func TestNodesFindEachOthersChanges(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	sa, a := openNode(t, url, "a")
	sb, b := openNode(t, url, "b")
	agents := enroll(t, sa, 8)
	ctx := t.Context()
	if topics, _, err := b.Changes(ctx, 0); err != nil || len(topics) != 0 {
		t.Fatalf("what was before the first look: %v, %v", topics, err)
	}
	_, after, err := b.Changes(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, id := range agents {
		wg.Go(func() {
			if _, _, err := sa.CreateCommand(ctx, command(id)); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := sa.SetQuarantined(ctx, id, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	found := map[string]bool{}
	look := func() {
		topics, next, err := b.Changes(ctx, after)
		if err != nil {
			t.Fatal(err)
		}
		after = next
		for _, one := range topics {
			found[one] = true
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for looking := true; looking; look() {
		select {
		case <-done:
			looking = false
		default:
		}
	}
	for i, id := range agents {
		if !found["c/"+id] || found["a/"+id] != (i%2 == 0) {
			t.Errorf("%d: %v", i, found)
		}
	}
	if topics, _, err := a.Changes(ctx, after-1000); err != nil || len(topics) != 0 {
		t.Errorf("its own: %v, %v", topics, err)
	}
	if err := sb.SetQuarantined(ctx, agents[1], true); err != nil {
		t.Fatal(err)
	}
	look()
	if len(found) != 12 {
		t.Errorf("%d topics", len(found))
	}

	var mu sync.Mutex
	given := map[uint64]bool{}
	last := uint64(0)
	for range 20 {
		for _, n := range []store.Nodes{a, b} {
			g, err := n.NextGeneration(ctx)
			if err != nil || g <= last {
				t.Fatalf("%d after %d, %v", g, last, err)
			}
			last = g
		}
	}
	for _, n := range []store.Nodes{a, b} {
		for range 10 {
			wg.Go(func() {
				g, err := n.NextGeneration(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || given[g] {
					t.Errorf("%d twice, %v", g, err)
				}
				given[g] = true
			})
		}
	}
	wg.Wait()
}

func TestTokenServesAtOneNodeOnly(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	_, a := openNode(t, url, "a")
	_, b := openNode(t, url, "b")
	until := time.Now().Add(time.Minute)
	for i := range 5 {
		id := fmt.Sprint(i)
		got := make(chan bool, 2)
		for _, n := range []store.Nodes{a, b} {
			go func() {
				fresh, err := n.UseToken(context.WithoutCancel(t.Context()), "agent", id, until)
				if err != nil {
					t.Error(err)
				}
				got <- fresh
			}()
		}
		if x, y := <-got, <-got; x == y {
			t.Errorf("fresh at one: %v, at the other: %v", x, y)
		}
	}
}

// Two nodes that change the same rows in another order both get it done.
func TestNodesThatWaitForEachOther(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	sa, _ := openNode(t, url, "a")
	sb, _ := openNode(t, url, "b")
	agents := enroll(t, sa, 12)
	turned := slices.Clone(agents)
	slices.Reverse(turned)
	var wg sync.WaitGroup
	for range 3 {
		for _, n := range []struct {
			st  store.Store
			ids []string
		}{{sa, agents}, {sb, turned}} {
			for _, id := range n.ids { // at once: they share transactions, in this order or nearly so
				wg.Go(func() {
					if err := n.st.ChangeTags(t.Context(), []string{id}, []string{"x"}, nil); err != nil {
						t.Error(err)
					}
					if err := n.st.SetQuarantined(t.Context(), id, true); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
	wg.Wait()
}

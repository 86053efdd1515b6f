//go:build faults

package delivery

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"gururmm/wire"
)

// With the fault on, a command is owed and never offered on a link, as on a
// server whose routing is stale; the second door still has it.
func TestSkippedLinkStillOwes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GURURMM_FAULTS", dir)
	if err := os.WriteFile(filepath.Join(dir, "delivery.skip"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		awake, stop := r.s.Waiter(r.agent)
		defer stop()
		id := r.submit()
		r.s.Hint(r.agent)
		synctest.Wait()
		r.expect(id, wire.StatePending, 0)
		r.owed(1)
		if len(l.sent) != 0 {
			t.Fatal("offered on the link")
		}
		<-awake
		if ids, _, _ := r.take(); !slices.Equal(ids, []string{id}) {
			t.Fatalf("the poll got %v", ids)
		}
	})
}

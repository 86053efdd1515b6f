package server

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is told of an agent's last sign of life is exact; it is stored every few minutes, when
// the link ends, and when the server stops.
func TestLastSeenIsExactAndStoredSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		stored := func() time.Time {
			a, err := n.store.Agent(t.Context(), id.Agent)
			if err != nil || a.LastSeen == nil {
				t.Fatal(a.LastSeen, err)
			}
			return *a.LastSeen
		}
		time.Sleep(30 * time.Second)
		writes := map[time.Time]bool{}
		began := time.Now()
		for time.Since(began) < time.Hour {
			time.Sleep(30 * time.Second)
			m.conn.Ping(false)
			synctest.Wait()
			if age := time.Since(*n.agent(id).LastSeen); age > time.Millisecond {
				t.Errorf("after a ping it is said to be seen %v ago", age)
			}
			time.Sleep(10 * time.Second) // looked at, and written
			at := stored()
			if age := time.Since(at); age > 6*time.Minute {
				t.Fatalf("what is stored is %v old", age)
			}
			writes[at] = true
		}
		if n := len(writes); n < 10 || n > 30 {
			t.Errorf("stored %d times in an hour", n)
		}
		m.conn.Ping(false)
		synctest.Wait()
		last := *n.agent(id).LastSeen
		m.close()
		time.Sleep(10 * time.Second)
		if at := stored(); at.Before(last.Truncate(time.Microsecond)) {
			t.Errorf("the link has ended: stored is %v of before", last.Sub(at))
		}
		m = n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		time.Sleep(30 * time.Second)
		m.conn.Ping(false)
		synctest.Wait()
		last = *n.agent(id).LastSeen
		n = n.restarted()
		if at := *n.agent(id).LastSeen; at.Before(last.Truncate(time.Microsecond)) {
			t.Errorf("after a stop it is said to be seen %v earlier", last.Sub(at))
		}
	})
}

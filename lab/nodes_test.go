//go:build !race

package lab_test

import (
	"testing"
	"time"
)

// 500 agents under the race detector take minutes: make nodes runs this without.

// TestThreeNodes: while 500 agents get commands by all nodes, one node is killed and comes
// back, NATS goes away and the database is killed. Each command runs once and ends once.
func TestThreeNodes(t *testing.T) {
	n := startNodes(t, "a", "b", "c")
	const agents = 500
	n.play(agents, 2, "idle=100", 16*time.Second, func() {
		a, b, c := n.all[0], n.all[1], n.all[2]
		by := map[string]int{}
		if all, err := a.client.Agents(t.Context()); err == nil {
			for _, one := range all {
				for _, l := range one.Links {
					by[l.Node]++
				}
			}
		}
		t.Logf("links, as node a shows them by node (none: its own): %v", by)
		if by["b"] == 0 || by["c"] == 0 {
			t.Error("no links of other nodes are shown")
		}
		time.Sleep(time.Second)
		b.kill()
		n.tell("node b killed; all agents verified again, as node a sees it", n.verified(a, agents, "b"))
		n.start(b)
		n.stopBus()
		time.Sleep(2 * time.Second)
		n.tell("NATS away for 2 s; all verified, as node b sees it", n.verified(b, agents))
		n.startBus()
		if err := n.db.Kill(); err != nil {
			t.Error(err)
		}
		if err := n.db.Start(); err != nil {
			t.Error(err)
		}
		n.tell("database killed; all verified, as node c sees it", n.verified(c, agents))
	})
}

package delivery

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// peers are the nodes of a cluster in a test.
type peers struct {
	mu    sync.Mutex
	nodes []*peer
	deaf  bool // nothing is told: only the look at what changed is left
}

// peer is one of them.
type peer struct {
	*rig
	all  *peers
	id   string
	dead bool
}

func (p *peer) Node() string { return p.id }

func (p *peer) Ended(_ context.Context, node string) (bool, string, error) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	for _, o := range p.all.nodes {
		if o.id == node {
			return o.dead, o.id, nil
		}
	}
	return true, "", nil
}

func (p *peer) Leads() bool {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	for _, o := range p.all.nodes {
		if !o.dead {
			return o == p
		}
	}
	return false
}

func (p *peer) Tell(command, notice string) {
	p.all.mu.Lock()
	deaf, nodes := p.all.deaf, slices.Clone(p.all.nodes)
	p.all.mu.Unlock()
	if deaf {
		return
	}
	for _, o := range nodes {
		if o != p && !o.dead && o.s != nil {
			o.s.Heard(command, notice)
			o.s.Changed(o.agent)
		}
	}
}

func (p *peer) TakeDirectives(ctx context.Context, ids []string, at time.Time) ([]string, error) {
	return ids, p.st.DirectivesDelivered(ctx, ids, at)
}

// look is the round in which each node finds what it was not told.
func (p *peers) look() {
	for _, o := range p.nodes {
		if !o.dead {
			o.s.Changed(o.agent)
			o.s.Ordered(o.agent)
		}
	}
	synctest.Wait()
}

// end kills a node: what it would have done it does not do any more, and its lease is over.
func (p *peers) end(o *peer) {
	p.mu.Lock()
	o.dead = true
	p.mu.Unlock()
	o.stop()
	p.look()
}

// ofNodes runs test with n nodes on one database and one agent, the first of them leading.
func ofNodes(t *testing.T, n int, test func(t *testing.T, p *peers, nodes []*peer)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.db")
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		p := &peers{}
		agent := (&rig{t: t, st: st}).enroll("host")
		for i := range n {
			o := &peer{rig: &rig{t: t, path: path, st: st, agent: agent, gen: uint64(100 * i)}, all: p, id: string(rune('a' + i))}
			o.cluster = o
			p.nodes = append(p.nodes, o)
		}
		for _, o := range p.nodes {
			o.start()
			defer func() {
				if !o.dead {
					o.stop()
				}
			}()
		}
		test(t, p, p.nodes)
	})
}

// An operator orders at one node, the link is at the other; everything can be seen and done at both.
func TestCommandOrderedAtAnotherNode(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		ofNodes(t, 2, func(t *testing.T, p *peers, nodes []*peer) {
			p.deaf = deaf
			a, b := nodes[0], nodes[1]
			l := a.up()
			id := b.submit()
			follow, err := b.s.Follow(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			done := make(chan struct{})
			go func() {
				defer close(done)
				for e := range follow {
					kinds = append(kinds, e.Kind)
				}
			}()
			p.look() // a commit tells of it, or the round finds it
			if got := l.commands(t); !slices.Equal(got, []string{id}) {
				t.Fatalf("deaf %v: the link got %v", deaf, got)
			}
			a.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
			a.send(l, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Data: []byte("x")})
			if ack := resultAck(t, a.send(l, wire.TypeCommandResult, completed(id, "x"))); !ack.Stored {
				t.Fatal("not stored")
			}
			if deaf {
				sleep(followNodes)
			}
			<-done
			if !slices.Contains(kinds, "output") || kinds[len(kinds)-1] != "end" {
				t.Errorf("deaf %v: followed at the other node: %v", deaf, kinds)
			}
			b.expect(id, wire.StateCompleted, 1)
			p.look()
			sleep(2 * lateEvery) // who has no door takes its time
			a.owed(0)            // it leads
		})
	}
}

// What a node holds the others leave alone, until it gives it back or has ended.
func TestClaimOfAnotherNodeIsLeftAlone(t *testing.T) {
	ofNodes(t, 2, func(t *testing.T, p *peers, nodes []*peer) {
		a, b := nodes[0], nodes[1]
		la := a.up()
		id := a.submit()
		lb := b.up()
		p.look()
		if got := lb.commands(t); len(got) != 0 {
			t.Fatalf("claimed twice: %v", got)
		}
		if ids, _, _ := b.take(); len(ids) != 0 {
			t.Fatalf("a poll took it: %v", ids)
		}
		a.down(la, "cut off") // gives it back
		if got := lb.commands(t); !slices.Equal(got, []string{id}) {
			t.Fatalf("given back, and not offered: %v", got)
		}
		b.expect(id, wire.StateRunning, 2)
	})
}

func TestClaimOfANodeThatEnded(t *testing.T) {
	ofNodes(t, 2, func(t *testing.T, p *peers, nodes []*peer) {
		a, b := nodes[0], nodes[1]
		a.up()
		id := a.submit()
		lb := b.up()
		p.deaf = true
		p.end(a)
		if got := lb.commands(t); !slices.Equal(got, []string{id}) {
			t.Fatalf("the link got %v\n%s", got, b.trace(id))
		}
		b.expect(id, wire.StateRunning, 2)
		if !strings.Contains(b.trace(id), "its node a has ended") {
			t.Error(b.trace(id))
		}
		b.send(lb, wire.TypeCommandResult, completed(id, ""))
		b.expect(id, wire.StateCompleted, 2)
	})
}

// Nobody has a door to the agent: the node that leads keeps the time, after another's end, too.
func TestTimeIsKeptByWhoLeads(t *testing.T) {
	ofNodes(t, 3, func(t *testing.T, p *peers, nodes []*peer) {
		id := nodes[2].submit()
		p.end(nodes[2])
		other := nodes[1].submit()
		p.end(nodes[0])
		sleep(2 * lateEvery) // the second one leads
		sleep(defaultExpiry)
		nodes[1].expect(id, wire.StateExpired, 0)
		nodes[1].expect(other, wire.StateExpired, 0)
	})
}

// The agent comes back at another node before the first has noticed: its word counts there.
func TestWordComesToAnotherNode(t *testing.T) {
	ofNodes(t, 2, func(t *testing.T, p *peers, nodes []*peer) {
		p.deaf = true
		a, b := nodes[0], nodes[1]
		la := a.up()
		acked, finished := a.submit(), a.submit()
		b.submit() // its route is of before
		lb := b.up()
		b.send(lb, wire.TypeCommandAck, wire.CommandAck{ID: acked})
		if ack := resultAck(t, b.send(lb, wire.TypeCommandResult, completed(finished, "out"))); !ack.Stored {
			t.Fatal("not stored")
		}
		sleep(leaseMin + time.Second) // the claims at a run out
		a.down(la, "cut off")
		a.expect(acked, wire.StateRunning, 1)
		a.expect(finished, wire.StateCompleted, 1)
		if n := len(la.commands(t)); n != 3 && n != 2 {
			t.Errorf("%d commands went out at a", n)
		}
		b.send(lb, wire.TypeCommandResult, completed(acked, ""))
		a.expect(acked, wire.StateCompleted, 1)
		if slices.Contains(lb.commands(t), acked) || slices.Contains(lb.commands(t), finished) {
			t.Errorf("offered once more: %v", lb.commands(t))
		}
	})
}

// An end that is asked for at one node goes out where the claim, or the link, is.
func TestCancelAtAnotherNode(t *testing.T) {
	ofNodes(t, 2, func(t *testing.T, p *peers, nodes []*peer) {
		a, b := nodes[0], nodes[1]
		l := a.up()
		out := a.submit()
		running := a.submit()
		a.send(l, wire.TypeCommandAck, wire.CommandAck{ID: running})
		p.deaf = true
		for _, id := range []string{out, running} {
			if c, err := b.s.Cancel(t.Context(), id, "ops"); err != nil || c.State != wire.StateRunning {
				t.Fatalf("%+v, %v", c, err)
			}
		}
		p.look()
		cancels := 0
		for _, typ := range l.types() {
			if typ == wire.TypeCancelCommand {
				cancels++
			}
		}
		if cancels != 2 {
			t.Errorf("%d cancels went out: %v", cancels, l.types())
		}
		waits := func() string { a.down(l, "cut off"); return b.submit() }()
		if c, err := a.s.Cancel(t.Context(), waits, "ops"); err != nil || c.State != wire.StateCancelled {
			t.Errorf("one that waits: %+v, %v", c, err)
		}
		b.expect(out, wire.StateCancelled, 1)
		b.expect(waits, wire.StateCancelled, 0)
	})
}

// Whatever comes in whatever order at whichever node: a command is journaled by the agent
// once, ends once, and is never out twice without a reason.
func TestNodesInAnyOrder(t *testing.T) {
	for seed := range uint64(4) {
		ofNodes(t, 3, func(t *testing.T, p *peers, nodes []*peer) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			p.deaf = seed%3 == 0
			links := map[*peer]*fakeLink{}
			var ids []string
			has := map[string]bool{} // the agent's journal
			ran := map[string]int{}
			alive := func() *peer {
				for {
					if o := nodes[rnd.IntN(len(nodes))]; !o.dead {
						return o
					}
				}
			}
			read := map[*fakeLink]int{}
			agent := func(o *peer, l *fakeLink, lossy bool) { // the agent reads its link, and answers some of it
				for _, id := range l.commands(t)[read[l]:] {
					read[l]++
					if lossy && rnd.IntN(3) == 0 {
						continue
					}
					if !has[id] {
						has[id] = true
						ran[id]++
					}
					if rnd.IntN(4) > 0 {
						o.from(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
					}
				}
			}
			for range 60 {
				o := alive()
				switch rnd.IntN(9) {
				case 0, 1, 2:
					c, err := o.s.Submit(t.Context(), o.agent, operator.NewCommand{Script: "true"}, "ops")
					if err != nil {
						t.Fatal(err)
					}
					ids = append(ids, c.ID)
				case 3:
					if links[o] == nil {
						links[o] = o.up()
					}
				case 4:
					if l := links[o]; l != nil {
						o.down(l, "cut off")
						delete(links, o)
					}
				case 5:
					p.look()
				case 6:
					sleep(time.Duration(rnd.IntN(4000)) * time.Millisecond)
				case 7:
					for id := range has { // a result by whichever node
						if rnd.IntN(2) == 0 {
							o.from(links[o], wire.TypeCommandResult, completed(id, ""))
						}
					}
				case 8:
					if alive := slices.DeleteFunc(slices.Clone(nodes), func(o *peer) bool { return o.dead }); len(alive) > 1 && rnd.IntN(8) == 0 {
						delete(links, o)
						p.end(o)
					}
				}
				synctest.Wait()
				for o, l := range links {
					if !o.dead {
						agent(o, l, true)
					}
				}
			}
			o := alive()
			if links[o] == nil {
				links[o] = o.up()
			}
			for range 40 { // then all is well: each ends
				p.look()
				agent(o, links[o], false)
				for _, id := range ids {
					if has[id] {
						o.from(links[o], wire.TypeCommandResult, completed(id, ""))
					}
				}
				o.s.Hint(o.agent)
				sleep(leaseMin)
			}
			for _, id := range ids {
				c := o.command(id)
				if !c.State.Terminal() || ran[id] > 1 || c.State == wire.StateCompleted && ran[id] != 1 {
					t.Errorf("seed %d: %s ran %d times\n%s", seed, c.State, ran[id], o.trace(id))
				}
				stages, err := o.st.Stages(t.Context(), id, 0)
				if err != nil {
					t.Fatal(err)
				}
				claims := map[int]int{}
				for _, s := range stages {
					if s.Stage == wire.StageClaimed {
						claims[s.Attempt]++
					}
				}
				for n, times := range claims {
					if times > 1 {
						t.Errorf("seed %d: attempt %d was claimed %d times\n%s", seed, n, times, o.trace(id))
					}
				}
			}
		})
	}
}

package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"gururmm/operator"
	"gururmm/server/store/pgtest"
	"gururmm/wire"
)

// startNATS gives the URL of a NATS server of the test's own.
func startNATS(t *testing.T) string {
	t.Helper()
	bus, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: nats.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	bus.Start()
	t.Cleanup(func() {
		bus.Shutdown()
		bus.WaitForShutdown()
	})
	if !bus.ReadyForConnections(60 * time.Second) {
		t.Fatal("NATS does not come up")
	}
	return bus.ClientURL()
}

// noNATS is the URL of a NATS that is not there.
func noNATS(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	return "nats://" + ln.Addr().String()
}

// keysOf are the files that all nodes have a copy of.
var keysOf = []string{fileServerID, fileCommandKey, fileOOBKey, "oob.crt", "main.key", "main.crt", fileStarted}

// startNodes runs as many nodes of one cluster.
func startNodes(t *testing.T, bus string, names ...string) (all []*node) {
	t.Helper()
	url, shared := pgtest.Shared(t).Database(t), t.TempDir()
	for i, name := range names {
		n := start(t, false, func(c *Config) {
			c.DatabaseURL, c.ClusterURL, c.NodeName, c.SharedDir = url, bus, name, shared
			for _, file := range keysOf {
				if i == 0 {
					break
				}
				raw, err := os.ReadFile(filepath.Join(all[0].cfg.StateDir, file))
				if err == nil {
					err = os.WriteFile(filepath.Join(c.StateDir, file), raw, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
		if i > 0 {
			n.info.OperatorToken = all[0].info.OperatorToken
		}
		all = append(all, n)
	}
	return all
}

// own has an agent dial this very node.
func (n *node) own(id identity) identity {
	id.LinkURLs = []string{"wss" + strings.TrimPrefix(n.Info().URL, "https") + "/v1/link"}
	return id
}

// Two nodes are one server to whoever asks either: an agent's link is at the one, everything
// is ordered and seen at the other.
func TestTwoNodesAreOneServer(t *testing.T) {
	nodes := startNodes(t, startNATS(t), "a", "b")
	a, b := nodes[0], nodes[1]
	id := a.enroll("alpha")
	m := b.link(b.own(id), presence("i1", "b1", "f1")).awaitVerified()
	await(t, "node a shows the link of node b", func() bool {
		s := a.agent(id)
		return s.Presence == "verified" && len(s.Links) == 1 && s.Links[0].Node == "b"
	})
	if s := b.agent(id); s.Presence != "verified" || len(s.Links) != 1 || s.Links[0].Node != "" {
		t.Errorf("node b itself shows %+v", s)
	}

	c := operate[operator.Command](a, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	if got := <-m.commands; got.ID != c.ID {
		t.Fatalf("got %+v", got)
	}
	m.send(wire.TypeCommandAck, wire.CommandAck{ID: c.ID}, true)
	code := 0
	m.send(wire.TypeCommandResult, wire.CommandResult{ID: c.ID, State: wire.StateCompleted, ExitCode: &code}, true)
	await(t, "node a knows the result", func() bool {
		return operate[operator.Command](a, "GET", "/v1/commands/"+c.ID, nil).State == wire.StateCompleted
	})
	if s := a.agent(id); s.Owed != 0 {
		t.Errorf("owed at node a: %d", s.Owed)
	}

	// A job of the node that does not lead is carried out by the one that does.
	if !a.cluster.Load().Leads() || b.cluster.Load().Leads() {
		t.Error("not the first node leads")
	}
	began := time.Now()
	job := operate[operator.Job](b, "POST", "/v1/jobs", operator.NewJob{Pick: operator.Pick{Agents: []string{id.Agent}}, Script: "true"})
	given := <-m.commands
	m.send(wire.TypeCommandResult, wire.CommandResult{ID: given.ID, State: wire.StateCompleted, ExitCode: &code}, true)
	await(t, "the job ends", func() bool {
		return operate[operator.Job](b, "GET", "/v1/jobs/"+job.ID, nil).State == operator.JobDone
	})
	t.Logf("a job of node b took %v", time.Since(began).Round(time.Millisecond))

	// A directive of node a: called for by the link at node b, fetched at node a.
	operate[operator.Directive](a, "POST", "/v1/agents/"+id.Agent+"/directives", operator.NewDirective{Kind: wire.DirectiveRunProbes})
	select {
	case <-m.called:
	case <-time.After(20 * time.Second):
		t.Error("the agent was not called")
	}
	if p := a.pollAs(id, machineCopy("i1", "b1", "f1"), 0); !slices.Contains(types(p.Downstream), wire.TypeDirective) {
		t.Errorf("the poll got %v", types(p.Downstream))
	}
	if p := b.pollAs(id, machineCopy("i1", "b1", "f1"), 0); slices.Contains(types(p.Downstream), wire.TypeDirective) {
		t.Error("handed out at both nodes")
	}

	// A token serves once, at whichever node.
	token := id.token(nil)
	body := []byte(`{"instance":"i1","wait_ms":0}`)
	if status, _, raw := a.request("POST", a.Info().OOBURL+"/v1/oob/poll", token, body); status != http.StatusOK {
		t.Errorf("at the first node: %d %s", status, raw)
	}
	if status, _, raw := b.request("POST", b.Info().OOBURL+"/v1/oob/poll", token, body); status != http.StatusUnauthorized {
		t.Errorf("the same token at the other node: %d %s", status, raw)
	}

	// The same machine comes to node a: its link at node b ends, and nobody calls it offline.
	again := a.link(a.own(id), presence("i1", "b1", "f1")).awaitVerified()
	if code, why := m.closedWith(20 * time.Second); code != 1012 || !strings.Contains(why, "newer link") {
		t.Errorf("the older link ended with %d %s", code, why)
	}
	await(t, "node b shows the link of node a alone", func() bool {
		s := b.agent(id)
		return s.Presence == "verified" && len(s.Links) == 1 && s.Links[0].Node == "a"
	})
	c = operate[operator.Command](b, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	if got := <-again.commands; got.ID != c.ID {
		t.Fatalf("got %+v", got)
	}
	var told []string
	await(t, "events are written", func() bool {
		told = nil
		for _, e := range operate[operator.List[operator.AgentEvent]](a, "GET", "/v1/events?agent="+id.Agent, nil).Items {
			told = append(told, e.Kind+" "+e.To)
		}
		return len(told) > 6
	})
	if slices.Contains(told, operator.EventPresence+" offline") {
		t.Errorf("it was called offline: %q", told)
	}

	// An operator's word at node b holds at node a.
	operate[any](b, "DELETE", "/v1/agents/"+id.Agent, nil)
	if _, why := again.closedWith(20 * time.Second); !strings.Contains(why, "removed") {
		t.Errorf("its link ended: %s", why)
	}
}

// Without NATS all of it takes some seconds longer, and nothing else.
func TestNodesWithoutNATS(t *testing.T) {
	nodes := startNodes(t, noNATS(t), "a", "b")
	a, b := nodes[0], nodes[1]
	id := a.enroll("alpha")
	m := b.link(b.own(id), presence("i1", "b1", "f1")).awaitVerified()
	await(t, "node a shows the link of node b", func() bool { return a.agent(id).Presence == "verified" })
	began := time.Now()
	c := operate[operator.Command](a, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	if got := <-m.commands; got.ID != c.ID {
		t.Fatalf("got %+v", got)
	}
	t.Logf("ordered at node a, offered by node b after %v", time.Since(began).Round(time.Millisecond))
	for _, n := range nodes {
		if s := n.cluster.Load().State(); s.Bus == nil || s.Lease != nil || len(s.Living) != 2 {
			t.Errorf("%+v", s)
		}
	}
}

// Two machines with one identity at two nodes are found, nothing goes to either, and an
// operator's word at any node settles it.
func TestCopiesAtTwoNodes(t *testing.T) {
	nodes := startNodes(t, startNATS(t), "a", "b")
	a, b := nodes[0], nodes[1]
	id := a.enroll("alpha")
	first := a.link(a.own(id), presence("i1", "b1", "f1")).awaitVerified()
	await(t, "node b knows of it", func() bool { return b.agent(id).Presence == "verified" })
	second := b.link(b.own(id), presence("i2", "b2", "f2")).awaitVerified()
	for _, n := range nodes {
		await(t, "both are seen as duplicates", func() bool {
			s := n.agent(id)
			rivals := 0
			for _, c := range s.Copies {
				if c.Standing == operator.CopyRival && c.Linked {
					rivals++
				}
			}
			return s.Presence == "duplicate" && len(s.Links) == 2 && rivals == 2
		})
	}
	c := operate[operator.Command](b, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	for range 3 {
		first.heartbeat()
		second.heartbeat()
	}
	if p := a.pollAs(id, machineCopy("i1", "b1", "f1"), 0); slices.Contains(types(p.Downstream), wire.TypeCommand) {
		t.Error("handed to one of two by a poll")
	}
	select {
	case got := <-first.commands:
		t.Errorf("the first got %+v", got)
	case got := <-second.commands:
		t.Errorf("the second got %+v", got)
	case <-time.After(3 * time.Second):
	}
	operate[operator.Resolution](b, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: "i1"})
	select {
	case got := <-first.commands:
		if got.ID != c.ID {
			t.Errorf("got %+v", got)
		}
	case got := <-second.commands:
		t.Errorf("the other one got %+v", got)
	case <-time.After(20 * time.Second):
		t.Errorf("the kept one got nothing: %+v", operate[operator.Trace](a, "GET", "/v1/commands/"+c.ID+"/trace", nil).Stopped)
	}
}

// What can't be a cluster is refused, and says what to do.
func TestBadNodesAreRefused(t *testing.T) {
	bus := noNATS(t)
	nodes := startNodes(t, bus, "a")
	url := nodes[0].cfg.DatabaseURL
	dir := t.TempDir()
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.ClusterURL = "http://x" }, "cluster_url: want nats://"},
		{func(c *Config) { c.DatabaseURL = "" }, "nodes share a PostgreSQL"},
		{func(c *Config) { c.SharedDir = "" }, "shared_dir is not"},
		{func(c *Config) { c.SharedDir = filepath.Join(dir, "none") }, "on a file system that all nodes have"},
		{func(c *Config) { c.NodeName = "two words" }, "node_name"},
		{func(c *Config) { c.ClusterURL, c.SharedDir, c.NodeName = "", "", "x" }, "node_name is set and cluster_url is not"},
		{func(c *Config) { c.ClusterURL, c.SharedDir, c.NodeName = "", "", "" }, "another server works on this database"},
		{func(c *Config) { c.ClusterCA = filepath.Join(dir, "none") }, "cluster_url: open"},
		{func(*Config) {}, "node a has another server id, keys or shared directory"},
	} {
		cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: t.TempDir(), DatabaseURL: url, ClusterURL: bus, SharedDir: dir, NodeName: "b"}
		for _, file := range []string{fileServerID, fileCommandKey, fileOOBKey, "oob.crt"} { // all but the shared directory
			raw, err := os.ReadFile(filepath.Join(nodes[0].cfg.StateDir, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(cfg.StateDir, file), raw, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		c.change(&cfg)
		s, err := New(cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			err = errors.Join(errors.New("started"), s.Close())
		}
		if !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}

//go:build unix

package lab_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"gururmm/lab/fleet"
	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/server/store/pgtest"
	"gururmm/wire"
)

// node is one server of a cluster, a process of its own.
type node struct {
	name, dir string
	cmd       *exec.Cmd
	ended     chan struct{}
	URL       string `json:"url"`
	Listen    string `json:"listen"`
	CA        string `json:"ca_file"`
	Token     string `json:"operator_token"`
	client    *operator.Client
}

// nodes are a cluster: its servers, database, NATS, and a balancer before them.
type nodes struct {
	t        *testing.T
	bin, dir string
	db       *pgtest.Server
	bus      *nats.Server
	busPort  int
	balancer net.Listener
	token    string
	trust    *tls.Config

	mu  sync.Mutex
	all []*node
}

// startNodes starts as many servers; each is stopped at the test's end.
func startNodes(t *testing.T, names ...string) *nodes {
	bin, dir := room(t)
	n := &nodes{t: t, bin: bin.Server, dir: dir, db: pgtest.Own(t)}
	n.startBus()
	t.Cleanup(func() { n.stopBus() })
	var err error
	if n.balancer, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.balancer.Close() })
	for name, text := range map[string]string{"database.url": n.db.URL("postgres"), "nats.url": fmt.Sprintf("nats://127.0.0.1:%d", n.busPort)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	policy, err := json.Marshal(testPolicy())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "policy.json"), policy, 0o600), os.Mkdir(filepath.Join(dir, "shared"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		one := &node{name: name, dir: filepath.Join(dir, name)}
		if i > 0 { // the same keys, as docs/operations.md has it
			n.run("restore", filepath.Join(dir, "keys.tar.gz"), "--state-dir", one.dir)
		}
		n.start(one)
		if i == 0 {
			n.token = one.Token
			n.run("backup", "--state-dir", one.dir, "--database-url-file", filepath.Join(dir, "database.url"), "--without-bundles", "-o", filepath.Join(dir, "keys.tar.gz"))
			pem, err := os.ReadFile(one.CA)
			if err != nil {
				t.Fatal(err)
			}
			n.trust = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
			n.trust.RootCAs.AppendCertsFromPEM(pem)
		}
		if one.client, err = operator.New("https://"+one.Listen, n.token, n.trust); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(one.client.Close)
		n.mu.Lock()
		n.all = append(n.all, one)
		n.mu.Unlock()
	}
	go n.balance()
	return n
}

// run runs a command of the server's program.
func (n *nodes) run(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(n.bin, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// start starts a node, again if it was ended.
func (n *nodes) start(one *node) {
	n.t.Helper()
	ready := filepath.Join(n.dir, one.name+".json")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	log, err := os.OpenFile(n.log(one), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	listen := one.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	cmd := exec.Command(n.bin, "serve", "--state-dir", one.dir, "--listen", listen, "--oob-listen", "127.0.0.1:0",
		"--public-url", "https://"+n.balancer.Addr().String(), "--policy", filepath.Join(n.dir, "policy.json"), "--ready-file", ready,
		"--database-url-file", filepath.Join(n.dir, "database.url"), "--cluster-url-file", filepath.Join(n.dir, "nats.url"),
		"--node-name", one.name, "--shared-dir", filepath.Join(n.dir, "shared"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, as a rule
		close(ended)
	}()
	one.cmd, one.ended = cmd, ended
	n.t.Cleanup(func() { one.kill() })
	for deadline := time.Now().Add(60 * time.Second); ; {
		raw, err := os.ReadFile(ready)
		if err == nil && json.Unmarshal(raw, one) == nil {
			return
		}
		select {
		case <-ended:
			n.t.Fatalf("node %s ended:\n%s", one.name, harness.Tail(n.log(one), 20))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("node %s does not come up:\n%s", one.name, harness.Tail(n.log(one), 20))
		}
	}
}

func (n *nodes) log(one *node) string { return filepath.Join(n.dir, one.name+".log") }

// kill is kill -9.
func (one *node) kill() {
	_ = one.cmd.Process.Kill() // it may have ended
	<-one.ended
}

func (n *nodes) startBus() {
	n.t.Helper()
	bus, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: cmp.Or(n.busPort, nats.RANDOM_PORT), NoSigs: true, NoLog: true})
	if err != nil {
		n.t.Fatal(err)
	}
	bus.Start()
	if !bus.ReadyForConnections(60 * time.Second) {
		n.t.Fatal("NATS does not come up")
	}
	n.bus, n.busPort = bus, bus.Addr().(*net.TCPAddr).Port
}

func (n *nodes) stopBus() {
	n.bus.Shutdown()
	n.bus.WaitForShutdown()
}

// balance passes connections on to nodes in turn, from the address they come from; one that
// does not answer is passed over.
func (n *nodes) balance() {
	for turn := 0; ; turn++ {
		in, err := n.balancer.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			n.mu.Lock()
			all := append([]*node(nil), n.all...)
			n.mu.Unlock()
			for i := range all {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: in.RemoteAddr().(*net.TCPAddr).IP}, Timeout: 2 * time.Second}
				out, err := d.Dial("tcp", all[(turn+i)%len(all)].Listen)
				if err != nil {
					continue
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					out.Close()
				}()
				_, _ = io.Copy(in, out)
				return
			}
		}()
	}
}

// order gives a command by any node that takes it; its key makes it one.
func (n *nodes) order(ctx context.Context, agent string, c operator.NewCommand) (string, error) {
	c.IdempotencyKey = wire.NewID()
	var last error
	for ctx.Err() == nil {
		n.mu.Lock()
		one := n.all[rand.IntN(len(n.all))]
		n.mu.Unlock()
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		made, err := one.client.Submit(try, agent, c)
		cancel()
		if err == nil {
			return made.ID, nil
		}
		last = err
		time.Sleep(100 * time.Millisecond)
	}
	return "", errors.Join(ctx.Err(), last)
}

// verified waits until a node shows all agents verified, and tells how long that took. Links
// at the node gone, which is killed, don't count: they are shown until its lease is over.
func (n *nodes) verified(one *node, agents int, gone ...string) time.Duration {
	n.t.Helper()
	began := time.Now()
	for {
		by := map[string]int{}
		all, err := one.client.Agents(n.t.Context())
		for _, a := range all {
			word := a.Presence
			if !slices.ContainsFunc(a.Links, func(l wire.LinkView) bool { return !slices.Contains(gone, l.Node) && l.State == "verified" }) {
				word = "without a link"
			}
			by[word]++
		}
		if err == nil && by["verified"] == agents {
			return time.Since(began)
		}
		if time.Since(began) > 45*time.Second {
			n.t.Fatalf("node %s: %v, %v", one.name, by, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// play has a fleet play against the balancer while disturb disturbs it, and checks that
// each command ended once, in order, and ran once.
func (n *nodes) play(agents, commands int, mix string, hold time.Duration, disturb func()) {
	t := n.t
	t.Helper()
	token, err := n.all[len(n.all)-1].client.CreateEnrollToken(t.Context(), operator.NewEnrollToken{Uses: agents})
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := fleet.ParseMix(mix)
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	var disturbing sync.WaitGroup
	defer disturbing.Wait()
	disturbing.Go(func() {
		select {
		case <-held:
			disturb()
		case <-t.Context().Done():
		}
	})
	report, err := fleet.Run(t.Context(), fleet.Options{
		Agents: agents, Server: "https://" + n.balancer.Addr().String(), TLS: n.trust, EnrollToken: token.Token, Operator: n.token,
		Mix: kinds, Seed: 3, Hold: hold, Commands: commands, Order: n.order,
		Progress: func(s string) {
			t.Log(s)
			switch {
			case strings.HasPrefix(s, "all verified"):
				close(held)
			case strings.HasPrefix(s, "asking the server"):
				disturbing.Wait() // the fleet is held until then, however slow the machine
			}
		},
	})
	var table strings.Builder
	report.Print(&table)
	t.Logf("%v\n%s", err, &table)
	if err != nil || len(report.Wrong) > 0 {
		for _, one := range n.all {
			t.Logf("%s:\n%s", one.name, harness.Tail(n.log(one), 40))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range report.Wrong {
		t.Error(wrong)
	}
	for _, k := range report.Kinds {
		if k.Kind.Well() && (k.Completed != k.Ordered || k.Twice != 0 || k.Ordered != k.Agents*commands) {
			t.Errorf("%s: of %d commands %d completed, %d ran twice", k.Kind, k.Ordered, k.Completed, k.Twice)
		}
	}
}

// tell logs how long something took.
func (n *nodes) tell(what string, took time.Duration) {
	n.t.Logf("%s: %v", what, took.Round(10*time.Millisecond))
}

// TestNodesOfAllKinds: agents that flap, are deaf or are copies of one another find at three
// nodes what they find at one.
func TestNodesOfAllKinds(t *testing.T) {
	n := startNodes(t, "a", "b", "c")
	n.play(50, 2, "idle=60,chatty=10,flapping=10,deaf=10,halfopen=6,cloned=4", 4*time.Second, func() {})
}

// TestNodeAwayForLongerThanItsLease: a node that stood still, and all nodes while the
// database is away, are taken for gone; what they held is given back once, and they join anew.
func TestNodeAwayForLongerThanItsLease(t *testing.T) {
	n := startNodes(t, "a", "b", "c")
	const agents = 40
	n.play(agents, 8, "idle=100", 44*time.Second, func() {
		a, b := n.all[0], n.all[1]
		time.Sleep(time.Second)
		if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		n.mu.Lock()
		n.all = n.all[1:] // a balancer finds out by its health check
		n.mu.Unlock()
		n.tell("node a stands still; all agents verified again, as node b sees it", n.verified(b, agents, "a"))
		time.Sleep(14 * time.Second) // longer than the lease
		if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
		began := time.Now()
		n.logged(a, "joined anew", 1)
		n.tell("node a goes on; it has joined anew after", time.Since(began))
		n.mu.Lock()
		n.all = append([]*node{a}, n.all...)
		n.mu.Unlock()
		if err := n.db.Kill(); err != nil {
			t.Error(err)
		}
		time.Sleep(12 * time.Second)
		if err := n.db.Start(); err != nil {
			t.Error(err)
		}
		began = time.Now()
		n.logged(b, "joined anew", 1)
		n.tell("database away for 12 s; node b has joined anew after", time.Since(began))
		n.tell("all verified", n.verified(b, agents))
	})
}

// logged waits until a node has logged something so often.
func (n *nodes) logged(one *node, what string, times int) {
	n.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		raw, err := os.ReadFile(n.log(one))
		if err == nil && strings.Count(string(raw), what) >= times {
			return
		}
		if time.Now().After(deadline) {
			n.t.Errorf("node %s did not say %q:\n%s", one.name, what, harness.Tail(n.log(one), 30))
			return
		}
	}
}

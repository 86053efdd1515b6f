package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gururmm/internal/pin"
	"gururmm/server/api"
	"gururmm/server/cluster"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/store"
)

const (
	// fileShared marks the directory that nodes share: all must see the same mark.
	fileShared = "cluster.id"
	// maxNodeName bounds a node's name in bytes.
	maxNodeName = 64
	// leaveTimeout bounds how long a node takes to say that it goes.
	leaveTimeout = 2 * time.Second
)

// completeNode fills in and checks what makes this server one of several nodes.
func (c Config) completeNode() (Config, error) {
	if c.ClusterURL == "" {
		for name, value := range map[string]string{"cluster_creds": c.ClusterCreds, "cluster_ca": c.ClusterCA, "node_name": c.NodeName, "shared_dir": c.SharedDir} {
			if value != "" {
				return c, fmt.Errorf("%s is set and cluster_url is not: it is for nodes of a cluster", name)
			}
		}
		return c, nil
	}
	if err := cluster.CheckURLs(c.ClusterURL); err != nil {
		return c, fmt.Errorf("cluster_url: %w", err)
	}
	switch {
	case c.DatabaseURL == "":
		return c, errors.New("cluster_url is set and database_url is not: nodes share a PostgreSQL")
	case c.SharedDir == "":
		return c, errors.New("cluster_url is set and shared_dir is not: programs and support bundles are files, and every node must serve them; name a directory that all nodes have (NFS, a cluster file system)")
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("node_name is not set, and the host does not tell its name: %w", err)
		}
		c.NodeName = host
	}
	if len(c.NodeName) > maxNodeName || strings.ContainsFunc(c.NodeName, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return c, fmt.Errorf("node_name: %q: want one word of at most %d bytes", c.NodeName, maxNodeName)
	}
	return c, nil
}

// filesDir is where programs and support bundles are.
func (c Config) filesDir() string { return cmp.Or(c.SharedDir, c.StateDir) }

// openShared checks the directory that nodes share, and gives what all of them must agree in.
func (s *Server) openShared(id string, key ed25519.PrivateKey, oob *tls.Certificate) (same string, err error) {
	if s.nodes == nil {
		return "", nil
	}
	info, err := os.Stat(s.cfg.SharedDir)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no directory")
	}
	if err != nil {
		return "", fmt.Errorf("shared_dir: %w; make it, on a file system that all nodes have", err)
	}
	mark, err := sharedMark(s.cfg.SharedDir)
	if err != nil {
		return "", fmt.Errorf("shared_dir: %w", err)
	}
	sum := sha256.New()
	for _, part := range []string{id, string(key.Public().(ed25519.PublicKey)), pin.Of(oob.Leaf), mark} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// sharedMark reads the mark of a shared directory, made by the first node that comes. It
// also shows that the directory can be written.
func sharedMark(dir string) (string, error) {
	path := filepath.Join(dir, fileShared)
	probe := filepath.Join(dir, fileShared+"."+rand.Text())
	if err := os.WriteFile(probe, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return "", err
	}
	defer os.Remove(probe) // a leftover would do no harm
	if err := os.Link(probe, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%w; its file system must know links", err)
	}
	raw, err := os.ReadFile(path)
	return strings.TrimSpace(string(raw)), err
}

// join makes this server one of the nodes.
func (s *Server) join(ctx context.Context, same string) error {
	log := s.log.With("part", "cluster", "node", s.cfg.NodeName)
	space := sha256.Sum256([]byte(same))
	bus, err := cluster.NewNATS(cluster.NATSOptions{
		URLs: s.cfg.ClusterURL, Credentials: s.cfg.ClusterCreds, CA: s.cfg.ClusterCA,
		Space: hex.EncodeToString(space[:8]), Name: s.cfg.NodeName, Log: log,
	})
	if err != nil {
		return fmt.Errorf("cluster_url: %w", err)
	}
	s.bus = bus
	c, err := cluster.Join(ctx, cluster.Options{
		Nodes: s.nodes, Name: s.cfg.NodeName, Same: same, Bus: bus, Log: log,
		Look: s.look, Heard: s.delivery.Heard,
		Lost: func() {
			s.hub.LeaseLost()
			s.delivery.Forget()
		},
		Joined: func(ctx context.Context) error {
			if err := s.hub.Joined(ctx); err != nil {
				return err
			}
			s.delivery.Forget()
			return nil
		},
		Ended: s.hub.NodesEnded,
	})
	if err != nil {
		return fmt.Errorf("join the other nodes: %w", err)
	}
	s.cluster.Store(c)
	s.metrics.WatchCluster(c.State)
	return s.hub.Joined(ctx)
}

// leave says that this node goes, so that others need not wait for the end of its lease.
func (s *Server) leave() error {
	c := s.cluster.Load()
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := c.Leave(ctx); err != nil {
		s.log.Warn("the other nodes were not told that this one goes; they notice it by its lease", "reason", err)
	}
	return nil
}

// committed is told of each transaction.
func (s *Server) committed(c store.Commit) {
	s.metrics.Committed(c)
	if cl := s.cluster.Load(); cl != nil && c.Err == nil {
		cl.Committed(c.Topics)
	}
}

// look looks at what other nodes changed; again is what could not be.
func (s *Server) look(ctx context.Context, topics []string) (again []string) {
	var seen []string
	for _, t := range topics {
		kind, id, _ := strings.Cut(t, "/")
		switch kind {
		case store.TopicCommands:
			s.delivery.Changed(id)
			s.jobs.Look()
		case store.TopicJob:
			s.jobs.Look()
		case store.TopicDirectives:
			s.delivery.Ordered(id)
		case store.TopicAgent:
			if err := s.hub.Ruled(ctx, id); err != nil {
				s.log.Error("what another node says of an agent can't be read; it is tried again", "agent", id, "error", err)
				again = append(again, t)
			}
		case store.TopicView:
			seen = append(seen, id)
		}
	}
	if len(seen) > 0 {
		if err := s.hub.Seen(ctx, seen...); err != nil {
			s.log.Error("what other nodes see can't be read; it is tried again", "error", err)
			for _, id := range seen {
				again = append(again, store.TopicView+"/"+id)
			}
		}
	}
	return again
}

// leads gives what tells whether this is the node that does what one alone must do; nil:
// there is no other.
func (s *Server) leads() func() bool {
	if s.nodes == nil {
		return nil
	}
	return func() bool {
		c := s.cluster.Load()
		return c != nil && c.Leads()
	}
}

// member is this node among the others, as the parts of the server see it. Before it has
// joined there are none.
type member struct{ s *Server }

func (m member) joined() *cluster.Cluster { return m.s.cluster.Load() }

func (m member) Node() string { return m.s.nodes.Node() }

func (m member) Leads() bool { return m.s.leads()() }

func (m member) Ended(ctx context.Context, node string) (bool, string, error) {
	if c := m.joined(); c != nil {
		return c.Ended(ctx, node)
	}
	lives, err := m.s.nodes.Lives(ctx, node)
	return !lives && err == nil, "", err
}

func (m member) Tell(command, notice string) {
	if c := m.joined(); c != nil {
		c.Tell(command, notice)
	}
}

func (m member) NodeName(id string) string {
	if c := m.joined(); c != nil {
		return c.NodeName(id)
	}
	return ""
}

func (m member) TakeDirectives(ctx context.Context, ids []string, at time.Time) ([]string, error) {
	return m.s.nodes.TakeDirectives(ctx, ids, at)
}

func (m member) NextGeneration(ctx context.Context) (uint64, error) {
	return m.s.nodes.NextGeneration(ctx)
}

func (m member) SaveViews(ctx context.Context, seen map[string]string) error {
	return m.s.nodes.SaveViews(ctx, seen)
}

func (m member) Views(ctx context.Context, agents ...string) ([]store.View, error) {
	return m.s.nodes.Views(ctx, agents...)
}

func (m member) UseToken(ctx context.Context, agent, id string, until time.Time) (bool, error) {
	return m.s.nodes.UseToken(ctx, agent, id, until)
}

func (m member) CountOwed(ctx context.Context, agent string) (map[string]int, error) {
	return m.s.nodes.CountOwed(ctx, agent)
}

// Ready is why this node should get no work; nil: it may. Without wake-ups it goes on.
func (m member) Ready() error {
	c := m.joined()
	if c == nil {
		return errors.New("it has not joined yet")
	}
	return c.State().Lease
}

// An interface that holds no member is none.

func (s *Server) deliveryCluster() delivery.Cluster {
	if s.nodes == nil {
		return nil
	}
	return member{s}
}

func (s *Server) hubCluster() hub.Cluster {
	if s.nodes == nil {
		return nil
	}
	return member{s}
}

func (s *Server) apiCluster() api.Cluster {
	if s.nodes == nil {
		return nil
	}
	return member{s}
}

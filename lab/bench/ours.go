package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/lab/fleet"
	"gururmm/operator"
	"gururmm/server"
)

// door is how our server is reached.
type door struct {
	URL, Link, Token string
}

// tls trusts who answers: it is this program's own server, on loopback.
func (d door) tls() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// ourServer is the server as `gururmm serve` runs it, in a process of its own.
type ourServer struct {
	s     *server.Server
	log   *os.File
	stop  context.CancelFunc
	ended chan error
	done  told
	next  atomic.Int64
}

func newOurServer() role { return &ourServer{} }

func (s *ourServer) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "serve", "serve-tls":
		a.Door, err = s.serve(o)
	case "ping": // it does, as each link's policy has it: every 30 s
	case "commands":
		a.Load, err = closedLoop(ctx, o.InFlight, o.For, func(ctx context.Context, _ int) error {
			return s.command(ctx, o.Agents[int(s.next.Add(1))%len(o.Agents)])
		})
	}
	return a, err
}

func (s *ourServer) serve(o order) (door, error) {
	var err error
	if s.log, err = os.OpenFile(filepath.Join(o.Dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return door{}, err
	}
	cfg := server.Config{
		ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: filepath.Join(o.Dir, "state"), DatabaseURL: o.Database,
		AdminAddr: "127.0.0.1:0",
		Ended:     s.done.tell,
	}
	if o.Do == "serve" { // as behind a proxy that ends TLS
		cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		cfg.PublicURL, cfg.OOBURLs = "https://127.0.0.1:1", []string{"https://127.0.0.1:2"}
	}
	if s.s, err = server.New(cfg, slog.New(slog.NewJSONHandler(s.log, nil))); err != nil {
		return door{}, err
	}
	info := s.s.Info()
	d := door{URL: "https://" + info.Listen, Link: "wss://" + info.Listen + "/v1/link", Token: info.OperatorToken}
	if o.Do == "serve" {
		d.URL, d.Link = "http://"+info.Listen, "ws://"+info.Listen+"/v1/link"
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.ended = stop, make(chan error, 1)
	go func() { s.ended <- s.s.Run(ctx) }()
	fmt.Fprintln(s.log, `{"msg":"admin listener","url":"`+info.AdminURL+`"}`)
	return d, nil
}

// command orders one as the operator's API does, and waits until its result is stored.
func (s *ourServer) command(ctx context.Context, agent string) error {
	c, err := s.s.Submit(ctx, agent, operator.NewCommand{Script: "uname -a"}, "bench")
	if err != nil {
		return err
	}
	return s.done.await(ctx, c.ID)
}

func (s *ourServer) close() error {
	var err error
	if s.stop != nil {
		s.stop()
		err = <-s.ended
	}
	if s.log != nil {
		err = errors.Join(err, s.log.Close())
	}
	return err
}

// herd is the agents of our server, and operators that order by its API.
type herd struct {
	herds  []*fleet.Herd
	agents []string
	done   told
}

func newHerd() role { return &herd{} }

func (h *herd) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "connect":
		a, err = h.gather(ctx, o)
	case "echo":
		a.Load, err = h.echoes(ctx, o)
	case "ping":
		for _, one := range h.herds {
			one.Rest()
		}
	case "cut":
		began := time.Now()
		for _, one := range h.herds {
			one.Cut()
		}
		for _, one := range h.herds {
			if _, err := one.Verified(ctx); err != nil {
				return a, err
			}
		}
		a.Took = time.Since(began)
	}
	return a, err
}

// mostOfToken is how many agents are enrolled by one token.
const mostOfToken = 5000

// echoes has all herds do their share.
func (h *herd) echoes(ctx context.Context, o order) (load, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var working sync.WaitGroup
	began := time.Now()
	for _, one := range h.herds {
		working.Go(func() {
			each, err := one.Echoes(ctx, max(1, o.InFlight*len(one.Agents())/len(h.agents)), o.For)
			mu.Lock()
			all, failed = append(all, each...), errors.Join(failed, err)
			mu.Unlock()
		})
	}
	working.Wait()
	return loadOf(all, time.Since(began)), failed
}

// gather adds agents.
func (h *herd) gather(ctx context.Context, o order) (a answer, err error) {
	for ; o.N > mostOfToken; o.N, o.First = o.N-mostOfToken, o.First+mostOfToken {
		some := o
		some.N = mostOfToken
		if _, err := h.gather(ctx, some); err != nil {
			return a, err
		}
	}
	client, err := operator.New(o.Door.URL, o.Door.Token, o.Door.tls())
	if err != nil {
		return a, err
	}
	defer client.Close()
	token, err := client.CreateEnrollToken(ctx, operator.NewEnrollToken{Site: "bench", Uses: o.N})
	if err != nil {
		return a, err
	}
	one, err := fleet.Gather(ctx, fleet.HerdOptions{
		Agents: o.N, First: o.First, Server: o.Door.URL, Link: o.Door.Link, EnrollToken: token.Token, TLS: o.Door.tls(), Stored: h.done.tell,
	})
	if err != nil {
		return a, err
	}
	h.herds, h.agents = append(h.herds, one), append(h.agents, one.Agents()...)
	a.Agents = h.agents
	return a, nil
}

func (h *herd) close() error {
	for _, one := range h.herds {
		one.Close()
	}
	return nil
}

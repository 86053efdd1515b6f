package blind

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/wire"
)

// fault is one way to break the system, and the mechanism that the diagnosis should name.
type fault struct {
	mechanism string
	name      string
	// proof: ledgers, stages or verdicts can prove it (not: which of several it leaves).
	proof bool
	large bool // some commands are large
	// alone: on a server of its own, with three more agents, which it strikes too.
	alone bool
	// before changes the endpoint before it starts.
	before func(s *site) error
	// strike breaks it; what must go on to keep it broken goes on until ctx ends.
	strike func(ctx context.Context, s *site, rng *rand.Rand) error
	// quiet is how much later the server is asked: nothing shows sooner.
	quiet time.Duration
}

// orders are those of a proxy: "down drop-text".
func orders(lines ...string) func(context.Context, *site, *rand.Rand) error {
	return func(_ context.Context, s *site, _ *rand.Rand) error {
		for _, line := range lines {
			if _, err := s.box.Order(line); err != nil {
				return err
			}
		}
		return nil
	}
}

// drawn is orders with one number in them, drawn from lo to hi.
func drawn(lo, hi int, line string) func(context.Context, *site, *rand.Rand) error {
	return func(ctx context.Context, s *site, rng *rand.Rand) error {
		return orders(fmt.Sprintf(line, lo+rng.IntN(hi-lo+1)))(ctx, s, rng)
	}
}

// label switches a seam of the endpoint's programs on.
func label(name string) func(context.Context, *site, *rand.Rand) error {
	return func(_ context.Context, s *site, _ *rand.Rand) error {
		return os.WriteFile(filepath.Join(s.faults, name), nil, 0o600)
	}
}

// serverLabel switches a seam of the server on, for this endpoint alone.
func serverLabel(name string) func(context.Context, *site, *rand.Rand) error {
	return func(_ context.Context, s *site, _ *rand.Rand) error {
		return s.stack.Fault(name+"@"+s.agent.ID, true)
	}
}

// forgotten is for how long nothing comes down: longer than an endpoint waits for a frame.
const forgotten = 5 * time.Second

// again does something now and then, until ctx ends.
func again(every time.Duration, do func(ctx context.Context, s *site) error) func(context.Context, *site, *rand.Rand) error {
	return func(ctx context.Context, s *site, rng *rand.Rand) error {
		if err := do(ctx, s); err != nil {
			return err
		}
		s.work.Go(func() {
			for harness.Pause(ctx, every/2+time.Duration(rng.Int64N(int64(every)))) == nil {
				_ = do(ctx, s) // there may be nothing to strike at this moment
			}
		})
		return nil
	}
}

// cut resets the links that are open, and lets new ones in.
func cut(_ context.Context, s *site) error {
	return errors.Join(s.box.Set(proxy.Link, proxy.Fault{Kind: proxy.Reset}), s.box.Clear(proxy.Link))
}

// faults are all that the lab's tests put in, each with the mechanism that it is.
var faults = []fault{
	{mechanism: "path.text.all", name: "down drop-text", proof: true, strike: orders("down drop-text")},
	{mechanism: "path.text.all", name: "down drop-text-below", proof: true, strike: orders("down drop-text-below:100000")},
	{mechanism: "path.text.size", name: "down drop-text-above", proof: true, large: true, strike: drawn(2000, 6000, "down drop-text-above:%d")},
	{mechanism: "path.text.count", name: "down drop-text-after", proof: true, strike: drawn(7, 12, "down drop-text-after:%d")},
	{mechanism: "path.text.first", name: "down drop-text-first", proof: true, strike: orders("down drop-text-first")},
	{mechanism: "path.text.delayed", name: "down delay-text, less than the grace", proof: true, strike: drawn(500, 900, "down delay-text:%dms")},
	// The link may be given up before they come: then nobody can have seen that they do.
	{mechanism: "path.text.delayed", name: "down delay-text", strike: drawn(1050, 1350, "down delay-text:%dms")},
	{mechanism: "path.text.altered", name: "down alter-text", proof: true, strike: orders("down alter-text")},
	{mechanism: "path.text.altered", name: "up alter-text", proof: true, strike: orders("up alter-text")},
	{mechanism: "path.text.altered", name: "down duplicate-text", proof: true, strike: orders("down duplicate-text")},
	{mechanism: "path.text.altered", name: "up duplicate-text", proof: true, strike: orders("up duplicate-text")},
	{mechanism: "path.fragment", name: "down stuck-fragment", proof: true, strike: orders("down stuck-fragment")},
	{mechanism: "path.ping.foreign", name: "both answer-pings", proof: true, strike: orders("both answer-pings")},
	{mechanism: "path.uplink", name: "up drop-text", proof: true, strike: orders("up drop-text")},
	{mechanism: "path.uplink", name: "up drop-text-above", proof: true, large: true, strike: drawn(600, 900, "up drop-text-above:%d")},
	{mechanism: "path.uplink", name: "up drop-text-below", proof: true, strike: drawn(400, 500, "up drop-text-below:%d")},
	{mechanism: "path.uplink", name: "up drop-text-after", proof: true, strike: drawn(2, 6, "up drop-text-after:%d")},
	{mechanism: "path.uplink", name: "up drop-text-every", proof: true, strike: drawn(2, 4, "up drop-text-every:%d")},
	{mechanism: "path.uplink", name: "up stuck-fragment", proof: true, strike: orders("up stuck-fragment")},
	{mechanism: "path.halfopen", name: "both freeze", proof: true, strike: orders("both freeze")},
	{mechanism: "path.halfopen", name: "down freeze", proof: true, strike: orders("down freeze")},
	{mechanism: "path.halfopen", name: "each link forgotten after a while", proof: true, strike: again(9*time.Second, func(ctx context.Context, s *site) error {
		if err := s.box.Set(proxy.Down, proxy.Fault{Kind: proxy.Freeze}); err != nil {
			return err
		}
		_ = harness.Pause(ctx, forgotten) // the box lets all through again, whatever ended it
		return s.box.Clear(proxy.Down)
	})},
	{mechanism: "path.mtu", name: "down stall-above", proof: true, large: true, strike: drawn(1200, 1400, "down stall-above:%d")},
	{mechanism: "path.handshake", name: "link refuse", proof: true, strike: orders("link refuse")},
	{mechanism: "path.handshake", name: "link reset", proof: true, strike: orders("link reset")},
	{mechanism: "path.handshake", name: "link hang", proof: true, strike: orders("link reset", "link hang")},
	{mechanism: "path.idle", name: "links reset again and again", proof: true, strike: again(2500*time.Millisecond, cut)},

	{mechanism: "server.state", name: "delivery.skip", proof: true, strike: serverLabel("delivery.skip")},
	{mechanism: "server.unwritten", name: "server.writer", proof: true, strike: serverLabel("server.writer")},
	{mechanism: "server.blocked", name: "server.writer of all links", proof: true, alone: true, strike: func(_ context.Context, s *site, _ *rand.Rand) error {
		return s.stack.Fault("server.writer", true)
	}},
	{mechanism: "identity.instances", name: "a copy on this machine", proof: true, strike: copied()},
	{mechanism: "identity.clone", name: "a copy on another machine", proof: true, strike: copied(
		"GURURMM_BOOT_ID=11111111-2222-3333-4444-555555555555", "GURURMM_FINGERPRINT="+strings.Repeat("ab", 32))},
	{mechanism: "operator.quarantined", name: "quarantine", proof: true, strike: func(ctx context.Context, s *site, _ *rand.Rand) error {
		_, err := s.stack.Client().Direct(ctx, s.agent.ID, operator.NewDirective{Kind: wire.DirectiveQuarantine, Reason: "a blind run"})
		return err
	}},
	{mechanism: "operator.removed", name: "remove", proof: true, strike: func(ctx context.Context, s *site, _ *rand.Rand) error {
		_, err := s.stack.Client().RemoveAgent(ctx, s.agent.ID, false)
		return err
	}},

	{mechanism: "agent.reader.handler", name: "worker.reader", proof: true, strike: label("worker.reader")},
	{mechanism: "agent.dispatcher", name: "worker.dispatcher", proof: true, strike: label("worker.dispatcher")},
	{mechanism: "agent.writer", name: "worker.writer", proof: true, strike: label("worker.writer")},
	{mechanism: "agent.slot", name: "worker.executor", proof: true, strike: label("worker.executor")},
	{mechanism: "agent.metrics", name: "worker.metrics", proof: true, strike: label("worker.metrics")},
	{mechanism: "agent.journal", name: "worker.journal", proof: true, strike: label("worker.journal")},
	{mechanism: "agent.hung", name: "worker.deadlock", proof: true, strike: label("worker.deadlock")},
	{mechanism: "agent.hung", name: "each worker stopped", proof: true, strike: again(time.Second, func(ctx context.Context, s *site) error {
		_, err := s.agent.SignalWorker(ctx, syscall.SIGSTOP)
		return err
	})},
	{mechanism: "agent.crashloop", name: "worker.crash", proof: true, strike: func(ctx context.Context, s *site, rng *rand.Rand) error {
		if err := label("worker.crash")(ctx, s, rng); err != nil {
			return err
		}
		_, err := s.agent.SignalWorker(ctx, syscall.SIGKILL)
		return err
	}},
	{mechanism: "agent.full", name: "jobs that run", proof: true, strike: func(ctx context.Context, s *site, _ *rand.Rand) error {
		for range maxJobs + 2 {
			if _, err := s.order(ctx, "sleep 600"); err != nil {
				return err
			}
		}
		return nil
	}},
	{mechanism: "agent.decode", name: "hub.garble", proof: true, strike: serverLabel("hub.garble")},
	{mechanism: "agent.rejected", name: "another server's key", proof: true, strike: func(_ context.Context, s *site, rng *rand.Rand) error {
		return s.restored(rng)
	}},
	{mechanism: "agent.away", name: "stopped in order", proof: true, strike: func(_ context.Context, s *site, _ *rand.Rand) error {
		return s.agent.Guardian().Stop()
	}},
	{mechanism: "agent.away", name: "power cut", quiet: 80 * time.Second, strike: func(_ context.Context, s *site, _ *rand.Rand) error {
		s.agent.End()
		return nil
	}},
	{mechanism: "oob.blocked", name: "oob refuse", proof: true, strike: orders("oob refuse")},
	{mechanism: "oob.blocked", name: "oob hang", proof: true, quiet: 50 * time.Second, strike: orders("oob hang")},
}

// healthy are days without a fault, each with something that is none.
var healthy = []fault{
	{mechanism: wellID, name: "under load", strike: orders()},
	{mechanism: wellID, name: "under load, large commands", large: true, strike: orders()},
	{mechanism: wellID, name: "pings rewritten", strike: orders("both rewrite-pings")},
	{mechanism: wellID, name: "ping payloads stripped", strike: orders("both strip-pings")},
	{mechanism: wellID, name: "the link cut once", strike: func(ctx context.Context, s *site, _ *rand.Rand) error { return cut(ctx, s) }},
	{mechanism: wellID, name: "the worker killed once", strike: func(ctx context.Context, s *site, _ *rand.Rand) error {
		_, err := s.agent.SignalWorker(ctx, syscall.SIGKILL)
		return err
	}},
	{mechanism: wellID, name: "the service restarted", strike: func(_ context.Context, s *site, _ *rand.Rand) error {
		return errors.Join(s.agent.Guardian().Stop(), s.agent.Start())
	}},
	{mechanism: wellID, name: "a clock a day off", before: func(s *site) error {
		s.agent.Env = append(s.agent.Env, "GURURMM_CLOCK_OFFSET=-26h")
		return nil
	}, strike: orders()},
}

const wellID = "well"

// Without names the mechanisms that have no fault here, and why.
var Without = []struct{ Mechanism, Why string }{
	{"path.compression", "the protocol negotiates none, at either end"},
	{"path.tls", "the lab's box opens TLS in each run; by itself that loses nothing, and no server sees it"},
	{"path.tcp.selective", "no network can do it"},
	{"route.zombie", "links are registered by generation: there is no seam that would register an older one"},
	{"route.cleanup", "for the same reason"},
	{"agent.ack", "acknowledgements have the link's own writer: worker.writer strikes them with it"},
	{"agent.clock", "a clock a day off is set right by both ends: it is among the healthy runs"},
	{"unknown", "what nobody knows can't be put in"},
}

// copied starts a copy of the endpoint's directory, on a machine that env makes another.
func copied(env ...string) func(context.Context, *site, *rand.Rand) error {
	return func(_ context.Context, s *site, _ *rand.Rand) error {
		c, err := s.agent.Clone(s.agent.Name + "c")
		if err != nil {
			return err
		}
		c.Env = append(c.Env, env...)
		s.also = append(s.also, c)
		if err := c.Through(s.box); err != nil {
			return err
		}
		return c.Start()
	}
}

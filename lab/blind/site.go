package blind

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// ready bounds how long an endpoint may take to be well, on cores shared by dozens.
	ready = 90 * time.Second
	// maxJobs of the policy.
	maxJobs = 3
	// loadEvery is how often a command is ordered, on average.
	loadEvery = 2 * time.Second
	largeText = 8 << 10 // bytes
)

// Policy is short in all that is an interval, and the default in all that is a grace.
func policy() wire.Policy {
	return wire.Policy{
		Version: 1, HeartbeatMS: 3000, MetricsMS: 10_000, PingMS: 1000, DeadMS: 4000, VerifyMS: 5000,
		BeaconWellMS: 4000, BeaconIllMS: 2000, PollMS: 5000, BackoffMinMS: 200, BackoffMaxMS: 2000, StableMS: 1000, RetryLinkMS: 2000,
		ReconnectsPerHour: 60, RestartsPerHour: 60, MaxJobs: maxJobs,
	}
}

// site is one endpoint with its box, and what was started for it.
type site struct {
	stack  *harness.Stack
	agent  *harness.Agent
	also   []*harness.Agent
	box    *proxy.Proxy
	faults string // directory of its seams
	work   sync.WaitGroup
}

func newSite(ctx context.Context, stack *harness.Stack, name string, place int, before func(*site) error) (s *site, err error) {
	s = &site{stack: stack}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.box, err = stack.Box(net.IPv4(127, 1, byte(place>>8), byte(place))); err != nil {
		return s, err
	}
	if s.agent, err = stack.EnrollBehind(ctx, name, "site-"+name, s.box); err != nil {
		return s, err
	}
	s.faults = filepath.Join(stack.Dir, name+"-faults")
	if err := os.Mkdir(s.faults, 0o700); err != nil {
		return s, err
	}
	s.agent.Env = []string{"GURURMM_FAULTS=" + s.faults, "GOMAXPROCS=1"}
	if before != nil {
		if err := before(s); err != nil {
			return s, err
		}
	}
	if err := s.agent.Start(); err != nil {
		return s, err
	}
	return s, s.well(ctx)
}

// well waits until the link is verified and a command has run.
func (s *site) well(ctx context.Context) error {
	client := s.stack.Client()
	err := poll(ctx, ready, func() (bool, error) {
		a, err := client.Agent(ctx, s.agent.ID)
		return err == nil && a.Presence == "verified", errors.Join(err, fmt.Errorf("it is %s", a.Presence))
	})
	if err != nil {
		return fmt.Errorf("wait for a verified link: %w", err)
	}
	id, err := s.order(ctx, "true")
	if err != nil {
		return err
	}
	err = poll(ctx, ready, func() (bool, error) {
		c, err := client.Command(ctx, id)
		return err == nil && c.State == wire.StateCompleted, errors.Join(err, fmt.Errorf("it is %s", c.State))
	})
	if err != nil {
		return fmt.Errorf("wait for a first command: %w", err)
	}
	return nil
}

func (s *site) order(ctx context.Context, script string) (string, error) {
	c, err := s.stack.Client().Submit(ctx, s.agent.ID, operator.NewCommand{Script: script})
	return c.ID, err
}

// load orders commands until ctx ends. An endpoint that is removed or full takes none.
func (s *site) load(ctx context.Context, rng *rand.Rand, large bool) {
	for n := 0; harness.Pause(ctx, loadEvery/2+time.Duration(rng.Int64N(int64(loadEvery)))) == nil; n++ {
		script := "true"
		switch {
		case large && n%2 == 0:
			script += " # " + strings.Repeat("x", largeText)
		case large:
			script = "i=0; while [ $i -lt 100 ]; do echo line $i of an output that takes more than a small frame; i=$((i+1)); done"
		}
		_, _ = s.order(ctx, script)
	}
}

// restored puts another server's key in the place of this one's, as a restore of the wrong
// backup does, and starts the endpoint anew.
func (s *site) restored(rng *rand.Rand) error {
	if err := s.agent.Guardian().Stop(); err != nil {
		return err
	}
	file := filepath.Join(s.agent.Dir, "identity.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var id map[string]json.RawMessage
	if err := json.Unmarshal(raw, &id); err != nil {
		return err
	}
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(rng.IntN(256))
	}
	other := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	if id["command_keys"], err = json.Marshal([][]byte{other}); err != nil {
		return err
	}
	if raw, err = json.Marshal(id); err != nil {
		return err
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return err
	}
	return s.agent.Start()
}

// close ends what was started, and frees its disk.
func (s *site) close() error {
	s.work.Wait()
	var errs []error
	if s.box != nil {
		errs = append(errs, s.box.Close())
	}
	for _, a := range append(s.also, s.agent) {
		if a != nil {
			a.End()
			errs = append(errs, os.RemoveAll(a.Dir))
		}
	}
	if s.faults != "" {
		errs = append(errs, os.RemoveAll(s.faults))
	}
	return errors.Join(errs...)
}

// poll asks until ask says true: dozens ask at once, so more rarely than [harness.Poll].
func poll(ctx context.Context, limit time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if harness.Pause(ctx, 300*time.Millisecond) != nil {
			return fmt.Errorf("given up after %v: %w", limit, err)
		}
	}
}

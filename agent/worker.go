package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"gururmm/agent/state"
	"gururmm/agent/worker"
	"gururmm/internal/version"
	"gururmm/wire"
)

// EnvInstance tells the worker its guardian's instance id: both are one
// instance of the agent.
const EnvInstance = "GURURMM_AGENT_INSTANCE"

// RunWorker is the guardian's child: in brings its orders, out takes the facts.
func RunWorker(ctx context.Context, s *Setup, in io.Reader, out io.Writer, log *slog.Logger) error {
	if err := giveUpMercy(); err != nil {
		log.Warn("jobs are spared when memory runs out, as the guardian is", "error", err)
	}
	identity, err := s.Dir.Identity()
	if err != nil {
		return err
	}
	// Of what is not known of the machine, and of a policy set aside, the guardian has told.
	presence, _ := state.MachinePresence(version.Version)
	policy, _, _ := s.Dir.Policy()
	instance := os.Getenv(EnvInstance)
	if instance == "" {
		return errors.New("the worker is started by its guardian: use gururmm-agent run")
	}
	presence.Instance = instance
	as := wire.CopyOf(presence)
	as.Before, _ = s.Dir.Instances(instance) // the guardian has told if they are not known
	// Jobs inherit the environment: what is ours is not theirs.
	if err := os.Unsetenv(EnvInstance); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	proxy, err := s.Config.LinkProxy()
	if err != nil {
		return err
	}
	return worker.Run(ctx, worker.Config{
		StateDir: s.Dir, Identity: identity.As(as), Policy: policy, Presence: presence, Version: version.Version,
		LinkURLs: s.Config.Link.URLs, Proxy: proxy, Log: log,
	}, in, out)
}

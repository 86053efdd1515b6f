//go:build unix

package agent

import (
	"log/slog"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/internal/sdnotify"
)

// systemdTeller speaks to systemd, if it is there.
type systemdTeller struct{ n *sdnotify.Notifier }

func (s *Setup) teller(log *slog.Logger) teller {
	n, err := sdnotify.New(log)
	if err != nil {
		log.Error("the service manager will restart this process for nothing", "error", err)
	}
	return systemdTeller{n}
}

func (t systemdTeller) turn(turn guardian.Turn) {
	state := sdnotify.State{Status: told(turn)}
	if turn.Mode == local.ModeStopping {
		state.Stopping, state.Extend = true, guardian.StopWithin+stopMargin
	}
	t.n.Tell(state)
}

func (t systemdTeller) end(error) { t.n.Close() }

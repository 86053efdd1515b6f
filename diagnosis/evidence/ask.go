package evidence

import (
	"context"
	"time"

	"gururmm/operator"
)

// recentCommands are looked through for the one to judge by: of a busy agent the last ten
// may all be too young.
const recentCommands = 100

// recentBeacons are looked through for what was proven lately: an agent that is ill sends one
// whenever its verdict changes, and its links come and go meanwhile.
const recentBeacons = 40

// Server is who is asked: the operator API, as [operator.Client] speaks it.
type Server interface {
	Agent(ctx context.Context, ref string) (operator.Agent, error)
	Agents(ctx context.Context) ([]operator.Agent, error)
	Commands(ctx context.Context, f operator.Filter) ([]operator.Command, error)
	Trace(ctx context.Context, id string) (operator.Trace, error)
	Beacons(ctx context.Context, agent string, limit int) ([]operator.Beacon, error)
	AgentEvents(ctx context.Context, f operator.EventFilter) ([]operator.AgentEvent, error)
}

// Ask asks the server for all that it holds of an agent, by id or name. Its errors are the server's.
func Ask(ctx context.Context, s Server, ref string) (h Held, err error) {
	if h.Agent, err = s.Agent(ctx, ref); err != nil {
		return h, err
	}
	id := h.Agent.ID
	commands, err := s.Commands(ctx, operator.Filter{Agent: id, Limit: recentCommands})
	if err != nil {
		return h, err
	}
	h.Now = time.Now()
	if command := Judged(commands, h.Now); command != "" {
		t, err := s.Trace(ctx, command)
		if err != nil {
			return h, err
		}
		h.Trace = &t
	}
	if h.Beacons, err = s.Beacons(ctx, id, recentBeacons); err != nil {
		return h, err
	}
	if h.Events, err = s.AgentEvents(ctx, operator.EventFilter{Agent: id, Within: lately, Limit: operator.MaxEvents}); err != nil {
		return h, err
	}
	h.Fleet, err = s.Agents(ctx)
	return h, err
}

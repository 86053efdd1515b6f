package api

import (
	"context"
	"net/http"

	"gururmm/wire"
)

var errQuarantined = problem(http.StatusForbidden, wire.ProblemQuarantined, "this agent is quarantined by an operator; it may use the second door")

// quarantine stores an operator's word and puts it in force here. The endpoint's
// own part is a directive: each holds without the other.
func (a *API) quarantine(ctx context.Context, agent string, on bool) error {
	if err := a.o.Store.SetQuarantined(ctx, agent, on); err != nil {
		return err
	}
	a.o.Hub.Quarantine(agent, on)
	a.log.Warn("quarantine", "agent", agent, "on", on)
	return nil
}

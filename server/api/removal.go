package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"gururmm/internal/moment"
	"gururmm/operator"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

// errRemoved is 401, so that an agent of any version waits long before it asks again.
var errRemoved = problem(http.StatusUnauthorized, wire.ProblemRemoved, "this agent was removed from the server; enroll it again to bring it back")

// past is [API.find] for what is only looked at: an agent that was removed has a history.
func (a *API) past(r *http.Request, ref string) (store.Agent, error) {
	s, err := a.find(r, ref)
	if p, ok := errors.AsType[wire.Problem](err); !ok || p.Code != wire.ProblemRemoved {
		return s, err
	}
	found, err := a.o.Store.FindRemoved(r.Context(), ref)
	switch {
	case err != nil:
		return store.Agent{}, err
	case len(found) == 0:
		return store.Agent{}, unknown("agent", ref)
	}
	return found[0], nil
}

// gone is what who asks for an agent is told that is not there: that it was removed, or that
// there is none.
func (a *API) gone(r *http.Request, ref string) error {
	found, err := a.o.Store.FindRemoved(r.Context(), ref)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return unknown("agent", ref)
	case len(found) > 1:
		return ambiguous("removed agents", ref, agentIDs(found))
	}
	f := found[0]
	return problem(http.StatusGone, wire.ProblemRemoved, fmt.Sprintf("agent %q (%s) was removed by %s at %s; what it ran is kept: gururmm commands --agent %s",
		f.Name, f.ID, f.RemovedBy, moment.UTC(*f.RemovedAt), f.ID))
}

// removeAgent takes an agent's identity from it, ends its links and what it owes, and with
// ?purge=true deletes its history, now or later.
func (a *API) removeAgent(w http.ResponseWriter, r *http.Request, by string) error {
	purge := r.URL.Query().Get("purge") == "true"
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	out := operator.Removal{Agent: s.ID, Name: s.Name, RemovedAt: time.Now().UTC(), RemovedBy: by, Purged: purge}
	if s.RemovedAt != nil {
		out.RemovedAt, out.RemovedBy = *s.RemovedAt, s.RemovedBy
	}
	if err := a.o.Store.RemoveAgent(r.Context(), s.ID, by, out.RemovedAt); err != nil {
		return err
	}
	a.o.Hub.Remove(s.ID)
	if out.Ended, err = a.o.Delivery.Retire(r.Context(), s.ID, by); err != nil {
		return err
	}
	a.log.Warn("agent removed", "agent", s.ID, "name", s.Name, "commands_ended", out.Ended, "purge", purge, "by", by)
	if purge {
		bundles, err := a.o.Bundles.List(r.Context(), s.ID)
		if err != nil {
			return err
		}
		for _, b := range bundles {
			if err := a.o.Bundles.Remove(r.Context(), s.ID, b.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		if err := a.o.Store.PurgeAgent(r.Context(), s.ID); err != nil {
			return err
		}
	}
	return a.answer(w, http.StatusOK, out)
}

// removed is an agent that is not there any more, as operators see it.
func removed(s store.Agent) operator.Agent {
	return operator.Agent{
		ID: s.ID, Name: s.Name, Site: s.Site, Platform: s.Platform, Version: s.Version, EnrolledAt: s.EnrolledAt,
		LastSeen: s.LastSeen, LastVia: s.LastVia, Was: s.Was,
		Presence: hub.Gone, RemovedAt: s.RemovedAt, RemovedBy: s.RemovedBy,
		Sentence: fmt.Sprintf("Removed by %s at %s.", s.RemovedBy, moment.UTC(*s.RemovedAt)),
	}
}

func (a *API) listRemoved(w http.ResponseWriter, r *http.Request) error {
	agents, err := a.o.Store.RemovedAgents(r.Context())
	if err != nil {
		return err
	}
	items := make([]operator.Agent, len(agents))
	for i, s := range agents {
		items[i] = removed(s)
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Agent]{Items: items})
}

func agentIDs(found []store.Agent) []string {
	ids := make([]string, len(found))
	for i, f := range found {
		ids[i] = f.ID
	}
	return ids
}

package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// listAgentEvents lists what changed about agents: ?agent=, ?within_ms= back from the
// server's now, and ?after= a seq, for who goes on from there: then the oldest come first.
func (a *API) listAgentEvents(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	f := store.EventFilter{Limit: n}
	within, err := count(r, "within_ms", store.KeepAgentEventsFor.Milliseconds())
	if err != nil {
		return err
	}
	if within != nil {
		f.Since = time.Now().Add(-time.Duration(*within) * time.Millisecond)
	}
	if f.After, err = count(r, "after", 1<<62); err != nil {
		return err
	}
	if f.Agent, err = a.agentFilter(r); err != nil {
		return err
	}
	items, err := a.o.Store.AgentEvents(r.Context(), f)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.AgentEvent]{Items: orEmpty(items)})
}

// count reads a number from 0 to most out of the query; nil: it is not there.
func count(r *http.Request, name string, most int64) (*int64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > most {
		return nil, problem(http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("%s: want 0 to %d", name, most))
	}
	return &n, nil
}

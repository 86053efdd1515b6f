package api

import (
	"fmt"
	"net/http"
	"strconv"

	"gururmm/operator"
	"gururmm/wire"
)

func (a *API) createJob(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.NewJob](w, r)
	if err != nil {
		return err
	}
	if err := order.Pick.Check(); err != nil { // before each is looked up
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, err.Error())
	}
	if order.Agents, err = a.named(r, order.Agents); err != nil {
		return err
	}
	if order.Except, err = a.named(r, order.Except); err != nil {
		return err
	}
	out, err := a.o.Jobs.Create(r.Context(), order, by)
	switch {
	case err != nil:
		return err
	case order.Preview:
		return a.answer(w, http.StatusOK, out)
	}
	w.Header().Set("Location", "/v1/jobs/"+out.ID)
	return a.answer(w, http.StatusCreated, out)
}

func (a *API) listJobs(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	items, err := a.o.Jobs.Jobs(r.Context(), n)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Job]{Items: orEmpty(items)})
}

func (a *API) getJob(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := one(r, "job", a.o.Store.FindJobs)
	if err != nil {
		return err
	}
	out, err := a.o.Jobs.Job(r.Context(), id)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

func (a *API) listJobAgents(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	f := operator.JobAgentFilter{Limit: n, Unwell: r.URL.Query().Get("unwell") == "true"}
	if v := r.URL.Query().Get("after"); v != "" {
		if f.After, err = strconv.Atoi(v); err != nil || f.After < 0 || f.After > operator.MaxJobAgents {
			return problem(http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("after: want a place, 0 to %d", operator.MaxJobAgents))
		}
	}
	id, err := one(r, "job", a.o.Store.FindJobs)
	if err != nil {
		return err
	}
	items, err := a.o.Store.JobAgents(r.Context(), id, f)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.JobAgent]{Items: orEmpty(items)})
}

func (a *API) cancelJob(w http.ResponseWriter, r *http.Request, by string) error {
	if _, err := decodeStrict[struct{}](w, r); err != nil {
		return err
	}
	id, err := one(r, "job", a.o.Store.FindJobs)
	if err != nil {
		return err
	}
	out, err := a.o.Jobs.Cancel(r.Context(), id, by)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

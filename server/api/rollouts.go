package api

import (
	"net/http"

	"gururmm/operator"
)

func (a *API) createRollout(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.NewRollout](w, r)
	if err != nil {
		return err
	}
	if order.Agents, err = a.named(r, order.Agents); err != nil {
		return err
	}
	out, err := a.o.Rollouts.Create(r.Context(), order, by)
	if err != nil {
		return err
	}
	if order.Preview {
		return a.answer(w, http.StatusOK, out)
	}
	w.Header().Set("Location", "/v1/rollouts/"+out.ID)
	return a.answer(w, http.StatusCreated, out)
}

func (a *API) listRollouts(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	items, err := a.o.Rollouts.Rollouts(r.Context(), n)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Rollout]{Items: orEmpty(items)})
}

func (a *API) getRollout(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := one(r, "rollout", a.o.Store.FindRollouts)
	if err != nil {
		return err
	}
	out, err := a.o.Rollouts.Rollout(r.Context(), id)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

func (a *API) stopRollout(w http.ResponseWriter, r *http.Request, by string) error {
	if _, err := decodeStrict[struct{}](w, r); err != nil {
		return err
	}
	id, err := one(r, "rollout", a.o.Store.FindRollouts)
	if err != nil {
		return err
	}
	out, err := a.o.Rollouts.Stop(r.Context(), id, by)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

func (a *API) resumeRollout(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.ResumeRollout](w, r)
	if err != nil {
		return err
	}
	id, err := one(r, "rollout", a.o.Store.FindRollouts)
	if err != nil {
		return err
	}
	out, err := a.o.Rollouts.Resume(r.Context(), id, by, order)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

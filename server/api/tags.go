package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// named puts ids in the place of the names of endpoints, each once.
func (a *API) named(r *http.Request, refs []string) ([]string, error) {
	if len(refs) > operator.MaxNamed {
		return nil, problem(http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("agents: at most %d by name", operator.MaxNamed))
	}
	var ids []string
	for _, ref := range refs {
		s, err := a.find(r, ref)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, s.ID) {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// changeTags puts tags on endpoints, and takes others off.
func (a *API) changeTags(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.TagChange](w, r)
	if err != nil {
		return err
	}
	bad := func(detail string) error {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, detail)
	}
	switch {
	case len(order.Agents) == 0:
		return bad("agents: none is named")
	case len(order.Add)+len(order.Remove) == 0:
		return bad("neither a tag to add nor one to remove is given")
	case len(order.Add) > operator.MaxTags, len(order.Remove) > operator.MaxTags:
		return bad(fmt.Sprintf("at most %d tags at once", operator.MaxTags))
	}
	for _, tag := range slices.Concat(order.Add, order.Remove) {
		if err := operator.CheckTag(tag); err != nil {
			return bad(err.Error())
		}
	}
	for _, tag := range order.Add {
		if slices.Contains(order.Remove, tag) {
			return bad(fmt.Sprintf("%q is to be added and removed", tag))
		}
	}
	ids, err := a.named(r, order.Agents)
	if err != nil {
		return err
	}
	switch err := a.o.Store.ChangeTags(r.Context(), ids, order.Add, order.Remove); {
	case errors.Is(err, store.ErrNoRoom):
		return problem(http.StatusConflict, wire.ProblemConflict, fmt.Sprintf("an endpoint may have %d tags; nothing was changed", operator.MaxTags))
	case err != nil:
		return err
	}
	a.log.Info("tags changed", "agents", len(ids), "added", order.Add, "removed", order.Remove, "by", by)
	items := make([]operator.Agent, len(ids))
	for i, id := range ids {
		s, err := a.o.Store.Agent(r.Context(), id)
		if err != nil {
			return err
		}
		tags, err := a.o.Store.AgentTags(r.Context(), id)
		if err != nil {
			return err
		}
		items[i] = a.seen(s, tags[id])
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Agent]{Items: items})
}

package api

import (
	"net/http"

	"gururmm/operator"
)

// fleet lists the verdicts that many agents have come to at once.
func (a *API) fleet(w http.ResponseWriter, _ *http.Request, _ string) error {
	all, _ := a.o.Hub.Fleetwide()
	return a.answer(w, http.StatusOK, operator.List[operator.Fleetwide]{Items: orEmpty(all)})
}

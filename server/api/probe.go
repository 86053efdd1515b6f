package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"gururmm/operator"
	"gururmm/server/hub"
	"gururmm/server/probe"
	"gururmm/wire"
)

// probe probes the way of commands to an agent, and streams what comes of it, a JSON object a
// line. Who goes away ends it.
func (a *API) probe(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.NewProbe](w, r)
	if err != nil {
		return err
	}
	s, err := a.find(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	switch now := a.seen(s, nil); {
	case s.Quarantined || now.Presence == hub.Quarantined:
		return problem(http.StatusConflict, wire.ProblemQuarantined, "it is quarantined: nothing is sent to it (gururmm agents quarantine "+s.ID+" --lift)")
	case now.Presence == hub.Duplicate:
		return problem(http.StatusConflict, wire.ProblemConflict, "several machines hold its identity, and which one would answer is not known; choose: gururmm agents resolve "+s.ID)
	}
	if err := order.Check(); err != nil {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, err.Error())
	}
	ctx, cancel := context.WithCancel(r.Context())
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-a.drained:
			cancel()
		case <-ctx.Done():
		}
	})
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // see front
	began := false
	line := func(ev operator.ProbeEvent) {
		raw, err := json.Marshal(ev)
		if err == nil {
			if !began {
				began = true
				w.Header().Set("Content-Type", "application/x-ndjson")
				w.WriteHeader(http.StatusOK)
			}
			_ = ctl.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err = w.Write(append(raw, '\n')); err == nil {
				err = ctl.Flush()
			}
		}
		if err != nil {
			a.log.Debug("stream of a probe ended", "agent", s.ID, "reason", err)
			cancel()
		}
	}
	done, err := a.o.Probes.Run(ctx, probe.Target{Agent: s.ID, Name: s.Name, By: by}, order, line)
	switch {
	case errors.Is(err, probe.ErrRunning):
		return problem(http.StatusConflict, wire.ProblemConflict, err.Error())
	case errors.Is(err, probe.ErrBusy):
		return problem(http.StatusServiceUnavailable, wire.ProblemBusy, err.Error())
	case err != nil:
		return err
	}
	line(operator.ProbeEvent{Probe: &done})
	return nil
}

package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"gururmm/operator"
)

// eventBeat is how often a quiet event stream says that it lives.
const eventBeat = 15 * time.Second

// events streams what happens to a command, a JSON object a line, until it has ended.
func (a *API) events(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := a.command(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	events, err := a.o.Delivery.Follow(ctx, id)
	if err != nil {
		return err
	}
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // see front
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	line := func(ev operator.Event) error {
		raw, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		_ = ctl.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(append(raw, '\n')); err != nil {
			return err
		}
		return ctl.Flush()
	}
	beat := time.NewTicker(eventBeat)
	defer beat.Stop()
	for {
		var ev operator.Event
		select {
		case next, open := <-events:
			if !open {
				return nil
			}
			ev = next
		case <-beat.C:
			ev = operator.Event{Kind: "state", At: time.Now().UTC()}
		case <-a.drained: // the client asks again and gets the rest
			return nil
		case <-ctx.Done():
			return nil
		}
		if err := line(ev); err != nil {
			a.log.Debug("event stream ended", "command", id, "reason", err)
			return nil
		}
		if ev.Kind == "end" {
			return nil
		}
	}
}

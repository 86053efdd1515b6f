package hub

import (
	"slices"

	"github.com/gorilla/websocket"
)

// Quarantine puts an operator's word in force, which is stored already: an agent in
// quarantine has no link; what it runs goes on, and is told of by the second door.
func (h *Hub) Quarantine(agent string, on bool) {
	h.mu.Lock()
	ep := h.endpoint(agent)
	ep.quarantined = on
	links := slices.Clone(ep.links)
	h.mu.Unlock()
	if on {
		for _, l := range links {
			l.call() // while it is open: the order waits at the second door
			l.end(websocket.ClosePolicyViolation, "", errQuarantined)
		}
	}
	h.opts.Delivery.Wake(agent)
	h.observe(agent)
}

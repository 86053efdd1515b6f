package hub

import (
	"slices"
	"strings"

	"github.com/gorilla/websocket"
)

// Remove puts an operator's word in force, which is stored already: the agent's links end
// now, a link that is on its way is refused, and polls come back to hear why.
func (h *Hub) Remove(agent string) {
	h.mu.Lock()
	ep := h.endpoint(agent)
	ep.removed = true
	links := slices.Clone(ep.links)
	h.mu.Unlock()
	for _, l := range links {
		l.end(websocket.ClosePolicyViolation, "", errRemoved)
	}
	h.opts.Delivery.Wake(agent)
	h.observe(agent)
}

// Removed reports whether the agent was removed while this process ran: a request that
// was let in before is not to be served any more.
func (h *Hub) Removed(agent string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep := h.agents[agent]
	return ep != nil && ep.removed
}

// Named gives the agents whose identity a machine of that host name holds beside the one
// they are known by: of several machines with one identity only one gives it its name.
func (h *Hub) Named(host string) (agents []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ep := range h.agents {
		if !ep.removed && slices.ContainsFunc(ep.copies, func(c *sighting) bool { return strings.EqualFold(c.who.Hostname, host) }) {
			agents = append(agents, id)
		}
	}
	slices.Sort(agents)
	return agents
}

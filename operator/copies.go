package operator

import (
	"context"
	"net/http"
	"time"

	"gururmm/wire"
)

// Copy is one of several machines that hold, or held, one identity.
type Copy struct {
	wire.Copy
	Since    time.Time    `json:"since,omitzero"` // first heard by this server process
	LastSeen time.Time    `json:"last_seen,omitzero"`
	Door     wire.Channel `json:"door,omitempty"`
	Addr     string       `json:"addr,omitempty"`
	Linked   bool         `json:"linked,omitempty"`
	// Standing is rival (it is one of two alive), asked (whether it lives, or the
	// other one), kept (by an operator's word), leaving (it is to take a new identity),
	// left (it has, as NewAgent), gone (not heard any more) or alone.
	Standing string `json:"standing"`
	NewAgent string `json:"new_agent,omitempty"`
}

// NewResolution says which machine keeps an identity (POST /v1/agents/{id}/resolve).
type NewResolution struct {
	Keep string `json:"keep"` // instance, or its beginning from four characters on
}

// Resolution is what follows from it.
type Resolution struct {
	Agent string `json:"agent"`
	Kept  Copy   `json:"kept"`
	// Others take a new identity at their next call by the second door.
	Others []Copy `json:"others"`
}

// Resolve says which of several machines keeps the agent's identity; each other
// takes a new one at its next call.
func (c *Client) Resolve(ctx context.Context, agent, keep string) (Resolution, error) {
	return call[Resolution](c, ctx, http.MethodPost, agentPath(agent, "/resolve"), nil, NewResolution{Keep: keep})
}

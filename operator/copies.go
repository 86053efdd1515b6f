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
	Standing CopyStanding `json:"standing"`
	NewAgent string       `json:"new_agent,omitempty"`
}

// CopyStanding is how one of several machines stands to the identity.
type CopyStanding string

// The standings.
const (
	CopyAlone   CopyStanding = "alone"
	CopyRival   CopyStanding = "rival"   // one of several alive
	CopyAsked   CopyStanding = "asked"   // whether it lives, or the other one
	CopyKept    CopyStanding = "kept"    // keeps the identity, by an operator's word
	CopyLeaving CopyStanding = "leaving" // is to take a new identity
	CopyLeft    CopyStanding = "left"    // has taken one, as NewAgent
	CopyGone    CopyStanding = "gone"    // not heard any more
)

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

package operator

import (
	"context"
	"net/http"
	"time"
)

// Fleetwide is a verdict that many agents have come to within a short time: it has one
// cause, which is not theirs.
type Fleetwide struct {
	Verdict string    `json:"verdict"`
	Title   string    `json:"title,omitempty"`
	Action  string    `json:"action,omitempty"` // for one agent alone
	Agents  int       `json:"agents"`
	Of      int       `json:"of"` // agents that are there
	Since   time.Time `json:"since"`
	// Recovery is how the agents' recovery is paced: spread (over OverMS), hold or as-usual.
	Recovery string `json:"recovery"`
	OverMS   int64  `json:"over_ms,omitempty"`
}

// Fleetwide lists the verdicts that are fleet-wide, the most frequent first.
func (c *Client) Fleetwide(ctx context.Context) ([]Fleetwide, error) {
	l, err := call[List[Fleetwide]](c, ctx, http.MethodGet, "/v1/fleet", nil, nil)
	return l.Items, err
}

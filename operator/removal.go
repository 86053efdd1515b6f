package operator

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Removal is what came of removing an agent (DELETE /v1/agents/{id}).
type Removal struct {
	Agent     string    `json:"agent"`
	Name      string    `json:"name"`
	RemovedAt time.Time `json:"removed_at"`
	RemovedBy string    `json:"removed_by"` // token name
	// Ended is how many of its commands had not ended before.
	Ended  int  `json:"commands_ended"`
	Purged bool `json:"purged"` // its history is deleted
}

// RemoveAgent takes the agent's identity from it, for good; purge deletes what it ran and
// said. To remove one that was removed before changes nothing, but purge does.
func (c *Client) RemoveAgent(ctx context.Context, agent string, purge bool) (Removal, error) {
	q := url.Values{}
	if purge {
		q.Set("purge", "true")
	}
	return call[Removal](c, ctx, http.MethodDelete, agentPath(agent, ""), q, nil)
}

// RemovedAgents lists those that were removed and not purged.
func (c *Client) RemovedAgents(ctx context.Context) ([]Agent, error) {
	return list[Agent](c, ctx, "/v1/agents", url.Values{"removed": {"true"}})
}

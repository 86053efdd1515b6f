package operator

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// EventFilter narrows a list of agents' events. Zero fields do not.
type EventFilter struct {
	Agent  string        // name, id or the beginning of it
	Within time.Duration // not older, by the server's clock
	// After, if given, lists those with Seq above it, the oldest first; else the newest come first.
	After *int64
	Limit int // at most [MaxEvents]
}

// MaxEvents is how many events one list has at most.
const MaxEvents = 500

// AgentEvents lists what changed about agents. What was noted in the last two seconds may not be in it yet.
func (c *Client) AgentEvents(ctx context.Context, f EventFilter) ([]AgentEvent, error) {
	q := url.Values{}
	if f.Agent != "" {
		q.Set("agent", f.Agent)
	}
	if f.Within > 0 {
		q.Set("within_ms", strconv.FormatInt(f.Within.Milliseconds(), 10))
	}
	if f.After != nil {
		q.Set("after", strconv.FormatInt(*f.After, 10))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return list[AgentEvent](c, ctx, "/v1/events", q)
}

package operator

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
)

// Pick chooses endpoints: all of them; or those of one of Sites (if any are named) that
// have all of Tags; or Agents, one by one. Except is left out in any case.
type Pick struct {
	All    bool     `json:"all,omitempty"`
	Sites  []string `json:"sites,omitempty"`
	Tags   []string `json:"tags,omitempty"`
	Agents []string `json:"agents,omitempty"` // names or ids
	Except []string `json:"except,omitempty"` // names or ids
}

// Bounds of what one request may name.
const (
	MaxNamed      = 1000 // endpoints
	MaxPickGroups = 100  // sites, and tags
)

// Check refuses what can't be meant.
func (p Pick) Check() error {
	groups := len(p.Sites) > 0 || len(p.Tags) > 0
	switch {
	case !p.All && !groups && len(p.Agents) == 0:
		return errors.New("no endpoint is chosen: give all, sites, tags or agents")
	case p.All && (groups || len(p.Agents) > 0), groups && len(p.Agents) > 0:
		return errors.New("all, sites with tags, and agents exclude each other")
	case len(p.Agents) > MaxNamed, len(p.Except) > MaxNamed:
		return fmt.Errorf("at most %d endpoints can be named one by one: give them a tag", MaxNamed)
	case len(p.Sites) > MaxPickGroups, len(p.Tags) > MaxPickGroups:
		return fmt.Errorf("at most %d sites and tags can be named", MaxPickGroups)
	}
	for _, tag := range p.Tags {
		if err := CheckTag(tag); err != nil {
			return err
		}
	}
	return nil
}

// Fits tells whether the endpoint of that id is chosen; p names endpoints by their ids.
func (p Pick) Fits(id, site string, tags []string) bool {
	if slices.Contains(p.Except, id) || len(p.Agents) > 0 && !slices.Contains(p.Agents, id) {
		return false
	}
	if len(p.Sites) > 0 && !slices.Contains(p.Sites, site) {
		return false
	}
	return !slices.ContainsFunc(p.Tags, func(t string) bool { return !slices.Contains(tags, t) })
}

// AgentsOf lists the endpoints of one of sites, if any are named, that have all tags.
func (c *Client) AgentsOf(ctx context.Context, sites, tags []string) ([]Agent, error) {
	return list[Agent](c, ctx, "/v1/agents", url.Values{"site": sites, "tag": tags})
}

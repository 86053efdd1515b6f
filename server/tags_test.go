package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/wire"
)

func TestTagsGroupAgents(t *testing.T) {
	n := start(t, false, nil)
	for _, name := range []string{"alpha", "beta", "gamma"} {
		n.enroll(name)
	}
	client := n.client()
	names := func(agents []operator.Agent, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, a := range agents {
			all = append(all, a.Name+":"+strings.Join(a.Tags, "+"))
		}
		return strings.Join(all, " ")
	}
	if got := names(client.ChangeTags(t.Context(), operator.TagChange{Agents: []string{"alpha", "BETA"}, Add: []string{"web", "old"}})); got != "alpha:old+web beta:old+web" {
		t.Errorf("tagged: %s", got)
	}
	if got := names(client.ChangeTags(t.Context(), operator.TagChange{Agents: []string{"beta"}, Add: []string{"db"}, Remove: []string{"old"}})); got != "beta:db+web" {
		t.Errorf("tagged: %s", got)
	}
	for want, tags := range map[string][]string{
		"alpha:old+web beta:db+web gamma:": nil, "alpha:old+web beta:db+web": {"web"}, "beta:db+web": {"web", "db"}, "": {"db", "old"},
	} {
		if got := names(client.AgentsOf(t.Context(), nil, tags)); got != want {
			t.Errorf("with tags %v: %q, want %q", tags, got, want)
		}
	}
	site := operate[operator.Agent](n, "GET", "/v1/agents/beta", nil)
	if got := names(client.AgentsOf(t.Context(), []string{"nowhere", site.Site}, []string{"db"})); got != "beta:db+web" || !slices.Equal(site.Tags, []string{"db", "web"}) {
		t.Errorf("of its site: %q; %+v", got, site)
	}
	many := make([]string, operator.MaxTags)
	for i := range many {
		many[i] = "t" + strings.Repeat("x", i)
	}
	for what, c := range map[string]struct {
		change operator.TagChange
		status int
	}{
		"nobody":           {operator.TagChange{Add: []string{"a"}}, http.StatusBadRequest},
		"nothing":          {operator.TagChange{Agents: []string{"alpha"}}, http.StatusBadRequest},
		"no tag":           {operator.TagChange{Agents: []string{"alpha"}, Add: []string{"Web"}}, http.StatusBadRequest},
		"a long one":       {operator.TagChange{Agents: []string{"alpha"}, Remove: []string{strings.Repeat("x", 65)}}, http.StatusBadRequest},
		"on and off":       {operator.TagChange{Agents: []string{"alpha"}, Add: []string{"a"}, Remove: []string{"a"}}, http.StatusBadRequest},
		"too many":         {operator.TagChange{Agents: []string{"alpha"}, Add: many}, http.StatusConflict},
		"an unknown agent": {operator.TagChange{Agents: []string{"alpha", "omega"}, Add: []string{"a"}}, http.StatusNotFound},
	} {
		_, err := client.ChangeTags(t.Context(), c.change)
		if p, _ := errors.AsType[wire.Problem](err); p.Status != c.status {
			t.Errorf("%s: %v, want %d", what, err, c.status)
		}
	}
	if got := names(client.AgentsOf(t.Context(), nil, []string{"a"})); got != "" {
		t.Errorf("a change that was refused was made: %s", got)
	}
}

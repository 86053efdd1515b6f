package storetest

import (
	"fmt"
	"slices"
	"testing"

	"gururmm/operator"
	"gururmm/server/store"
)

func tags(t *testing.T, r *rig) {
	a, b, gone := r.agent(t, "a"), r.agent(t, "b"), r.agent(t, "gone")
	must(t, r.RemoveAgent(t.Context(), gone.ID, "op", epoch))
	must(t, r.ChangeTags(t.Context(), []string{a.ID, b.ID}, []string{"web", "old"}, nil))
	must(t, r.ChangeTags(t.Context(), []string{a.ID}, []string{"web", "berlin"}, []string{"old", "never"}))
	many := make([]string, operator.MaxTags)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for what, change := range map[string]struct {
		agents, add []string
		want        error
	}{
		"one that is not there":      {[]string{a.ID, "nobody"}, []string{"x"}, store.ErrNotFound},
		"one that was removed":       {[]string{a.ID, gone.ID}, []string{"x"}, store.ErrNotFound},
		"more than one agent's room": {[]string{a.ID}, many, store.ErrNoRoom},
	} {
		if err := r.ChangeTags(t.Context(), change.agents, change.add, nil); err == nil {
			t.Errorf("%s was taken", what)
		} else {
			want(t, err, change.want)
		}
	}
	all, err := r.AgentTags(t.Context(), "")
	must(t, err)
	if len(all) != 2 || !slices.Equal(all[a.ID], []string{"berlin", "web"}) || !slices.Equal(all[b.ID], []string{"old", "web"}) {
		t.Fatalf("tags are %v", all)
	}
	only, err := r.AgentTags(t.Context(), a.ID)
	must(t, err)
	if len(only) != 1 || !slices.Equal(only[a.ID], all[a.ID]) {
		t.Fatalf("tags of one are %v", only)
	}
	must(t, r.ChangeTags(t.Context(), []string{b.ID}, many[:30], nil)) // up to the bound
	must(t, r.RemoveAgent(t.Context(), b.ID, "op", epoch))
	must(t, r.PurgeAgent(t.Context(), b.ID))
	if all, err = r.AgentTags(t.Context(), ""); err != nil || len(all) != 1 {
		t.Fatalf("after a purge: %v, %v", all, err)
	}
}

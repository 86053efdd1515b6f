package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/wire"
)

// Whoever can't be asked is told first what would be asked about nothing.
func TestResolveLooksBeforeItAsks(t *testing.T) {
	machine := func(instance string, is operator.CopyStanding) operator.Copy {
		return operator.Copy{Copy: wire.Copy{Instance: instance, Hostname: "vm"}, Standing: is}
	}
	two := []operator.Copy{machine("aaaa1", operator.CopyRival), machine("bbbb1", operator.CopyRival)}
	for _, c := range []struct {
		keep   string
		copies []operator.Copy
		want   string
	}{
		{"nosuch", two, "known by the instance nosuch: gururmm agents show 0190-b"},
		{"aaaa", nil, "only one machine holds this identity"},
		{"aaaa", []operator.Copy{machine("aaaa1", operator.CopyKept), machine("bbbb1", operator.CopyLeft)}, "only one machine holds this identity"},
		{"bbbb", []operator.Copy{machine("aaaa1", operator.CopyKept), machine("bbbb1", operator.CopyLeft)}, "known by the instance bbbb"},
		{"aaaa", two, "give --yes to go ahead"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				t.Errorf("%s %s: nobody has agreed", r.Method, r.URL)
			}
			json.NewEncoder(w).Encode(operator.Agent{ID: "0190-b", Copies: c.copies})
		}))
		env := map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
		out, words, code := typed(t, env, "agents", "resolve", "twin", "--keep", c.keep)
		server.Close()
		if said := strings.Join(strings.Fields(words), " "); code == 0 || !strings.Contains(said, c.want) {
			t.Errorf("--keep %s: exit %d, %s%s, want %q", c.keep, code, out, words, c.want)
		}
	}
}

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// guarded is a server whose one directive goes through the given states, one a look;
// "down" stands for a look that fails.
func guarded(t *testing.T, states ...string) map[string]string {
	t.Helper()
	var looks atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := min(int(looks.Add(1))-1, len(states)-1)
		if states[n] == "down" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		now := time.Now()
		d := operator.Directive{ID: "d1", AgentName: "vm", Kind: wire.DirectiveRollback, State: states[n], CreatedAt: now, ExpiresAt: now.Add(time.Hour), Detail: "as told"}
		if d.State == "done" || d.State == "failed" {
			d.EndedAt = &now
		}
		json.NewEncoder(w).Encode(d)
	}))
	t.Cleanup(s.Close)
	return map[string]string{"GURURMM_URL": s.URL, "GURURMM_TOKEN": "gro_x"}
}

func TestAnOrderIsWaitedForAndItsOutcomeIsTheExitCode(t *testing.T) {
	for name, c := range map[string]struct {
		states []string
		flags  string
		code   int
		out    []string // on standard output
		errs   []string // on standard error
	}{
		"done":              {[]string{"waiting", "delivered", "accepted", "done"}, "", 0, []string{"rollback is done on vm"}, []string{"waits for vm", "handed to vm", "vm has taken it up"}},
		"failed":            {[]string{"waiting", "failed"}, "", 1, nil, []string{"rollback failed on vm: as told"}},
		"expired":           {[]string{"waiting", "expired"}, "", 1, nil, []string{"never told an outcome"}},
		"not known yet":     {[]string{"waiting"}, "--wait 1s", exitUnknown, []string{"d1", "gururmm directives vm"}, []string{"no outcome within 1s"}},
		"a server away":     {[]string{"waiting", "down", "down", "done"}, "", 0, []string{"is done"}, []string{"not known how it stands"}},
		"not waited for":    {[]string{"waiting"}, "--no-wait", 0, []string{"d1", "gururmm directives vm"}, nil},
		"both flags":        {[]string{"waiting"}, "--no-wait --wait 1s", 1, nil, []string{"no-wait"}},
		"waits for nothing": {[]string{"waiting"}, "--wait 0s", 1, nil, []string{"--wait 0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := typed(t, guarded(t, c.states...), strings.Fields("direct vm rollback "+c.flags)...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			for _, want := range c.out {
				if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
					t.Errorf("it prints %q, not %q", out, want)
				}
			}
			for _, want := range c.errs {
				if !strings.Contains(strings.Join(strings.Fields(errs), " "), want) {
					t.Errorf("it tells %q, not %q", errs, want)
				}
			}
		})
	}
	out, errs, code := typed(t, guarded(t, "waiting"), "direct", "vm", "rollback", "--wait", "1s", "--json")
	var d operator.Directive
	var e jsonError
	if json.Unmarshal([]byte(out), &d) != nil || json.Unmarshal([]byte(errs), &e) != nil || code != exitUnknown || d.State != "waiting" || e.Code != codeNoOutcome {
		t.Errorf("JSON: exit %d, %q, %q", code, out, errs)
	}
	if _, errs, code := typed(t, guarded(t, "waiting"), "direct", "vm", "update"); code != 1 || !strings.Contains(errs, "gururmm update roll VERSION --agents vm") {
		t.Errorf("an update by hand: exit %d, %q", code, errs)
	}
}

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gururmm/checkup"
	"gururmm/operator"
	"gururmm/wire"
)

// exchange plays a server that has one visit on record, in the state given.
func exchange(t *testing.T, d operator.Directive) map[string]string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(v)
		}
	}
	short := d
	short.Report = nil
	ordered := short
	if d.State == string(wire.DirectiveDone) { // not at once
		ordered.State, ordered.EndedAt = operator.DirectiveWaiting, nil
	}
	mux.HandleFunc("POST /v1/agents/vm/directives", answer(ordered))
	mux.HandleFunc("GET /v1/agents/vm/directives", answer(operator.List[operator.Directive]{Items: []operator.Directive{
		{ID: "other", Kind: wire.DirectiveReconnect, State: string(wire.DirectiveDone)}, short,
	}}))
	mux.HandleFunc("GET /v1/directives/d1", answer(d))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
}

func TestDoctorsReportAtTheOperators(t *testing.T) {
	now := time.Now()
	of := func(state string, r checkup.Report) operator.Directive {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		d := operator.Directive{ID: "d1", AgentName: "vm", Kind: wire.DirectiveRunProbes, State: state, CreatedAt: now, Report: raw}
		if state == string(wire.DirectiveDone) || state == string(wire.DirectiveFailed) {
			d.EndedAt = &now
		}
		return d
	}
	well := checkup.Report{Schema: checkup.Schema, Results: []checkup.Result{{Group: "this machine", Name: "disk", Status: checkup.Pass, Seen: "plenty"}}}
	ill := well
	ill.Results = append(ill.Results, checkup.Result{Group: "this machine", Name: "state", Status: checkup.Fail, Seen: "\x1b[2Jgone", Do: "look for it"})
	failed := of(string(wire.DirectiveFailed), checkup.Report{})
	failed.Detail = "no room"
	foreign := of(string(wire.DirectiveDone), well)
	foreign.Report = json.RawMessage(`{"schema":99}`)
	for _, c := range []struct {
		name, args string
		d          operator.Directive
		code       int
		out, says  string
	}{
		{"well", "doctor vm --last", of(string(wire.DirectiveDone), well), 0, "PASS  disk      plenty", ""},
		{"ordered", "doctor vm --wait 1m", of(string(wire.DirectiveDone), well), 0, "PASS  disk      plenty", "run_probes waits for vm"},
		{"ill", "doctor vm --last", of(string(wire.DirectiveDone), ill), 1, "FAIL  state     [2Jgone", ""},
		{"as JSON", "doctor vm --last --json", of(string(wire.DirectiveDone), ill), 1, `"verdict": "fail"`, ""},
		{"it could not run", "doctor vm", failed, 2, "", "run_probes failed on vm: no room"},
		{"not come for", "doctor vm --wait 1ms", of(operator.DirectiveWaiting, well), 2, "", "no outcome within 1ms"},
		{"none yet", "doctor vm --last", of(operator.DirectiveWaiting, well), 2, "", "no doctor has reported"},
		{"of another form", "doctor vm --last", foreign, 2, "", "schema 99"},
		{"nobody named", "doctor", operator.Directive{}, 2, "", "AGENT is missing"},
		{"both", "doctor vm --last --only dns", operator.Directive{}, 2, "", "leave out --only"},
		{"no time", "doctor vm --wait 0", operator.Directive{}, 2, "", "--wait 0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, code := typed(t, exchange(t, c.d), strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, want %d\n%s\n%s", code, c.code, out, errs)
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("an endpoint moved the cursor: %q", out)
			}
		})
	}
}

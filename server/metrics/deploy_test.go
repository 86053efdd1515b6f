package metrics_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"gururmm/internal/admission"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/cluster"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/metrics"
	"gururmm/server/store"
	"gururmm/wire"
)

// watched gives the metrics of a node with nothing on it, and its metered store.
func watched(t *testing.T) (*metrics.Metrics, store.Store) {
	t.Helper()
	m := metrics.New()
	raw, err := store.OpenTold(filepath.Join(t.TempDir(), "x.db"), nil, m.Committed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	st, log := m.Meter(raw), slog.New(slog.DiscardHandler)
	d := delivery.New(st, delivery.Options{Acked: m.Acked})
	m.WatchCluster(func() cluster.State { return cluster.State{} })
	m.Watch(hub.New(hub.Options{Delivery: d, Store: st, Log: log}), d, st, log)
	m.WatchQuotas(nil)
	m.WatchDoors(func() map[string]admission.Stats { return map[string]admission.Stats{"link": {}} })
	return m, st
}

// known gives the names that can be asked for, and the labels of each.
func known(t *testing.T, m *metrics.Metrics) map[string][]string {
	t.Helper()
	reg, ok := m.Gatherer().(*prometheus.Registry)
	if !ok {
		t.Fatal("not a registry")
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(descs)
		close(descs)
	}()
	form := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	names := map[string][]string{"up": {"job"}}
	for d := range descs {
		part := form.FindStringSubmatch(d.String())
		if part == nil {
			t.Fatalf("unreadable: %s", d)
		}
		names[part[1]] = strings.Split(part[2], ",")
	}
	all, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if _, described := names[f.GetName()]; !described {
			names[f.GetName()] = nil // of the runtime
		}
	}
	for _, h := range []string{"gururmm_command_ack_seconds", "gururmm_store_commit_seconds", "gururmm_store_commit_writes"} {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			names[h+part] = append([]string{"le"}, names[h]...)
		}
	}
	return names
}

// expressions gives all that the shipped files ask of Prometheus.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	raw, err := os.ReadFile("../../docs/deploy/prometheus-alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out["alert "+r.Alert] = r.Expr
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("alert %s lacks severity, summary or action", r.Alert)
			}
		}
	}
	raw, err = os.ReadFile("../../docs/deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			out["panel "+p.Title+": "+q.Expr] = q.Expr
		}
	}
	return out
}

var (
	nameForm = regexp.MustCompile(`\b(?:gururmm|process|go)_[a-z0-9_]+\b|\bup\b`)
	// labelForm is a matcher: label, operator, value.
	labelForm = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	partForm  = regexp.MustCompile(`_(bucket|sum|count)$`) // of a histogram
	selector  = regexp.MustCompile(`([a-z0-9_]+)\{([^}]*)\}`)
)

func TestWhatAlertsAndDashboardAskForExists(t *testing.T) {
	m, _ := watched(t)
	names := known(t, m)
	asked := map[string]bool{}
	all := expressions(t)
	if len(all) < 20 {
		t.Fatalf("only %d expressions were found", len(all))
	}
	for where, expr := range all {
		found := nameForm.FindAllString(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing: %s", where, expr)
		}
		for _, name := range found {
			if _, ok := names[name]; !ok {
				t.Errorf("%s names %s, which there is not", where, name)
			}
			for _, end := range []string{"", "_bucket", "_sum", "_count"} {
				if base, cut := strings.CutSuffix(name, end); cut {
					asked[base] = true
				}
			}
		}
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			for _, l := range labelForm.FindAllStringSubmatch(s[2], -1) {
				checkLabel(t, where, s[1], names[s[1]], l[1], l[3])
			}
		}
	}
	for name := range names { // what nobody looks at need not be counted
		whole := partForm.ReplaceAllString(name, "")
		_, part := names[whole]
		part = part && whole != name
		if strings.HasPrefix(name, "gururmm_") && !asked[name] && !part {
			t.Errorf("neither alert nor panel uses %s", name)
		}
	}
}

// checkLabel holds a matcher to labels and values that can be.
func checkLabel(t *testing.T, where, name string, labels []string, label, value string) {
	t.Helper()
	if label == "instance" || label == "job" {
		return // Prometheus's own
	}
	if !slices.Contains(labels, label) {
		t.Errorf("%s: %s has no label %s, only %v", where, name, label, labels)
	}
	for word := range strings.SplitSeq(value, "|") {
		ok := true
		switch label {
		case "presence":
			ok = slices.Contains(hub.Presences(), word)
		case "verdict":
			ok = word == string(selfcheck.CodeUnknown) || word == string(selfcheck.CodeOK) || word == string(selfcheck.CodeOKIdle) || hub.CodeOf(word) == word && word != hub.OtherVerdict
		case "state":
			ok = wire.State(word).Terminal()
		case "channel":
			ok = word == string(wire.ChannelLink) || word == string(wire.ChannelOOB)
		}
		if !ok {
			t.Errorf("%s: no %s is ever %q", where, label, word)
		}
	}
}

func TestNoLabelCanGrow(t *testing.T) {
	m, _ := watched(t)
	bounded := []string{"", "channel", "code", "door", "job", "le", "presence", "reason", "stage", "state", "verdict", "what", "who"}
	for name, labels := range known(t, m) {
		for _, l := range labels {
			if strings.HasPrefix(name, "gururmm_") && !slices.Contains(bounded, l) {
				t.Errorf("%s has the label %q: say here why it is bounded", name, l)
			}
		}
	}
	// What an agent makes up is one word.
	for said, want := range map[string]string{
		"ok": "ok", "": "", "link.text.lost suspected": "link.text.lost", "agent.stalled.made-up": "agent.stalled",
		"evil{}\n": hub.OtherVerdict, "link.made.up": hub.OtherVerdict,
	} {
		if got := hub.CodeOf(said); got != want {
			t.Errorf("CodeOf(%q) = %q, want %q", said, got, want)
		}
	}
}

// value sums a metric's samples that have these labels; for a histogram its count.
func value(t *testing.T, m *metrics.Metrics, name string, labels ...string) float64 {
	t.Helper()
	all, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, s := range f.GetMetric() {
			match := true
			for i := 0; i < len(labels); i += 2 {
				is := false
				for _, l := range s.GetLabel() {
					is = is || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				match = match && is
			}
			if match {
				sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func TestEachStageIsCountedOnce(t *testing.T) {
	m, st := watched(t)
	ctx, now := t.Context(), time.Now()
	if err := st.CreateEnrollToken(ctx, store.HashToken("x"), operator.EnrollToken{ID: "x", UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.TradeToken(ctx, store.HashToken("x"), store.Agent{ID: "a", PublicKey: make([]byte, 32), Name: "a"}, now); err != nil {
		t.Fatal(err)
	}
	stage := func(s wire.Stage, end string, attempt int, ch wire.Channel) store.Stage {
		return store.Stage{Command: "c", TraceEntry: operator.TraceEntry{Stage: s, End: end, Attempt: attempt, Channel: ch, At: now}}
	}
	c, _, err := st.CreateCommand(ctx, store.Command{Command: operator.Command{
		ID: "c", Agent: "a", State: wire.StatePending, Shell: "sh", CreatedAt: now, ExpiresAt: now.Add(time.Hour),
	}}, stage(wire.StageAccepted, "server", 0, ""))
	if err != nil {
		t.Fatal(err)
	}
	save := func(state wire.State, stages ...store.Stage) {
		t.Helper()
		c.State = state
		if c.Rev, err = st.SaveCommand(ctx, c, stages...); err != nil {
			t.Fatal(err)
		}
	}
	link := wire.ChannelLink
	save(wire.StateRunning, stage(wire.StageClaimed, "server", 1, link))
	save(wire.StatePending, stage(delivery.StageReleased, "server", 1, link))
	save(wire.StateRunning, stage(wire.StageClaimed, "server", 2, wire.ChannelOOB))
	told := []store.Stage{stage(wire.StageRead, "agent", 2, link), stage(wire.StageAcked, "agent", 2, link), stage(wire.StageStarted, "agent", 2, link)}
	save(wire.StateRunning, append(told, stage(wire.StageAckRead, "server", 2, link))...)
	save(wire.StateCompleted, append(told, stage(wire.StageResultStored, "server", 2, link))...)
	c.Rev-- // somebody else was faster: nothing is stored, nothing counted
	if _, err := st.SaveCommand(ctx, c, stage(wire.StageClaimed, "server", 3, link)); err == nil {
		t.Error("an old revision was stored")
	}
	for _, want := range []struct {
		is     float64
		name   string
		labels []string
	}{
		{1, "gururmm_command_stages_total", []string{"stage", "accepted"}},
		{2, "gururmm_command_stages_total", []string{"stage", "claimed"}},
		{1, "gururmm_command_stages_total", []string{"stage", "read"}},
		{1, "gururmm_command_stages_total", []string{"stage", "acked"}},
		{1, "gururmm_command_stages_total", []string{"stage", "started"}},
		{1, "gururmm_command_stages_total", []string{"stage", "result_stored"}},
		{1, "gururmm_command_claims_total", []string{"channel", "link"}},
		{1, "gururmm_command_claims_total", []string{"channel", "oob"}},
		{1, "gururmm_command_reoffers_total", nil},
		{1, "gururmm_command_reoffers_total", []string{"channel", "oob"}},
		{1, "gururmm_commands_ended_total", nil},
		{1, "gururmm_commands_ended_total", []string{"state", "completed"}},
		{1, "gururmm_agents", []string{"presence", "offline"}},
		{0, "gururmm_store_commit_failures_total", nil},
	} {
		if got := value(t, m, want.name, want.labels...); got != want.is {
			t.Errorf("%s%v = %v, want %v", want.name, want.labels, got, want.is)
		}
	}
	if value(t, m, "gururmm_store_commit_seconds") < 8 {
		t.Error("commits were not counted")
	}
	m.Committed(store.Commit{Writes: 1, Err: store.ErrFull})
	if got := value(t, m, "gururmm_store_commit_failures_total"); got != 1 {
		t.Errorf("a commit that failed counts %v times", got)
	}
	b := operator.Beacon{ReportID: "r", Agent: "a", ReceivedAt: now, Verdict: "made up by an agent", Report: []byte("{}")}
	for range 2 { // the second is a repeat
		if _, err := st.SaveBeacon(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if got := value(t, m, "gururmm_beacons_total", "verdict", hub.OtherVerdict); got != 1 {
		t.Errorf("a beacon told twice counts %v times", got)
	}
}

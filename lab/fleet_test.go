package lab_test

import (
	"strings"
	"testing"
	"time"

	"gururmm/lab/fleet"
	"gururmm/lab/harness"
	"gururmm/operator"
)

// TestFleetIsServed: a fleet of all kinds; who is well gets each command once, and who
// stands still is given up.
func TestFleetIsServed(t *testing.T) {
	bin, dir := room(t)
	stack, err := harness.Start(t.Context(), harness.Options{Bin: bin, Dir: dir, Policy: testPolicy()})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	const agents, commands = 50, 2
	token, err := stack.Client().CreateEnrollToken(t.Context(), operator.NewEnrollToken{Uses: agents})
	if err != nil {
		t.Fatal(err)
	}
	mix, err := fleet.ParseMix("idle=60,chatty=10,flapping=10,deaf=10,halfopen=6,cloned=4")
	if err != nil {
		t.Fatal(err)
	}
	url, trust, operatorToken := stack.Door()
	report, err := fleet.Run(t.Context(), fleet.Options{
		Agents: agents, Server: url, TLS: trust, EnrollToken: token.Token, Operator: operatorToken,
		Mix: mix, Seed: 11, Hold: 4 * time.Second, Commands: commands, Progress: func(s string) { t.Log(s) },
	})
	var table strings.Builder
	report.Print(&table)
	t.Logf("%v\n%s", err, &table)
	if err != nil {
		for _, log := range stack.Logs() {
			t.Log(harness.Tail(log, 40))
		}
		t.Fatal(err)
	}
	for _, wrong := range report.Wrong {
		t.Error(wrong)
	}
	want := map[fleet.Kind]int{fleet.Idle: 30, fleet.Chatty: 5, fleet.Flapping: 5, fleet.Deaf: 5, fleet.HalfOpen: 3, fleet.Cloned: 2}
	for _, k := range report.Kinds {
		if k.Agents != want[k.Kind] || k.Ordered != commands*k.Agents || k.Verified != k.Agents {
			t.Errorf("%s: %d agents, %d verified, %d commands ordered", k.Kind, k.Agents, k.Verified, k.Ordered)
		}
		delete(want, k.Kind)
		switch {
		case k.Kind.Well() && (k.Completed != k.Ordered || k.Twice != 0):
			t.Errorf("%s: %d of %d commands completed, %d ran twice", k.Kind, k.Completed, k.Ordered, k.Twice)
		case k.Kind == fleet.HalfOpen && k.Evicted < k.Agents:
			t.Errorf("%d of %d half-open links were given up", k.Evicted, k.Agents)
		case k.Kind == fleet.Flapping && k.Links <= k.Agents:
			t.Errorf("flapping agents did not come back: %d links", k.Links)
		}
	}
	if len(want) != 0 {
		t.Errorf("not reported: %v", want)
	}
	for line := range strings.Lines(table.String()) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
}

// TestFleetComesBack: the server is restarted under a fleet while commands flow; all are
// verified again, and each command has run once.
func TestFleetComesBack(t *testing.T) {
	bin, dir := room(t)
	front, err := harness.Fixed()
	if err != nil {
		t.Fatal(err)
	}
	stack, err := harness.Start(t.Context(), harness.Options{Bin: bin, Dir: dir, Front: front})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	const agents = 300
	token, err := stack.Client().CreateEnrollToken(t.Context(), operator.NewEnrollToken{Uses: agents})
	if err != nil {
		t.Fatal(err)
	}
	url, trust, operatorToken := stack.Door()
	report, err := fleet.Run(t.Context(), fleet.Options{
		Agents: agents, Server: url, TLS: trust, EnrollToken: token.Token, Operator: operatorToken,
		Mix: fleet.Mix{fleet.Idle: 1}, Seed: 5, Hold: 8 * time.Second, Commands: 2,
		Restart: stack.Restarted(), Progress: func(s string) { t.Log(s) },
	})
	if err != nil {
		for _, log := range stack.Logs() {
			t.Log(harness.Tail(log, 40))
		}
		t.Fatal(err)
	}
	for _, wrong := range report.Wrong {
		t.Error(wrong)
	}
	if r := report.Restart; r == nil || r.Agents != agents || r.Missing != 0 {
		t.Errorf("came back: %+v", r)
	}
	for _, k := range report.Kinds {
		if k.Completed != 2*agents || k.Twice != 0 || k.Links < 2*agents {
			t.Errorf("%s: %d of %d commands completed, %d ran twice, %d links", k.Kind, k.Completed, 2*agents, k.Twice, k.Links)
		}
	}
}

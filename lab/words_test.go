//go:build unix

package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gururmm/agent/local"
	"gururmm/lab/demo"
	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/wire"
)

// TestOperatorsWords: what a person types, and what comes back, over a whole and a broken path.
func TestOperatorsWords(t *testing.T) {
	s := newScene(t)
	name := s.verified().Name
	for _, path := range []string{"whole", "broken"} {
		if path == "broken" {
			s.order("down drop-text")
		}
		file := filepath.Join(s.Dir, path)
		stdout, stderr, code, err := s.Operator(t.Context(), "exec", name, "--", "echo x >> '"+file+"'; echo to stdout; echo to stderr >&2; exit 42")
		if err != nil || code != 42 || stdout != "to stdout\n" || !strings.Contains(stderr, "to stderr\n") {
			t.Errorf("exec on a %s path: exit %d, stdout %q, stderr %q, %v", path, code, stdout, stderr, err)
		}
		if raw, err := os.ReadFile(file); err != nil || string(raw) != "x\n" {
			t.Errorf("the command left %q, %v", raw, err)
		}
		// A person who waits is told what happens.
		if path == "broken" && !strings.Contains(stderr, "gururmm: ") {
			t.Errorf("nothing was told of the rescue: %q", stderr)
		}
	}
	s.order("clear")
	s.verified()
	var commands []operator.Command
	s.words(&commands, "commands", "--json")
	if len(commands) != 2 || commands[0].Channel != wire.ChannelOOB || commands[1].Channel != wire.ChannelLink {
		t.Fatalf("commands: %+v", commands)
	}
	var trace operator.Trace
	s.words(&trace, "trace", commands[0].ID, "--json")
	if len(trace.Entries) < 10 || trace.Stopped == "" {
		t.Errorf("trace: %+v", trace)
	}
	var agents []operator.Agent
	s.words(&agents, "agents", "--json")
	if len(agents) != 1 || agents[0].Presence != "verified" {
		t.Errorf("agents: %+v", agents)
	}
	var beacons []operator.Beacon
	s.words(&beacons, "beacons", name, "--json")
	if len(beacons) == 0 || beacons[0].View == nil {
		t.Errorf("beacons: %+v", beacons)
	}
	for _, args := range [][]string{{"agents"}, {"commands"}, {"trace", commands[0].ID}, {"beacons", name}} {
		if stdout, stderr, code, err := s.Operator(t.Context(), args...); err != nil || code != 0 || stdout == "" {
			t.Errorf("%v: exit %d, %q, %v", args, code, stderr, err)
		}
	}
	if _, stderr, code, err := s.Operator(t.Context(), "exec", "nobody", "--", "true"); err != nil || code != 255 || stderr == "" {
		t.Errorf("exec on an unknown agent: exit %d, %q, %v", code, stderr, err)
	}
}

// words asks for JSON, which may be a list or {"items": list}.
func (s *scene) words(into any, args ...string) {
	s.t.Helper()
	stdout, stderr, code, err := s.Operator(s.t.Context(), args...)
	if err != nil || code != 0 {
		s.t.Fatalf("%v: exit %d, %s, %v", args, code, stderr, err)
	}
	raw := []byte(stdout)
	var list struct {
		Items json.RawMessage `json:"items"`
	}
	if json.Unmarshal(raw, &list) == nil && list.Items != nil {
		raw = list.Items
	}
	if err := json.Unmarshal(raw, into); err != nil {
		s.t.Fatalf("%v printed %.300s: %v", args, stdout, err)
	}
}

// TestStatusCommand: 0 well, 1 degraded, 2 not running; it answers for a frozen worker.
func TestStatusCommand(t *testing.T) {
	s := newScene(t)
	status := func(want int) string {
		t.Helper()
		var out string
		s.eventually(fmt.Sprintf("exit code %d", want), func() (bool, error) {
			var code int
			var err error
			out, _, code, err = s.agent.StatusCommand(t.Context())
			if err != nil {
				return false, harness.Final(err)
			}
			return code == want, fmt.Errorf("exit code %d: %s", code, out)
		})
		return out
	}
	verdict := strings.SplitN(status(0), "\n", 2)[0]
	if !strings.Contains(verdict, "verified") && !strings.Contains(verdict, "well") {
		t.Errorf("the first line is no verdict: %q", verdict)
	}
	out, _, _, err := s.agent.StatusCommand(t.Context(), "--json")
	var st local.Status
	if err := errFirst(err, json.Unmarshal([]byte(out), &st)); err != nil || st.Agent != s.agent.ID {
		t.Errorf("--json: %v, %.200s", err, out)
	}
	s.order("both freeze")
	status(1)
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	status(1)
	s.agent.Guardian().Kill()
	status(2)
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestLargeOutput: bounded by what the command allows, complete up to there, by either door.
func TestLargeOutput(t *testing.T) {
	const written, kept = 1_500_000, 1 << 20
	for _, path := range []string{"whole", "broken"} {
		t.Run(path, func(t *testing.T) {
			s := newScene(t)
			if path == "broken" {
				s.order("both drop-text")
			}
			c, err := s.Client().Submit(t.Context(), s.agent.ID, operator.NewCommand{
				Script: fmt.Sprintf("yes 0123456 | head -c %d", written),
			})
			if err != nil {
				t.Fatal(err)
			}
			c = s.ended(&order{id: c.ID})
			if c.State != wire.StateCompleted || c.StdoutBytes != kept || c.StdoutLost != written-kept {
				t.Errorf("%s (%s): kept %d, lost %d", c.State, c.Reason, c.StdoutBytes, c.StdoutLost)
			}
			if want := fmt.Sprintf("%d bytes of its stdout were left out: over the default limit of %d bytes", written-kept, kept); !strings.Contains(c.Reason, want) {
				t.Errorf("reason %q, want %q in it", c.Reason, want)
			}
			out, err := s.Client().Output(t.Context(), c.ID, wire.Stdout)
			if err != nil || string(out) != strings.Repeat("0123456\n", kept/8) {
				t.Errorf("output of %d bytes differs from what was printed, %v", len(out), err)
			}
		})
	}
}

// TestDemo holds the demo's claims; its figures are for plain builds on a machine at rest.
func TestDemo(t *testing.T) {
	bin, dir := room(t)
	var timeline strings.Builder
	report, err := demo.Run(t.Context(), demo.Options{Bin: bin, Dir: dir, Out: &timeline})
	if err != nil {
		t.Fatalf("%v\n%s", err, timeline.String())
	}
	demo.Print(&timeline, report)
	for _, c := range report.Claims {
		if !c.Held {
			t.Errorf("%s: %s", c.Claim, c.Detail)
		}
	}
	for line := range strings.Lines(timeline.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && !strings.HasPrefix(line, "NOT HELD") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if t.Failed() {
		t.Log(timeline.String())
	}
}

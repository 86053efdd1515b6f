package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gururmm/lab/harness"
	"gururmm/operator"
)

// releasing gives the server a release key whose private half is in release.key.
func releasing(t *testing.T) func(*harness.Options) {
	return func(o *harness.Options) {
		key := filepath.Join(o.Dir, "release.key")
		out, err := exec.CommandContext(t.Context(), o.Bin.Server, "update", "keygen", "--out", key, "--no-password").CombinedOutput()
		if err != nil {
			t.Fatalf("keygen: %v\n%s", err, out)
		}
		o.ServerEnv = append(o.ServerEnv, "GURURMM_RELEASE_KEY="+key+".pub")
	}
}

// says runs the operator's command line and gives what it printed.
func (s *scene) says(args ...string) string {
	s.t.Helper()
	out, words, code, err := s.Operator(s.t.Context(), args...)
	if err != nil || code != 0 {
		s.t.Fatalf("gururmm %s: exit %d, %v\n%s%s", strings.Join(args, " "), code, err, out, words)
	}
	return out
}

// released builds an agent that says it is version, signs it as signed and publishes it.
func (s *scene) released(version, signed string) {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.Dir, "build")
	if err != nil {
		s.t.Fatal(err)
	}
	// Without the race detector, whose memory would be held against it in its trial.
	bin, err := harness.Build(context.WithoutCancel(s.t.Context()), dir, "-tags=faults", "-ldflags=-s -w -X gururmm/internal/version.Version="+version)
	if err != nil {
		s.t.Fatal(err)
	}
	s.says("update", "sign", "--key", filepath.Join(s.Dir, "release.key"), "--version", signed, "--any-version", bin.Agent)
	s.says("update", "publish", bin.Agent)
}

// TestARolloutReachesItsRingsAndStopsAtABadVersion: three real endpoints take a
// version ring by ring, though the server is killed in mid-ring; of the next one, which is not what it says, only the canary
// hears, and it is back on what it had.
func TestARolloutReachesItsRingsAndStopsAtABadVersion(t *testing.T) {
	s := newScene(t, releasing(t))
	ids := []string{s.agent.ID}
	for _, name := range []string{"b", "c"} {
		a, err := s.Enroll(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	running := func(id string) (version, presence string) {
		t.Helper()
		a, err := s.Client().Agent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return a.Version, a.Presence
	}
	// all waits until each endpoint runs version over a verified link.
	all := func(version string) {
		t.Helper()
		s.eventually("all on "+version, func() (bool, error) {
			var seen []string
			for _, id := range ids {
				v, p := running(id)
				seen = append(seen, v+" "+p)
			}
			return !slices.ContainsFunc(seen, func(w string) bool { return w != version+" verified" }), fmt.Errorf("they are %v", seen)
		})
	}
	// rolled begins a rollout and waits for its end; meanwhile, if there is one, is run
	// once an endpoint has taken its order up.
	rolled := func(version string, meanwhile func()) operator.Rollout {
		t.Helper()
		s.says("update", "roll", version, "--ring", "34,100", "--soak", "0", "--grace", "2s", "--yes")
		list, err := s.Client().Rollouts(t.Context())
		if err != nil || len(list) == 0 || list[0].Version != version {
			t.Fatalf("%+v, %v", list, err)
		}
		r := list[0]
		if meanwhile != nil {
			s.eventually("an endpoint takes its order up", func() (bool, error) {
				r, err = s.Client().Rollout(t.Context(), r.ID)
				return err == nil && r.Rings[0].Running > 0, fmt.Errorf("%s; %+v; %v", r.Now, r.Rings, err)
			})
			meanwhile()
		}
		for _, past := range []int{0, 1} { // each ring has a wait of its own
			s.eventually("the rollout's end", func() (bool, error) {
				r, err = s.Client().Rollout(t.Context(), r.ID)
				return err == nil && (r.State != operator.RolloutActive || r.Ring > past), fmt.Errorf("%s; %+v; %v", r.Now, r.Rings, err)
			})
		}
		return r
	}
	all("dev")
	s.released("v1.1.0", "v1.1.0")
	crash := func() {
		s.Server().KillAlone() // SIGKILL in mid-ring: what it knew is what it wrote
		if err := s.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if r := rolled("v1.1.0", crash); r.State != operator.RolloutDone || r.Rings[0].Done != 2 || r.Rings[1].Done != 1 {
		t.Fatalf("the good version: %s, %+v, failures %+v", r.Now, r.Rings, r.Failures)
	}
	all("v1.1.0")

	s.released("v6.6.6", "v1.2.0")
	for _, id := range ids { // the crash cost nobody a second trial
		all, err := s.Client().Directives(t.Context(), id, 0)
		if err != nil || len(all) != 1 {
			t.Errorf("%s was ordered %d times, %v: %+v", id, len(all), err, all)
		}
	}

	r := rolled("v1.2.0", nil)
	if r.State != operator.RolloutStopped || r.Rings[0].Failed == 0 || r.Rings[1].Waiting != 1 || len(r.Failures) == 0 || !strings.Contains(r.Failures[0].Detail, "v6.6.6") {
		t.Errorf("the bad version: %s, %+v, failures %+v", r.Now, r.Rings, r.Failures)
	}
	t.Logf("it says: %s", r.Now)
	all("v1.1.0")
	if out := s.says("update", "status"); !strings.Contains(out, "stopped") || !strings.Contains(out, "v6.6.6") {
		t.Errorf("status:\n%s", out)
	}
}

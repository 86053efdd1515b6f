package lab_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/checkup"
	"gururmm/internal/certtest"
	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// examined is a doctor's report at the endpoint; found picks a result of it.
type examined struct {
	t *testing.T
	checkup.Report
	code int
}

func (s *scene) examine(args ...string) examined {
	s.t.Helper()
	out, said, code, err := s.agent.Doctor(s.t.Context(), append([]string{"--json"}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := checkup.Parse([]byte(out))
	if err != nil {
		s.t.Fatalf("exit code %d: %v\n%s%s", code, err, out, said)
	}
	if code != r.ExitCode() {
		s.t.Errorf("exit code %d of a report that says %q", code, r.Verdict)
	}
	return examined{s.t, r, code}
}

// found gives the result of one probe in the group that begins so.
func (e examined) found(group, name string) checkup.Result {
	e.t.Helper()
	for _, r := range e.Results {
		if strings.HasPrefix(r.Group, group) && r.Name == name {
			return r
		}
	}
	e.t.Fatalf("no %s of %q in %+v", name, group, e.Results)
	return checkup.Result{}
}

// show prints the page that a person reads.
func (e examined) show(title string) {
	var b strings.Builder
	if err := checkup.Write(&b, e.Report, checkup.Style{}); err != nil {
		e.t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			e.t.Errorf("%d columns: %s", n, line)
		}
	}
	e.t.Logf("%s\n%s", title, b.String())
}

// The doctor finds each fault on the way, and the link that the agent holds
// meanwhile is the same before, during and after.
func TestDoctorFindsFaultsBesideALiveLink(t *testing.T) {
	s := newScene(t, func(o *harness.Options) { o.Policy.DeadMS = 20_000 }) // two cores, and a doctor that works both
	live := s.linkID(s.verified())
	generation := s.verified().Links[0].Generation
	same := func(when string) {
		t.Helper()
		a := s.verified()
		if id := s.linkID(a); id != live || a.Links[0].Generation != generation {
			t.Errorf("%s the link is %s, generation %d; it was %s, %d", when, id, a.Links[0].Generation, live, generation)
		}
		if st := s.status(); st.Snapshot.Link.ID != live || st.Snapshot.Link.Phase != selfcheck.PhaseVerified {
			t.Errorf("%s the agent says %s, %s", when, st.Snapshot.Link.ID, st.Snapshot.Link.Phase)
		}
	}

	e := s.examine()
	e.show("healthy")
	for _, r := range e.Results {
		switch r.Name {
		case "service", "versions": // of the machine that the test runs on
		default:
			if r.Status != checkup.Pass {
				t.Errorf("healthy: %s %s %s: %s", r.Group, r.Name, r.Status, r.Seen)
			}
		}
	}
	same("after a look at a healthy path")
	s.completed(s.submit("")) // and commands still find their way

	s.order("up drop-text-above:16384")
	e = s.examine("--only", "echo,mtu")
	e.show("a box that drops frames over 16 KiB")
	if r := e.found("link", "echo"); r.Status != checkup.Fail || r.Figures["up_passed_bytes"] != 16384.0 || r.Figures["up_failed_bytes"] != 17408.0 ||
		r.Figures["down_passed_bytes"] != 262144.0 || !strings.Contains(r.Do, "16 KiB") {
		t.Errorf("%+v", r)
	}
	if r := e.found("link", "mtu"); r.Status != checkup.Pass {
		t.Errorf("a limit on messages is none of packets: %+v", r)
	}
	s.struck(proxy.Up)
	s.order("clear")
	same("after a look at a limit")

	s.order("oob refuse")
	e = s.examine("--only", "door,ping")
	e.show("the second door is closed")
	if r := e.found("second door", "tcp"); r.Status != checkup.Fail || r.Type != "tcp.refused" || r.Do == "" {
		t.Errorf("%+v", r)
	}
	if r := e.found("second door", "door"); r.Status != checkup.Skip {
		t.Errorf("%+v", r)
	}
	if r := e.found("link", "ping"); r.Status != checkup.Pass {
		t.Errorf("%+v", r)
	}
	s.order("clear")
	same("after a look at a closed door")

	// A second way to the server, on which somebody opens TLS.
	cert := certtest.NewNamedCA(t, "Zscaler Intermediate Root CA").Leaf(t, nil)
	box, err := proxy.New(proxy.Options{Cert: &cert, Upstream: s.Proxy.Addr(), UpstreamTLS: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	inspected := "wss://" + box.Addr() + "/v1/link"
	yaml := fmt.Sprintf("link:\n  urls: [%q, %q]\n", "wss://"+s.Proxy.Addr()+"/v1/link", inspected)
	if err := os.WriteFile(filepath.Join(s.agent.Dir, "agent.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	e = s.examine("--only", "echo")
	e.show("an inspector on one of two ways")
	if r := e.found("link "+inspected, "tls"); r.Status != checkup.Fail || r.Type != "tls.cert.authority_invalid" ||
		r.Figures["vendor"] != "Zscaler" || !strings.Contains(strings.Join(r.Notes, " "), "Zscaler Intermediate Root CA") || !strings.Contains(r.Do, "exempted") {
		t.Errorf("%+v", r)
	}
	if r := e.found("link "+inspected, "echo"); r.Status != checkup.Skip {
		t.Errorf("%+v", r)
	}
	if r := e.found("link wss://"+s.Proxy.Addr(), "echo"); r.Status != checkup.Pass {
		t.Errorf("%+v", r)
	}
	if n := box.Counts(proxy.Up).Texts; n != 0 {
		t.Errorf("%d texts went to the inspector", n)
	}
	same("after a look at an inspector")
	s.allOnce()
}

// The doctor works with the service stopped, and before enrollment with --server.
func TestDoctorWithNothingRunning(t *testing.T) {
	s := newScene(t)
	s.verified()
	if err := s.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	e := s.examine("--only", "echo,door,instance,guardian")
	e.show("the service is stopped")
	for _, name := range []string{"upgrade", "echo"} {
		if r := e.found("link", name); r.Status != checkup.Pass {
			t.Errorf("%+v", r)
		}
	}
	if door, running, word := e.found("second door", "door"), e.found("this machine", "instance"), e.found("this machine", "guardian"); door.Status != checkup.Pass ||
		running.Status != checkup.Warn || !strings.Contains(running.Do, "start") || word.Status != checkup.Skip || e.code != checkup.ExitWell {
		t.Errorf("exit code %d: %+v; %+v; %+v", e.code, door, running, word)
	}
	pin, _ := e.found("link", "tls").Figures["pin"].(string)

	fresh := filepath.Join(t.TempDir(), "state")
	e = s.examine("--state-dir", fresh, "--server", "https://"+s.Proxy.Addr(), "--pin", pin)
	e.show("before enrollment")
	if r := e.found("link", "upgrade"); r.Status != checkup.Pass || !strings.Contains(r.Seen, "401 in our server's own words") {
		t.Errorf("%+v", r)
	}
	for group, name := range map[string]string{"link": "echo", "this machine": "instance"} {
		if r := e.found(group, name); r.Status != checkup.Skip || !strings.Contains(r.Seen, "not enrolled") {
			t.Errorf("%+v", r)
		}
	}
	if e.Agent != "" || e.code != checkup.ExitWell {
		t.Errorf("agent %q, exit code %d", e.Agent, e.code)
	}
	if _, err := os.Stat(fresh); err == nil {
		t.Error("a state directory was made: a doctor changes nothing")
	}
}

// An operator's doctor comes by the second door: also while the link is deaf.
func TestDoctorOrderedByAnOperator(t *testing.T) {
	s := newScene(t)
	live := s.linkID(s.verified())
	out, said, code, err := s.Operator(t.Context(), "doctor", s.agent.ID)
	if err != nil || code != checkup.ExitWell || !strings.Contains(out, "PASS  echo") || !strings.Contains(out, "PASS  guardian") {
		t.Fatalf("exit code %d, %v\n%s\n%s", code, err, out, said)
	}
	if id := s.linkID(s.verified()); id != live {
		t.Errorf("the link is %s, it was %s", id, live)
	}
	last, _, code, err := s.Operator(t.Context(), "doctor", s.agent.ID, "--last")
	if err != nil || code != checkup.ExitWell || last != out {
		t.Errorf("the last report, exit code %d, %v:\n%s\nit was\n%s", code, err, last, out)
	}

	s.order("both drop-text")
	s.eventually("delivery by the second door", func() (bool, error) {
		st, err := s.agent.Status(t.Context())
		return err == nil && st.Snapshot.OOB.Delivering, err
	})
	out, said, code, err = s.Operator(t.Context(), "doctor", s.agent.ID, "--json", "--only", "echo,door,guardian")
	if err != nil || code != checkup.ExitFailed {
		t.Fatalf("deaf: exit code %d, %v\n%s\n%s", code, err, out, said)
	}
	var report checkup.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	e := examined{t, report, code}
	e.show("deaf")
	if r := e.found("link", "echo"); r.Status != checkup.Fail || !strings.Contains(r.Do, "no text passes") {
		t.Errorf("%+v", r)
	}
	if r := e.found("link", "ping"); r.Status != checkup.Pass {
		t.Errorf("pings pass: %+v", r)
	}
	if r := e.found("second door", "door"); r.Status != checkup.Pass {
		t.Errorf("%+v", r)
	}

	_, said, code, err = s.Operator(t.Context(), "doctor", s.agent.ID, "--only", "teleport")
	if err != nil || code != checkup.ExitNotRun || !strings.Contains(said, `there is no probe "teleport"`) {
		t.Errorf("a probe that does not exist: exit code %d, %v\n%s", code, err, said)
	}
	ordered, err := s.Client().Directives(t.Context(), s.agent.ID, 0)
	if err != nil || len(ordered) != 3 || ordered[0].Kind != wire.DirectiveRunProbes || ordered[0].State != string(wire.DirectiveFailed) {
		t.Errorf("%+v, %v", ordered, err)
	}
}

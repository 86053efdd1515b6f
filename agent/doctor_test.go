package agent

import (
	"crypto/ed25519"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/agent/probe"
	"gururmm/agent/state"
	"gururmm/agent/versions"
	"gururmm/checkup"
	"gururmm/wire"
)

func TestServersAddressAsAPersonGivesIt(t *testing.T) {
	for given, want := range map[string]string{
		"https://rmm.example:8443":             "wss://rmm.example:8443/v1/link",
		"https://rmm.example/":                 "wss://rmm.example/v1/link",
		"https://rmm.example/rmm":              "wss://rmm.example/rmm/v1/link",
		"wss://rmm.example/v1/link":            "wss://rmm.example/v1/link",
		"http://127.0.0.1:8080":                "",
		"http://rmm.example":                   "",
		"rmm.example:8443":                     "",
		"https://user:secret@rmm.example":      "",
		"ftp://rmm.example":                    "",
		"https://":                             "",
		"https://rmm.example:8443 --pin x\x7f": "",
	} {
		got, err := linkOf(given)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%q: %q, %v", given, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

// What is broken in the state directory is found, not fallen over; nothing is mended.
func TestSubjectOfABrokenState(t *testing.T) {
	for _, c := range []struct {
		name, file, body string
		broken           string
		notEnrolled      string
	}{
		{name: "empty", notEnrolled: "not enrolled"},
		{name: "identity", file: "identity.json", body: "{", broken: "identity.json", notEnrolled: "can't be read"},
		{name: "settings", file: "agent.yaml", body: "log_levle: info\n", broken: "log_levle", notEnrolled: "not enrolled"},
	} {
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if c.file != "" {
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := subject(t.Context(), Options{StateDir: dir}, DoctorOptions{Server: "https://127.0.0.1:1"})
		if err != nil || !strings.Contains(s.Broken, c.broken) || (c.broken == "") != (s.Broken == "") || !strings.Contains(s.NotEnrolled, c.notEnrolled) ||
			s.Token != nil || len(s.Addresses) != 1 || s.Addresses[0].URL != "wss://127.0.0.1:1/v1/link" {
			t.Errorf("%s: %+v, %v", c.name, s, err)
		}
		if left, _ := os.ReadDir(dir); c.file == "" && len(left) != 0 || c.file != "" && (len(left) != 1 || left[0].Name() != c.file) {
			t.Errorf("%s: the directory holds %v now", c.name, left)
		}
	}
}

func enrolledSetup(t *testing.T) *Setup {
	t.Helper()
	s, err := Prepare(Options{StateDir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Dir.SaveIdentity(state.Identity{
		Agent: "agent-1", Server: "server-1", Key: key, CommandKeys: [][]byte{public},
		LinkURLs: []string{"wss://rmm.example/v1/link"}, OOB: []wire.OOBDoor{{URL: "https://rmm.example:8444"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// agent.yaml outranks the enrollment, and each kind of door has its own trust and way out.
func TestAddressesAsTheAgentUsesThem(t *testing.T) {
	s := enrolledSetup(t)
	yaml := "link: {urls: ['wss://a.example/v1/link', 'wss://b.example/v1/link'], proxy: 'http://gateway.example:3128'}\n"
	if err := os.WriteFile(s.Dir.Path("agent.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	sub, err := subject(t.Context(), Options{StateDir: s.Path}, DoctorOptions{})
	if err != nil || sub.NotEnrolled != "" || sub.Token == nil || sub.Agent == "" || sub.ProxyFrom[probe.KindLink] != "by agent.yaml" {
		t.Fatalf("%+v, %v", sub, err)
	}
	var links, doors []string
	for _, e := range sub.Endpoints() {
		if e.Kind == probe.KindLink {
			links = append(links, e.URL+" "+e.Via)
		} else {
			doors = append(doors, e.URL+" "+e.Via)
		}
	}
	if len(links) != 2 || links[0] != "wss://a.example/v1/link http://gateway.example:3128" || len(doors) == 0 {
		t.Errorf("links %v, doors %v", links, doors)
	}
	for _, a := range sub.Addresses {
		if a.Kind == probe.KindDoor && a.Proxy != nil {
			t.Error("the second door takes the link's way out")
		}
	}
	// Another server: only it, with the trust given for it.
	const pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	sub, err = subject(t.Context(), Options{StateDir: s.Path}, DoctorOptions{Server: "https://c.example", Pin: pin})
	if err != nil || len(sub.Addresses) != 1 || sub.Addresses[0].Pin != pin || sub.Addresses[0].CA != "" {
		t.Errorf("%+v, %v", sub.Addresses, err)
	}
	if via, err := sub.Addresses[0].Proxy(&http.Request{}); err != nil || via == nil || via.Host != "gateway.example:3128" {
		t.Errorf("by %v, %v", via, err)
	}
}

func TestVersionsAreTold(t *testing.T) {
	entry := func(v string) *versions.Entry { return &versions.Entry{Build: wire.Build{Version: v}} }
	for _, c := range []struct {
		name   string
		st     versions.State
		status checkup.Status
		seen   string
	}{
		{"none kept", versions.State{}, checkup.Pass, "the installed program is the one to run"},
		{"one runs", versions.State{Current: entry("v2"), Previous: entry("v1"), Last: &versions.Outcome{Version: "v2", Done: true}}, checkup.Pass, "version v2 is the one to run"},
		{"on trial", versions.State{Phase: versions.PhaseTrial, Next: entry("v3")}, checkup.Warn, "update to v3 is under way (trial)"},
		{"handed over", versions.State{Phase: versions.PhaseHandover, Current: entry("v3")}, checkup.Warn, "update to v3 is under way"},
		{"rolled back", versions.State{Last: &versions.Outcome{Version: "v4", RolledBack: true, Reason: "no link in time"}}, checkup.Warn, "to v4, was rolled back: no link in time"},
		{"failed before it ran", versions.State{Last: &versions.Outcome{Version: "v5", Reason: "bad signature", At: time.Now()}}, checkup.Pass, "the installed program"},
	} {
		f := versionsOf(c.st)
		if f.Status != c.status || !strings.Contains(f.Seen, c.seen) || (f.Status == checkup.Warn) != (f.Do != "") {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
	dir := t.TempDir()
	file := versions.New(filepath.Join(dir, versionsDir)).StateFile()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := versionsFact(dir)(t.Context()); f.Status != checkup.Warn || !strings.Contains(f.Seen, "can't be understood") {
		t.Errorf("damaged: %+v", f)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the damaged file was set aside by who only looks: %v", err)
	}
}

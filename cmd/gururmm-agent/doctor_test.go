package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

var update = flag.Bool("update", false, "write the golden files")

func TestDoctorOnTheCommandLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "agent.yaml"), []byte("log_levle: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, args  string
		code        int
		out, errout string // are contained
	}{
		{name: "not enrolled", args: "doctor --state-dir " + dir, code: 0, out: "WARN  state "},
		{name: "nothing is told meanwhile unless asked", args: "doctor --state-dir " + dir, code: 0, errout: ""},
		{name: "told meanwhile", args: "doctor -v --only disk --state-dir " + dir, code: 0, errout: "1/1 disk: pass\n"},
		{name: "a setting that can't be understood is found", args: "doctor --only state --state-dir " + broken, code: 1, out: "log_levle"},
		{name: "the list", args: "doctor --list", code: 0, out: "echo      texts of 100 B to 256 KiB pass, up and down\n"},
		{name: "a probe that does not exist", args: "doctor --only teleport", code: 2, errout: `there is no probe "teleport"; see --list`},
		{name: "nothing to be tried", args: "doctor --only clock --state-dir " + dir, code: 2, out: "1 skip in "},
		{name: "nobody there", args: "doctor --only upgrade --server https://127.0.0.1:1 --state-dir " + dir, code: 1, out: "error: tcp.refused"},
		{name: "address and port", args: "doctor --server 127.0.0.1:8443 --state-dir " + dir, code: 2, errout: "write https://host:port"},
		{name: "without TLS", args: "doctor --server http://127.0.0.1:1 --state-dir " + dir, code: 2, errout: "use https: https://127.0.0.1:1"},
		{name: "no URL", args: "doctor --server rmm.example:8443 --state-dir " + dir, code: 2, errout: "write https://host:port"},
		{name: "no pin", args: "doctor --server https://127.0.0.1:1 --pin x --state-dir " + dir, code: 2, errout: `pin "x"`},
		{name: "a pin for nothing", args: "doctor --pin x --state-dir " + dir, code: 2, errout: "are for --server"},
		{name: "no CA file", args: "doctor --server https://127.0.0.1:1 --ca /nowhere/at/all --state-dir " + dir, code: 2, errout: "--ca: there is no /nowhere/at/all"},
		{name: "a flag that does not exist", args: "doctor --frobnicate", code: 2, errout: "there is no flag --frobnicate"},
		{name: "a negative limit", args: "doctor --timeout -1s", code: 2, errout: "--timeout -1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t, nil, strings.Fields(tt.args)...)
			if got.code != tt.code || !strings.Contains(got.out, tt.out) || !strings.Contains(got.errout, tt.errout) || tt.errout == "" && got.errout != "" {
				t.Fatalf("exit code %d, want %d\nstdout %s\nwant %q\nstderr %q, want %q", got.code, tt.code, got.out, tt.out, got.errout, tt.errout)
			}
			for line := range strings.Lines(got.out) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the state directory was made: a doctor changes nothing")
	}
}

// What an environment was made for is enrolling: a doctor of an enrolled endpoint,
// which inherits it from the guardian, looks at the server enrolled with.
func TestServerFromTheEnvironmentIsForEnrolling(t *testing.T) {
	env := []string{"GURURMM_AGENT_SERVER=https://127.0.0.1:1"}
	for _, enrolled := range []bool{false, true} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if enrolled { // it can't be read, but it is there
			if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := call(t, env, "doctor", "--only", "tcp,disk", "--state-dir", dir)
		if looked := strings.Contains(got.out, "link wss://127.0.0.1:1"); looked == enrolled {
			t.Errorf("enrolled %v:\n%s%s", enrolled, got.out, got.errout)
		}
		got = call(t, env, "doctor", "--only", "tcp,disk", "--state-dir", dir, "--server", "https://127.0.0.1:2")
		if !strings.Contains(got.out, "link wss://127.0.0.1:2") {
			t.Errorf("by flag, enrolled %v:\n%s%s", enrolled, got.out, got.errout)
		}
	}
}

// What was asked for and needs a server says so where none is known.
func TestProbesOfNoServerAreSkippedWithTheReason(t *testing.T) {
	got := call(t, nil, "doctor", "--only", "echo,mtu", "--state-dir", t.TempDir())
	for _, want := range []string{"SKIP", "echo", "mtu", "none is known: give one by --server"} {
		if said := strings.Join(strings.Fields(got.out), " "); !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s%s", want, got.out, got.errout)
		}
	}
}

// The shape that programs read: figures differ from machine to machine, names don't.
func TestShapeOfADoctorsJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	got := call(t, nil, "doctor", "--json", "--only", "tcp,state,disk,instance,guardian", "--server", "https://127.0.0.1:1", "--state-dir", dir)
	if got.code != checkup.ExitFailed || got.errout != "" {
		t.Fatalf("exit code %d, stderr %q", got.code, got.errout)
	}
	report, err := checkup.Parse([]byte(got.out))
	if err != nil || report.At.IsZero() || len(report.Results) != 6 {
		t.Fatalf("%+v, %v", report, err)
	}
	inJSON := func(path string) string { return strings.ReplaceAll(path, `\`, `\\`) }
	text := strings.ReplaceAll(got.out, inJSON(dir), "STATE")
	text = strings.ReplaceAll(text, inJSON(filepath.Dir(dir)), "ABOVE")
	text = strings.ReplaceAll(text, inJSON(`STATE\`), "STATE/")
	for _, c := range []struct{ pattern, with string }{
		{`"at": "[^"]*"`, `"at": "AT"`}, {`"host": "[^"]*"`, `"host": "HOST"`}, {`"took_ms": [0-9.e-]+`, `"took_ms": 0`},
		{`"((?:free|total)_bytes)": [0-9.e+]+`, `"$1": 0`}, {`"free_files": [0-9.e+]+,\s*`, ""}, // not each file system counts files
		{`"seen": "[0-9][^"]* free of [^"]*"`, `"seen": "FREE"`},
		{`connect(?:ex)?: (?i:[^"]*refused)[^"]*`, `connect: connection refused`}, // each system's own words
	} {
		text = regexp.MustCompile(c.pattern).ReplaceAllString(text, c.with)
	}
	var want, have any
	file := filepath.Join("testdata", "doctor.json")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &have); err != nil {
		t.Fatal(err)
	}
	a, _ := json.MarshalIndent(have, "", "  ")
	b, _ := json.MarshalIndent(want, "", "  ")
	if !bytes.Equal(a, b) {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}

// What a shell offers, asked as its script does.
func TestProbesAreCompleted(t *testing.T) {
	for typed, want := range map[string]string{"": "echo\ttexts of", "ec": "echo\ttexts of", "echo,": "echo,mtu\t"} {
		got := call(t, nil, "__complete", "doctor", "--only", typed)
		if got.code != 0 || !strings.Contains(got.out, want) || typed != "" && strings.Contains(got.out, "echo,echo") || !strings.HasSuffix(got.out, ":4\n") {
			t.Errorf("%q: exit code %d, want %q in\n%s", typed, got.code, want, got.out)
		}
	}
}

func TestTheLiveLineGoesAway(t *testing.T) {
	var b bytes.Buffer
	l := &liveLine{w: &b, on: true}
	p := probe.Probe{Name: "echo", Target: strings.Repeat("x", 200), Endpoint: 0}
	l.told(p, nil, 3, 7)
	l.told(probe.Probe{Name: "disk", Endpoint: -1}, nil, 3, 7)
	l.told(p, &checkup.Result{Status: checkup.Pass}, 4, 7)
	l.clear()
	parts := strings.Split(b.String(), "\r\x1b[K")
	if len(parts) != 5 || parts[3] != "4/7 disk" || parts[4] != "" {
		t.Fatalf("%q", parts)
	}
	for _, part := range parts {
		if len([]rune(part)) > maxLive {
			t.Errorf("%d columns can't be taken away again", len([]rune(part)))
		}
	}
}

func TestWhatIsToldMeanwhileFits(t *testing.T) {
	var b bytes.Buffer
	l := &liveLine{w: &b, verbose: true}
	p := probe.Probe{Name: "upgrade", Target: "wss://" + strings.Repeat("x", 200) + ":8443/v1/link", Endpoint: 0}
	l.told(p, nil, 3, 7)
	l.told(p, &checkup.Result{Status: checkup.Unknown}, 4, 7)
	if text := b.String(); len([]rune(text)) != 80+1 || !strings.HasPrefix(text, "4/7 upgrade of wss://x") || !strings.HasSuffix(text, "…: unknown\n") {
		t.Errorf("%q", text)
	}
}

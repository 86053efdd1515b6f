package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"gururmm/release"
	"gururmm/server"
)

func load(t *testing.T, file string, env map[string]string, args ...string) (serveConfig, error) {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	addFlags(fs)
	if file != "" {
		path := filepath.Join(t.TempDir(), "gururmm.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(fs, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func TestFlagBeforeVariableBeforeFileBeforeDefault(t *testing.T) {
	file := "listen: file:1\noob_listen: file:2\npublic_url: https://file.example\ntrusted_proxy: [10.0.0.0/8, 192.0.2.1]\npolicy:\n  heartbeat_ms: 5000\n"
	c, err := load(t, file, map[string]string{"GURURMM_LISTEN": "env:1", "GURURMM_OOB_LISTEN": "env:2"}, "--listen", "flag:1")
	if err != nil {
		t.Fatal(err)
	}
	s := c.server
	if s.ListenAddr != "flag:1" || s.OOBAddr != "env:2" || s.PublicURL != "https://file.example" || c.logLevel != "info" {
		t.Errorf("layers: %+v", c)
	}
	if len(s.TrustedProxies) != 2 || s.TrustedProxies[1].String() != "192.0.2.1/32" || s.Policy.HeartbeatMS != 5000 {
		t.Errorf("file: %+v", s)
	}
	c, err = load(t, "proxy_protocol: [main, oob]\n", map[string]string{"GURURMM_OOB_URL": "https://env.example"},
		"--oob-url", "https://a.example:8444", "--oob-url", "https://b.example=ca")
	if err != nil || !slices.Equal(c.server.OOBURLs, []string{"https://a.example:8444", "https://b.example=ca"}) ||
		!slices.Equal(c.server.ProxyProtocol, []string{"main", "oob"}) {
		t.Errorf("lists: %+v %v", c.server, err)
	}
	if c, err := load(t, "", nil); err != nil || c.server.ListenAddr != server.DefaultListen {
		t.Errorf("defaults: %+v %v", c, err)
	}
}

func TestCommandsAreKeptForDays(t *testing.T) {
	for given, want := range map[string]time.Duration{"": 90 * 24 * time.Hour, "7d": 7 * 24 * time.Hour, "36h": 36 * time.Hour, "0": -1, "0d": -1} {
		env := map[string]string{}
		if given != "" {
			env["GURURMM_KEEP_COMMANDS"] = given
		}
		if c, err := load(t, "", env); err != nil || c.server.KeepCommands != want {
			t.Errorf("%q: %v, %v", given, c.server.KeepCommands, err)
		}
	}
}

func TestAPolicyFileIsYAMLOrJSON(t *testing.T) {
	for name, text := range map[string]string{"p.yaml": "heartbeat_ms: 5000\n", "p.json": "{\n\t\"heartbeat_ms\": 5000\n}\n"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := load(t, "", nil, "--policy", path); err != nil || c.server.Policy.HeartbeatMS != 5000 {
			t.Errorf("%s: %+v, %v", name, c.server.Policy, err)
		}
	}
}

func TestReleaseKeysAreGivenAsTheyAreOrByFile(t *testing.T) {
	var lines, files []string
	for range 2 {
		k, _, err := release.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "k.pub")
		if err := os.WriteFile(path, []byte("untrusted comment: x\n"+k.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		lines, files = append(lines, k.String()), append(files, path)
	}
	for name, given := range map[string]func() (serveConfig, error){
		"flags": func() (serveConfig, error) {
			return load(t, "", nil, "--release-key", lines[0], "--release-key", files[1])
		},
		"variable": func() (serveConfig, error) {
			return load(t, "", map[string]string{"GURURMM_RELEASE_KEY": lines[0] + "," + files[1]})
		},
		"file": func() (serveConfig, error) { return load(t, "release_key: ["+files[0]+", "+lines[1]+"]\n", nil) },
	} {
		if c, err := given(); err != nil || !slices.Equal(c.server.ReleaseKeys, lines) {
			t.Errorf("%s: %v, %v", name, c.server.ReleaseKeys, err)
		}
	}
	if _, err := load(t, "", nil, "--release-key", "RWnonsense"); err == nil || !strings.Contains(err.Error(), "--release-key") {
		t.Errorf("%v", err)
	}
}

func TestBadConfigurationIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		says []string
	}{
		"unknown key":        {"lisen: x\n", nil, []string{`"lisen"`, ":1", "listen"}},
		"key twice":          {"listen: a:1\nlisten: b:1\n", nil, []string{"listen", "twice", ":2"}},
		"not a value":        {"listen: [a, b]\n", nil, []string{"listen"}},
		"not a mapping":      {"- listen\n", nil, []string{"key: value"}},
		"not YAML":           {"listen: \"\n", nil, []string{"gururmm.yaml"}},
		"unknown policy key": {"policy:\n  hartbeat_ms: 1\n", nil, []string{"policy", "hartbeat_ms"}},
		"bad CIDR":           {"trusted_proxy: 10.0.0.0/99\n", nil, []string{"trusted_proxy", "10.0.0.0/99"}},
		"half a request":     {"agent_requests: 0.5\n", nil, []string{"agent_requests", "0.5", "at least 1"}},
		"less than nothing":  {"operator_requests: -1\n", nil, []string{"operator_requests", "0 for any number"}},
		"kept how long":      {"keep_commands: soon\n", nil, []string{"keep_commands", "soon", "90d"}},
		"kept not even":      {"", map[string]string{"GURURMM_KEEP_COMMANDS": "23h"}, []string{"GURURMM_KEEP_COMMANDS", "24h"}},
		"kept too long":      {"keep_commands: 999999999d\n", nil, []string{"keep_commands"}},
		"policy file gone":   {"", map[string]string{"GURURMM_POLICY": "/nowhere/p.yaml"}, []string{"GURURMM_POLICY", "/nowhere/p.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.file, c.env)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
		})
	}
}

func TestFirstStartSaysHowToBegin(t *testing.T) {
	info := server.Info{URL: "https://h:1", OOBURL: "https://h:2", Pin: "sha256/p", OperatorToken: "gro_o", EnrollToken: "gre_e"}
	var out bytes.Buffer
	greet(&out, info)
	for _, want := range []string{
		"https://h:1", "https://h:2", "gro_o", "gururmm login --server https://h:1 --pin sha256/p",
		"gururmm-agent enroll --server https://h:1 --token gre_e --pin sha256/p",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	path := filepath.Join(t.TempDir(), "ready.json")
	if err := writeReady(path, info); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	var back server.Info
	if err != nil || json.Unmarshal(raw, &back) != nil || !reflect.DeepEqual(back, info) {
		t.Errorf("ready file: %v %s", err, raw)
	}
	if stat, err := os.Stat(path); err != nil || stat.Mode().Perm() != 0o600 {
		t.Errorf("ready file: %v %v", stat, err)
	}
}

func TestAMistypedVariableIsRefusedByName(t *testing.T) {
	fine := []string{"HOME=/", "GURURMM_LISTEN=:1", "GURURMM_CONFIG=x", "GURURMM_TOKEN=gro_x", "GURURMM_AGENT_STATE_DIR=/x", "GURURMM_FAULTS=/f",
		"GURURMM_SERVICE_HOST=10.0.0.1", "GURURMM_PORT=tcp://10.0.0.1:8443", "GURURMM_PORT_8443_TCP_ADDR=10.0.0.1"}
	if err := checkVariables(fine); err != nil {
		t.Error(err)
	}
	err := checkVariables(append(fine, "GURURMM_OOB_LISTN=:2"))
	if err == nil || !strings.HasPrefix(err.Error(), "unknown variable GURURMM_OOB_LISTN; known: GURURMM_CONFIG, GURURMM_LISTEN, ") {
		t.Errorf("%v", err)
	}
}

// What is no terminal gets JSON: a log collector reads it.
func TestLogsAreJSONUnlessAPersonReads(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log, err := newLogger(file, "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello", "agent", "a")
	raw, err := os.ReadFile(file.Name())
	var line map[string]any
	if err != nil || json.Unmarshal(raw, &line) != nil || line["agent"] != "a" {
		t.Errorf("%q, %v", raw, err)
	}
}

// A password of the database never stands where others can read it, nor in an error.
func TestTheDatabasesPasswordStaysPrivate(t *testing.T) {
	const plain, secret = "postgres://ops@db/rmm", "postgres://ops:hunter2@db/rmm"
	file := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "url")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want string // "": it is refused
	}{
		"a flag without":          {"", nil, []string{"--database-url", plain}, plain},
		"a flag with":             {"", nil, []string{"--database-url", secret}, ""},
		"a flag with, as a field": {"", nil, []string{"--database-url", plain + "?password=hunter2"}, ""},
		"no URL at all":           {"", nil, []string{"--database-url", "postgres://ops:hunter2@db:x/rmm"}, ""},
		"a variable":              {"", map[string]string{"GURURMM_DATABASE_URL": secret}, nil, secret},
		"a private file":          {"", nil, []string{"--database-url-file", file(secret+"\n", 0o600)}, secret},
		"a file of the group":     {"", nil, []string{"--database-url-file", file(secret, 0o640)}, ""},
		"an empty file":           {"", nil, []string{"--database-url-file", file("\n", 0o600)}, ""},
		"both":                    {"", nil, []string{"--database-url", plain, "--database-url-file", file(secret, 0o600)}, ""},
		"the configuration":       {"database_url: " + secret + "\n", nil, nil, secret},
	} {
		got, err := load(t, c.file, c.env, c.args...)
		if (err == nil) != (c.want != "") || err == nil && got.server.DatabaseURL != c.want {
			t.Errorf("%s: %q, %v", name, got.server.DatabaseURL, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells it: %v", name, err)
		}
	}
	open := filepath.Join(t.TempDir(), "gururmm.yaml")
	if err := os.WriteFile(open, []byte("database_url: "+secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, "", nil, "--config", open); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a configuration that all may read: %v", err)
	}
}

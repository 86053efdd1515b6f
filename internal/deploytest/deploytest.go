// Package deploytest reads the Dockerfile and the compose file of docs/deploy as Docker would,
// for tests that hold both to the program. Only tests import it.
//
// Rules that hold here:
//   - a key of the compose file that is not known here is refused: it may be mistyped;
//   - what can't be read as Docker reads it ends the test.
package deploytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Dir is docs/deploy of this module, above the working directory.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "docs", "deploy")
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("there is no go.mod above the working directory")
		}
	}
}

// Stage is one FROM of a Dockerfile, and what follows.
type Stage struct {
	From, Name string
	Steps      []Step
}

// Step is one instruction: COPY --from=build /a /b has the flag from, and the words /a /b.
type Step struct {
	Name  string // upper case
	Flags map[string]string
	Text  string
}

// Of are the steps by that name.
func (s Stage) Of(name string) []Step {
	return slices.DeleteFunc(slices.Clone(s.Steps), func(one Step) bool { return one.Name != name })
}

// Exec is the one step by that name in its exec form, which has no shell between the
// program and its signals.
func (s Stage) Exec(t testing.TB, name string) (words []string) {
	t.Helper()
	all := s.Of(name)
	if len(all) != 1 {
		t.Fatalf("%d times %s, want one", len(all), name)
	}
	if err := json.Unmarshal([]byte(all[0].Text), &words); err != nil {
		t.Fatalf("%s %s is not in exec form: %v", name, all[0].Text, err)
	}
	return words
}

// Env is what ENV sets, as NAME=VALUE words without quotes.
func (s Stage) Env() map[string]string {
	env := map[string]string{}
	for _, one := range s.Of("ENV") {
		for word := range strings.FieldsSeq(one.Text) {
			name, value, _ := strings.Cut(word, "=")
			env[name] = value
		}
	}
	return env
}

// Dockerfile reads docs/deploy/Dockerfile.
func Dockerfile(t testing.TB) (stages []Stage) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Dir(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			text.WriteString(line)
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(text.String(), "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		step := Step{Name: strings.ToUpper(words[0]), Flags: map[string]string{}}
		for words = words[1:]; len(words) > 0 && strings.HasPrefix(words[0], "--"); words = words[1:] {
			name, value, _ := strings.Cut(strings.TrimPrefix(words[0], "--"), "=")
			step.Flags[name] = value
		}
		step.Text = strings.Join(words, " ")
		switch {
		case step.Name == "FROM":
			stage := Stage{From: words[0]}
			if len(words) == 3 && strings.EqualFold(words[1], "as") {
				stage.Name = words[2]
			}
			stages = append(stages, stage)
		case len(stages) == 0:
			t.Fatalf("%s comes before FROM", step.Name)
		default:
			last := &stages[len(stages)-1]
			last.Steps = append(last.Steps, step)
		}
	}
	if len(stages) == 0 {
		t.Fatal("a Dockerfile without FROM")
	}
	return stages
}

// Compose is a compose file.
type Compose struct {
	Name     string
	Services map[string]Service
	Networks map[string]struct {
		Internal bool
		IPAM     struct{ Config []struct{ Subnet string } }
	}
	Volumes          map[string]struct{}
	Configs, Secrets map[string]struct{ File string }
	Hardened         yaml.Node `yaml:"x-hardened"`
	Server           yaml.Node `yaml:"x-server"`
}

// Service is one of its services.
type Service struct {
	Image string
	Build *struct {
		Context, Dockerfile string
		Args                map[string]string
	}
	User, Hostname  string
	Profiles        []string
	Command         []string
	Environment     map[string]string
	Secrets         []string // each is the file /run/secrets/NAME
	Configs         []struct{ Source, Target string }
	Volumes         []string // NAME:PATH
	TmpFS           []string
	Ports           []string // PUBLISHED:PORT
	Networks        Networks
	ExtraHosts      []string  `yaml:"extra_hosts"`
	DependsOn       yaml.Node `yaml:"depends_on"`
	Restart         string
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	Logging         struct{ Driver string }
	ULimits         struct{ NoFile int }
	StopSignal      string `yaml:"stop_signal"`
	StopGracePeriod string `yaml:"stop_grace_period"`
	SHMSize         string `yaml:"shm_size"`
	HealthCheck     *struct {
		Test        []string
		Interval    string
		StartPeriod string `yaml:"start_period"`
	}
}

// Networks are those of a service, with its address where it has one of its own.
type Networks map[string]string

// UnmarshalYAML takes a list of names, or a map with an ipv4_address.
func (n *Networks) UnmarshalYAML(node *yaml.Node) error {
	*n = Networks{}
	if node.Kind == yaml.SequenceNode {
		for _, one := range node.Content {
			(*n)[one.Value] = ""
		}
		return nil
	}
	var all map[string]struct {
		Address string `yaml:"ipv4_address"`
	}
	if err := node.Decode(&all); err != nil {
		return err
	}
	for name, one := range all {
		(*n)[name] = one.Address
	}
	return nil
}

// variable is ${NAME}, ${NAME:?why} or ${NAME:-default}.
var variable = regexp.MustCompile(`\$\{(\w+)(?::([?-])([^}]*))?\}`)

// ReadCompose reads docs/deploy/compose.yaml with the variables of an .env file; from and to
// are text that is to be there, and what stands in its place here.
func ReadCompose(t testing.TB, vars map[string]string, fromTo ...string) (c Compose) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Dir(t), "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for pair := range slices.Chunk(fromTo, 2) {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("compose.yaml has no %q: what is tested is not what is shipped", pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	text = variable.ReplaceAllStringFunc(text, func(found string) string {
		part := variable.FindStringSubmatch(found)
		value, ok := vars[part[1]]
		if !ok && part[2] != "-" {
			t.Errorf("compose.yaml wants %s of the .env file: %s", part[1], part[3])
		}
		if !ok {
			return part[3]
		}
		return value
	})
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatalf("compose.yaml: %v", err)
	}
	return c
}

// Secrets runs secrets.sh in a folder of its own, and gives that of the secrets and, by their
// names, who owns each: chown is a stand-in, for who tests need not be root.
func Secrets(t testing.TB) (dir string, owners map[string]string) {
	t.Helper()
	root := t.TempDir()
	script, err := os.ReadFile(filepath.Join(Dir(t), "secrets.sh"))
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(root, "chown.log")
	for path, text := range map[string]string{
		"secrets.sh": string(script),
		"bin/chown":  fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\n", log),
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "secrets.sh")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	owners = map[string]string{}
	for line := range strings.Lines(string(raw)) {
		owner, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		owners[filepath.Base(file)] = owner
	}
	return filepath.Join(root, "secrets"), owners
}

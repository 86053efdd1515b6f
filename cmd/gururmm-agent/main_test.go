package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/internal/help"
	"gururmm/wire"
)

var program string

// envProgram names a program that is built already, where there is no compiler.
const envProgram = "GURURMM_TEST_AGENT"

// TestMain builds the program once: what is tested is what people run.
func TestMain(m *testing.M) {
	if program = os.Getenv(envProgram); program != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "gururmm-agent")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "gururmm-agent")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// result of one call of the program.
type result struct {
	code        int
	out, errout string
}

func call(t *testing.T, env []string, args ...string) result {
	t.Helper()
	var out, errout bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &errout
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errout.String()}
}

func TestCommandLine(t *testing.T) {
	const dir = "%fresh%" // stands for a fresh one
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "agent.yaml"), []byte("log_levle: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	corrupt := filepath.Join(t.TempDir(), "corrupt")
	if err := os.Mkdir(corrupt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(corrupt, "identity.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		env    []string
		args   string
		code   int
		out    string // is contained
		errout string // is contained
		unix   bool   // only there
	}{
		{name: "version", args: "version", out: "dev\n"},
		{name: "help does not show the worker", args: "--help", out: "Available Commands"},
		{name: "run without an identity says the line to paste", args: "run --state-dir " + dir, code: 2,
			errout: "Enroll it with:\n  gururmm-agent enroll --server"},
		{name: "run with an identity that can't be read keeps it and says so", args: "run --state-dir " + corrupt, code: 1,
			errout: "can't be understood and was left as it is"},
		{name: "state directory by environment", env: []string{"GURURMM_AGENT_STATE_DIR=" + dir}, args: "run", code: 2, errout: dir},
		{name: "flag outranks environment", env: []string{"GURURMM_AGENT_STATE_DIR=/nowhere/at/all"}, args: "run --state-dir " + dir, code: 2, errout: dir},
		{name: "bad value in the environment is named", env: []string{"GURURMM_AGENT_SERVICE=perhaps"}, args: "run --state-dir " + dir, code: 1,
			errout: "GURURMM_AGENT_SERVICE"},
		{name: "unknown key of agent.yaml is named", args: "run --state-dir " + broken, code: 1, errout: "log_levle"},
		{name: "status without an agent", args: "status --state-dir " + dir, code: 2, errout: "is not running"},
		{name: "status of what is not enrolled advises enrolling", args: "status --state-dir " + dir, code: 2, errout: "Enroll it with:\n  gururmm-agent enroll --server"},
		{name: "status of an identity that can't be read says what helps", args: "status --state-dir " + corrupt, code: 2, errout: "Restore the file from a backup"},
		{name: "events of nothing", args: "events --state-dir " + corrupt, out: "Nothing is kept yet."},
		{name: "events of no directory", args: "events --state-dir /nowhere/at/all", code: 1, errout: filepath.FromSlash("/nowhere/at/all")},
		{name: "reconnect without an agent", args: "reconnect --state-dir " + dir, code: 1, errout: "is not running"},
		{name: "policy without an agent", args: "policy show --state-dir " + dir, code: 1, errout: "is not running"},
		{name: "completion is offered", args: "completion bash", out: "bash completion"},
		{name: "status without an agent is JSON if that was asked for", args: "status --json --state-dir " + dir, code: 2,
			out: `"mode": "not_running",` + "\n" + `  "error": "the agent is not running`},
		{name: "status of too long a path", unix: true, args: "status --status-socket /tmp/" + strings.Repeat("x", 120), code: 2, errout: "choose a shorter one"},
		{name: "worker by hand", args: "worker --state-dir " + dir, code: 2, errout: "not enrolled"},
		{name: "policy of what is not enrolled advises enrolling", args: "policy show --state-dir " + dir, code: 1, errout: "Enroll it with:\n  gururmm-agent enroll --server"},
		{name: "beacon test of no directory", args: "beacon test --state-dir " + dir, code: 2, errout: "not enrolled: there is no " + dir + ". Enroll it with:"},
		{name: "no directory can be made in a file", unix: true, args: "run --state-dir " + filepath.Join(broken, "agent.yaml", "below"), code: 1,
			errout: filepath.Join(broken, "agent.yaml") + " is a file, or lies below one, where a directory is wanted; name another directory with --state-dir"},
		{name: "a file is no state directory", args: "run --state-dir " + filepath.Join(broken, "agent.yaml"), code: 1, errout: "agent.yaml is not a directory but a file; name"},
		{name: "nobody answers below a file", unix: true, args: "status --state-dir " + filepath.Join(broken, "agent.yaml"), code: 2, errout: "is not running"},
		{name: "no token file", args: "enroll --server https://127.0.0.1:1 --token-file /nowhere/t --state-dir " + dir, code: 1, errout: "--token-file: there is no /nowhere/t\n"},
		{name: "no place for a bundle", args: "bundle --no-doctor --output /nowhere/b --state-dir " + corrupt, code: 1, errout: "no file /nowhere/b can be made: there is no /nowhere/b; choose another place"},
		{name: "a flag that a command does not heed", args: "start --state-dir " + dir, code: 1, errout: "there is no flag --state-dir"},
		{name: "a log level of what writes no log", args: "status --log-level debug", code: 1, errout: "there is no flag --log-level"},
		{name: "a flag before the command", args: "--state-dir " + dir + " status", code: 2, errout: dir},
		{name: "unknown flag", args: "run --frobnicate", code: 1, errout: "there is no flag --frobnicate"},
		{name: "unknown command", args: "frobnicate", code: 1, errout: `there is no command "frobnicate"`},
		{name: "enroll without a server", args: "enroll --token x --state-dir " + dir, code: 1, errout: "gururmm-agent: --server is required: https://HOST:8443\n"},
		{name: "enroll with two tokens", args: "enroll --server https://127.0.0.1:1 --token x --token-file y --state-dir " + dir, code: 1, errout: "not both"},
		{name: "enroll where nobody listens", args: "enroll --server https://127.0.0.1:1 --token SECRET --state-dir " + dir, code: 1, errout: "enroll:"},
	} {
		if tt.unix && runtime.GOOS == "windows" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			fresh := filepath.Join(t.TempDir(), "state")
			place := func(s string) string { return strings.ReplaceAll(s, dir, fresh) }
			for i, v := range tt.env {
				tt.env[i] = place(v)
			}
			tt.errout = place(tt.errout)
			got := call(t, tt.env, strings.Fields(place(tt.args))...)
			if got.code != tt.code || !strings.Contains(got.out, tt.out) || !strings.Contains(got.errout, tt.errout) {
				t.Fatalf("exit code %d, want %d\nstdout %q, want %q\nstderr %q, want %q", got.code, tt.code, got.out, tt.out, got.errout, tt.errout)
			}
			if strings.Contains(got.out+got.errout, "SECRET") {
				t.Fatal("a token was printed")
			}
			if strings.Contains(got.out, "The guardian's child") {
				t.Fatal("a hidden command is shown")
			}
		})
	}
}

// Who only looks makes no directory, and mends none: what is wrong is there to be seen.
func TestWhoLooksChangesNothing(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"identity.json": "{", "agent.yaml": "log_level: info\n"} {
		if err := os.WriteFile(filepath.Join(open, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"status", "status --json", "events", "policy show", "beacon test", "reconnect", "version", "doctor --only state,disk,instance,service,versions", "bundle --no-doctor --json --output " + filepath.Join(t.TempDir(), "b"),
	} {
		for _, dir := range []string{none, open} {
			got := call(t, nil, append(strings.Fields(line), "--state-dir", dir)...)
			if _, err := os.Lstat(none); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("%s made a state directory (%v)", line, err)
			}
			if runtime.GOOS == "windows" {
				continue
			}
			if fi, err := os.Stat(open); err != nil || fi.Mode().Perm() != 0o755 {
				t.Fatalf("%s changed a state directory: %v, %v", line, fi.Mode(), err)
			}
			if held, err := os.ReadDir(open); err != nil || len(held) != 2 {
				t.Fatalf("%s left %v, %v", line, held, err)
			}
			if line == "beacon test" && dir == open && !strings.Contains(got.errout, "mend that first (chmod 700") {
				t.Errorf("%s of an open directory: %q", line, got.errout)
			}
		}
	}
}

func TestRunWithoutAnIdentitySaysSoOnce(t *testing.T) {
	got := call(t, nil, "run", "--state-dir", filepath.Join(t.TempDir(), "state"))
	if said := got.out + got.errout; strings.Count(said, "not enrolled") != 1 {
		t.Errorf("said %q", said)
	}
}

func TestEnvironmentStandsForEveryFlag(t *testing.T) {
	t.Setenv("GURURMM_AGENT_TOKEN", "from-env")
	t.Setenv("GURURMM_AGENT_FORCE", "true")
	cmd, _, err := root(new(agent.Options)).Find([]string{"enroll"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags([]string{"--server", "https://given"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GURURMM_AGENT_SERVER", "https://from-env")
	if err := fromEnvironment(cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"token": "from-env", "force": "true", "server": "https://given"} {
		if got := cmd.Flag(name).Value.String(); got != want {
			t.Errorf("--%s is %q, want %q", name, got, want)
		}
	}
}

func TestStacksOfACrashAreShownAsTheyAre(t *testing.T) {
	var raw bytes.Buffer
	p := &pretty{raw: &raw}
	p.console.Out, p.console.NoColor = &raw, true
	for _, line := range []string{
		`{"level":"info","message":"hello","process":"worker"}` + "\n", "goroutine 1 [running]:\n", "{broken\n",
	} {
		if _, err := p.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	got := raw.String()
	if strings.Contains(got, `"level"`) || !strings.Contains(got, "hello") ||
		!strings.HasSuffix(got, "goroutine 1 [running]:\n{broken\n") {
		t.Fatalf("shown as %q", got)
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	wide, all := help.Wide(root(new(agent.Options)))
	if all < 300 {
		t.Errorf("only %d lines of help", all)
	}
	for _, line := range wide {
		t.Error(line)
	}
}

func TestExamplesAreTaken(t *testing.T) {
	wrong, all := help.Wrong(func() *cobra.Command { return root(new(agent.Options)) })
	if all < 15 {
		t.Errorf("only %d lines of examples", all)
	}
	for _, line := range wrong {
		t.Error(line)
	}
}

// What follows an enrollment fits the terminal, and each command can be copied by its line.
func TestWordsAfterEnrolling(t *testing.T) {
	got := agent.Enrolled{Agent: wire.NewID(), Server: wire.NewID(), Offset: 90 * time.Hour, ReadBy: 0o644}
	dir := "/srv/" + strings.Repeat("x", 36)
	for name, c := range map[string]struct {
		where    string
		packaged string
		commands []string
	}{
		"by hand":          {"", "", []string{"run", "install", "start"}},
		"elsewhere":        {" --state-dir " + dir, "", []string{"run --state-dir " + dir, "install --state-dir " + dir, "start"}},
		"with a package's": {"", "gururmm-agent start", []string{"settle", "start"}},
	} {
		var b bytes.Buffer
		tellEnrolled(&b, got, dir, c.where, c.packaged)
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if !strings.Contains(b.String(), "(mode 0644)") {
			t.Errorf("no word of a token that all could read:\n%s", b.String())
		}
		for _, command := range c.commands {
			if !strings.Contains(b.String(), "\n  gururmm-agent "+command+"\n") {
				t.Errorf("%s: no line with %q alone in\n%s", name, command, b.String())
			}
		}
	}
}

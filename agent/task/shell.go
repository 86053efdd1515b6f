package task

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gururmm/wire"
)

// interpreter says how a shell runs a script file. A file and not an argument: a
// script may be longer than an argument may be, and arguments are there for every
// user of the machine to read.
type interpreter struct {
	programs []string // the first that is there is taken
	args     []string // before the file
	ext      string
	prefix   string // of the file
}

const onWindows = runtime.GOOS == "windows"

var interpreters = map[wire.Shell]interpreter{
	wire.ShellSh:   {programs: []string{"sh"}, ext: ".sh"},
	wire.ShellBash: {programs: []string{"bash"}, ext: ".sh"},
	wire.ShellPowerShell: {
		programs: []string{"powershell", "pwsh"},
		args:     []string{"-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File"},
		ext:      ".ps1", prefix: "\ufeff", // else Windows PowerShell reads the file in the machine's code page
	},
	wire.ShellCmd: {programs: []string{"cmd"}, args: []string{"/d", "/c"}, ext: ".cmd", prefix: "@echo off\r\n"},
	// Unbuffered: output is to be seen as it comes.
	wire.ShellPython: {programs: pythons(), args: []string{"-u"}, ext: ".py"},
}

// pythons: on Windows "python3" may be a stub that opens a shop.
func pythons() []string {
	if onWindows {
		return []string{"python", "py"}
	}
	return []string{"python3", "python"}
}

func interpreterOf(s wire.Shell) (interpreter, bool) {
	if s == wire.ShellDefault {
		s = wire.ShellSh
		if onWindows {
			s = wire.ShellCmd
		}
	}
	in, ok := interpreters[s]
	return in, ok
}

// prepare writes the script, private, and makes the command that runs it. clean
// removes the script.
func prepare(runDir string, spare *ballast, c wire.Command) (cmd *exec.Cmd, clean func(), err error) {
	in, ok := interpreterOf(c.Shell)
	if !ok {
		return nil, nil, fmt.Errorf("unknown shell %q", c.Shell)
	}
	env := jobEnv(os.Environ())
	program, err := find(in.programs, env)
	if err != nil {
		return nil, nil, err
	}
	script := c.Script
	if onWindows {
		script = strings.ReplaceAll(strings.ReplaceAll(script, "\r\n", "\n"), "\n", "\r\n")
	}
	file := filepath.Join(runDir, c.ID+in.ext)
	write := func() error { return os.WriteFile(file, []byte(in.prefix+script), 0o600) }
	if err := inPlace(runDir, func() error { return spare.with(write) }); err != nil {
		_ = os.Remove(file)
		return nil, nil, fmt.Errorf("write the script: %w", err)
	}
	cmd = exec.Command(program, append(slices.Clone(in.args), file)...)
	cmd.Env = env
	cmd.Dir = workDir(env)
	return cmd, func() { _ = os.Remove(file) }, nil // what stays is swept at the next start
}

// find looks for the first of names in the PATH of env. Relative directories
// don't count.
func find(names []string, env []string) (string, error) {
	for _, name := range names {
		for _, dir := range filepath.SplitList(getenv(env, "PATH")) {
			if !filepath.IsAbs(dir) {
				continue
			}
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("no %s on this machine", strings.Join(names, " or "))
}

// passed are the variables that jobs inherit: what programs need to find their
// way, nothing that was meant for the agent alone.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS", "PROGRAMDATA", "ALLUSERSPROFILE",
	"PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432", "COMMONPROGRAMFILES", "COMMONPROGRAMFILES(X86)",
	"COMMONPROGRAMW6432", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PUBLIC", "USERNAME", "USERDOMAIN",
	"COMPUTERNAME", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_IDENTIFIER", "PSMODULEPATH",
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// jobEnv picks a job's environment from the agent's.
func jobEnv(all []string) []string {
	var env []string
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		if onWindows {
			name = strings.ToUpper(name)
		}
		if slices.Contains(passed, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, kv)
		}
	}
	if onWindows {
		return env
	}
	if getenv(env, "PATH") == "" { // a service manager may give none
		env = append(env, "PATH="+defaultPath)
	}
	if getenv(env, "HOME") == "" {
		if u, err := user.Current(); err == nil && u.HomeDir != "" {
			env = append(env, "HOME="+u.HomeDir)
		}
	}
	return env
}

// getenv reads env; names are without case on Windows.
func getenv(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if k, v, _ := strings.Cut(kv, "="); k == name || onWindows && strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// workDir is the home directory, or the root.
func workDir(env []string) string {
	home, root := getenv(env, "HOME"), "/"
	if onWindows {
		home, root = getenv(env, "USERPROFILE"), getenv(env, "SYSTEMDRIVE")+`\`
	}
	if info, err := os.Stat(home); err == nil && info.IsDir() {
		return home
	}
	return root
}

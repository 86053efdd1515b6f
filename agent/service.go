package agent

import (
	"bytes"
	"context"
	"embed"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ServiceName is what the service manager calls us.
const ServiceName = "gururmm-agent"

// ErrNotInstalled says that there is no service to control.
var ErrNotInstalled = errors.New("the service is not installed: " + ServiceName + " install")

// ErrRights says that only an administrator may do this.
var ErrRights = errors.New("run as root (administrator)")

// ErrPackaged says that a package owns the service definition.
var ErrPackaged = errors.New("the service is installed by a package")

// errNotHere says that hardening is systemd's.
var errNotHere = errors.New("--hardened is for systemd only")

// definitions are the texts that service managers read, the same for `install` and for packages.
//
//go:embed service
var definitions embed.FS

// Definitions are what [WriteDefinition] can write.
var Definitions = []string{"systemd", "systemd-hardened", "launchd"}

var definitionFiles = map[string]string{
	"systemd":          "service/gururmm-agent.service",
	"systemd-hardened": "service/hardened.conf",
	"launchd":          "service/gururmm-agent.plist",
}

// Service is what is to be installed: the program, and how it is to run.
type Service struct {
	Program  string // absolute
	Options  Options
	Hardened bool // systemd: with the stricter drop-in
}

// Args are the arguments of the service's process: all that was given here holds there.
func (s Service) Args() []string {
	args := []string{"run", "--service"}
	for _, f := range []struct{ name, value string }{
		{"--state-dir", s.Options.StateDir}, {"--status-socket", s.Options.StatusSocket},
		{"--status-group", s.Options.StatusGroup}, {"--log-level", s.Options.LogLevel},
		{"--enroll-file", s.Options.EnrollFile},
	} {
		if f.value != "" {
			args = append(args, f.name, f.value)
		}
	}
	return args
}

// Definition gives the text of one of [Definitions] for s.
func (s Service) Definition(kind string) (string, error) {
	file, known := definitionFiles[kind]
	if !known {
		return "", fmt.Errorf("no service definition %q: there are %s", kind, strings.Join(Definitions, ", "))
	}
	text, err := definitions.ReadFile(file)
	if err != nil {
		return "", err
	}
	var words, arguments []string
	for _, a := range append([]string{s.Program}, s.Args()...) {
		if strings.ContainsAny(a, "\n\r\x00") {
			return "", fmt.Errorf("%q has a line break: no service definition can hold that", a)
		}
		words = append(words, systemdWord(a))
		var x bytes.Buffer
		if err := xml.EscapeText(&x, []byte(a)); err != nil {
			return "", err
		}
		arguments = append(arguments, "\t\t<string>"+x.String()+"</string>\n")
	}
	ours, writable := "StateDirectory=gururmm-agent\nStateDirectoryMode=0700\n", ""
	if dir := s.Options.StateDir; dir != "" {
		ours, writable = "", "ReadWritePaths="+systemdWord(dir)+"\n"
	}
	// Not text/template: it calls methods by name, so the linker would have to keep
	// every method of every type in the program.
	return strings.NewReplacer(
		"@COMMAND@", strings.Join(words, " "),
		"@STATE_DIRECTORY@\n", ours, "@WRITABLE@\n", writable, "@ARGUMENTS@\n", strings.Join(arguments, ""),
	).Replace(string(text)), nil
}

// systemdWord quotes one word of a command line or path list: systemd.syntax(7),
// with specifiers and variables as themselves.
func systemdWord(word string) string {
	word = strings.NewReplacer(`%`, `%%`, `$`, `$$`, `\`, `\\`, `"`, `\"`).Replace(word)
	if word == "" || strings.ContainsAny(word, " \t'\";\\") {
		return `"` + word + `"`
	}
	return word
}

// manager is the platform's service manager.
type manager interface {
	installed() (bool, error)
	install(s Service) error
	uninstall() error
	start() error
	stop() error
	restart() error
}

// ServiceActions are what [ControlService] can do.
var ServiceActions = []string{"install", "uninstall", "start", "stop", "restart"}

// ControlService installs, uninstalls, starts, stops or restarts the service. Of s
// only install looks at all; an empty Program is the running one.
func ControlService(action string, s Service) error {
	if os.Geteuid() > 0 { // Windows: -1, and the service manager says it
		return fmt.Errorf("%s: %w", action, ErrRights)
	}
	m, err := newManager()
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	if s.Program == "" {
		if s.Program, err = os.Executable(); err != nil {
			return fmt.Errorf("%s: find the own program: %w", action, err)
		}
	}
	return control(m, action, s)
}

// control does what [ControlService] promises.
func control(m manager, action string, s Service) error {
	there, err := m.installed()
	switch {
	case err != nil:
	case action == "install":
		err = m.install(s)
	case !there:
		if action == "uninstall" {
			return nil
		}
		return ErrNotInstalled
	default:
		err = map[string]func() error{
			"uninstall": m.uninstall, "start": m.start, "stop": m.stop, "restart": m.restart,
		}[action]()
	}
	if errors.Is(err, os.ErrPermission) && !errors.Is(err, ErrRights) {
		err = fmt.Errorf("%w: %w", ErrRights, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

// commandWait bounds a call of a service manager's own tool. systemctl restart waits
// as long as the unit lets a stop take (20 s), and then a start (systemd's 90 s).
const commandWait = 2 * time.Minute

// pipeWait bounds the wait for output that a killed tool's own children still hold.
const pipeWait = 2 * time.Second

// command runs a service manager's own tool, and gives what it said where it failed.
func command(name string, args ...string) (string, error) {
	return commandWithin(commandWait, name, args...)
}

// commandWithin is [command] with its limit.
func commandWithin(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = pipeWait
	out, err := c.CombinedOutput()
	text := strings.TrimSpace(string(out))
	switch line := strings.Join(append([]string{name}, args...), " "); {
	case err == nil:
		return text, nil
	case ctx.Err() != nil:
		return text, fmt.Errorf("%s did not end within %v: is the service manager itself well? %w: %s", line, limit, ctx.Err(), text)
	default:
		return text, fmt.Errorf("%s: %w: %s", line, err, text)
	}
}

// writeDefinition writes a service definition, readable for all: there is no secret in it.
func writeDefinition(s Service, kind, file string) error {
	text, err := s.Definition(kind)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// remove removes files, and minds only what is not gone then.
func remove(files ...string) error {
	var failed error
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// startPackaged is StartPackaged where files tell it.
func startPackaged(root string) string {
	switch {
	case systemd{root: root}.packaged() != "":
		return startUnit
	case launchd{root: root}.packaged() != "":
		return startJob
	}
	return ""
}

// NoServiceManager says why there is none here that this program can ask, and what to do;
// nil: there is one.
func NoServiceManager() error {
	_, err := newManager()
	return err
}

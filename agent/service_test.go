package agent

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unwilling is a service manager that knows no service, and lets nobody change that.
type unwilling struct{ known bool }

func (u unwilling) installed() (bool, error) { return u.known, nil }
func (unwilling) install(Service) error      { return fmt.Errorf("write the unit: %w", os.ErrPermission) }
func (unwilling) uninstall() error           { return ErrPackaged }
func (unwilling) start() error               { return errors.New("exit status 5") }
func (unwilling) stop() error                { return os.ErrPermission }
func (unwilling) restart() error             { return nil }

func TestServiceErrorsSayWhatToDo(t *testing.T) {
	for action, want := range map[string]error{
		"start": ErrNotInstalled, "stop": ErrNotInstalled, "restart": ErrNotInstalled, "install": ErrRights, "uninstall": nil,
	} {
		if err := control(unwilling{}, action, Service{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", action, err, want)
		}
	}
	for action, want := range map[string]error{"stop": ErrRights, "restart": nil, "uninstall": ErrPackaged} {
		if err := control(unwilling{known: true}, action, Service{}); !errors.Is(err, want) {
			t.Errorf("%s of one that is installed: %v, want %v", action, err, want)
		}
	}
}

// tool plays systemctl or launchctl: it notes what it is told and knows what is loaded.
type tool struct {
	said   []string
	loaded bool
}

func (c *tool) run(name string, args ...string) (string, error) {
	line := name + " " + strings.Join(args, " ")
	c.said = append(c.said, line)
	switch {
	case strings.HasPrefix(line, "launchctl print") && !c.loaded:
		return "", errors.New("exit status 113")
	case strings.HasPrefix(line, "launchctl bootstrap"):
		c.loaded = true
	case strings.HasPrefix(line, "launchctl bootout"):
		c.loaded = false
	case strings.HasPrefix(line, "systemctl show"):
		return "not-found", nil
	}
	return "", nil
}

func (c *tool) did(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(c.said, want) {
		t.Errorf("told\n  %s\nwant\n  %s", strings.Join(c.said, "\n  "), strings.Join(want, "\n  "))
	}
	c.said = nil
}

var given = Service{
	Program: "/opt/guru rmm/agent",
	Options: Options{StateDir: "/srv/100%/a b", StatusSocket: "/run/s.sock", StatusGroup: "ops", LogLevel: "debug"},
}

func TestSystemdInstallPassesOnWhatWasGiven(t *testing.T) {
	c := &tool{}
	m := systemd{root: t.TempDir(), run: c.run}
	if there, err := m.installed(); there || err != nil {
		t.Fatalf("installed: %v, %v", there, err)
	}
	hardened := given
	hardened.Hardened = true
	if err := m.install(hardened); err != nil {
		t.Fatal(err)
	}
	c.did(t, "systemctl show --property=LoadState --value gururmm-agent.service",
		"systemctl daemon-reload", "systemctl enable gururmm-agent.service")
	unit := read(t, m.unit())
	want := `ExecStart="/opt/guru rmm/agent" run --service --state-dir "/srv/100%%/a b" ` +
		`--status-socket /run/s.sock --status-group ops --log-level debug` + "\n"
	if !strings.Contains(unit, want) {
		t.Errorf("unit:\n%s\nwant in it\n%s", unit, want)
	}
	if strings.Contains(unit, "StateDirectory=") {
		t.Error("the unit makes a state directory that is not the one in use")
	}
	if text := read(t, m.dropIn()); !strings.Contains(text, `ReadWritePaths="/srv/100%%/a b"`+"\n") {
		t.Errorf("the hardened service can't write its state:\n%s", text)
	}

	// Installed anew without it, it is no longer hardened; others' drop-ins stay.
	others := filepath.Join(filepath.Dir(m.dropIn()), "local.conf")
	if err := os.WriteFile(others, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.install(Service{Program: "/usr/bin/gururmm-agent"}); err != nil {
		t.Fatal(err)
	}
	if exists(m.dropIn()) || !strings.Contains(read(t, m.unit()), "StateDirectory=gururmm-agent\n") {
		t.Error("installed anew: want the platform's state directory, and no hardening")
	}
	c.said = nil
	if err := m.uninstall(); err != nil {
		t.Fatal(err)
	}
	c.did(t, "systemctl disable --now gururmm-agent.service", "systemctl daemon-reload", "systemctl reset-failed gururmm-agent.service")
	if exists(m.unit()) || !exists(others) {
		t.Error("uninstalled: want our unit gone and others' drop-in left")
	}
}

func TestPackagedUnitIsNotShadowed(t *testing.T) {
	for _, file := range packagedUnits {
		c := &tool{}
		m := systemd{root: t.TempDir(), run: c.run}
		packaged := filepath.Join(m.root, file)
		if err := os.MkdirAll(filepath.Dir(packaged), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(packaged, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := m.install(given); !errors.Is(err, ErrPackaged) || !strings.Contains(err.Error(), packaged) {
			t.Errorf("install beside %s: %v, want ErrPackaged with its name", file, err)
		}
		if err := m.uninstall(); !errors.Is(err, ErrPackaged) {
			t.Errorf("uninstall beside %s: %v, want ErrPackaged", file, err)
		}
		if start := startPackaged(m.root); start != startUnit {
			t.Errorf("beside %s it is started by %q", file, start)
		}
		if exists(m.unit()) || len(c.said) > 0 {
			t.Errorf("beside %s: something was changed: %q", file, c.said)
		}
	}
}

func TestLaunchdLoadsAndUnloads(t *testing.T) {
	c := &tool{}
	m := launchd{root: t.TempDir(), run: c.run}
	if err := m.install(Service{Hardened: true}); err == nil {
		t.Error("hardening was taken and ignored")
	}
	for _, do := range []func() error{func() error { return m.install(given) }, m.start, m.restart, m.start, m.stop, m.stop, m.uninstall} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	look := "launchctl print system/gururmm-agent"
	c.did(t, look, look, "launchctl enable system/gururmm-agent", "launchctl bootstrap system "+m.plist(),
		look, "launchctl kickstart -k system/gururmm-agent", look, look, "launchctl bootout system/gururmm-agent", look, look)
	if exists(m.plist()) {
		t.Error("the plist was left")
	}
	if start := startPackaged(m.root); start != "" {
		t.Errorf("without a package %q starts it", start)
	}
	// A package's job is the package's.
	program := filepath.Join(m.root, packagedMac)
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.install(given); !errors.Is(err, ErrPackaged) || exists(m.plist()) {
		t.Errorf("beside a package: %v", err)
	}
	if start := startPackaged(m.root); start != startJob {
		t.Errorf("beside a package it is started by %q", start)
	}
}

func TestPlistIsXMLWithTheArgumentsAsTheyAre(t *testing.T) {
	s := Service{Program: "/opt/<a> & b", Options: Options{LogLevel: `"x'`}}
	text, err := s.Definition("launchd")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if chars, ok := tok.(xml.CharData); ok {
			words = append(words, string(chars))
		}
	}
	for _, want := range append([]string{s.Program}, s.Args()...) {
		if !slices.Contains(words, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestAServiceDoesNotEndStopped(t *testing.T) {
	for kind, lines := range map[string][]string{
		"systemd": {"Restart=always\n", "StartLimitIntervalSec=0\n", "Type=notify\n", "WatchdogSec=", "OOMPolicy=continue\n"},
		"launchd": {"<key>RunAtLoad</key>\n\t<true/>", "<key>KeepAlive</key>\n\t<true/>", "<key>ThrottleInterval</key>\n\t<integer>2</integer>"},
	} {
		text, err := Service{Program: "/a"}.Definition(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if !strings.Contains(text, l) {
				t.Errorf("%s: no %q", kind, l)
			}
		}
	}
}

func TestNoDefinitionWithALineOfItsOwn(t *testing.T) {
	for _, kind := range Definitions {
		if text, err := (Service{Program: "/a\nExecStartPre=/b"}).Definition(kind); err == nil {
			t.Errorf("%s: a line break went into\n%s", kind, text)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

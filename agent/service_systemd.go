package agent

import (
	"fmt"
	"os"
	"path/filepath"
)

// systemd controls the service through systemctl.
type systemd struct {
	root string // of its files; "/" but in a test
	run  func(name string, args ...string) (string, error)
}

const (
	unitName = ServiceName + ".service"
	ownUnits = "etc/systemd/system"
	// startUnit is typed to start a package's unit, now and after a reboot.
	startUnit = "systemctl enable --now " + ServiceName
)

// packagedUnits are where a package puts its unit. One of our own in
// /etc/systemd/system would shadow it, and outlive its upgrades.
var packagedUnits = []string{"usr/lib/systemd/system/" + unitName, "lib/systemd/system/" + unitName}

// packaged gives the unit by which a package runs the service; "": none does.
func (m systemd) packaged() string {
	for _, file := range packagedUnits {
		if file = filepath.Join(m.root, file); exists(file) {
			return file
		}
	}
	return ""
}

func (m systemd) unit() string { return filepath.Join(m.root, ownUnits, unitName) }

func (m systemd) dropIn() string {
	return filepath.Join(m.root, ownUnits, unitName+".d", "hardened.conf")
}

func (m systemd) systemctl(args ...string) error {
	_, err := m.run("systemctl", args...)
	return err
}

func (m systemd) installed() (bool, error) {
	state, err := m.run("systemctl", "show", "--property=LoadState", "--value", unitName)
	return state != "not-found", err
}

func (m systemd) install(s Service) error {
	if file := m.packaged(); file != "" {
		hint := startUnit
		if s.Hardened {
			hint = ServiceName + " service-definition systemd-hardened gives the text for " + m.dropIn()
		}
		return fmt.Errorf("%w: %s; %s", ErrPackaged, file, hint)
	}
	if err := writeDefinition(s, "systemd", m.unit()); err != nil {
		return err
	}
	// An installation without it is one without it: a former drop-in goes.
	err := remove(m.dropIn())
	if s.Hardened {
		err = writeDefinition(s, "systemd-hardened", m.dropIn())
	}
	if err != nil {
		return err
	}
	if err := m.systemctl("daemon-reload"); err != nil {
		return err
	}
	return m.systemctl("enable", unitName)
}

func (m systemd) uninstall() error {
	if !exists(m.unit()) {
		return fmt.Errorf("%w: remove the package", ErrPackaged)
	}
	if err := m.systemctl("disable", "--now", unitName); err != nil {
		return err
	}
	if err := remove(m.unit(), m.dropIn()); err != nil {
		return err
	}
	os.Remove(filepath.Dir(m.dropIn())) // stays if others put drop-ins there
	if err := m.systemctl("daemon-reload"); err != nil {
		return err
	}
	m.systemctl("reset-failed", unitName) // fails if nothing ever failed
	return nil
}

func (m systemd) start() error   { return m.systemctl("start", unitName) }
func (m systemd) stop() error    { return m.systemctl("stop", unitName) }
func (m systemd) restart() error { return m.systemctl("restart", unitName) }

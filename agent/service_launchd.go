package agent

import (
	"fmt"
	"path/filepath"
)

// launchd controls the service through launchctl.
type launchd struct {
	root string // of its files; "/" but in a test
	run  func(name string, args ...string) (string, error)
}

// packagedMac is where the package for macOS puts the program: it brings the job, too.
const packagedMac = "Library/GuruRMM/bin/gururmm-agent"

// startJob is typed to start that job.
const startJob = ServiceName + " start"

const launchdTarget = "system/" + ServiceName

// packaged gives the program that a package runs as the service; "": none does.
func (m launchd) packaged() string {
	if file := filepath.Join(m.root, packagedMac); exists(file) {
		return file
	}
	return ""
}

func (m launchd) plist() string {
	return filepath.Join(m.root, "Library/LaunchDaemons", ServiceName+".plist")
}

func (m launchd) installed() (bool, error) { return exists(m.plist()), nil }

// loaded: launchd knows the service, so it runs, or is about to be started again.
func (m launchd) loaded() bool {
	_, err := m.run("launchctl", "print", launchdTarget)
	return err == nil
}

func (m launchd) install(s Service) error {
	if s.Hardened {
		return errNotHere
	}
	if file := m.packaged(); file != "" {
		return fmt.Errorf("%w: %s; %s", ErrPackaged, file, startJob)
	}
	if m.loaded() {
		return fmt.Errorf("it runs: %s stop first", ServiceName)
	}
	return writeDefinition(s, "launchd", m.plist())
}

func (m launchd) uninstall() error {
	if err := m.stop(); err != nil {
		return err
	}
	return remove(m.plist())
}

func (m launchd) start() error {
	if m.loaded() {
		return nil
	}
	// One that was disabled once stays so until it is enabled, and can't be loaded.
	if _, err := m.run("launchctl", "enable", launchdTarget); err != nil {
		return err
	}
	_, err := m.run("launchctl", "bootstrap", "system", m.plist())
	return err
}

// stop unloads the service: with KeepAlive it would be started again otherwise.
func (m launchd) stop() error {
	if !m.loaded() {
		return nil
	}
	_, err := m.run("launchctl", "bootout", launchdTarget)
	return err
}

func (m launchd) restart() error {
	if !m.loaded() {
		return m.start()
	}
	_, err := m.run("launchctl", "kickstart", "-k", launchdTarget)
	return err
}

package state

import (
	"errors"
	"os"
	"strings"
)

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(raw), err
}

// machineID: the D-Bus one is the older place of the same id. A container image
// may have neither; then the mainboard's UUID (root only) has to do.
func machineID() (string, error) {
	var errs []error
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid"} {
		raw, err := os.ReadFile(path)
		// "uninitialized" stands there in an image that has never been booted.
		if id := strings.TrimSpace(string(raw)); err == nil && id != "" && id != "uninitialized" {
			return id, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(append(errs, errors.New("this machine has no id (systemd-machine-id-setup makes one)"))...)
}

func osRelease() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}

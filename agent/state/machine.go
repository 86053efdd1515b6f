package state

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"gururmm/internal/fault"
	"gururmm/wire"
)

// MachinePresence says which machine and which boot of it this is, with a fresh
// instance id. Boot id and fingerprint are hashes: what identifies a machine to
// its own programs (machine-id(5), platform UUID, MachineGuid) never leaves it.
//
// What can't be found out is left empty and named in the error; the rest is good.
func MachinePresence(version string) (wire.Presence, error) {
	p := wire.Presence{
		Instance: wire.NewID(), Version: version,
		Platform: wire.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH, Release: osRelease()},
	}
	var errs []error
	host, err := os.Hostname()
	if err != nil {
		errs = append(errs, fmt.Errorf("host name: %w", err))
	}
	p.Platform.Hostname = host
	for _, f := range []struct {
		name, override string
		to             *string
		raw            func() (string, error)
	}{
		{"boot", "GURURMM_BOOT_ID", &p.BootID, bootID},
		{"machine", "GURURMM_FINGERPRINT", &p.Fingerprint, machineID},
	} {
		if set := fault.Env(f.override); set != "" {
			*f.to = set
			continue
		}
		raw, err := f.raw()
		if err == nil && strings.TrimSpace(raw) == "" {
			err = errors.New("empty")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s id: %w", f.name, err))
			continue
		}
		*f.to = hashID(f.name, raw)
	}
	return p, errors.Join(errs...)
}

// hashID follows machine-id(5): an application hashes the id with a fixed
// string of its own and never passes on the raw value.
func hashID(kind, raw string) string {
	sum := sha256.Sum256([]byte("gururmm/" + kind + "\n" + strings.ToLower(strings.TrimSpace(raw))))
	return hex.EncodeToString(sum[:16])
}

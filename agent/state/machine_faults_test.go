//go:build faults

package state_test

import (
	"testing"

	"gururmm/agent/state"
)

// In a fault build two agents on one machine can pass for two machines.
func TestMachinePresenceObeysFaults(t *testing.T) {
	t.Setenv("GURURMM_BOOT_ID", "boot-b")
	t.Setenv("GURURMM_FINGERPRINT", "machine-b")
	p, err := state.MachinePresence("1")
	if err != nil || p.BootID != "boot-b" || p.Fingerprint != "machine-b" {
		t.Errorf("%+v, %v", p, err)
	}
}

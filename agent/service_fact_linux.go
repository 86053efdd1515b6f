package agent

import (
	"context"
	"strings"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// serviceFact asks systemd for our unit.
func serviceFact(ctx context.Context) probe.Fact {
	m, err := newManager()
	if err != nil {
		return probe.Fact{Status: checkup.Skip, Seen: err.Error()}
	}
	unit, ok := m.(systemd)
	if !ok {
		return probe.Fact{Status: checkup.Skip, Seen: "the service manager is not known"}
	}
	out, err := asked(ctx, "systemctl", "show", "--property=LoadState,ActiveState,SubState,UnitFileState,FragmentPath,MainPID,NRestarts", unitName)
	if err != nil {
		return probe.Fact{Status: checkup.Warn, Seen: "systemctl does not answer: " + err.Error(), Do: "Look at systemd itself: systemctl status."}
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = value
	}
	return unit.fact(said)
}

package agent

import (
	"context"
	"fmt"
	"path/filepath"
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

// fact judges what systemd says of the unit.
func (m systemd) fact(said map[string]string) probe.Fact {
	own := said["FragmentPath"] == m.unit()
	origin := "a package's unit"
	if own {
		origin = "a unit of its own"
	}
	f := probe.Fact{
		Status: checkup.Pass,
		Seen:   fmt.Sprintf("systemd: %s (%s), %s, %s", said["ActiveState"], said["SubState"], said["UnitFileState"], origin),
		Figures: map[string]any{"active": said["ActiveState"], "enabled": said["UnitFileState"], "unit": said["FragmentPath"],
			"pid": said["MainPID"], "restarts": said["NRestarts"]},
	}
	if n := said["NRestarts"]; n != "" && n != "0" {
		f.Notes = append(f.Notes, "systemd has started it again "+n+" times since it was last started by hand")
	}
	var packaged []string
	for _, file := range packagedUnits {
		packaged = append(packaged, filepath.Join(m.root, file))
	}
	warn := func(do string) { f.Status, f.Do = checkup.Warn, do }
	switch {
	case said["LoadState"] == "not-found":
		f.Seen, f.Figures = "the service is not installed", nil
		warn("Install it, so that it runs after a reboot: gururmm-agent install && gururmm-agent start.")
	case said["LoadState"] == "masked":
		f.Status, f.Do = checkup.Fail, "Somebody has masked the unit: systemctl unmask "+ServiceName+"."
	case said["ActiveState"] == "failed":
		f.Status, f.Do = checkup.Fail, "Look why: journalctl -u "+ServiceName+"; then: systemctl restart "+ServiceName+"."
	case said["ActiveState"] != "active" && said["ActiveState"] != "activating" && said["ActiveState"] != "reloading":
		warn("It is installed and does not run: systemctl start " + ServiceName + ".")
	case said["UnitFileState"] != "enabled" && said["UnitFileState"] != "enabled-runtime":
		warn("It runs, but will not after a reboot: systemctl enable " + ServiceName + ".")
	case own && firstExisting(packaged) != "":
		warn(m.unit() + " hides the package's unit " + firstExisting(packaged) + " from systemd, and outlives its upgrades: remove it and run systemctl daemon-reload.")
	}
	return f
}

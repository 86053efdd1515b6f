package agent

import (
	"fmt"
	"strings"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// What a service manager says is asked on its own platform and judged here: the
// judging is tested on every one.

// notInstalled is a fact of each of them.
func notInstalled() probe.Fact {
	return probe.Fact{Status: checkup.Warn, Seen: "the service is not installed",
		Do: "Install it, so that it runs after a reboot: gururmm-agent install, then gururmm-agent start."}
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
	warn := func(do string) { f.Status, f.Do = checkup.Warn, do }
	switch {
	case said["LoadState"] == "not-found":
		return notInstalled()
	case said["LoadState"] == "masked":
		f.Status, f.Do = checkup.Fail, "Somebody has masked the unit: systemctl unmask "+ServiceName+"."
	case said["ActiveState"] == "failed":
		f.Status, f.Do = checkup.Fail, "Look why: journalctl -u "+ServiceName+"; then: systemctl restart "+ServiceName+"."
	case said["ActiveState"] != "active" && said["ActiveState"] != "activating" && said["ActiveState"] != "reloading":
		warn("It is installed and does not run: systemctl start " + ServiceName + ".")
	case said["UnitFileState"] != "enabled" && said["UnitFileState"] != "enabled-runtime":
		warn("It runs, but will not after a reboot: systemctl enable " + ServiceName + ".")
	case own && m.packaged() != "":
		warn(m.unit() + " hides the package's unit " + m.packaged() + " from systemd, and outlives its upgrades: remove it and run systemctl daemon-reload.")
	}
	return f
}

// fact judges what `launchctl print` says of the job: a page of "key = value" that
// promises no form; unloaded is how the tool failed where launchd does not know the job.
func (m launchd) fact(said string, unloaded error) probe.Fact {
	if !exists(m.plist()) {
		return notInstalled()
	}
	f := probe.Fact{Status: checkup.Pass, Figures: map[string]any{"plist": m.plist()}}
	if unloaded != nil {
		f.Status, f.Seen, f.Do = checkup.Warn, "installed ("+m.plist()+"), but not loaded: "+unloaded.Error(), "Start it: gururmm-agent start."
		return f
	}
	for line := range strings.Lines(said) {
		// The first is the job's own; those of its sockets and endpoints follow.
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && key == "state" {
			f.Seen = "launchd: " + value
			f.Figures["state"] = value
			if value != "running" {
				f.Status, f.Do = checkup.Warn, "It is loaded and does not run: gururmm-agent restart, then look at its log."
			}
			return f
		}
	}
	f.Seen = "launchd: loaded; whether it runs is not told"
	return f
}

// scmSaid is what Windows' service manager says of the service; its numbers are those
// of SERVICE_STATUS and QUERY_SERVICE_CONFIG in <winsvc.h>.
type scmSaid struct {
	state, startType uint32
	pid              uint32
	code             uint32 // with which it ended
}

// scmStates are the states by number, scmRunning and scmStarting two of them.
var scmStates = map[uint32]string{1: "stopped", scmStarting: "starting", 3: "stopping", scmRunning: "running", 5: "continuing", 6: "pausing", 7: "paused"}

const (
	scmStarting, scmRunning = 2, 4
	scmAutomatic            = 2 // start type: at boot, or soon after it
)

// fact judges it.
func (said scmSaid) fact() probe.Fact {
	state, known := scmStates[said.state]
	if !known {
		state = fmt.Sprintf("state %d", said.state)
	}
	f := probe.Fact{Status: checkup.Pass, Seen: fmt.Sprintf("service manager: %s, process %d", state, said.pid),
		Figures: map[string]any{"state": said.state, "start_type": said.startType, "pid": said.pid}}
	switch {
	case said.state != scmRunning && said.state != scmStarting:
		f.Status, f.Seen, f.Do = checkup.Warn, fmt.Sprintf("service manager: %s, code %d", state, said.code),
			"It is installed and does not run: gururmm-agent start."
	case said.startType != scmAutomatic:
		f.Status, f.Do = checkup.Warn, "It runs, but will not after a reboot: sc config "+ServiceName+" start= auto."
	}
	return f
}

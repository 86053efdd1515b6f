package agent

import (
	"context"
	"strings"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// serviceFact asks launchd for our job.
func serviceFact(ctx context.Context) probe.Fact {
	m := launchd{root: "/"}
	if !exists(m.plist()) {
		return probe.Fact{Status: checkup.Warn, Seen: "the service is not installed",
			Do: "Install it, so that it runs after a reboot: gururmm-agent install && gururmm-agent start."}
	}
	out, err := asked(ctx, "launchctl", "print", launchdTarget)
	if err != nil {
		return probe.Fact{Status: checkup.Warn, Seen: "installed (" + m.plist() + "), but not loaded", Do: "Start it: gururmm-agent start."}
	}
	f := probe.Fact{Status: checkup.Pass, Seen: "launchd: loaded", Figures: map[string]any{"plist": m.plist()}}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && key == "state" {
			f.Seen = "launchd: " + value
			f.Figures["state"] = value
			if value != "running" {
				f.Status, f.Do = checkup.Warn, "It is loaded and does not run: gururmm-agent restart, then look at its log."
			}
			break
		}
	}
	return f
}

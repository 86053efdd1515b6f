package agent

import (
	"context"
	"errors"
	"os/exec"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// serviceFact asks launchd for our job.
func serviceFact(ctx context.Context) probe.Fact {
	out, err := asked(ctx, "launchctl", "print", launchdTarget)
	if _, answered := errors.AsType[*exec.ExitError](err); err != nil && (!answered || ctx.Err() != nil) {
		return probe.Fact{Status: checkup.Warn, Seen: "launchctl does not answer: " + err.Error(), Do: "Look at launchd itself: launchctl print system."}
	}
	return launchd{root: "/"}.fact(out, err)
}

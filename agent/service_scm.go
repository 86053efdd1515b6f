package agent

import (
	"time"

	"gururmm/agent/guardian"
)

// What Windows' service manager is told, by `install` and by a package alike.
const (
	ServiceTitle       = "GuruRMM Agent"
	ServiceDescription = "GuruRMM endpoint agent: runs what the operator orders, and repairs its own link"
	// ShutdownWait is how long a shutdown of the machine waits for the service to stop.
	ShutdownWait = 2 * guardian.StopWithin
	// FailureReset is how long without a failure it takes to begin with the first delay again.
	FailureReset = time.Hour
)

// RestartDelays are the waits before it starts the service that has failed: soon at first, then
// with growing patience, and never not at all (the last is repeated).
var RestartDelays = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}

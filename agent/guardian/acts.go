package guardian

import (
	"cmp"
	"strings"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/selfcheck"
)

// What is ordered at the machine itself. The group of the status socket may look;
// to act takes root or the account that the agent runs as: a reconnect costs what
// is under way on the link, and is no business of whoever may read the status.

// maxReason bounds a reason, in bytes.
const maxReason = 200

// reconnectHere orders a new link, as an operator at the machine wants it.
func (g *Guardian) reconnectHere(req local.ReconnectRequest, now time.Time) local.Acted {
	a := local.Acted{Link: g.snapshot.Link.ID}
	if g.stopping {
		a.Refused = "the agent stops"
		return a
	}
	reason := strings.ToValidUTF8(req.Reason[:min(len(req.Reason), maxReason)], "")
	reason = "ordered on this machine: " + cmp.Or(strings.Join(strings.Fields(reason), " "), "no reason given")
	if !g.order(pipe.Order{Reconnect: &pipe.ReconnectOrder{Reason: reason, Alternative: req.Alternative}}) {
		a.Refused = "no worker runs that takes orders"
		return a
	}
	step := selfcheck.StepReconnect
	if req.Alternative {
		step = selfcheck.StepAlternative
	}
	g.ordered(step, reason, now)
	g.log.Warn("reconnect ordered on this machine", "reason", reason, "alternative", req.Alternative)
	return a
}

// beaconHere sends a report by the second door now.
func (g *Guardian) beaconHere() local.Acted {
	switch {
	case g.cfg.Door == nil:
		return local.Acted{Refused: "no second door is configured"}
	case g.stopping:
		return local.Acted{Refused: "the agent stops"}
	}
	g.beacon(causeRequest)
	return local.Acted{Link: g.snapshot.Link.ID}
}

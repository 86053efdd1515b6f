package blind

import (
	"fmt"
	"time"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/operator"
)

// busyFleet is how many agents stand beside the busy one.
const busyFleet = 20_000

// busyDay is how long an answer takes, at the slowest of 20, with as much as a server gives of
// an agent's day: all events that it gives at once, in a large fleet, and the case of a run
// with the most observations.
func busyDay(results []Result) (slowest time.Duration) {
	now := time.Now()
	h := evidence.Held{Now: now, Agent: operator.Agent{ID: "busy", Name: "busy", Site: "site", Version: "v1", Presence: "degraded", LastSeen: &now, LastVia: "text"}}
	for i := range operator.MaxEvents {
		h.Events = append(h.Events, operator.AgentEvent{Seq: int64(i), Agent: "busy", At: now.Add(-time.Duration(i) * time.Minute), Kind: operator.EventLink, From: "verified", To: "ended"})
	}
	for i := range busyFleet {
		h.Fleet = append(h.Fleet, operator.Agent{ID: fmt.Sprint(i), Site: "site", Version: "v1", Presence: "verified"})
	}
	var most diagnosis.Case
	for _, r := range results {
		if len(r.seen.Observations) > len(most.Observations) {
			most = r.seen
		}
	}
	for range 20 {
		began := time.Now()
		c := evidence.Case(h)
		for _, o := range most.Observations {
			o.Agent = "busy"
			c.Observations = append(c.Observations, o)
		}
		diagnosis.Diagnose(c)
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}

package guardian

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gururmm/agent/pipe"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// What is ordered at the machine itself. The group of the status socket may look;
// to act takes root or the account that the agent runs as: a reconnect costs what
// is under way on the link, and is no business of whoever may read the status.

// ReconnectRequest is the body of POST /reconnect.
type ReconnectRequest struct {
	Reason string `json:"reason,omitempty"`
	// Alternative: another endpoint, or the other IP family.
	Alternative bool `json:"alternative,omitempty"`
}

// Acted answers an order given at the socket.
type Acted struct {
	// Link is what was in place when the order was given; 0: none.
	Link wire.LinkID `json:"link,omitempty"`
	// Refused says why nothing is done; "": it is under way.
	Refused string `json:"refused,omitempty"`
}

// maxAct bounds the body of an order, maxReason a reason, in bytes.
const (
	maxAct    = 4 << 10
	maxReason = 200
)

// withActs adds what may be ordered to the status routes.
func (g *Guardian) withActs(rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.HandleFunc("POST /reconnect", forOwner(func(w http.ResponseWriter, r *http.Request) {
		var req ReconnectRequest
		if !readAct(w, r, &req) {
			return
		}
		a, err := askLoop[Acted](r.Context(), g, func(q ask, now time.Time) { q.reply <- g.reconnectHere(req, now) })
		answerJSON(w, a, err)
	}))
	mux.HandleFunc("POST /beacon", forOwner(func(w http.ResponseWriter, r *http.Request) {
		a, err := askLoop[Acted](r.Context(), g, func(q ask, now time.Time) { q.reply <- g.beaconHere() })
		answerJSON(w, a, err)
	}))
	return mux
}

// reconnectHere orders a new link, as an operator at the machine wants it.
func (g *Guardian) reconnectHere(req ReconnectRequest, now time.Time) Acted {
	a := Acted{Link: g.snapshot.Link.ID}
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
	g.ladder.Ordered(step, g.judgement.Verdict.Code, reason, now)
	g.log.Warn("reconnect ordered on this machine", "reason", reason, "alternative", req.Alternative)
	return a
}

// beaconHere sends a report by the second door now.
func (g *Guardian) beaconHere() Acted {
	switch {
	case g.cfg.Door == nil:
		return Acted{Refused: "no second door is configured"}
	case g.stopping:
		return Acted{Refused: "the agent stops"}
	}
	g.beacon(causeRequest)
	return Acted{Link: g.snapshot.Link.ID}
}

func readAct(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := decodeAct(http.MaxBytesReader(w, r.Body, maxAct), v); err != nil {
		refuseLocal(w, http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("order: %v", err))
		return false
	}
	return true
}

// Reconnect orders a new link; root and the agent's account may.
func (c *Client) Reconnect(ctx context.Context, r ReconnectRequest) (Acted, error) {
	return post[Acted](ctx, c, "/reconnect", r)
}

// Beacon orders a report by the second door; root and the agent's account may.
func (c *Client) Beacon(ctx context.Context) (Acted, error) {
	return post[Acted](ctx, c, "/beacon", struct{}{})
}

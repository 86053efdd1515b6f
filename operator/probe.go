package operator

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"gururmm/wire"
)

// Bounds of a probe of the way of commands.
const (
	MinProbeSize  = 64        // bytes; a signed message takes some hundred, and is then as small as it gets
	MaxProbeSize  = 512 << 10 // bytes; a script of the largest size and what is around it is less
	MaxProbeSizes = 16
)

// ProbeSizes are the sizes in bytes that are sent unless others are asked for: below, at and
// above what one packet carries, and up to what a command with the largest script takes.
var ProbeSizes = []int{128, 1 << 10, 1400, 4 << 10, 16 << 10, 64 << 10, wire.MaxScript}

// NewProbe asks for inert texts of a ladder of sizes to be sent down the way of commands.
type NewProbe struct {
	Channels []wire.Channel `json:"channels,omitempty"` // empty: both
	Sizes    []int          `json:"sizes,omitempty"`    // bytes; empty: [ProbeSizes]
}

// Check tells what is wrong with it, for people; nil: nothing.
func (n NewProbe) Check() error {
	for _, c := range n.Channels {
		if c != wire.ChannelLink && c != wire.ChannelOOB {
			return fmt.Errorf("channels: no %q; want link, oob or both of them", c)
		}
	}
	if len(n.Channels) > 2 {
		return fmt.Errorf("channels: want at most two")
	}
	if len(n.Sizes) > MaxProbeSizes {
		return fmt.Errorf("sizes: %d of them, at most %d are sent", len(n.Sizes), MaxProbeSizes)
	}
	for _, s := range n.Sizes {
		if s < MinProbeSize || s > MaxProbeSize {
			return fmt.Errorf("sizes: %d bytes; want %d to %d", s, MinProbeSize, MaxProbeSize)
		}
	}
	return nil
}

// Kinds of a probe's steps.
const (
	ProbePing = "ping" // a control frame with the ledger, of the link
	ProbeText = "text" // an inert command: by the link a text, by the second door a message of an answer
)

// What became of a step.
const (
	StepPassed      = "passed"      // it came whole, and its answer did, too
	StepLost        = "lost"        // proven by a ledger
	StepUnanswered  = "unanswered"  // it was read, and no answer came
	StepAltered     = "altered"     // it or its answer came changed
	StepCut         = "cut"         // the link ended while it was on its way, and nobody proved why
	StepSilent      = "silent"      // neither an answer nor a proof came in time
	StepUnwritten   = "unwritten"   // it never left the server
	StepRefused     = "refused"     // by the agent, which so has read it
	StepUnsupported = "unsupported" // refused by an agent that does not know probes
	StepUntried     = "untried"     // there was no way to send it by
)

// ProbeStep is one probe and how far it came.
type ProbeStep struct {
	Channel wire.Channel `json:"channel"`
	Kind    string       `json:"kind"`
	Bytes   int          `json:"bytes"` // of the text, but for the digits of its number on the link
	State   string       `json:"state"`
	// Written is when its last byte was given to the connection; absent: it was not.
	Written *time.Time `json:"written,omitempty"`
	// ReadBy tells who says that the agent has read it: "agent", in its answer, or "ledger";
	// absent: it is not known.
	ReadBy string `json:"read_by,omitempty"`
	// RoundTripMS is from written to its answer; absent: none came.
	RoundTripMS *float64 `json:"round_trip_ms,omitempty"`
	Link        string   `json:"link,omitempty"`    // that it was sent on
	Verdict     string   `json:"verdict,omitempty"` // what was proven of the link meanwhile
	Detail      string   `json:"detail,omitempty"`  // for people
}

// Failed reports whether it did not come through, as far as that was tried.
func (s ProbeStep) Failed() bool { return s.State != StepPassed && s.State != StepUntried }

// dropped reports whether the way down may have taken it.
func (s ProbeStep) dropped() bool {
	return slices.Contains([]string{StepLost, StepCut, StepSilent}, s.State)
}

// Probe is a ladder of them.
type Probe struct {
	ID        string      `json:"id"`
	Agent     string      `json:"agent"`
	AgentName string      `json:"agent_name"`
	By        string      `json:"by"`
	StartedAt time.Time   `json:"started_at"`
	EndedAt   time.Time   `json:"ended_at"`
	Steps     []ProbeStep `json:"steps"`
	// Outcomes by channel, of those that were asked for; see [Outcome].
	Outcomes map[wire.Channel]string `json:"outcomes"`
	// Stopped tells why it ended early; empty: it did not.
	Stopped string `json:"stopped,omitempty"`
}

// What a ladder comes to on one channel.
const (
	ProbePassed     = "passed"     // all that was tried
	ProbeLargeLost  = "large_lost" // all above a size, none below
	ProbeTinyLost   = "tiny_lost"  // all below a size, none above
	ProbeAllLost    = "all_lost"
	ProbeSomeLost   = "some_lost"  // in no order of size
	ProbeUnanswered = "unanswered" // all were read, none was answered
	ProbeUntried    = "untried"
	ProbeUnclear    = "unclear" // refusals, or what never left the server, are among it
)

// Outcome sums up the texts that went by a channel.
func Outcome(steps []ProbeStep, ch wire.Channel) string {
	var passed, dropped []int
	unanswered, all := 0, 0
	for _, s := range steps {
		if s.Channel != ch || s.Kind != ProbeText || s.State == StepUntried {
			continue
		}
		all++
		switch {
		case s.State == StepPassed:
			passed = append(passed, s.Bytes)
		case s.dropped():
			dropped = append(dropped, s.Bytes)
		case s.State == StepUnanswered:
			unanswered++
		}
	}
	switch {
	case all == 0:
		return ProbeUntried
	case len(passed) == all:
		return ProbePassed
	case unanswered == all:
		return ProbeUnanswered
	case len(dropped) == all:
		return ProbeAllLost
	case len(passed)+len(dropped) < all:
		return ProbeUnclear
	case slices.Max(passed) < slices.Min(dropped):
		return ProbeLargeLost
	case slices.Max(dropped) < slices.Min(passed):
		return ProbeTinyLost
	}
	return ProbeSomeLost
}

// Size says a number of bytes as people do.
func Size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// Sum tells in a sentence which sizes came through on a channel and which did not.
func Sum(steps []ProbeStep, ch wire.Channel) string {
	var order []string
	by := map[string][]string{}
	for _, s := range steps {
		if s.Channel != ch {
			continue
		}
		state := s.State
		if s.Verdict != "" {
			state += " (" + s.Verdict + ")"
		}
		what := Size(s.Bytes)
		if s.Kind == ProbePing {
			what = "ping"
		}
		if by[state] == nil {
			order = append(order, state)
		}
		by[state] = append(by[state], what)
	}
	var out []string
	for _, state := range order {
		out = append(out, state+": "+strings.Join(by[state], ", "))
	}
	return strings.Join(out, "; ")
}

// ProbeEvent is one line of a probe's stream: a step that has ended, what is waited for, or,
// at the end, all.
type ProbeEvent struct {
	Step    *ProbeStep `json:"step,omitempty"`
	Waiting string     `json:"waiting,omitempty"`
	Probe   *Probe     `json:"probe,omitempty"`
}

// Probe has the server probe the way of commands to an agent, and calls each with what
// happens. If ctx ends, or the stream breaks, the server stops probing.
func (c *Client) Probe(ctx context.Context, agent string, n NewProbe, each func(ProbeEvent)) (Probe, error) {
	ctx, heard, end := whileHeard(ctx)
	defer end()
	res, err := c.request(ctx, http.MethodPost, agentPath(agent, "/probe"), nil, n)
	if err != nil {
		return Probe{}, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(res.Body, maxAnswer))
	lines.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	for lines.Scan() {
		heard()
		var ev ProbeEvent
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			return Probe{}, fmt.Errorf("probe of %s: %w", agent, err)
		}
		if ev.Probe != nil {
			return *ev.Probe, nil
		}
		each(ev)
	}
	if cause := context.Cause(ctx); cause != nil {
		return Probe{}, cause
	}
	return Probe{}, fmt.Errorf("the probe's stream broke off (%w), and with it the probe; what it had come to is among the agent's events: gururmm events %s", cmp.Or(lines.Err(), io.ErrUnexpectedEOF), agent)
}

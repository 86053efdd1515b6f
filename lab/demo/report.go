package demo

import (
	"fmt"
	"strings"
	"time"

	"gururmm/operator"
)

// Step is one thing that happened.
type Step struct {
	AtMS  float64 `json:"at_ms"` // since the demo began
	Actor string  `json:"actor"` // operator, server, path, agent, door or demo
	What  string  `json:"what"`  // stable name: a verdict, a step of the ladder, a presence …
	Text  string  `json:"text"`  // for people
}

// Claim is something the demo is to show.
type Claim struct {
	Claim  string `json:"claim"`
	Held   bool   `json:"held"`
	Detail string `json:"detail,omitempty"`
}

// Figure is a measured value and the limit it must keep.
type Figure struct {
	Figure string  `json:"figure"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	// Limit is the most that is allowed; 0: none, for information.
	Limit float64 `json:"limit,omitempty"`
	Held  bool    `json:"held"`
}

// Report is what a demo found.
type Report struct {
	OK      bool     `json:"ok"`
	Summary string   `json:"summary"`
	Steps   []Step   `json:"steps"`
	Claims  []Claim  `json:"claims"`
	Figures []Figure `json:"figures"`
	// Rescued is the way of the command that was ordered while the path was broken.
	Rescued operator.Trace `json:"rescued"`
	Dir     string         `json:"dir,omitempty"` // kept state and logs
}

func (r *Report) claim(held bool, claim, detail string) {
	r.Claims = append(r.Claims, Claim{Claim: claim, Held: held, Detail: detail})
}

// figure notes a measured value; limit 0 is for information only.
func (r *Report) figure(name string, value float64, unit string, limit float64) {
	r.Figures = append(r.Figures, Figure{
		Figure: name, Value: value, Unit: unit, Limit: limit, Held: limit == 0 || value > 0 && value <= limit,
	})
}

func (r *Report) value(name string) float64 {
	for _, f := range r.Figures {
		if f.Figure == name {
			return f.Value
		}
	}
	return 0
}

// Names of the figures.
const (
	figureProof   = "loss proven after the first lost command was written"
	figureRescue  = "exec to stored result, both reconnects included"
	figureClimbed = "exec to stored result, out-of-band delivery on"
	figureHealthy = "exec to stored result on the healthy link"
	figureMended  = "link verified again after the path was mended"
	figureRSS     = "guardian and worker, RSS together"
	figurePSS     = "guardian and worker, PSS together"
	figureBinary  = "agent binary"
)

// finish sums up.
func (r *Report) finish() {
	r.OK = true
	var failed []string
	for _, c := range r.Claims {
		if !c.Held {
			failed = append(failed, c.Claim)
		}
	}
	for _, f := range r.Figures {
		if !f.Held {
			failed = append(failed, fmt.Sprintf("%s: %.0f %s, at most %.0f", f.Figure, f.Value, f.Unit, f.Limit))
		}
	}
	if len(failed) > 0 {
		r.OK = false
		r.Summary = "NOT HELD: " + strings.Join(failed, "; ") + "."
		return
	}
	r.Summary = fmt.Sprintf("All held: loss proven in %.0f ms, rescued in %.0f ms, next in %.0f ms, once each.",
		r.value(figureProof), r.value(figureRescue), r.value(figureClimbed))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

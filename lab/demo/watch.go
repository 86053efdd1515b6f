package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/selfcheck"
)

// watchEvery is how often the facts are asked for: a step is on the screen
// within a blink of being known.
const watchEvery = 100 * time.Millisecond

// watcher asks server and agent for news and tells them.
type watcher struct {
	*timeline
	stack *harness.Stack
	agent *harness.Agent

	presence string
	beacons  map[string]bool
	steps    []selfcheck.StepRecord
	reports  []oob.Report // as recorded, in order of their coming
	at       map[string]time.Time
}

// news asks once and tells what is new. Errors are left for the next time: a
// process that does not answer is seen by those who wait for facts.
func (w *watcher) news(ctx context.Context) {
	w.newBeacons(ctx)
	w.newSteps(ctx)
	w.newPresence(ctx)
}

func (w *watcher) newBeacons(ctx context.Context) {
	recorded, err := w.stack.Client().Beacons(ctx, w.agent.ID, 0)
	if err != nil {
		return
	}
	for _, b := range slices.Backward(recorded) { // newest first, as listed
		if w.beacons[b.ReportID] {
			continue
		}
		w.beacons[b.ReportID] = true
		var r oob.Report
		if json.Unmarshal(b.Report, &r) != nil {
			continue
		}
		w.reports = append(w.reports, r)
		if r.Verdict.Severity == selfcheck.SeverityWell || r.Verdict.Severity == selfcheck.SeverityUnknown {
			continue
		}
		w.tell(r.At, "agent", string(r.Verdict.Code), "%s: %s", r.Verdict.Code, r.Verdict.Sentence)
		text := "beacon recorded by the second door"
		if v := b.View; v != nil {
			text += fmt.Sprintf("; the server's side: presence %s, %d owed", v.Presence, v.Owed)
			for _, l := range v.Links {
				text += fmt.Sprintf(", link %.4s… wrote %d", l.Link, l.Written)
				if l.PeerRead != nil {
					text += fmt.Sprintf(", agent read %d", *l.PeerRead)
				}
			}
		}
		w.tell(b.ReceivedAt, "door", "beacon", "%s", text)
	}
}

var stepWords = map[selfcheck.StepKind]string{
	selfcheck.StepReconnect:   "forced reconnect",
	selfcheck.StepAlternative: "try another endpoint or IP family",
	selfcheck.StepOOB:         "commands go by the second door now",
	selfcheck.StepRetryLink:   "try the link again",
	selfcheck.StepRelease:     "the link is trusted again",
}

func (w *watcher) newSteps(ctx context.Context) {
	st, err := w.agent.Status(ctx)
	if err != nil {
		return
	}
	for _, s := range st.Steps {
		if slices.ContainsFunc(w.steps, func(k selfcheck.StepRecord) bool { return k.At.Equal(s.At) && k.Kind == s.Kind }) {
			continue
		}
		w.steps = append(w.steps, s)
		words := stepWords[s.Kind]
		if words == "" {
			words = string(s.Kind)
		}
		w.tell(s.At, "agent", string(s.Kind), "%s: %s", words, s.Reason)
	}
}

func (w *watcher) newPresence(ctx context.Context) {
	a, err := w.stack.Client().Agent(ctx, w.agent.ID)
	if err != nil || a.Presence == w.presence {
		return
	}
	w.presence = a.Presence
	text := "sees the endpoint as " + a.Presence
	if a.Presence == "verified" {
		text += ": text and probes of 3 sizes went both ways"
	}
	w.tell(time.Now(), "server", "presence."+a.Presence, "%s", text)
}

// until tells news until ask says true.
func (w *watcher) until(ctx context.Context, what string, within time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		ok, err := ask()
		w.news(ctx)
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("waited %v for %s: %w", within, what, err)
		}
	}
}

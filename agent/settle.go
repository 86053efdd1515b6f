package agent

import (
	"context"
	"errors"
	"time"

	"gururmm/agent/local"
	"gururmm/selfcheck"
)

// settleEvery is how often the guardian is asked meanwhile.
const settleEvery = 500 * time.Millisecond

// Outcomes of [Settle]; scripts branch on them.
const (
	SettledVerified = "verified"     // text went both ways on this version's link
	SettledWaits    = "not_enrolled" // the service runs, and waits to be enrolled
	SettledNot      = "not_verified" // it guards, and no link is verified
	SettledSilent   = "not_running"  // nobody answers
)

// Settled is what an installation came to.
type Settled struct {
	Outcome   string `json:"outcome"`
	Installed string `json:"installed"`         // version of the installed program
	Guards    string `json:"guards,omitempty"`  // version that guards; another one: an update, or a process of before
	Agent     string `json:"agent,omitempty"`   // id at the server
	Reason    string `json:"reason,omitempty"`  // why it is not verified, for people
	Action    string `json:"action,omitempty"`  // what to do about it
	Retried   bool   `json:"retried,omitempty"` // it goes on trying by itself
}

// Settle asks the service until the version installed has a verified link, or waits for what
// will not come by itself, or ctx ends: an installation is done when the link is, and not when
// the files are there. A newer version that guards by an update stands for the installed one.
func Settle(ctx context.Context, ask func(context.Context) (local.Status, error), installed string) Settled {
	got := Settled{Outcome: SettledSilent, Installed: installed}
	for {
		st, err := ask(ctx)
		if err == nil || ctx.Err() == nil { // else the last answer says more than the end of the time
			got = settled(st, err, installed)
		}
		if got.Outcome == SettledVerified || got.Outcome == SettledWaits && !got.Retried {
			return got
		}
		select {
		case <-ctx.Done():
			return got
		case <-time.After(settleEvery):
		}
	}
}

// settled judges one answer.
func settled(st local.Status, err error, installed string) Settled {
	got := Settled{Installed: installed}
	if err != nil {
		got.Outcome, got.Reason = SettledSilent, err.Error()
		if silent, ok := errors.AsType[*Silence](err); ok {
			got.Action = silent.Do()
		}
		return got
	}
	got.Guards, got.Agent = st.Version, st.Agent
	byUpdate := st.Update != nil && st.Update.Source == local.SourceUpdated
	switch {
	case st.Version != installed && !byUpdate:
		got.Outcome, got.Reason = SettledNot, "the process of version "+st.Version+" still guards"
		got.Action = "Restart the service: gururmm-agent restart"
	case st.Mode == local.ModeNotEnrolled:
		got.Outcome, got.Retried = SettledWaits, st.Enrollment == local.EnrollTrying
		got.Reason, got.Action = st.Detail, st.Verdict.Action
	case st.Mode == local.ModeGuarding && st.Snapshot.Link.Phase == selfcheck.PhaseVerified:
		got.Outcome = SettledVerified
	default:
		got.Outcome, got.Reason, got.Action, got.Retried = SettledNot, st.Verdict.Sentence, st.Verdict.Action, true
		if got.Reason == "" {
			got.Reason = "nothing is known of the link yet"
		}
	}
	return got
}

package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/local"
	"gururmm/selfcheck"
)

// An installation is done once the link of its own version is verified, and what will not
// come by itself is not waited for.
func TestSettleWaitsForWhatMayCome(t *testing.T) {
	guarding := func(version string, phase selfcheck.Phase) local.Status {
		st := local.Status{Mode: local.ModeGuarding, Version: version, Agent: "a1"}
		st.Snapshot.Link.Phase = phase
		return st
	}
	waiting := func(how local.Enrollment) local.Status {
		return local.Status{Mode: local.ModeNotEnrolled, Version: "v2", Enrollment: how, Detail: "not enrolled"}
	}
	updated := guarding("v3", selfcheck.PhaseVerified)
	updated.Update = &local.UpdateStatus{Source: local.SourceUpdated}
	const limit = time.Minute
	for name, c := range map[string]struct {
		says []local.Status // one each ask, the last for ever; none: nobody answers
		want string
		took time.Duration
	}{
		"verified at once":     {[]local.Status{guarding("v2", selfcheck.PhaseVerified)}, SettledVerified, 0},
		"verified soon":        {[]local.Status{guarding("v2", ""), guarding("v2", ""), guarding("v2", selfcheck.PhaseVerified)}, SettledVerified, 2 * settleEvery},
		"the one before":       {[]local.Status{guarding("v1", selfcheck.PhaseVerified)}, SettledNot, limit},
		"after the one before": {[]local.Status{guarding("v1", selfcheck.PhaseVerified), guarding("v2", selfcheck.PhaseVerified)}, SettledVerified, settleEvery},
		"by an update":         {[]local.Status{updated}, SettledVerified, 0},
		"never verified":       {[]local.Status{guarding("v2", "")}, SettledNot, limit},
		"nothing ordered":      {[]local.Status{waiting(local.EnrollNone)}, SettledWaits, 0},
		"refused":              {[]local.Status{waiting(local.EnrollTrying), waiting(local.EnrollRefused)}, SettledWaits, settleEvery},
		"no server":            {[]local.Status{waiting(local.EnrollTrying)}, SettledWaits, limit},
		"enrolls":              {[]local.Status{waiting(local.EnrollTrying), guarding("v2", ""), guarding("v2", selfcheck.PhaseVerified)}, SettledVerified, 2 * settleEvery},
		"nobody":               {nil, SettledSilent, limit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				asked, began := 0, time.Now()
				got := Settle(ctx, func(ctx context.Context) (local.Status, error) {
					if ctx.Err() != nil {
						return local.Status{}, ctx.Err()
					}
					if len(c.says) == 0 {
						return local.Status{}, errors.New("not running")
					}
					asked++
					return c.says[min(asked, len(c.says))-1], nil
				}, "v2")
				if took := time.Since(began); got.Outcome != c.want || took != c.took || got.Installed != "v2" {
					t.Errorf("%+v after %v, want %s after %v", got, took, c.want, c.took)
				}
				if got.Outcome != SettledVerified && got.Reason == "" {
					t.Error("no reason")
				}
			})
		})
	}
}

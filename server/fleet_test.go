package server

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Many agents that come to one verdict within a short time are told so: each spreads its
// recovery, those without it too, until it is over.
func TestAVerdictOfManyPacesRecovery(t *testing.T) {
	for _, recovery := range []string{"spread", "hold", "as-usual"} {
		t.Run(recovery, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, true, func(c *Config) { c.FleetRecovery = recovery })
				const agents, ill = 12, 6
				var all []*machine
				say := func(ill int, verdict string) {
					for i, m := range all {
						hb := wire.Heartbeat{Verdict: "ok"}
						if i < ill {
							hb.Verdict = verdict
						}
						m.send(wire.TypeHeartbeat, hb, false)
					}
					time.Sleep(10 * time.Second) // two looks
				}
				paced := func() (n int) {
					for _, m := range all {
						if p := m.policy.Load(); p.SpreadRecoveryMS > 0 || p.HoldRecovery {
							n++
						}
					}
					return n
				}
				told := func() []operator.Fleetwide {
					return operate[operator.List[operator.Fleetwide]](n, "GET", "/v1/fleet", nil).Items
				}
				for i := range agents {
					time.Sleep(2 * time.Second) // enrollments are limited for each address
					id := n.enroll(fmt.Sprint("m", i))
					all = append(all, n.link(id, presence(fmt.Sprint("i", i), fmt.Sprint("b", i), fmt.Sprint("f", i))).awaitVerified())
				}
				defer func() {
					for _, m := range all {
						m.close()
					}
					synctest.Wait()
				}()
				say(0, "")
				say(4, "link.ping.foreign") // too few
				if got := told(); len(got) != 0 || paced() != 0 {
					t.Fatalf("4 of %d: %+v, %d paced", agents, got, paced())
				}
				say(0, "")
				say(ill, "link.ping.foreign")
				got := told()
				if len(got) != 1 || got[0].Verdict != "link.ping.foreign" || got[0].Agents != ill || got[0].Of != agents || got[0].Recovery != recovery || got[0].Title == "" {
					t.Fatalf("%d of %d: %+v", ill, agents, got)
				}
				want := agents
				if recovery == "as-usual" {
					want = 0
				}
				if paced() != want {
					t.Errorf("%d agents pace their recovery, want %d", paced(), want)
				}
				if p := all[0].policy.Load(); p.HoldRecovery != (recovery == "hold") || (p.SpreadRecoveryMS > 0) != (recovery == "spread") {
					t.Errorf("told %+v", p)
				}
				for _, m := range []*machine{all[0], all[agents-1]} { // one that is ill, and one that is well
					env := n.beaconOf(m)
					if slices.Contains(env, wire.TypeConfigUpdate) != (m == all[0] && recovery != "as-usual") {
						t.Errorf("a beacon was answered with %v", env)
					}
				}
				say(0, "")
				if len(told()) != 1 {
					t.Error("it is over after a moment")
				}
				for range 7 {
					say(0, "")
				}
				if got := told(); len(got) != 0 || paced() != 0 {
					t.Errorf("it is never over: %+v, %d paced", got, paced())
				}
				if nacks := len(all[0].nacks); nacks != 0 {
					t.Errorf("%d messages were refused", nacks)
				}
			})
		})
	}
}

// beaconOf sends a beacon of m's agent, and gives what types of messages it was answered with.
func (n *node) beaconOf(m *machine) (types []wire.Type) {
	n.t.Helper()
	verdict := selfcheck.Code(n.agent(m.id).Verdict)
	status, raw := n.post(m.id, "/v1/oob/beacon", oob.Report{
		Schema: oob.SchemaVersion, ReportID: wire.NewID(), Agent: m.id.Agent, At: time.Now(), Presence: m.who,
		Verdict: selfcheck.Verdict{Code: verdict},
	})
	var resp wire.PollResponse
	if err := json.Unmarshal(raw, &resp); err != nil || status != 200 {
		n.t.Fatalf("beacon: %d %s", status, raw)
	}
	for _, env := range resp.Downstream {
		types = append(types, env.Type)
	}
	return types
}

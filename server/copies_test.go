package server

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"crypto/ed25519"
	"crypto/rand"

	"github.com/golang-jwt/jwt/v5"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// callAs asks by the second door as one copy of the identity.
func (n *node) callAs(id identity, c wire.Copy, path string, body any) (int, []byte) {
	n.t.Helper()
	now := time.Now()
	raw, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, struct {
		jwt.RegisteredClaims
		wire.Copy
	}{jwt.RegisteredClaims{
		Subject: id.Agent, Audience: jwt.ClaimStrings{id.Server}, ID: wire.NewID(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
	}, c}).SignedString(id.key)
	if err != nil {
		n.t.Fatal(err)
	}
	sent, err := json.Marshal(body)
	if err != nil {
		n.t.Fatal(err)
	}
	status, _, answer := n.request("POST", n.Info().OOBURL+path, raw, sent)
	return status, answer
}

func (n *node) pollAs(id identity, c wire.Copy, wait time.Duration) wire.PollResponse {
	n.t.Helper()
	status, raw := n.callAs(id, c, "/v1/oob/poll", wire.PollRequest{Instance: c.Instance, Deliver: true, WaitMS: wait.Milliseconds()})
	var p wire.PollResponse
	if err := json.Unmarshal(raw, &p); err != nil || status != http.StatusOK {
		n.t.Fatalf("poll as %s: %d %s", c.Instance, status, raw)
	}
	return p
}

func types(envs []wire.Envelope) (all []wire.Type) {
	for _, e := range envs {
		all = append(all, e.Type)
	}
	return all
}

func machineCopy(instance, boot, fingerprint string, before ...string) wire.Copy {
	return wire.Copy{Instance: instance, BootID: boot, Fingerprint: fingerprint, Hostname: "machine-" + fingerprint, Before: before}
}

// Two guardians poll with one identity and neither has a link: what waits is nobody's.
func TestTwoMachinesByTheSecondDoorGetNothing(t *testing.T) {
	for name, other := range map[string]wire.Copy{
		"of two fingerprints":           machineCopy("i2", "b2", "f2"),
		"that look the same (VM image)": machineCopy("i2", "b2", "f1"),
		"of one boot (two directories)": machineCopy("i2", "b1", "f1"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, true, nil)
				defer n.stop()
				id := n.enroll("alpha")
				first := machineCopy("i1", "b1", "f1")
				n.pollAs(id, first, 0)
				time.Sleep(5 * time.Second)
				n.pollAs(id, other, 0)
				time.Sleep(3 * time.Second)
				if p := n.pollAs(id, first, 0); p.View == nil || p.View.Presence != "duplicate" {
					t.Errorf("the first one is told %+v", p.View)
				}
				if p := n.pollAs(id, other, 0); p.View == nil || p.View.Presence != "duplicate" {
					t.Errorf("the second one is told %+v", p.View)
				}
				// Each machine's own host name leads to the identity, not only the one it is known by.
				for _, name := range []string{"alpha", first.Hostname, strings.ToUpper(other.Hostname)} {
					if a := operate[operator.Agent](n, "GET", "/v1/agents/"+name, nil); a.ID != id.Agent {
						t.Errorf("%s leads to %q", name, a.ID)
					}
				}
				cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", ExpiresInMS: 3_600_000})
				for range 20 {
					for _, c := range []wire.Copy{first, other} {
						if p := n.pollAs(id, c, time.Second); len(p.Downstream) != 0 {
							t.Fatalf("%s was handed %v", c.Instance, types(p.Downstream))
						}
					}
				}
				a := n.agent(id)
				if a.Presence != "duplicate" || a.Verdict != string(selfcheck.CodeRouteDuplicate) || len(a.Copies) != 2 {
					t.Errorf("the operator sees %s %s %+v", a.Presence, a.Verdict, a.Copies)
				}
				if got := operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil); got.State != wire.StatePending || got.Attempts != 0 {
					t.Errorf("%+v", got)
				}
				// One falls silent: after a while the other one is alone.
				began := time.Now()
				for len(n.pollAs(id, first, time.Second).Downstream) == 0 {
					if time.Since(began) > 2*time.Minute {
						t.Fatal("the one that is left is never taken for alone")
					}
				}
				if time.Since(began) < 40*time.Second {
					t.Errorf("taken for alone after %v", time.Since(began))
				}
			})
		})
	}
}

// An image that runs in turns with its original, never at once with it, is two machines too.
func TestMachinesInTurnsAreTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		first, second := machineCopy("i1", "b1", "f1"), machineCopy("i2", "b2", "f1")
		n.pollAs(id, first, 0)
		time.Sleep(time.Hour)
		n.pollAs(id, second, 0)
		if a := n.agent(id); a.Presence == "duplicate" {
			t.Error("a reboot was taken for a second machine")
		}
		operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", ExpiresInMS: 36_000_000})
		time.Sleep(time.Hour)
		if p := n.pollAs(id, first, 0); len(p.Downstream) != 0 || p.View.Presence != "duplicate" {
			t.Errorf("the first one came back and was handed %v, told %+v", types(p.Downstream), p.View)
		}
		if a := n.agent(id); a.Presence != "duplicate" {
			t.Errorf("presence %s", a.Presence)
		}
	})
}

// A machine that came back after a reboot or restart is no other one.
func TestReturnIsNoDuplicate(t *testing.T) {
	for name, again := range map[string]wire.Copy{
		"service restarted": machineCopy("i2", "b1", "f1", "i1"),
		"machine rebooted":  machineCopy("i2", "b2", "f1", "i1"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, true, nil)
				defer n.stop()
				id := n.enroll("alpha")
				n.pollAs(id, machineCopy("i1", "b1", "f1"), 0)
				operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
				began := time.Now()
				for len(n.pollAs(id, again, time.Second).Downstream) == 0 {
					if time.Since(began) > 15*time.Second {
						t.Fatal("what waits is not handed out")
					}
				}
				if a := n.agent(id); a.Presence == "duplicate" || a.Copies != nil {
					t.Errorf("%s %+v", a.Presence, a.Copies)
				}
			})
		})
	}
}

// The operator chooses: the kept machine gets what waits, the other one alone is
// told to take a new identity, and becomes another agent.
func TestResolve(t *testing.T) {
	for name, other := range map[string]wire.Copy{
		"of two fingerprints": machineCopy("i2-other", "b2", "f2", "i0"),
		"that look the same":  machineCopy("i2-other", "b2", "f1", "i0"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, true, nil)
				id := n.enroll("alpha")
				kept := machineCopy("i1-kept", "b1", "f1", "i0")
				for range 2 {
					n.pollAs(id, kept, 0)
					n.pollAs(id, other, 0)
				}
				operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
				status, _, raw := n.request("POST", n.Info().URL+"/v1/agents/"+id.Agent+"/resolve", n.Info().OperatorToken, []byte(`{"keep":"nobody"}`))
				if status != http.StatusNotFound {
					t.Errorf("an unknown instance: %d %s", status, raw)
				}
				r := operate[operator.Resolution](n, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: "i1-k"})
				if r.Kept.Instance != kept.Instance || len(r.Others) != 1 || r.Others[0].Instance != other.Instance {
					t.Fatalf("resolution: %+v", r)
				}
				n = n.restarted() // it is on disk
				defer n.stop()

				// The other one was restarted meanwhile: it is known all the same.
				other.Before, other.Instance = []string{other.Instance, "i0"}, "i3-other"
				p := n.pollAs(id, other, 0)
				if !slices.Equal(types(p.Downstream), []wire.Type{wire.TypeDirective}) {
					t.Fatalf("the other one was handed %v", types(p.Downstream))
				}
				d, err := wire.DecodePayload[wire.Directive](p.Downstream[0])
				if err != nil || d.Kind != wire.DirectiveReenroll || d.Reenroll == nil || d.Reenroll.Instance != other.Instance {
					t.Fatalf("directive %+v, %v", d, err)
				}
				if p := n.pollAs(id, kept, 0); !slices.Equal(types(p.Downstream), []wire.Type{wire.TypeCommand}) {
					t.Errorf("the kept one was handed %v", types(p.Downstream))
				}
				if p := n.pollAs(id, other, 0); len(p.Downstream) != 0 {
					t.Errorf("told again at once: %v", types(p.Downstream))
				}
				a := n.agent(id)
				if a.Presence == "duplicate" || len(a.Copies) != 2 {
					t.Errorf("after the choice: %s %+v", a.Presence, a.Copies)
				}

				// It enrolls by the second door, twice: the answer was lost.
				pub, _, _ := ed25519.GenerateKey(rand.Reader)
				body, _ := json.Marshal(wire.EnrollRequest{Token: d.Reenroll.Token, PublicKey: pub})
				var became [2]wire.EnrollResponse
				for i := range became {
					status, _, raw := n.request("POST", n.Info().OOBURL+"/v1/enroll", "", body)
					if err := json.Unmarshal(raw, &became[i]); err != nil || status != http.StatusOK {
						t.Fatalf("enroll: %d %s", status, raw)
					}
				}
				if became[0].Agent != became[1].Agent || became[0].Agent == id.Agent {
					t.Fatalf("it became %s, then %s", became[0].Agent, became[1].Agent)
				}
				if now := operate[operator.Agent](n, "GET", "/v1/agents/"+became[0].Agent, nil); now.Was != id.Agent {
					t.Errorf("the new agent was %q", now.Was)
				}
				left := slices.ContainsFunc(n.agent(id).Copies, func(c operator.Copy) bool { return c.Standing == operator.CopyLeft && c.NewAgent == became[0].Agent })
				if !left {
					t.Errorf("it is not shown as gone: %+v", n.agent(id).Copies)
				}
				if slices.ContainsFunc(n.agent(id).Copies, func(c operator.Copy) bool { return c.Standing == operator.CopyLeaving }) {
					t.Errorf("it is shown as one that is to leave: %+v", n.agent(id).Copies)
				}
				n.pollAs(id, kept, 0)
				status, _, raw = n.request("POST", n.Info().URL+"/v1/agents/"+id.Agent+"/resolve", n.Info().OperatorToken, []byte(`{"keep":"i1-kept"}`))
				if status != http.StatusConflict {
					t.Errorf("resolved again, with nobody left to tell: %d %s", status, raw)
				}
				if p := n.pollAs(id, other, 0); len(p.Downstream) != 0 {
					t.Errorf("a last call with the old identity was handed %v", types(p.Downstream))
				}
			})
		})
	}
}

// Nobody who can't be told from the kept machine is ordered anything.
func TestResolveNeverTouchesWhoMayBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		kept, other := machineCopy("i1", "b1", "f1", "i0"), machineCopy("i2", "b2", "f1", "i0")
		for range 2 {
			n.pollAs(id, kept, 0)
			n.pollAs(id, other, 0)
		}
		operate[operator.Resolution](n, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: "i1"})
		time.Sleep(time.Hour)
		for _, who := range []wire.Copy{
			machineCopy("i9", "b9", "f1"),             // rebooted, its past lost: it may be either
			machineCopy("i8", "b8", "f1", "i0"),       // an image from before both
			machineCopy("i5", "b5", "f1", "i1", "i0"), // the kept one, rebooted
		} {
			if p := n.pollAs(id, who, 0); len(p.Downstream) != 0 {
				t.Errorf("%s was handed %v", who.Instance, types(p.Downstream))
			}
			time.Sleep(time.Hour)
		}
	})
}

// One that is to leave and does not come (its second door is shut) is called a few
// times, ever more rarely, not for as long as its link lives; another word of the
// operator calls it anew.
func TestALeavingMachineIsNotCalledForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		kept, other := machineCopy("i1", "b1", "f1"), machineCopy("i2", "b2", "f2")
		for range 2 {
			n.pollAs(id, kept, 0)
			n.pollAs(id, other, 0)
		}
		resolve := func() {
			operate[operator.Resolution](n, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: "i1"})
		}
		resolve()
		m := n.link(id, presence("i2", "b2", "f2")).awaitVerified()
		calls := func(d time.Duration) (times []time.Duration) {
			began, over := time.Now(), time.After(d)
			for {
				select {
				case <-m.called:
					times = append(times, time.Since(began))
				case err := <-m.ended:
					t.Fatalf("its link ended: %v", err)
				case <-over:
					return times
				}
			}
		}
		got := calls(6 * time.Hour)
		if len(got) < 4 || len(got) > 10 || got[0] > 10*time.Second {
			t.Errorf("called %v after it was verified, want at once, then a few times", got)
		}
		for i := 2; i < len(got); i++ {
			if before, after := got[i-1]-got[i-2], got[i]-got[i-1]; after < before-10*time.Second {
				t.Errorf("calls at %v: the %d. comes sooner than the one before", got, i+1)
			}
		}
		resolve()
		if again := calls(time.Minute); len(again) == 0 {
			t.Error("the operator's word did not call it anew")
		}
	})
}

// The worker of a guardian that was killed ends its jobs, its link still open, while
// the next guardian calls already: one machine all the same.
func TestOrphanedWorkerIsNoSecondMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		orphan := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		time.Sleep(time.Minute)
		next := machineCopy("i2", "b1", "f1", "i1")
		n.pollAs(id, next, 0)
		waits := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
		for range 8 {
			if p := n.pollAs(id, next, 0); len(p.Downstream) != 0 {
				t.Fatal("one of two was handed a command, though the other one may be a living copy")
			}
			orphan.heartbeat()
			time.Sleep(time.Second)
			if a := n.agent(id); a.Presence == "duplicate" {
				t.Fatalf("taken for two: %+v", a.Copies)
			}
		}
		orphan.close()
		linked := n.link(id, presence("i2", "b1", "f1")).awaitVerified()
		if got := <-linked.commands; got.ID != waits.ID {
			t.Errorf("got %+v", got)
		}
		linked.close()
		for range 30 {
			n.pollAs(id, next, 0)
			time.Sleep(time.Second)
			if a := n.agent(id); a.Presence == "duplicate" {
				t.Fatalf("taken for two later: %+v", a.Copies)
			}
		}
	})
}

// A copy of the state directory runs beside the original, on one machine and in one boot:
// whichever comes second is no successor, for the other one answers still.
func TestTwoCopiesOfOneBootGetNothing(t *testing.T) {
	for name, comesBack := range map[string]bool{"while the first one has its link": false, "before the first one's next link": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, true, nil)
				defer n.stop()
				id := n.enroll("alpha")
				first := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
				time.Sleep(time.Minute)
				if comesBack {
					first.close()
					<-first.ended
				}
				second := n.link(id, presence("i2", "b1", "f1")).awaitVerified()
				if comesBack { // so far it looks like a restart
					await(t, "the second one is taken for alone", func() bool { return n.agent(id).Presence == "verified" })
					first = n.link(id, presence("i1", "b1", "f1")).awaitVerified()
				}
				cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", ExpiresInMS: 3_600_000})
				time.Sleep(100 * time.Millisecond) // both have answered
				if a := n.agent(id); a.Presence != "duplicate" || len(a.Links) != 2 {
					t.Errorf("the operator sees %s, links %+v", a.Presence, a.Links)
				}
				unharmed := func(when string) {
					t.Helper()
					if got := operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil); got.State != wire.StatePending || got.Attempts != 0 {
						t.Fatalf("%s one of two was handed it by guess: %+v", when, got)
					}
				}
				for range 30 {
					first.heartbeat()
					second.heartbeat()
					time.Sleep(time.Second)
					unharmed("while both live")
				}
				// One starts afresh while the other is between two links: not alone either.
				first.close()
				<-first.ended
				second.close()
				<-second.ended
				n.pollAs(id, machineCopy("i3", "b1", "f1", "i2", "i1"), 0)
				third := n.link(id, presence("i3", "b1", "f1")).awaitVerified()
				time.Sleep(10 * time.Second)
				unharmed("while the first one may come back")
				began := time.Now()
				if got := <-third.commands; got.ID != cmd.ID {
					t.Errorf("got %+v", got)
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("the one that is left had to wait for %v", took)
				}
			})
		})
	}
}

// The same by the second door alone, from the other one's first call on.
func TestACopyOfOneBootThatPollsGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		first, second := machineCopy("i1", "b1", "f1"), machineCopy("i2", "b1", "f1", "i1")
		n.pollAs(id, first, 0)
		operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true", ExpiresInMS: 3_600_000})
		for range 10 {
			for _, c := range []wire.Copy{second, first} {
				if p := n.pollAs(id, c, 300*time.Millisecond); len(p.Downstream) != 0 {
					t.Fatalf("%s was handed %v", c.Instance, types(p.Downstream))
				}
			}
		}
		if a := n.agent(id); a.Presence != "duplicate" {
			t.Errorf("the operator sees %s", a.Presence)
		}
	})
}

// Once an operator has said which one keeps the identity, that one is called, and told of no
// other copy: it says at once that it is well.
func TestTheKeptMachineIsToldOfNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		kept, other := machineCopy("i1-kept", "b1", "f1"), machineCopy("i2-other", "b1", "f1", "i1-kept")
		first := n.link(id, presence(kept.Instance, "b1", "f1")).awaitVerified()
		defer first.close()
		second := n.link(id, presence(other.Instance, "b1", "f1")).awaitVerified()
		defer second.close()
		await(t, "both are seen as duplicates", func() bool { return n.agent(id).Presence == "duplicate" })
		for _, m := range []*machine{first, second} {
			<-m.called
		}
		operate[operator.Resolution](n, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: kept.Instance})
		select {
		case <-first.called:
		case <-time.After(time.Second):
			t.Error("the kept machine is not called: it says that it is one of several until its next beacon")
		}
		if v := n.pollAs(id, kept, 0).View; v.Presence != "verified" || len(v.Links) != 1 || v.Links[0].Instance != kept.Instance {
			t.Errorf("the kept machine is told %+v", v)
		}
		if v := n.pollAs(id, other, 0).View; len(v.Links) != 2 {
			t.Errorf("the other one is told %+v", v)
		}
	})
}

// A machine that was started again while it was one of two is one machine, and is shown as
// one that has left, with all its starts, once it has.
func TestEachStartOfAMachineThatLeftIsShownAsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer n.stop()
		id := n.enroll("alpha")
		kept, before := machineCopy("i1-kept", "b1", "f1", "i0"), machineCopy("i2-other", "b1", "f1", "i1-kept", "i0")
		first := n.link(id, presence(kept.Instance, "b1", "f1")).awaitVerified()
		defer first.close()
		n.pollAs(id, kept, 0)
		n.pollAs(id, before, 0)
		second := n.link(id, presence(before.Instance, "b1", "f1")).awaitVerified()
		await(t, "both are seen as duplicates", func() bool { return n.agent(id).Presence == "duplicate" })
		second.close()
		<-second.ended
		other := machineCopy("i3-other", "b1", "f1", "i2-other", "i1-kept", "i0")
		for range 5 {
			n.pollAs(id, other, 0)
			n.pollAs(id, kept, 0)
			time.Sleep(time.Second)
		}
		r := operate[operator.Resolution](n, "POST", "/v1/agents/"+id.Agent+"/resolve", operator.NewResolution{Keep: kept.Instance})
		if len(r.Others) != 1 || r.Others[0].Instance != other.Instance {
			t.Errorf("the others are %+v", r.Others)
		}
		p := n.pollAs(id, other, 0)
		if len(p.Downstream) != 1 {
			t.Fatalf("it was handed %v", types(p.Downstream))
		}
		d, err := wire.DecodePayload[wire.Directive](p.Downstream[0])
		if err != nil || d.Reenroll == nil {
			t.Fatalf("directive %+v, %v", d, err)
		}
		pub, _, _ := ed25519.GenerateKey(rand.Reader)
		body, _ := json.Marshal(wire.EnrollRequest{Token: d.Reenroll.Token, PublicKey: pub})
		if status, _, raw := n.request("POST", n.Info().OOBURL+"/v1/enroll", "", body); status != http.StatusOK {
			t.Fatalf("enroll: %d %s", status, raw)
		}
		for _, c := range n.agent(id).Copies {
			if c.Instance != kept.Instance && c.Standing != operator.CopyLeft {
				t.Errorf("%s is shown as %s", c.Instance, c.Standing)
			}
		}
	})
}

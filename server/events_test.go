package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// told lists an agent's written events, the oldest first, as "kind from>to".
func (n *node) told(id identity, kinds ...string) (said []string, all []operator.AgentEvent) {
	n.t.Helper()
	if err := n.store.Flush(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	for _, e := range operate[operator.List[operator.AgentEvent]](n, "GET", "/v1/events?after=0&agent="+id.Agent, nil).Items {
		if slices.Contains(kinds, e.Kind) || len(kinds) == 0 {
			said, all = append(said, fmt.Sprintf("%s %s>%s", e.Kind, e.From, e.To)), append(all, e)
		}
	}
	return said, all
}

func TestChangesOfAnAgentAreToldWithTheirReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		first := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		first.send(wire.TypeHeartbeat, wire.Heartbeat{Verdict: "ok"}, true)
		first.send(wire.TypeHeartbeat, wire.Heartbeat{Verdict: "ok"}, true)
		await(t, "its word has come", func() bool { return n.agent(id).Verdict == "ok" })
		first.close()
		await(t, "it is offline", func() bool { return n.agent(id).Presence == "offline" })
		synctest.Wait() // and it is told
		newer := presence("i2", "b1", "f1")
		newer.Version = "2.0"
		second := n.link(id, newer).awaitVerified()
		defer second.close()
		synctest.Wait()

		said, all := n.told(id)
		for _, want := range []string{
			"presence >connecting", "version >1.0", "instance >i1", "link connecting>verified", "presence connecting>verified",
			"verdict >ok", "link verified>ended", "presence verified>offline",
			"version 1.0>2.0", "instance i1>i2",
		} {
			i := slices.Index(said, want)
			if i < 0 {
				t.Fatalf("%q is not told among %q", want, said)
			}
			if all[i].AgentName != "machine-f1" || all[i].At.IsZero() || all[i].Reason == "" && want != "verdict >ok" {
				t.Errorf("%q: %+v", want, all[i])
			}
		}
		if at := slices.Index(said, "instance i1>i2"); all[at].Reason != "the guardian was started again on the same boot" {
			t.Errorf("of a new instance: %q", all[at].Reason)
		}
		if at := slices.Index(said, "presence verified>offline"); !strings.Contains(all[at].Reason, "test is over") {
			t.Errorf("of an agent that closed its link: %q", all[at].Reason)
		}
		if counted, _ := n.told(id, operator.EventVerdict); len(counted) != 1 {
			t.Errorf("the same word twice is told as %q", counted)
		}

		// Nothing comes any more, though the connection stands; then it is given up.
		second.mute.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		told, all := n.told(id, operator.EventPresence)
		if tail := told[max(0, len(told)-2):]; !slices.Equal(tail, []string{"presence verified>silent", "presence silent>offline"}) {
			t.Errorf("of a link that fell silent: %q", told)
		} else if why := all[len(all)-1].Reason; !strings.Contains(why, "no frame came within the dead window") {
			t.Errorf("why it is offline: %q", why)
		}
	})
}

// One that starts has no verdict, which is no event, and seeks a link: once that is verified
// its word of before is over, and is not the last one told until the next heartbeat.
func TestTheVerdictOfAnAgentThatStartsFollowsItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		for _, code := range []selfcheck.Code{"", selfcheck.CodeLinkConnecting} {
			time.Sleep(time.Second)
			r := report(id, false)
			r.Verdict = selfcheck.Verdict{Code: code}
			if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
				t.Fatalf("%d %s", status, raw)
			}
		}
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		await(t, "it is verified", func() bool { return n.agent(id).Presence == "verified" })
		m.send(wire.TypeHeartbeat, wire.Heartbeat{Verdict: "ok"}, true)
		time.Sleep(time.Second)
		synctest.Wait()
		said, _ := n.told(id, operator.EventVerdict)
		if want := []string{"verdict >link.connecting", "verdict link.connecting>ok"}; !slices.Equal(said, want) {
			t.Errorf("told %q, want %q", said, want)
		}
	})
}

// What stands beside an agent's verdict is an event when it comes and when it ends, over a
// restart of the server too; an agent that has never had any has no event of it.
func TestFindingsAreToldWhenTheyComeAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		beacon := func(found ...selfcheck.Finding) {
			t.Helper()
			time.Sleep(time.Second)
			r := report(id, false)
			r.Findings = found
			if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
				t.Fatalf("%d %s", status, raw)
			}
		}
		back := selfcheck.Finding{Code: selfcheck.FindUpdateRolledBack, Sentence: "The update to v2 was rolled back: it crashed."}
		beacon()
		beacon(back)
		beacon(back)
		if f := n.agent(id).Findings; len(f) != 1 || f[0].Code != "update.rolled_back" || f[0].Sentence != back.Sentence {
			t.Errorf("the agent shows %+v", f)
		}
		n = n.restarted()
		if f := n.agent(id).Findings; len(f) != 1 || f[0].Sentence != back.Sentence {
			t.Errorf("after a restart of the server the agent shows %+v", f)
		}
		beacon(back)
		beacon()
		beacon()
		if f := n.agent(id).Findings; len(f) != 0 {
			t.Errorf("the agent still shows %+v", f)
		}
		said, all := n.told(id, operator.EventFinding)
		if want := []string{"finding >update.rolled_back", "finding update.rolled_back>none"}; !slices.Equal(said, want) {
			t.Errorf("told %q, want %q", said, want)
		} else if all[0].Reason != back.Sentence {
			t.Errorf("told because %q", all[0].Reason)
		}
	})
}

// What an agent does against its verdict is told once, on the server's clock, and so is what it
// comes to, however often its reports repeat it, over a restart of the server too. So is its worker.
func TestStepsOfAnAgentAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		const behind = time.Hour // its clock
		taken := time.Now().Add(-behind)
		step := selfcheck.StepRecord{At: taken, Kind: selfcheck.StepReconnect, Verdict: selfcheck.CodeLinkTextLost, Expected: "a link"}
		pid := 7
		beacon := func(steps ...selfcheck.StepRecord) {
			t.Helper()
			time.Sleep(time.Second)
			r := report(id, false)
			r.Steps, r.Snapshot.Clock.Offset = steps, new(behind)
			r.Snapshot.Worker.PID, r.Snapshot.Worker.Running = pid, pid != 0
			if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
				t.Fatalf("%d %s", status, raw)
			}
		}
		beacon(step)
		beacon(step)
		step.Outcome = "no better: on the new link: the same"
		pid = 0
		beacon(step)
		n = n.restarted()
		pid = 8
		beacon(step)
		beacon()
		said, all := n.told(id, operator.EventStep, operator.EventOutcome, operator.EventProcess)
		want := []string{"step >reconnect", "process >7", "outcome reconnect>no better", "process 7>none", "process none>8"}
		if !slices.Equal(said, want) {
			t.Fatalf("told %q, want %q", said, want)
		}
		if s := all[0]; s.Verdict != "link.text.lost" || s.Told == nil || !s.Told.Equal(taken) || s.At.Sub(taken) != behind || s.Reason != "expected: a link" {
			t.Errorf("the step: %+v", s)
		}
		if o := all[2]; o.Reason != step.Outcome || !o.Told.Equal(taken) || o.At.Sub(all[0].At) < 2*time.Second {
			t.Errorf("the outcome: %+v", o)
		}
	})
}

// The ladder of the worker and that of the link take a step in one turn: each is told, and its outcome.
func TestStepsOfOneMomentAreBothTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		one := selfcheck.StepRecord{At: time.Now(), Kind: selfcheck.StepRestartWorker, Verdict: selfcheck.CodeAgentHung, Outcome: "helped: it is back"}
		other := one
		other.Kind, other.Outcome = selfcheck.StepRetryLink, "no better: the same"
		for range 2 {
			time.Sleep(time.Second)
			r := report(id, false)
			r.Steps = []selfcheck.StepRecord{one, other}
			if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
				t.Fatalf("%d %s", status, raw)
			}
			n = n.restarted()
		}
		said, _ := n.told(id, operator.EventStep, operator.EventOutcome)
		want := []string{"step >restart_worker", "step >retry_link", "outcome restart_worker>helped", "outcome retry_link>no better"}
		if slices.Sort(said); !slices.Equal(said, sorted(want)) {
			t.Errorf("told %q, want %q", said, want)
		}
	})
}

// A time that an agent makes up for a step is none of a clock, and JSON has no word for it:
// the events of all agents could not be listed any more.
func TestTimesThatAnAgentMakesUpKeepNoEventFromBeingListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		defer func() { n.stop() }()
		id := n.enroll("alpha")
		east := time.FixedZone("", 23*3600)
		r := report(id, false)
		r.At, r.Snapshot.Clock.Offset = time.Date(0, 1, 1, 0, 0, 0, 0, east), new(-1000*time.Hour)
		for _, at := range []time.Time{
			time.Date(0, 1, 1, 0, 0, 0, 0, east), time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -23*3600)), {}, time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Now(),
		} {
			r.Steps = append(r.Steps, selfcheck.StepRecord{At: at, Kind: selfcheck.StepReconnect, Verdict: selfcheck.CodeLinkTextLost, Outcome: "helped"})
		}
		if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
			t.Fatalf("%d %s", status, raw)
		}
		if said, _ := n.told(id, operator.EventStep, operator.EventOutcome); len(said) != 2 {
			t.Errorf("told %q, want the one step whose time can be, and its outcome", said)
		}
	})
}

// What a server knew when it was stopped is neither lost nor told again by the next one.
func TestARestartOfTheServerIsNoChangeOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, nil)
		id := n.enroll("alpha")
		gone := n.enroll("beta")
		n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		n.link(gone, presence("i9", "b9", "f9")).awaitVerified()
		before := n
		n = n.restarted()
		defer func() { n.stop() }()
		if err := before.store.Flush(t.Context()); err != nil { // nothing was left
			t.Error(err)
		}
		m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		defer m.close()
		synctest.Wait()
		said, _ := n.told(id, operator.EventPresence, operator.EventInstance, operator.EventVersion)
		want := []string{"presence >connecting", "version >1.0", "instance >i1", "presence connecting>verified", "presence verified>connecting", "presence connecting>verified"}
		if slices.Sort(said); !slices.Equal(said, sorted(want)) {
			t.Errorf("told %q, want %q", said, want)
		}
		ended, all := n.told(gone, operator.EventLink)
		if len(ended) != 2 || !strings.Contains(all[1].Reason, "the server is going down") {
			t.Errorf("of a link that the stop ended: %+v", all)
		}
		time.Sleep(2 * time.Minute)
		if said, _ := n.told(gone, operator.EventPresence); said[len(said)-1] != "presence verified>offline" {
			t.Errorf("of one that did not come back: %q", said)
		}
	})
}

func sorted(s []string) []string { slices.Sort(s); return s }

func TestEventsAreAskedForByTimeAndPlace(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	_, all := n.told(id)
	client := n.client()
	newest, err := client.AgentEvents(t.Context(), operator.EventFilter{Agent: "machine-f1", Within: time.Hour, Limit: 1})
	if err != nil || len(newest) != 1 {
		t.Fatalf("%+v, %v", newest, err)
	}
	rest, err := client.AgentEvents(t.Context(), operator.EventFilter{After: &all[1].Seq, Limit: 1})
	if err != nil || len(rest) != 1 || rest[0].Seq <= all[1].Seq {
		t.Fatalf("after %d: %+v, %v", all[1].Seq, rest, err)
	}
	for _, query := range []string{"limit=0", "after=-1", "after=x", "within_ms=-1", "within_ms=99999999999999"} {
		status, _, raw := n.request("GET", n.Info().URL+"/v1/events?"+query, n.Info().OperatorToken, nil)
		if name, _, _ := strings.Cut(query, "="); status != http.StatusBadRequest || !strings.Contains(string(raw), name+": want") {
			t.Errorf("%s: %d %s", query, status, raw)
		}
	}
	if status, _, _ := n.request("GET", n.Info().URL+"/v1/events?agent=nobody", n.Info().OperatorToken, nil); status != http.StatusNotFound {
		t.Errorf("of an unknown agent: %d", status)
	}
	if status, _, _ := n.request("GET", n.Info().URL+"/v1/events", "gro_wrong", nil); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}
}

package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func beacons(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	one := operator.Beacon{
		ReportID: "first", Agent: b.ID, ReceivedAt: epoch, Verdict: "ok", Sentence: "s", Addr: "192.0.2.1",
		Report: json.RawMessage(`{"schema":1}`), View: &wire.ServerView{Presence: "verified", Owed: 2},
	}
	added, err := r.SaveBeacon(t.Context(), one)
	must(t, err)
	again, err := r.SaveBeacon(t.Context(), one)
	must(t, err)
	if !added || again {
		t.Fatalf("added %v, then %v", added, again)
	}
	var wg sync.WaitGroup // many at once: they share commits
	for i := range store.KeepBeacons + 50 {
		wg.Go(func() {
			_, err := r.SaveBeacon(t.Context(), operator.Beacon{ReportID: fmt.Sprint(i), Agent: a.ID, ReceivedAt: epoch, Verdict: "ok", Report: json.RawMessage(`{}`)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err = r.SaveBeacon(t.Context(), operator.Beacon{ReportID: "last", Agent: a.ID, ReceivedAt: epoch, Report: json.RawMessage(`{}`)})
	must(t, err)
	list, err := r.Beacons(t.Context(), a.ID, 10_000)
	must(t, err)
	if len(list) != store.KeepBeacons || list[0].ReportID != "last" {
		t.Fatalf("%d beacons, newest %q", len(list), list[0].ReportID)
	}
	list, err = r.Beacons(t.Context(), b.ID, 0)
	must(t, err)
	if len(list) != 1 || list[0].AgentName != "b" || string(list[0].Report) != `{"schema":1}` || list[0].View == nil || list[0].View.Owed != 2 || !list[0].ReceivedAt.Equal(epoch) || list[0].Addr != "192.0.2.1" {
		t.Fatalf("got %+v", list)
	}
	if list, err = r.Beacons(t.Context(), "", 3); err != nil || len(list) != 3 {
		t.Fatalf("%d of all agents, %v", len(list), err)
	}
	_, err = r.SaveBeacon(t.Context(), operator.Beacon{ReportID: "x", Agent: "nobody", Report: json.RawMessage(`{}`)})
	want(t, err, store.ErrNotFound)
}

// said lists events as "kind from>to".
func (r *rig) said(t *testing.T, f store.EventFilter) []string {
	t.Helper()
	list, err := r.AgentEvents(t.Context(), f)
	must(t, err)
	out := []string{}
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s %s>%s", e.Kind, e.From, e.To))
	}
	return out
}

func events(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	note := func(agent string, after time.Duration, kind, to string) {
		r.NoteEvent(operator.AgentEvent{Agent: agent, At: epoch.Add(after), Kind: kind, To: to, Reason: "why", Link: "07"})
	}
	same := func(f store.EventFilter, want ...string) {
		t.Helper()
		if got := r.said(t, f); !slices.Equal(got, want) {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
	}
	note(b.ID, 2*time.Second, operator.EventVersion, "v1")
	note(a.ID, time.Second, operator.EventPresence, "verified")
	note(a.ID, 3*time.Second, operator.EventPresence, "verified") // no change
	note("nobody", 0, operator.EventPresence, "verified")
	must(t, r.Flush(t.Context()))
	same(store.EventFilter{}, "version >v1", "presence >verified")
	must(t, r.Close()) // what is known is known after it
	r.Store = r.open()
	note(a.ID, 4*time.Second, operator.EventPresence, "verified")
	note(a.ID, 5*time.Second, operator.EventLink, "ended")
	note(a.ID, 6*time.Second, operator.EventLink, "ended") // of another link
	note(a.ID, 7*time.Second, operator.EventPresence, "offline")
	must(t, r.Close()) // an orderly stop loses nothing
	r.Store = r.open()
	same(store.EventFilter{Agent: a.ID}, "presence verified>offline", "link >ended", "link >ended", "presence >verified")
	same(store.EventFilter{Agent: a.ID, Since: epoch.Add(6 * time.Second)}, "presence verified>offline", "link >ended")
	same(store.EventFilter{Since: epoch.Add(7 * time.Second)}, "presence verified>offline")
	same(store.EventFilter{Limit: 1}, "presence verified>offline")
	same(store.EventFilter{Agent: b.ID, After: new(int64)}, "version >v1")
	same(store.EventFilter{After: new(int64), Limit: 2}, "presence >verified", "version >v1")
	same(store.EventFilter{After: new(int64(2))}, "link >ended", "link >ended", "presence verified>offline")
	same(store.EventFilter{After: new(int64(2)), Since: epoch.Add(7 * time.Second)}, "presence verified>offline")
	same(store.EventFilter{After: new(int64(5))})
	list, err := r.AgentEvents(t.Context(), store.EventFilter{Agent: a.ID, Limit: 1})
	must(t, err)
	// A step is known by when it was taken by the agent's clock, its outcome beside it.
	told := epoch.UTC().Truncate(time.Microsecond)
	step := operator.AgentEvent{Agent: b.ID, At: epoch.Add(9 * time.Second), Kind: operator.EventStep, To: "reconnect", Verdict: "link.text.lost", Told: &told}
	outcome := step
	outcome.Kind, outcome.From, outcome.To = operator.EventOutcome, step.To, operator.StepHelped
	for range 2 {
		r.NoteEvent(step)
		r.NoteEvent(outcome)
		must(t, r.Flush(t.Context()))
	}
	same(store.EventFilter{Agent: b.ID}, "outcome reconnect>helped", "step >reconnect", "version >v1")
	for i := range 2 { // each probe tells of its own time
		r.NoteEvent(operator.AgentEvent{Agent: b.ID, At: epoch.Add(time.Duration(9+i) * time.Second), Kind: operator.EventProbe, From: "link", To: operator.ProbePassed})
	}
	must(t, r.Flush(t.Context()))
	same(store.EventFilter{Agent: b.ID, Limit: 2}, "probe link>passed", "probe link>passed")
	steps, err := r.AgentEvents(t.Context(), store.EventFilter{Agent: b.ID, Limit: 3})
	must(t, err)
	if got := steps[2]; got.Verdict != step.Verdict || got.Told == nil || !got.Told.Equal(told) {
		t.Errorf("of a step: %+v", got)
	}
	want := operator.AgentEvent{Seq: 5, Agent: a.ID, AgentName: "a", At: epoch.Add(7 * time.Second).UTC(), Kind: "presence", From: "verified", To: "offline", Reason: "why", Link: "07"}
	if len(list) != 1 || list[0] != want {
		t.Errorf("got %+v, want %+v", list, want)
	}
}

// A fleet that returns must not keep commands waiting until all of it is written down.
func eventsShare(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	var agents []string
	for range 20 {
		agents = append(agents, r.agent(t, "fleet").ID)
	}
	for i := range 1500 {
		r.NoteEvent(operator.AgentEvent{Agent: agents[i%len(agents)], At: epoch.Add(time.Duration(i)), Kind: operator.EventLink, To: "verified"})
	}
	flushed := make(chan error, 1)
	began := time.Now()
	go func() { flushed <- r.Flush(t.Context()) }()
	for between := 0; ; between++ {
		select {
		case err := <-flushed:
			must(t, err)
			t.Logf("1500 events in %v, %d commands between them", time.Since(began).Round(time.Millisecond), between)
			if between < 3 {
				t.Errorf("only %d commands were stored meanwhile", between)
			}
			return
		default:
			r.command(t, a.ID, epoch)
		}
	}
}

func eventsBounded(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	flap := func(agent string, n int, at time.Time) {
		for i := range n {
			r.NoteEvent(operator.AgentEvent{Agent: agent, At: at.Add(time.Duration(i) * time.Microsecond), Kind: operator.EventLink, To: fmt.Sprint(i)})
		}
	}
	count := func(agent string) (n int, newest string) {
		t.Helper()
		var after int64
		for {
			list, err := r.AgentEvents(t.Context(), store.EventFilter{Agent: agent, After: &after, Limit: 100})
			must(t, err)
			if len(list) == 0 {
				return n, newest
			}
			n, after, newest = n+len(list), list[len(list)-1].Seq, list[len(list)-1].To
		}
	}
	flap(b.ID, 3, epoch)
	for range 2 { // more than is kept, at once and one after the other
		flap(a.ID, 3*store.KeepAgentEvents, epoch.Add(time.Second))
		must(t, r.Flush(t.Context()))
		if n, newest := count(a.ID); n != store.KeepAgentEvents || newest != fmt.Sprint(3*store.KeepAgentEvents-1) {
			t.Fatalf("%d of a flapping agent are kept, the newest is %s", n, newest)
		}
	}
	if n, _ := count(b.ID); n != 3 {
		t.Errorf("%d of the other agent's 3 are left", n)
	}
	for i := range 4 { // each write takes some of the old ones along
		flap(b.ID, 1, epoch.Add(store.KeepAgentEventsFor+time.Minute+time.Duration(i)*time.Second))
		must(t, r.Flush(t.Context()))
	}
	if n, _ := count(a.ID); n != 0 {
		t.Errorf("%d are left that are too old", n)
	}
	if n, _ := count(b.ID); n != 4 {
		t.Errorf("%d of 4 new ones are there", n)
	}
}

// Package storetest holds what any implementation of store.Store must do, as
// tests that each implementation runs.
package storetest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// Database gives a fresh, empty database; each call of open opens that same
// one again, after the store before was closed.
type Database func(t *testing.T) (open func() store.Store)

// Run runs all tests against databases made by fresh.
func Run(t *testing.T, fresh Database) {
	Some(t, fresh, func(string) bool { return true })
}

// Some runs those tests of the suite whose names pick wants.
func Some(t *testing.T, fresh Database, pick func(name string) bool) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"agents are found by id and name", agents},
		{"signs of life are batched, never go back, and survive closing", signs},
		{"a token is traded once per use, by any number at once", tradeAtOnce},
		{"a token is refused when unknown, spent or expired", tradeRefused},
		{"the same key trading again gets its agent", tradeAgain},
		{"a resolution's token says what its machine has become", resolutions},
		{"operator tokens are found by hash alone", operatorTokens},
		{"commands are stored as they are", commands},
		{"an idempotency key makes one command", idempotency},
		{"a command changed since it was read is not overwritten", revisions},
		{"active commands are listed oldest first", active},
		{"stages are kept once, in order of arrival", stages},
		{"stages of many at once", stagesAtOnce},
		{"a trace is bounded", stagesBounded},
		{"output merges in any order, repeated and overlapping", outputs},
		{"output beyond a gap is not shown", outputGap},
		{"pieces beyond a gap are bounded", outputPieces},
		{"directives are pending until answered or expired, and end once", directives},
		{"beacons are stored once, the newest stay", beacons},
		{"events are what changed, batched, in order, and survive closing", events},
		{"events are bounded by number and age, also before they are written", eventsBounded},
		{"other writes come between those of many events", eventsShare},
		{"an agent that was removed is none any more, and its history stays until purged", removal},
		{"tags are put on and taken off, bounded, of all agents or of none", tags},
		{"a job and whom it has are stored once, and counted from their commands", jobs},
		{"what ended long ago is deleted in chunks, what has not ended never", old},
		{"a job begins nothing more once it was stopped", jobsStopped},
		{"a version is one program for each platform", builds},
		{"bundles are stored as they are, within their room", bundles},
		{"a rollout and its endpoints are stored as they are", rollouts},
		{"an order is withdrawn until it was delivered", withdrawn},
		{"a failed write takes no other with it", together},
		{"what was stored is there after closing", reopened},
		{"after closing everything says so", closed},
	} {
		if !pick(test.name) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			open := fresh(t)
			r := &rig{Store: open(), open: open}
			defer func() {
				if err := r.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			test.run(t, r)
		})
	}
}

// rig is a store under test.
type rig struct {
	store.Store
	open func() store.Store
}

// epoch is a time with microseconds, in another zone than UTC.
var epoch = time.Date(2024, 2, 29, 23, 59, 59, 123456000, time.FixedZone("x", 3600))

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error is %v, want %v", err, target)
	}
}

// agent enrolls one.
func (r *rig) agent(t *testing.T, name string) store.Agent {
	t.Helper()
	hash := store.HashToken(wire.NewID())
	must(t, r.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: wire.NewID(), Site: "lab", UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}))
	a, err := r.TradeToken(t.Context(), hash, newAgent(name), epoch)
	must(t, err)
	return a
}

func newAgent(name string) store.Agent {
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return store.Agent{
		ID: wire.NewID(), Name: name, PublicKey: key, Version: "1.0", Fingerprint: "ab12",
		Platform: wire.Platform{OS: "linux", Arch: "amd64", Hostname: name, Release: "Debian"},
	}
}

func (r *rig) command(t *testing.T, agent string, at time.Time) store.Command {
	t.Helper()
	c, created, err := r.CreateCommand(t.Context(), newCommand(agent, at))
	must(t, err)
	if !created {
		t.Fatal("not created")
	}
	return c
}

func newCommand(agent string, at time.Time) store.Command {
	return store.Command{Command: operator.Command{
		ID: wire.NewID(), Agent: agent, Script: "true", Shell: wire.ShellSh, State: wire.StatePending,
		CreatedAt: at, ExpiresAt: at.Add(time.Hour), TimeoutMS: 1000, CreatedBy: "ops",
	}, MaxOutput: 1 << 20}
}

func agents(t *testing.T, r *rig) {
	a, b, c := r.agent(t, "Beta"), r.agent(t, "alpha"), r.agent(t, "beta")
	got, err := r.Agent(t.Context(), a.ID)
	must(t, err)
	if !got.PublicKey.Equal(a.PublicKey) || got.Site != "lab" || got.Platform != a.Platform || !got.EnrolledAt.Equal(epoch) || got.LastSeen != nil || got.Metrics != nil {
		t.Fatalf("got %+v", got)
	}
	_, err = r.Agent(t.Context(), "nobody")
	want(t, err, store.ErrNotFound)
	all, err := r.Agents(t.Context())
	must(t, err)
	if len(all) != 3 || all[0].ID != b.ID {
		t.Fatalf("order is wrong: %+v", all)
	}
	if n, err := r.CountAgents(t.Context()); err != nil || n != 3 {
		t.Fatalf("counted %d agents, want 3: %v", n, err)
	}
	found, err := r.FindAgents(t.Context(), "BETA")
	must(t, err)
	if len(found) != 2 {
		t.Fatalf("a name found %d agents, want 2", len(found))
	}
	found, err = r.FindAgents(t.Context(), c.ID)
	must(t, err)
	if len(found) != 1 || found[0].ID != c.ID {
		t.Fatalf("an id found %+v", found)
	}
	for ref, n := range map[string]int{
		c.ID[:len(c.ID)-1]: 1, strings.ToUpper(c.ID[:len(c.ID)-1]): 1, c.ID[:4]: 3, c.ID[:3]: 0, "": 0, "bet": 0, "____": 0, "%%%%": 0, c.ID + "0": 0,
	} {
		if found, err := r.FindAgents(t.Context(), ref); err != nil || len(found) != n {
			t.Fatalf("%q found %d agents, want %d: %v", ref, len(found), n, err)
		}
	}
	p := wire.Presence{Version: "2.0", Fingerprint: "cd", Platform: wire.Platform{OS: "linux", Hostname: "gamma"}}
	must(t, r.UpdatePresence(t.Context(), a.ID, p))
	p.Platform.Hostname = ""
	must(t, r.UpdatePresence(t.Context(), a.ID, p))
	must(t, r.SetQuarantined(t.Context(), a.ID, true))
	got, err = r.Agent(t.Context(), a.ID)
	must(t, err)
	if got.Name != "gamma" || got.Version != "2.0" || got.Fingerprint != "cd" || !got.Quarantined {
		t.Fatalf("got %+v", got)
	}
	want(t, r.UpdatePresence(t.Context(), "nobody", p), store.ErrNotFound)
	_, _, err = r.CreateCommand(t.Context(), newCommand(a.ID, epoch))
	want(t, err, store.ErrQuarantined)
	want(t, r.SetQuarantined(t.Context(), "nobody", true), store.ErrNotFound)
}

func signs(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	load := 0.5
	r.Seen(a.ID, epoch.Add(time.Minute), "text")
	r.Seen(a.ID, epoch, "ping") // older: does not count
	r.Seen("nobody", epoch, "ping")
	r.SaveMetrics(a.ID, wire.Metrics{At: epoch, Load1: &load})
	see := func(what string) {
		t.Helper()
		got, err := r.Agent(t.Context(), a.ID)
		must(t, err)
		if got.LastSeen == nil || !got.LastSeen.Equal(epoch.Add(time.Minute)) || got.LastVia != "text" || got.Metrics == nil || *got.Metrics.Load1 != load {
			t.Fatalf("%s: got %+v", what, got)
		}
	}
	see("before it is written")
	must(t, r.Flush(t.Context()))
	see("written")
	r.Seen(a.ID, epoch, "beacon")
	must(t, r.Flush(t.Context()))
	see("after an older sign")
	must(t, r.Close())
	r.Store = r.open()
	see("after closing")
}

func tradeAtOnce(t *testing.T, r *rig) {
	const uses, tries = 3, 20
	hash := store.HashToken("secret")
	must(t, r.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: "t1", Site: "s", UsesLeft: uses, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}))
	var wg sync.WaitGroup
	errs := make([]error, tries)
	for i := range tries {
		wg.Go(func() { _, errs[i] = r.TradeToken(t.Context(), hash, newAgent(fmt.Sprint(i)), epoch) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			want(t, err, store.ErrTokenInvalid)
		}
	}
	all, err := r.Agents(t.Context())
	must(t, err)
	if won != uses || len(all) != uses {
		t.Fatalf("%d trades, %d agents; want %d", won, len(all), uses)
	}
}

func tradeRefused(t *testing.T, r *rig) {
	hash := store.HashToken("secret")
	tok := operator.EnrollToken{ID: "t1", Token: "secret", Site: "s", UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}
	must(t, r.CreateEnrollToken(t.Context(), hash, tok))
	_, err := r.TradeToken(t.Context(), store.HashToken("other"), newAgent("a"), epoch)
	want(t, err, store.ErrTokenInvalid)
	_, err = r.TradeToken(t.Context(), hash, newAgent("a"), epoch.Add(time.Hour))
	want(t, err, store.ErrTokenInvalid)
	_, err = r.TradeToken(t.Context(), hash, newAgent("a"), epoch)
	must(t, err)
	_, err = r.TradeToken(t.Context(), hash, newAgent("b"), epoch)
	want(t, err, store.ErrTokenInvalid)
	list, err := r.EnrollTokens(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].UsesLeft != 0 || list[0].Token != "" || !list[0].ExpiresAt.Equal(tok.ExpiresAt) {
		t.Fatalf("listed %+v", list)
	}
	must(t, r.DeleteEnrollToken(t.Context(), "t1"))
	want(t, r.DeleteEnrollToken(t.Context(), "t1"), store.ErrNotFound)
}

func tradeAgain(t *testing.T, r *rig) {
	one, two := store.HashToken("one"), store.HashToken("two")
	for id, hash := range map[string]store.Hash{"t1": one, "t2": two} {
		must(t, r.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: id, Site: id, UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}))
	}
	a := newAgent("a")
	first, err := r.TradeToken(t.Context(), one, a, epoch)
	must(t, err)
	a.ID = wire.NewID() // the caller draws a new id each time
	again, err := r.TradeToken(t.Context(), one, a, epoch)
	must(t, err)
	if again.ID != first.ID {
		t.Fatalf("a second agent %s for the key of %s", again.ID, first.ID)
	}
	_, err = r.TradeToken(t.Context(), two, a, epoch)
	want(t, err, store.ErrConflict)
	list, err := r.EnrollTokens(t.Context())
	must(t, err)
	for _, tok := range list {
		if tok.ID == "t2" && tok.UsesLeft != 1 {
			t.Fatal("a refused trade spent a use")
		}
	}
}

func resolutions(t *testing.T, r *rig) {
	must(t, r.CreateEnrollToken(t.Context(), store.HashToken("one"), operator.EnrollToken{ID: "t1", Site: "s", UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}))
	a, err := r.TradeToken(t.Context(), store.HashToken("one"), newAgent("a"), epoch)
	must(t, err)
	word := func(id string) store.Resolution {
		return store.Resolution{ID: id, Agent: a.ID, Kept: wire.Copy{Instance: "i1"}, Other: wire.Copy{Instance: "i2", Before: []string{"i0"}}, By: "ops", At: epoch}
	}
	want(t, r.Resolve(t.Context(), "nobody", []store.Resolution{word("r0")}), store.ErrNotFound)
	must(t, r.Resolve(t.Context(), a.ID, []store.Resolution{word("r1")}))
	must(t, r.Resolve(t.Context(), a.ID, []store.Resolution{word("r2")})) // thought better of it
	reenroll := func(token, resolution string) {
		must(t, r.CreateReenrollToken(t.Context(), store.HashToken(token), operator.EnrollToken{
			ID: token, Site: "s", UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour),
		}, resolution))
	}
	reenroll("old", "r1")
	reenroll("lost", "r2")
	reenroll("new", "r2")
	_, err = r.TradeToken(t.Context(), store.HashToken("old"), newAgent("b"), epoch)
	want(t, err, store.ErrTokenInvalid)
	b, err := r.TradeToken(t.Context(), store.HashToken("new"), newAgent("b"), epoch.Add(time.Minute))
	must(t, err)
	if b.Was != a.ID || b.Site != "s" {
		t.Fatalf("it became %+v", b)
	}
	_, err = r.TradeToken(t.Context(), store.HashToken("lost"), newAgent("c"), epoch)
	want(t, err, store.ErrTokenInvalid)
	must(t, r.Resolve(t.Context(), a.ID, nil)) // what is done stays
	all, err := r.Resolutions(t.Context(), "")
	must(t, err)
	if len(all) != 1 || all[0].ID != "r2" || all[0].NewAgent != b.ID || all[0].DoneAt == nil || !all[0].DoneAt.Equal(epoch.Add(time.Minute)) ||
		all[0].Kept.Instance != "i1" || len(all[0].Other.Before) != 1 || all[0].By != "ops" {
		t.Fatalf("stored %+v", all)
	}
}

func operatorTokens(t *testing.T, r *rig) {
	must(t, r.CreateOperatorToken(t.Context(), "ops", store.HashToken("x"), epoch))
	want(t, r.CreateOperatorToken(t.Context(), "ops", store.HashToken("y"), epoch), store.ErrConflict)
	_, err := r.OperatorToken(t.Context(), store.HashToken("y"), epoch)
	want(t, err, store.ErrTokenInvalid)
	got, err := r.OperatorToken(t.Context(), store.HashToken("x"), epoch.Add(time.Minute))
	must(t, err)
	if got.Name != "ops" {
		t.Fatalf("got %+v", got)
	}
	must(t, r.Flush(t.Context()))
	all, err := r.OperatorTokens(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].LastUsed == nil || !all[0].LastUsed.Equal(epoch.Add(time.Minute)) || !all[0].CreatedAt.Equal(epoch) {
		t.Fatalf("listed %+v", all)
	}
	must(t, r.DeleteOperatorToken(t.Context(), "ops"))
	want(t, r.DeleteOperatorToken(t.Context(), "ops"), store.ErrNotFound)
	_, err = r.OperatorToken(t.Context(), store.HashToken("x"), epoch)
	want(t, err, store.ErrTokenInvalid)
}

func commands(t *testing.T, r *rig) {
	a := r.agent(t, "host")
	c := r.command(t, a.ID, epoch)
	if c.AgentName != "host" || c.CreatedAt.Location() != time.UTC || !c.CreatedAt.Equal(epoch) || c.AckedAt != nil || c.ExitCode != nil || c.Rev == 0 {
		t.Fatalf("stored %+v", c)
	}
	_, _, err := r.CreateCommand(t.Context(), newCommand("nobody", epoch))
	want(t, err, store.ErrNotFound)
	_, err = r.Command(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)

	end, code := epoch.Add(time.Second), 0
	c.State, c.Reason, c.Attempts, c.Channel, c.AckedAt, c.EndedAt, c.ExitCode = wire.StateCompleted, "r", 3, wire.ChannelOOB, &end, &end, &code
	c.StdoutLost, c.StderrLost, c.Orphans, c.CancelAt, c.CancelBy = 7, 8, true, &end, "me"
	_, err = r.SaveCommand(t.Context(), c)
	must(t, err)
	got, err := r.Command(t.Context(), c.ID)
	must(t, err)
	if got.State != c.State || got.Reason != "r" || got.Attempts != 3 || got.Channel != wire.ChannelOOB || !got.AckedAt.Equal(end) || !got.EndedAt.Equal(end) ||
		*got.ExitCode != 0 || got.StdoutLost != 7 || got.StderrLost != 8 || !got.Orphans || !got.CancelAt.Equal(end) || got.CancelBy != "me" || got.Script != "true" {
		t.Fatalf("got %+v", got)
	}
	last, err := r.LastResult(t.Context(), a.ID)
	must(t, err)
	if last == nil || !last.Equal(end) {
		t.Fatalf("last result %v", last)
	}
	if last, err := r.LastResult(t.Context(), "nobody"); err != nil || last != nil {
		t.Fatalf("last result of nobody: %v %v", last, err)
	}

	b := r.agent(t, "other")
	second := r.command(t, b.ID, epoch.Add(time.Minute))
	for _, test := range []struct {
		f    store.CommandFilter
		want []string
	}{
		{store.CommandFilter{}, []string{second.ID, c.ID}},
		{store.CommandFilter{Limit: 1}, []string{second.ID}},
		{store.CommandFilter{Agent: a.ID}, []string{c.ID}},
		{store.CommandFilter{State: wire.StatePending}, []string{second.ID}},
		{store.CommandFilter{State: wire.StatePending, Agent: a.ID}, nil},
	} {
		list, err := r.Commands(t.Context(), test.f)
		must(t, err)
		if got := ids(list); !slices.Equal(got, test.want) {
			t.Errorf("%+v lists %v, want %v", test.f, got, test.want)
		}
	}
}

func ids(list []store.Command) []string {
	var out []string
	for _, c := range list {
		out = append(out, c.ID)
	}
	return out
}

func idempotency(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	var wg sync.WaitGroup
	got := make([]string, 10)
	var made [10]bool
	for i := range got {
		wg.Go(func() {
			c := newCommand(a.ID, epoch)
			c.IdempotencyKey = "k"
			c, created, err := r.CreateCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: epoch, End: "server"}})
			if err != nil {
				t.Error(err)
			}
			got[i], made[i] = c.ID, created
		})
	}
	wg.Wait()
	n := 0
	for i := range got {
		if made[i] {
			n++
		}
		if got[i] != got[0] {
			t.Fatalf("two commands for one key: %v", got)
		}
	}
	if n != 1 {
		t.Fatalf("created %d times", n)
	}
	c := newCommand(b.ID, epoch)
	c.IdempotencyKey = "k"
	if _, created, err := r.CreateCommand(t.Context(), c); err != nil || !created {
		t.Fatalf("another agent's command was taken for the same: %v", err)
	}
}

func revisions(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	stale := c
	c.State = wire.StateRunning
	rev, err := r.SaveCommand(t.Context(), c)
	must(t, err)
	stale.State = wire.StateCancelled
	_, err = r.SaveCommand(t.Context(), stale, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: "cancel", At: epoch, End: "server"}})
	want(t, err, store.ErrConflict)
	got, err := r.Command(t.Context(), c.ID)
	must(t, err)
	if got.State != wire.StateRunning || got.Rev != rev {
		t.Fatalf("got %+v", got)
	}
	if list, err := r.Stages(t.Context(), c.ID, 0); err != nil || len(list) != 0 {
		t.Fatalf("stages of a refused change: %v %v", list, err)
	}
}

func active(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	young, old, ended := r.command(t, a.ID, epoch.Add(time.Second)), r.command(t, a.ID, epoch), r.command(t, a.ID, epoch)
	old.State = wire.StateRunning
	_, err := r.SaveCommand(t.Context(), old)
	must(t, err)
	ended.State = wire.StateExpired
	_, err = r.SaveCommand(t.Context(), ended)
	must(t, err)
	list, err := r.ActiveCommands(t.Context(), a.ID)
	must(t, err)
	if got := ids(list); !slices.Equal(got, []string{old.ID, young.ID}) {
		t.Fatalf("active are %v", got)
	}
	if list[0].Script != "" {
		t.Fatal("scripts ride along")
	}
	agents, err := r.ActiveAgents(t.Context())
	must(t, err)
	if !slices.Equal(agents, []string{a.ID}) {
		t.Fatalf("active agents are %v", agents)
	}
}

func stages(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	s := func(stage wire.Stage, attempt int, note string, at time.Time) store.Stage {
		return store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{
			Stage: stage, At: at, End: "server", Attempt: attempt, Channel: wire.ChannelLink, Link: "00ff", Note: note}}
	}
	must(t, r.AddStages(t.Context()))
	must(t, r.AddStages(t.Context(), s(wire.StageClaimed, 1, "", epoch), s(wire.StageWritten, 1, "", epoch.Add(time.Second))))
	must(t, r.AddStages(t.Context(), s(wire.StageClaimed, 1, "", epoch.Add(time.Hour)), s(wire.StageClaimed, 2, "", epoch), s(wire.StageClaimed, 2, "x", epoch)))
	proof := operator.Proof{Verdict: "link.text.lost", End: "server", Text: 3, Written: 3, Read: 2, Pings: 2, First: epoch.UTC().Truncate(time.Microsecond), Last: epoch.UTC().Truncate(time.Microsecond)}
	lost := s("lost", 3, "y", epoch)
	lost.Proof = &proof
	must(t, r.AddStages(t.Context(), lost))
	again := lost
	again.Proof = &operator.Proof{Pings: 9, First: epoch, Last: epoch}
	must(t, r.AddStages(t.Context(), again)) // what is told again keeps what was told first
	list, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(list) != 5 || list[4].Proof == nil || *list[4].Proof != proof || !list[0].At.Equal(epoch) || list[0].Link != "00ff" || list[0].Channel != wire.ChannelLink || list[3].Note != "x" {
		t.Fatalf("got %+v", list)
	}
	if list[0].At.Location() != time.UTC {
		t.Fatal("times are not UTC")
	}
	rest, err := r.Stages(t.Context(), c.ID, list[1].Seq)
	must(t, err)
	if len(rest) != 3 || rest[0].Seq != list[2].Seq {
		t.Fatalf("after %d: %+v", list[1].Seq, rest)
	}
	all, err := r.Traced(t.Context(), c.Agent, epoch, 1)
	must(t, err)
	if len(all) != 1 || all[0].ID != c.ID || all[0].Script != c.Script || len(all[0].Stages) != 5 || all[0].Stages[4].Proof == nil || all[0].Stages[1] != list[1] {
		t.Fatalf("traced: %+v", all)
	}
	if all, err = r.Traced(t.Context(), c.Agent, epoch.Add(time.Second), 1); len(all) != 0 || err != nil {
		t.Fatalf("traced after it: %+v, %v", all, err)
	}
	want(t, r.AddStages(t.Context(), store.Stage{Command: "nothing", TraceEntry: operator.TraceEntry{Stage: "x", End: "server", At: epoch}}), store.ErrNotFound)
}

// stagesAtOnce tells of many commands at once, in part again and again: of each command every
// stage is told once, as it was told first, in order.
func stagesAtOnce(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	var all sync.WaitGroup
	for seed := range uint64(12) {
		c := r.command(t, a.ID, epoch)
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 2))
			var model []store.Stage
			for step := range 12 {
				var some []store.Stage
				for range rnd.IntN(4) {
					s := store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{
						Stage: wire.Stages[rnd.IntN(3)], Attempt: rnd.IntN(2), End: []string{"agent", "server"}[rnd.IntN(2)],
						Channel: []wire.Channel{wire.ChannelLink, ""}[rnd.IntN(2)], Note: []string{"", "\"ü\n\""}[rnd.IntN(2)],
						At: epoch.Add(time.Duration(step) * time.Second), Link: fmt.Sprint(step),
					}}
					some = append(some, s)
					if !slices.ContainsFunc(model, func(o store.Stage) bool {
						return o.Stage == s.Stage && o.Attempt == s.Attempt && o.End == s.End && o.Channel == s.Channel && o.Note == s.Note
					}) {
						s.Seq = int64(len(model) + 1)
						model = append(model, s)
					}
				}
				if err := r.AddStages(t.Context(), some...); err != nil {
					t.Error(err)
				}
			}
			after := rnd.IntN(len(model) + 1)
			got, err := r.Stages(t.Context(), c.ID, int64(after))
			if err != nil || !slices.EqualFunc(got, model[after:], func(x, y store.Stage) bool {
				return x.At.Equal(y.At) && x.Seq == y.Seq && x.Link == y.Link && x.Note == y.Note
			}) {
				t.Errorf("after %d of %d: %+v, %v", after, len(model), got, err)
			}
		})
	}
	all.Wait()
}

func stagesBounded(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	for i := range 120 {
		note := store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: "note", At: epoch, End: "server", Note: fmt.Sprint(i, strings.Repeat("x", 2000))}}
		must(t, r.AddStages(t.Context(), note))
	}
	list, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(list) < 50 || len(list) > 70 {
		t.Fatalf("%d notes of 2 kB of one command", len(list))
	}
	if last := list[len(list)-1]; !strings.Contains(last.Note, "notes are missing") || last.End != "server" {
		t.Fatalf("it does not say that it is full: %+v", last)
	}
	c.State = wire.StateRunning // what is no note is told all the same
	_, err = r.SaveCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageClaimed, At: epoch, End: "server"}})
	must(t, err)
	more, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(more) != len(list)+1 {
		t.Fatalf("%d stages, then %d", len(list), len(more))
	}
}

func outputs(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		whole := make([]byte, 1+rnd.IntN(500))
		for i := range whole {
			whole[i] = byte(rnd.Uint32())
		}
		c := r.command(t, a.ID, epoch)
		known := make([]bool, len(whole))
		var have int64
		for step := 0; have < int64(len(whole)); step++ {
			from := rnd.IntN(len(whole))
			to := min(len(whole), from+rnd.IntN(100))
			if step > 60 { // then in order, to end
				from, to = int(have), len(whole)
			}
			got, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, int64(from), whole[from:to])
			must(t, err)
			for i := from; i < to; i++ {
				known[i] = true
			}
			for have < int64(len(whole)) && known[have] {
				have++
			}
			if got != have {
				t.Fatalf("seed %d: %d bytes held, want %d", seed, got, have)
			}
		}
		got, err := r.ReadOutput(t.Context(), c.ID, wire.Stdout, 0, 1<<62)
		must(t, err)
		if !bytes.Equal(got, whole) {
			t.Fatalf("seed %d: bytes differ", seed)
		}
		from := rnd.IntN(len(whole))
		got, err = r.ReadOutput(t.Context(), c.ID, wire.Stdout, int64(from), 10)
		must(t, err)
		if !bytes.Equal(got, whole[from:min(len(whole), from+10)]) {
			t.Fatalf("seed %d: bytes from %d differ", seed, from)
		}
		if c, err = r.Command(t.Context(), c.ID); err != nil || c.StdoutBytes != int64(len(whole)) || c.StderrBytes != 0 {
			t.Fatalf("the command says %d bytes (%v)", c.StdoutBytes, err)
		}
	}
}

func outputPieces(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	const sent = 600 // more than are held
	for i := range int64(sent) {
		have, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, 1+2*i, []byte("b"))
		if must(t, err); have != 0 {
			t.Fatalf("held %d without the first byte", have)
		}
	}
	// The gaps are filled in order, as an agent does that is told how far it is held.
	var have int64
	for i := range int64(sent) {
		var err error
		have, err = r.AddOutput(t.Context(), c.ID, wire.Stdout, have, []byte("a"))
		if must(t, err); i == 0 && have != 2 || have <= i {
			t.Fatalf("held %d after %d gaps were filled", have, i+1)
		}
	}
	if have >= 2*sent {
		t.Errorf("all of %d pieces beyond a gap were held", sent)
	}
}

func outputGap(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	have, err := r.AddOutput(t.Context(), c.ID, wire.Stderr, 5, []byte("world"))
	must(t, err)
	if got, err := r.ReadOutput(t.Context(), c.ID, wire.Stderr, 0, 100); err != nil || have != 0 || len(got) != 0 {
		t.Fatalf("held %d, read %q, %v", have, got, err)
	}
	if have, err = r.AddOutput(t.Context(), c.ID, wire.Stderr, 0, []byte("helloXX")); err != nil || have != 10 {
		t.Fatalf("held %d, %v", have, err)
	}
	if got, err := r.ReadOutput(t.Context(), c.ID, wire.Stderr, 0, 100); err != nil || string(got) != "helloworld" {
		t.Fatalf("read %q, %v: the first bytes known must stay", got, err)
	}
	if _, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, -1, []byte("x")); err == nil {
		t.Fatal("a negative offset was taken")
	}
	if _, err := r.AddOutput(t.Context(), c.ID, "other", 0, []byte("x")); err == nil {
		t.Fatal("an unknown stream was taken")
	}
	_, err = r.AddOutput(t.Context(), "nothing", wire.Stdout, 0, []byte("x"))
	want(t, err, store.ErrNotFound)
	_, err = r.ReadOutput(t.Context(), "nothing", wire.Stdout, 0, 1)
	want(t, err, store.ErrNotFound)
}

func directives(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for i, id := range []string{"d1", "d2", "d3"} {
		d := wire.Directive{ID: id, Agent: a.ID, Kind: wire.DirectiveReconnect, Reason: "r", ExpiresAt: epoch.Add(time.Duration(i+1) * time.Minute)}
		must(t, r.CreateDirective(t.Context(), d, "ops", epoch.Add(time.Duration(i))))
	}
	want(t, r.CreateDirective(t.Context(), wire.Directive{ID: "d1", Agent: a.ID}, "ops", epoch), store.ErrConflict)
	want(t, r.CreateDirective(t.Context(), wire.Directive{ID: "d4", Agent: "nobody"}, "ops", epoch), store.ErrNotFound)
	pending := func(now time.Time) (ids []string) {
		t.Helper()
		list, err := r.PendingDirectives(t.Context(), a.ID, now, now.Add(-time.Minute))
		must(t, err)
		for _, d := range list {
			if d.Kind != wire.DirectiveReconnect || d.Reason != "r" {
				t.Fatalf("pending is %+v", d)
			}
			ids = append(ids, d.ID)
		}
		return ids
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d2", "d3"}) {
		t.Fatalf("pending are %v", got)
	}
	must(t, r.DirectivesDelivered(t.Context(), []string{"d2", "nothing"}, epoch))
	if got := pending(epoch); !slices.Equal(got, []string{"d1", "d3"}) {
		t.Fatalf("pending are %v", got)
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d2", "d3"}) {
		t.Fatalf("not answered in a minute: pending are %v", got)
	}
	d, err := r.Directive(t.Context(), "d2")
	must(t, err)
	if d.AgentName != "a" || d.CreatedBy != "ops" || d.DeliveredAt == nil || !d.DeliveredAt.Equal(epoch) || d.State != "" || d.AcceptedAt != nil {
		t.Fatalf("delivered: %+v", d)
	}
	for range 2 {
		changed, err := r.AnswerDirective(t.Context(), a.ID, store.DirectiveAnswer{ID: "d2", State: wire.DirectiveAccepted, At: epoch.Add(time.Second)})
		must(t, err)
		if !changed {
			t.Fatal("accepted: nothing changed")
		}
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d3"}) {
		t.Fatalf("accepted: pending are %v", got)
	}
	for i, state := range []wire.DirectiveState{wire.DirectiveFailed, wire.DirectiveDone, wire.DirectiveAccepted} {
		changed, err := r.AnswerDirective(t.Context(), a.ID, store.DirectiveAnswer{
			ID: "d2", State: state, At: epoch.Add(-time.Hour), Code: wire.CodeBusy, Detail: string(state), Report: []byte(`{"a":1}`)})
		must(t, err)
		if changed != (i == 0) {
			t.Fatalf("%s after the end: changed %v", state, changed)
		}
	}
	d, err = r.Directive(t.Context(), "d2")
	must(t, err)
	if d.State != "failed" || d.Code != wire.CodeBusy || d.Detail != "failed" || string(d.Report) != `{"a":1}` ||
		!d.AcceptedAt.Equal(epoch.Add(time.Second)) || !d.EndedAt.Equal(d.CreatedAt) {
		t.Fatalf("failed: %+v", d)
	}
	_, err = r.AnswerDirective(t.Context(), r.agent(t, "b").ID, store.DirectiveAnswer{ID: "d1", State: wire.DirectiveDone, At: epoch})
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)
	found, err := r.FindDirectives(t.Context(), "d3")
	must(t, err)
	list, err := r.Directives(t.Context(), a.ID, 2)
	must(t, err)
	if len(found) != 1 || len(list) != 2 || list[0].ID != "d3" || list[1].ID != "d2" || list[1].Report != nil {
		t.Fatalf("found %v, listed %+v", found, list)
	}
	for i := range store.KeepDirectives + 10 { // d1 has expired by now, d2 has ended
		must(t, r.CreateDirective(t.Context(), wire.Directive{ID: fmt.Sprint("n", i), Agent: a.ID, ExpiresAt: epoch.Add(time.Hour)}, "ops", epoch.Add(time.Minute+time.Duration(i))))
	}
	_, err = r.Directive(t.Context(), "d1")
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "d2")
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "d3") // still open
	must(t, err)
	_, err = r.Directive(t.Context(), "n0")
	must(t, err)
}

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

func builds(t *testing.T, r *rig) {
	b := operator.Build{PublishedBy: "ops", PublishedAt: epoch.UTC(), Build: wire.Build{
		Version: "v1.2.3", OS: "linux", Arch: "amd64", Size: 7, SHA256: "ab", Signature: "untrusted\ncomment"}}
	for i := range 2 {
		created, err := r.CreateBuild(t.Context(), b)
		must(t, err)
		if created != (i == 0) {
			t.Fatalf("created %v the %d. time", created, i+1)
		}
	}
	other, again := b, b
	other.SHA256, again.Version = "cd", "v1.2.4"
	for _, c := range []operator.Build{other, again} { // another program of it; the same program as another
		_, err := r.CreateBuild(t.Context(), c)
		want(t, err, store.ErrConflict)
	}
	other.Arch = "arm64"
	_, err := r.CreateBuild(t.Context(), other)
	must(t, err)
	list, err := r.Builds(t.Context())
	must(t, err)
	if len(list) != 2 || list[0] != b || list[1] != other {
		t.Fatalf("listed %+v", list)
	}
	must(t, r.DeleteBuilds(t.Context(), "v1.2.3"))
	want(t, r.DeleteBuilds(t.Context(), "v1.2.3"), store.ErrNotFound)
}

func removal(t *testing.T, r *rig) {
	a, other := r.agent(t, "alpha"), r.agent(t, "beta")
	hash := store.HashToken("again")
	must(t, r.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: wire.NewID(), Site: "lab", UsesLeft: 1, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}))
	third, err := r.TradeToken(t.Context(), hash, newAgent("gamma"), epoch)
	must(t, err)
	cmd := store.Command{Command: operator.Command{ID: wire.NewID(), Agent: a.ID, Script: "true", State: wire.StatePending, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}, MaxOutput: 10}
	_, _, err = r.CreateCommand(t.Context(), cmd, store.Stage{Command: cmd.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: epoch, End: "server"}})
	must(t, err)
	_, err = r.AddOutput(t.Context(), cmd.ID, wire.Stdout, 0, []byte("out"))
	must(t, err)
	d := wire.Directive{ID: wire.NewID(), Agent: a.ID, Kind: wire.DirectivePoll, ExpiresAt: epoch.Add(time.Hour)}
	must(t, r.CreateDirective(t.Context(), d, "op", epoch))

	want(t, r.RemoveAgent(t.Context(), "nobody", "op", epoch), store.ErrNotFound)
	want(t, r.PurgeAgent(t.Context(), a.ID), store.ErrNotFound) // it is there
	for i := range 2 {                                          // the second time changes nothing
		must(t, r.RemoveAgent(t.Context(), a.ID, fmt.Sprint("op", i), epoch.Add(time.Duration(i)*time.Minute)))
		must(t, r.RemoveAgent(t.Context(), third.ID, "op0", epoch))
	}
	nothingMore := func() { // what was let in just before the removal and is stored just after it
		t.Helper()
		late := cmd
		late.ID = wire.NewID()
		_, _, err := r.CreateCommand(t.Context(), late, store.Stage{Command: late.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: epoch, End: "server"}})
		want(t, err, store.ErrRemoved)
		d := d
		d.ID = wire.NewID()
		want(t, r.CreateDirective(t.Context(), d, "op", epoch), store.ErrRemoved)
		_, err = r.SaveBeacon(t.Context(), operator.Beacon{ReportID: wire.NewID(), Agent: a.ID, ReceivedAt: epoch, Report: []byte(`{}`)})
		want(t, err, store.ErrRemoved)
		want(t, r.CreateBundle(t.Context(), operator.Bundle{ID: "late", Agent: a.ID, SHA256: "ab", Size: 60, BeganAt: epoch}, 100), store.ErrRemoved)
		want(t, r.Resolve(t.Context(), a.ID, []store.Resolution{{ID: wire.NewID(), By: "op", At: epoch}}), store.ErrRemoved)
		r.NoteEvent(operator.AgentEvent{Agent: a.ID, At: epoch, Kind: operator.EventPresence, To: "removed"}) // may be told until the purge
		must(t, r.Flush(t.Context()))
	}
	nothingMore()
	must(t, r.Close())
	r.Store = r.open()
	got, err := r.Agent(t.Context(), a.ID) // its endpoint must be told
	must(t, err)
	if got.RemovedAt == nil || !got.RemovedAt.Equal(epoch) || got.RemovedBy != "op0" || !bytes.Equal(got.PublicKey, a.PublicKey) {
		t.Errorf("removed: %+v", got)
	}
	names := func(all []store.Agent, err error) string {
		must(t, err)
		var out []string
		for _, a := range all {
			out = append(out, a.Name)
		}
		return strings.Join(out, " ")
	}
	if n, err := r.CountAgents(t.Context()); err != nil || n != 1 {
		t.Fatalf("counted %d agents beside a removed one, want 1: %v", n, err)
	}
	for what, c := range map[string][2]string{
		"all":             {names(r.Agents(t.Context())), "beta"},
		"by name":         {names(r.FindAgents(t.Context(), "alpha")), ""},
		"by id":           {names(r.FindAgents(t.Context(), a.ID)), ""},
		"removed":         {names(r.RemovedAgents(t.Context())), "alpha gamma"},
		"removed by name": {names(r.FindRemoved(t.Context(), "ALPHA")), "alpha"},
		"removed by id":   {names(r.FindRemoved(t.Context(), a.ID)), "alpha"},
		"one that is not": {names(r.FindRemoved(t.Context(), other.ID)), ""},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %q, want %q", what, c[0], c[1])
		}
	}
	// Its key is no identity any more, by the token of before neither.
	back := newAgent("gamma")
	back.PublicKey = third.PublicKey
	_, err = r.TradeToken(t.Context(), hash, back, epoch)
	want(t, err, store.ErrTokenInvalid)
	if kept, err := r.Command(t.Context(), cmd.ID); err != nil || kept.Script != "true" {
		t.Errorf("its command: %+v, %v", kept, err)
	}
	if ended, err := r.Directive(t.Context(), d.ID); err != nil || ended.State != string(wire.DirectiveFailed) || ended.EndedAt == nil {
		t.Errorf("its directive: %+v, %v", ended, err)
	}

	if got := r.said(t, store.EventFilter{Agent: a.ID}); !slices.Equal(got, []string{"presence >removed"}) {
		t.Errorf("its events: %q", got)
	}

	must(t, r.PurgeAgent(t.Context(), a.ID))
	nothingMore()
	if got := r.said(t, store.EventFilter{Agent: a.ID}); len(got) > 0 {
		t.Errorf("its events after the purge: %q", got)
	}
	if _, err := r.Command(t.Context(), cmd.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its command after the purge: %v", err)
	}
	if found := names(r.RemovedAgents(t.Context())); found != "gamma" {
		t.Errorf("removed after the purge: %q", found)
	}
	got, err = r.Agent(t.Context(), a.ID)
	must(t, err)
	if got.RemovedAt == nil || got.Name != "" || !bytes.Equal(got.PublicKey, a.PublicKey) {
		t.Errorf("purged: %+v", got)
	}
}

func bundles(t *testing.T, r *rig) {
	a, other := r.agent(t, "a"), r.agent(t, "b")
	made := epoch.UTC().Add(-time.Hour)
	one := operator.Bundle{ID: "b1", Agent: a.ID, SHA256: "ab", Size: 60, Reason: "ordered", MadeAt: &made, BeganAt: epoch.UTC()}
	must(t, r.CreateBundle(t.Context(), one, 100))
	want(t, r.CreateBundle(t.Context(), one, 1000), store.ErrConflict)
	two := operator.Bundle{ID: "b2", Agent: other.ID, SHA256: "cd", Size: 41, BeganAt: epoch.UTC().Add(time.Second)}
	want(t, r.CreateBundle(t.Context(), two, 100), store.ErrNoRoom)
	two.Size = 40
	must(t, r.CreateBundle(t.Context(), two, 100))
	want(t, r.CreateBundle(t.Context(), operator.Bundle{ID: "b3", Agent: "nobody", BeganAt: epoch}, 1000), store.ErrNotFound)

	now := epoch.UTC().Add(time.Minute)
	one.Held, one.Complete, one.CompletedAt = 60, true, &now
	must(t, r.SaveBundle(t.Context(), one))
	want(t, r.SaveBundle(t.Context(), operator.Bundle{ID: "nothing"}), store.ErrNotFound)
	must(t, r.Close())
	r.Store = r.open()
	got, err := r.Bundle(t.Context(), "b1")
	must(t, err)
	if !reflect.DeepEqual(got, one) {
		t.Errorf("stored %+v, want %+v", got, one)
	}
	for agent, ids := range map[string][]string{"": {"b2", "b1"}, a.ID: {"b1"}, other.ID: {"b2"}, "nobody": nil} {
		list, err := r.Bundles(t.Context(), agent)
		must(t, err)
		var found []string
		for _, b := range list {
			found = append(found, b.ID)
		}
		if !slices.Equal(found, ids) {
			t.Errorf("of %q: %v, want %v", agent, found, ids)
		}
	}
	must(t, r.DeleteBundle(t.Context(), "b1"))
	want(t, r.DeleteBundle(t.Context(), "b1"), store.ErrNotFound)
	_, err = r.Bundle(t.Context(), "b1")
	want(t, err, store.ErrNotFound)
}

func rollouts(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	one := store.Rollout{ID: "r1", Version: "v1.2.3", State: operator.RolloutActive, CreatedBy: "ops", CreatedAt: epoch.UTC(),
		Plan: operator.RolloutPlan{Rings: []float64{1, 100}, MaxFailures: "5%", SoakMS: 1, Parallel: 2, AllowDowngrade: true, GraceMS: 3}}
	members := []operator.RolloutAgent{{Agent: b.ID, Ring: 1, State: operator.RollWaiting}, {Agent: a.ID, State: operator.RollWaiting}}
	must(t, r.CreateRollout(t.Context(), one, members))
	want(t, r.CreateRollout(t.Context(), one, nil), store.ErrConflict)
	want(t, r.CreateRollout(t.Context(), store.Rollout{ID: "r0", CreatedAt: epoch}, []operator.RolloutAgent{{Agent: "nobody"}}), store.ErrNotFound)
	two := one
	two.ID, two.CreatedAt = "r2", epoch.UTC().Add(time.Second)
	must(t, r.CreateRollout(t.Context(), two, nil))

	now := epoch.UTC().Add(time.Minute)
	one.State, one.Reason, one.Ring, one.SoakSince, one.ResumedAt, one.EndedAt = operator.RolloutDone, "why", 1, &now, &now, &now
	changed := operator.RolloutAgent{Agent: a.ID, State: operator.RollFailed, Directive: "d", OrderedAt: &now, EndedAt: &now, Detail: "broke", Attempts: 2, NotBefore: &now}
	one.Plan.MaxFailures = "3"
	want(t, r.SaveRollout(t.Context(), one, changed), store.ErrConflict) // not as it was read
	one.Rev = 1
	must(t, r.SaveRollout(t.Context(), one, changed))
	want(t, r.SaveRollout(t.Context(), one, changed), store.ErrConflict)
	want(t, r.SaveRollout(t.Context(), store.Rollout{ID: "nothing"}), store.ErrNotFound)
	got, err := r.Rollout(t.Context(), "r1")
	must(t, err)
	if fmt.Sprintf("%+v", got.Plan) != fmt.Sprintf("%+v", one.Plan) || got.State != one.State || got.Reason != "why" || got.Ring != 1 ||
		!got.SoakSince.Equal(now) || !got.ResumedAt.Equal(now) || !got.EndedAt.Equal(now) || got.CreatedBy != "ops" || !got.CreatedAt.Equal(epoch) || got.Rev != 2 {
		t.Fatalf("got %+v", got)
	}
	list, err := r.RolloutAgents(t.Context(), "r1")
	must(t, err)
	if len(list) != 2 || list[0].AgentName != "a" || list[0].State != operator.RollFailed || list[0].Directive != "d" || !list[0].OrderedAt.Equal(now) ||
		!list[0].EndedAt.Equal(now) || list[0].Detail != "broke" || list[0].Attempts != 2 || !list[0].NotBefore.Equal(now) || list[1].NotBefore != nil || list[1].AgentName != "b" || list[1].Ring != 1 || list[1].OrderedAt != nil {
		t.Fatalf("members %+v", list)
	}
	all, err := r.Rollouts(t.Context(), 0)
	must(t, err)
	open, err := r.OpenRollouts(t.Context())
	must(t, err)
	found, err := r.FindRollouts(t.Context(), "r2")
	must(t, err)
	if len(all) != 2 || all[0].ID != "r2" || len(open) != 1 || open[0].ID != "r2" || len(found) != 1 {
		t.Fatalf("all %+v, open %+v, found %v", all, open, found)
	}
	_, err = r.Rollout(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)
}

func withdrawn(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for _, id := range []string{"d1", "d2"} {
		must(t, r.CreateDirective(t.Context(), wire.Directive{ID: id, Agent: a.ID, ExpiresAt: epoch.Add(time.Hour)}, "ops", epoch))
	}
	must(t, r.DirectivesDelivered(t.Context(), []string{"d2"}, epoch))
	back := store.DirectiveAnswer{ID: "d1", State: wire.DirectiveFailed, At: epoch, Detail: "not wanted"}
	must(t, r.WithdrawDirective(t.Context(), back))
	want(t, r.WithdrawDirective(t.Context(), back), store.ErrConflict)
	back.ID = "d2"
	want(t, r.WithdrawDirective(t.Context(), back), store.ErrConflict)
	list, err := r.PendingDirectives(t.Context(), a.ID, epoch, epoch)
	must(t, err)
	if len(list) != 1 || list[0].ID != "d2" {
		t.Fatalf("pending are %+v", list)
	}
}

func together(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			agent := a.ID
			if i%3 == 0 {
				agent = "nobody"
			}
			_, _, err := r.CreateCommand(t.Context(), newCommand(agent, epoch))
			if (err == nil) != (i%3 != 0) {
				t.Errorf("command %d: %v", i, err)
			}
		})
	}
	for range 20 { // which fail in the middle of what they do
		wg.Go(func() {
			lost := store.Stage{Command: "none", TraceEntry: operator.TraceEntry{Stage: wire.StageRead, At: epoch, End: "agent"}}
			if err := r.AddStages(t.Context(), lost); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a stage of no command: %v", err)
			}
		})
	}
	wg.Wait()
	list, err := r.Commands(t.Context(), store.CommandFilter{Limit: store.MaxList})
	must(t, err)
	if len(list) != 66 {
		t.Fatalf("%d commands, want 66", len(list))
	}
}

func reopened(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	must(t, r.AddStages(t.Context(), store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageClaimed, At: epoch, End: "server"}}))
	_, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, 0, []byte("x"))
	must(t, err)
	must(t, r.Close())
	r.Store = r.open()
	got, err := r.Command(t.Context(), c.ID)
	must(t, err)
	list, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if got.StdoutBytes != 1 || len(list) != 1 {
		t.Fatalf("got %+v, stages %+v", got, list)
	}
	must(t, r.Ready(t.Context()))
}

func closed(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	must(t, r.Close())
	want(t, r.Ready(t.Context()), store.ErrClosed)
	_, _, err := r.CreateCommand(t.Context(), newCommand(a.ID, epoch))
	want(t, err, store.ErrClosed)
	if _, err := r.Agent(t.Context(), a.ID); err == nil {
		t.Fatal("read from a closed store")
	}
	r.Seen(a.ID, epoch, "text") // goes nowhere, and blocks nobody
	r.NoteEvent(operator.AgentEvent{Agent: a.ID})
	must(t, r.Close())
}

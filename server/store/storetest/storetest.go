// Package storetest holds what any implementation of store.Store must do, as
// tests that each implementation runs.
package storetest

import (
	"crypto/ed25519"
	"errors"
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

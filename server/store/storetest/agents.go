package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

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

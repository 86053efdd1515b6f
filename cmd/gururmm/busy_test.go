package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server"
	"gururmm/server/store"
	"gururmm/wire"
)

// BenchmarkBusyDay measures what it takes to ask for all that is known of an agent that was given
// 10,000 commands within a day and was ill for hours, one of 1,000 in the fleet: the whole command,
// over HTTPS, with SQLite.
func BenchmarkBusyDay(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	config := server.Config{StateDir: dir, ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0"}
	first, err := server.New(config, slog.New(slog.DiscardHandler)) // makes its keys, and the token
	if err != nil {
		b.Fatal(err)
	}
	token := first.Info().OperatorToken
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "gururmm.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	fillBusyDay(b, st)
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
	srv, err := server.New(config, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var served sync.WaitGroup
	served.Go(func() {
		if err := srv.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	defer served.Wait()
	defer stop()
	home := b.TempDir()
	for name, value := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, "GURURMM_URL": srv.Info().URL, "GURURMM_TOKEN": token, "GURURMM_PIN": srv.Info().Pin} {
		b.Setenv(name, value)
	}
	for _, args := range []string{"diagnose busy", "timeline busy", "timeline busy -v --limit 10000", "dossier busy"} {
		b.Run(strings.Fields(args)[0]+strings.Repeat("_all", strings.Count(args, "-v")), func(b *testing.B) {
			size := 0
			for b.Loop() {
				var out, errs bytes.Buffer
				if code := run(strings.Fields(args), strings.NewReader(""), &out, &errs); code != 0 {
					b.Fatalf("%s: exit %d, %s", args, code, errs.String())
				}
				size = out.Len()
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}

// fillBusyDay stores the agent "busy", its day, and the others.
func fillBusyDay(b *testing.B, st store.Store) {
	b.Helper()
	const commands, atOnce, others = 10_000, 64, 999
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx, now := b.Context(), time.Now()
	hash := store.HashToken(wire.NewID())
	must(st.CreateEnrollToken(ctx, hash, operator.EnrollToken{ID: wire.NewID(), Site: "s", UsesLeft: others + 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
	enroll := func(name string) string {
		key, _, err := ed25519.GenerateKey(nil)
		must(err)
		a, err := st.TradeToken(ctx, hash, store.Agent{ID: wire.NewID(), Name: name, PublicKey: key, Version: "v1.0.0"}, now)
		must(err)
		return a.ID
	}
	busy := enroll("busy")
	for i := range others {
		enroll(fmt.Sprint("host-", i))
	}
	var group sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		group.Go(func() {
			for i := range next {
				at := now.Add(-24 * time.Hour * time.Duration(commands-i) / commands)
				c := store.Command{Command: operator.Command{ID: wire.NewID(), Agent: busy, Script: "hostname; " + strings.Repeat("x", 200), State: wire.StatePending, CreatedAt: at, ExpiresAt: at.Add(time.Hour)}}
				var stages []store.Stage
				for n, s := range wire.Stages {
					stages = append(stages, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: s, At: at.Add(time.Duration(n) * time.Millisecond), End: "agent", Attempt: 1, Channel: wire.ChannelLink, Link: "0123456789abcdef"}})
				}
				c, _, err := st.CreateCommand(ctx, c, stages...)
				if err != nil {
					b.Error(err)
					continue
				}
				c.State, c.Attempts, c.AckedAt, c.EndedAt = wire.StateCompleted, 1, &at, &at
				if _, err := st.SaveCommand(ctx, c); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range commands {
		next <- i
	}
	close(next)
	group.Wait()
	for i := range store.KeepAgentEvents {
		st.NoteEvent(operator.AgentEvent{Agent: busy, At: now.Add(-24 * time.Hour * time.Duration(store.KeepAgentEvents-i) / store.KeepAgentEvents), Kind: operator.EventLink, To: "degraded",
			Verdict: string(selfcheck.CodeLinkTextLost), Link: "0123456789abcdef", Reason: strings.Repeat("why ", 60)})
	}
	must(st.Flush(ctx))
	report := oob.Report{Schema: oob.SchemaVersion, Agent: busy, Cause: "verdict"}
	report.Verdict = selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost, Sentence: strings.Repeat("what ", 60)}
	for range 16 {
		report.Snapshot.Link.Recent = append(report.Snapshot.Link.Recent, selfcheck.FrameHeader{})
		report.Steps = append(report.Steps, selfcheck.StepRecord{At: now, Kind: selfcheck.StepReconnect, Reason: report.Verdict.Sentence})
	}
	for i := range store.KeepBeacons {
		report.ReportID, report.At = wire.NewID(), now.Add(-time.Duration(store.KeepBeacons-i)*30*time.Second)
		raw, err := json.Marshal(report)
		must(err)
		_, err = st.SaveBeacon(ctx, operator.Beacon{ReportID: report.ReportID, Agent: busy, ReceivedAt: report.At, Verdict: string(report.Verdict.Code), Sentence: report.Verdict.Sentence, Report: raw})
		must(err)
	}
}

package store_test

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/server/store/pgtest"
	"gururmm/wire"
)

// atOnce is how many callers write at once, for each processor.
const atOnce = 128

// BenchmarkAccepted measures how many commands a second are taken, each durably.
func BenchmarkAccepted(b *testing.B) {
	onBoth(b, func(ctx context.Context, st store.Store, c store.Command) error {
		_, _, err := st.CreateCommand(ctx, c, stage(c, wire.StageAccepted))
		return err
	})
}

// BenchmarkLife measures how many commands a second live their whole life: taken, claimed,
// acknowledged, output, result.
func BenchmarkLife(b *testing.B) { onBoth(b, live) }

func live(ctx context.Context, st store.Store, c store.Command) error {
	c, _, err := st.CreateCommand(ctx, c, stage(c, wire.StageAccepted))
	if err != nil {
		return err
	}
	now := c.CreatedAt
	c.Attempts, c.Channel = 1, wire.ChannelLink
	if c.Rev, err = st.SaveCommand(ctx, c, stage(c, wire.StageClaimed), stage(c, wire.StageWritten)); err != nil {
		return err
	}
	c.State, c.AckedAt = wire.StateRunning, &now
	if c.Rev, err = st.SaveCommand(ctx, c, stage(c, wire.StageAcked)); err != nil {
		return err
	}
	if _, err := st.AddOutput(ctx, c.ID, wire.Stdout, 0, []byte("a line of output\n")); err != nil {
		return err
	}
	c.State, c.EndedAt, c.ExitCode = wire.StateCompleted, &now, new(0)
	_, err = st.SaveCommand(ctx, c, stage(c, wire.StageFinished), stage(c, wire.StageResultStored))
	return err
}

func stage(c store.Command, s wire.Stage) store.Stage {
	return store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: s, At: c.CreatedAt, End: "server"}}
}

func onBoth(b *testing.B, do func(context.Context, store.Store, store.Command) error) {
	b.Run("sqlite", func(b *testing.B) {
		st, err := store.Open(filepath.Join(b.TempDir(), "server.db"), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer st.Close()
		measure(b, st, do)
	})
	b.Run("postgres", func(b *testing.B) {
		st := openPostgres(b, pgtest.Shared(b).Database(b))
		defer st.Close()
		measure(b, st, do)
	})
}

func measure(b *testing.B, st store.Store, do func(context.Context, store.Store, store.Command) error) {
	agents := enroll(b, st, 100)
	var n atomic.Int64
	b.SetParallelism(atOnce)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(b.Context(), st, command(agents[int(n.Add(1))%len(agents)])); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

// enroll gives the ids of n agents.
func enroll(t testing.TB, st store.Store, n int) (ids []string) {
	t.Helper()
	now := time.Now()
	hash := store.HashToken(wire.NewID())
	if err := st.CreateEnrollToken(t.Context(), hash, operator.EnrollToken{ID: wire.NewID(), Site: "s", UsesLeft: n, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for range n {
		key, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := st.TradeToken(t.Context(), hash, store.Agent{ID: wire.NewID(), Name: "host", PublicKey: key}, now)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	return ids
}

func command(agent string) store.Command {
	now := time.Now()
	return store.Command{Command: operator.Command{
		ID: wire.NewID(), Agent: agent, Script: "uname -a", Shell: wire.ShellSh, State: wire.StatePending,
		CreatedAt: now, ExpiresAt: now.Add(time.Hour), TimeoutMS: 1000, CreatedBy: "ops",
	}, MaxOutput: 1 << 20, IdempotencyKey: wire.NewID()}
}

package metrics

import (
	"context"
	"slices"

	"gururmm/operator"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

// Meter gives st, with all that is stored through it counted once it is on disk.
func (m *Metrics) Meter(st store.Store) store.Store { return &meter{Store: st, m: m} }

type meter struct {
	store.Store
	m *Metrics
}

func (t *meter) CreateCommand(ctx context.Context, c store.Command, first ...store.Stage) (store.Command, bool, error) {
	stored, created, err := t.Store.CreateCommand(ctx, c, first...)
	if err == nil && created {
		t.m.passed(first)
	}
	return stored, created, err
}

func (t *meter) SaveCommand(ctx context.Context, c store.Command, stages ...store.Stage) (int64, error) {
	rev, err := t.Store.SaveCommand(ctx, c, stages...)
	if err != nil {
		return rev, err
	}
	t.m.passed(stages)
	if c.State.Terminal() {
		t.m.ended.WithLabelValues(string(c.State)).Inc()
	}
	return rev, nil
}

func (t *meter) AddStages(ctx context.Context, stages ...store.Stage) error {
	err := t.Store.AddStages(ctx, stages...)
	if err == nil {
		t.m.passed(stages)
	}
	return err
}

func (t *meter) SaveBeacon(ctx context.Context, b operator.Beacon) (bool, error) {
	added, err := t.Store.SaveBeacon(ctx, b)
	if err == nil && added {
		t.m.beacons.WithLabelValues(hub.CodeOf(b.Verdict)).Inc()
	}
	return added, err
}

// toAck are the agent's stages that its acknowledgement tells; its result repeats them.
var toAck = []wire.Stage{wire.StageRead, wire.StageDecoded, wire.StageVerified, wire.StageJournaled, wire.StageAcked}

// passed counts stages. The agent's come with its acknowledgement, and, if that was lost,
// all with its result: each is counted with the one it belongs to, so once.
func (m *Metrics) passed(stages []store.Stage) {
	has := func(stage wire.Stage) bool {
		return slices.ContainsFunc(stages, func(s store.Stage) bool { return s.Stage == stage })
	}
	acked, stored := has(wire.StageAckRead), has(wire.StageResultStored)
	for _, s := range stages {
		if early := slices.Contains(toAck, s.Stage); s.End == "agent" && (early && !acked || !early && !stored) {
			continue
		}
		m.stages.WithLabelValues(string(s.Stage), string(s.Channel)).Inc()
		if s.Stage == wire.StageClaimed {
			m.claims.WithLabelValues(string(s.Channel)).Inc()
			if s.Attempt > 1 {
				m.reoffers.WithLabelValues(string(s.Channel)).Inc()
			}
		}
	}
}

// Package retention deletes what ended longer ago than it is kept.
//
// Rules that hold here:
//   - what has not ended is never deleted, and a job's commands go when the job does;
//   - it goes in small chunks with rests between them: whoever delivers never waits for it;
//   - each sweep that deleted something says what and how many, in the log.
package retention

import (
	"context"
	"log/slog"
	"time"

	"gururmm/server/store"
)

const (
	// Default is how long commands are kept, and Least the shortest there is: a rollout
	// looks at its orders for some hours.
	Default = 90 * 24 * time.Hour
	Least   = 24 * time.Hour

	// firstAfter lets a server that has just started serve first.
	firstAfter = time.Minute
	sweepEvery = time.Hour
	// rest between two chunks: a tenth of it is what one takes.
	rest = 100 * time.Millisecond
	// chunkTimeout bounds one chunk.
	chunkTimeout = 30 * time.Second
)

// Options of a sweep. All are needed but Leads and Now.
type Options struct {
	Store store.Retention
	Keep  time.Duration
	// Leads tells whether this is the node that sweeps; nil: it is the only one.
	Leads func() bool
	Now   func() time.Time // default time.Now
	Log   *slog.Logger
}

// Run sweeps until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	for wait := firstAfter; pause(ctx, wait); wait = sweepEvery {
		if o.Leads == nil || o.Leads() {
			o.sweep(ctx)
		}
	}
	return nil
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sweep deletes chunk by chunk. What an error leaves, the next sweep deletes.
func (o Options) sweep(ctx context.Context) {
	before := o.Now().Add(-o.Keep)
	var sum store.Deleted
	for more := true; more && ctx.Err() == nil; {
		got, err := o.chunk(ctx, before)
		if err != nil {
			if ctx.Err() == nil {
				o.Log.Error("old commands could not be deleted; it is tried again", "error", err)
			}
			break
		}
		sum.Commands, sum.Jobs, sum.Directives = sum.Commands+got.Commands, sum.Jobs+got.Jobs, sum.Directives+got.Directives
		more = got.More && pause(ctx, rest)
	}
	if sum.Commands+sum.Jobs+sum.Directives > 0 {
		o.Log.Info("deleted what was kept long enough", "ended_before", before.UTC(), "commands", sum.Commands, "jobs", sum.Jobs, "directives", sum.Directives)
	}
}

func (o Options) chunk(ctx context.Context, before time.Time) (store.Deleted, error) {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	return o.Store.DeleteOld(ctx, before)
}

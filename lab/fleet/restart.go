package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// returnWithin is how long all agents that are well may take to be verified again after
// the server answers; they are waited for twice as long, to tell how long it took.
const returnWithin = 60 * time.Second

// Return is how the fleet came back after a restart of the server.
type Return struct {
	Down     time.Duration `json:"down_ns"`     // from its order to end until it answered again
	Half     time.Duration `json:"half_ns"`     // from its answer until half of those that are well were verified again
	Verified time.Duration `json:"verified_ns"` // ... and all of them
	Agents   int           `json:"agents"`      // that are well
	Missing  int           `json:"missing"`     // of those not verified again in time
	Failures int           `json:"failures"`    // attempts at a link that failed or were refused meanwhile
	CPU      time.Duration `json:"cpu_ns"`      // what the server used of all cores until then
	Peak     int64         `json:"peak_bytes"`  // the most memory that the server took
	Orders   int           `json:"orders"`      // times an order was sent again with its key
}

// restart has the server started again, a quarter into the run, and waits for all.
func (f *fleet) restart(ctx context.Context) (*Return, error) {
	if err := sleep(ctx, time.Until(f.heldSince().Add(f.opts.Hold/4))); err != nil {
		return nil, err
	}
	f.opts.Progress("restarting the server")
	left, before := time.Now(), f.failures()
	if err := f.opts.Restart.Stop(); err != nil {
		return nil, fmt.Errorf("end the server: %w", err)
	}
	gone := time.Now()
	if err := f.opts.Restart.Start(ctx); err != nil {
		return nil, fmt.Errorf("start the server again: %w", err)
	}
	back := time.Now()
	r := &Return{Down: back.Sub(left)}
	seen := map[*agent]time.Time{}
	err := until(ctx, 2*returnWithin, visitEvery, func() (bool, error) {
		r.Agents = f.returned(gone, seen)
		return len(seen) == r.Agents, nil
	})
	if ctx.Err() != nil {
		return nil, err
	}
	var took []time.Duration
	for _, at := range seen {
		took = append(took, max(0, at.Sub(back)))
	}
	slices.Sort(took)
	if r.Missing = r.Agents - len(took); len(took) > 0 {
		r.Half, r.Verified = took[(len(took)-1)/2], took[len(took)-1]
	}
	r.Failures = f.failures() - before
	if r.CPU, err = f.opts.Restart.CPU(); err != nil {
		return nil, err
	}
	if r.Peak, err = f.opts.Restart.Peak(); err != nil {
		return nil, err
	}
	f.opts.Progress(r.String())
	return r, nil
}

// returned notes when each agent that is well was first verified after gone, and counts
// those that are well.
func (f *fleet) returned(gone time.Time, seen map[*agent]time.Time) (well int) {
	for _, a := range f.agents {
		if !a.kind.Well() {
			continue
		}
		well++
		a.mu.Lock()
		at := a.verifiedAt
		a.mu.Unlock()
		if _, known := seen[a]; !known && at.After(gone) {
			seen[a] = at
		}
	}
	return well
}

func (f *fleet) failures() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failing
}

func (f *fleet) reordered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resent
}

func (r *Return) String() string {
	return fmt.Sprintf("the server was away for %.1f s; %d of %d were verified again %.1f s after it answered, half of them after %.1f s; %d attempts failed or were refused meanwhile; the server used %.1f s of a core until then, and %d MB of memory at the most",
		r.Down.Seconds(), r.Agents-r.Missing, r.Agents, r.Verified.Seconds(), r.Half.Seconds(), r.Failures, r.CPU.Seconds(), r.Peak/1e6)
}

// wrong says what must not be.
func (r *Return) wrong() (all []string) {
	switch {
	case r.Missing > 0:
		all = append(all, fmt.Sprintf("restart: %d agents were not verified again within %v", r.Missing, 2*returnWithin))
	case r.Verified > returnWithin:
		all = append(all, fmt.Sprintf("restart: the last agent was verified %.1f s after the server answered; allowed are %v", r.Verified.Seconds(), returnWithin))
	}
	return all
}

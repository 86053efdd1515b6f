package guardian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/versions"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/oob"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// fetchLimit bounds a download in all; fetchMin and fetchMax the wait between its attempts.
	fetchLimit         = 2 * time.Hour
	fetchMin, fetchMax = time.Second, time.Minute
)

// fetchUpdate brings the program here and verifies it, in a helper.
func (g *Guardian) fetchUpdate() {
	c, b, until := g.cfg.Updates, g.update.state.Next.Build, g.update.state.Order.ExpiresAt
	offset := time.Until(g.now())
	rng := backoffRand(g)
	fetch := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		if err := c.Store.Room(b); err != nil {
			return err
		}
		get := func(ctx context.Context, offset int64, w io.Writer) error {
			_, err := c.Fetch(ctx, b.SHA256, b.Size, offset, dieAfter{w, "update.part"})
			return err
		}
		for try := 0; ; try++ {
			err := c.Store.Fetch(ctx, c.Keys, b, get)
			if err == nil {
				fault.Die("update.fetched")
				return nil
			}
			_, network := errors.AsType[*oob.DoorError](err)
			if !network || errors.Is(err, oob.ErrNoBuild) || errors.Is(err, oob.ErrRejected) {
				return err
			}
			if !until.IsZero() && !time.Now().Add(offset).Before(until) {
				return fmt.Errorf("not fetched before the order expired: %w", err)
			}
			wait := time.NewTimer(max(rng(try), oob.RetryAfter(err)))
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return fmt.Errorf("not fetched within %v: %w", fetchLimit, err)
			}
		}
	}
	g.wg.Go(func() {
		err := fetch(g.helpers)
		g.hand(func() { g.fetchedUpdate(err) })
	})
}

// backoffRand gives waits that do not touch the loop's own source of chance.
func backoffRand(g *Guardian) func(try int) time.Duration {
	var waits [8]time.Duration
	for i := range waits {
		waits[i] = backoff.Full(g.rng, fetchMin, fetchMax, i)
	}
	return func(try int) time.Duration { return waits[min(try, len(waits)-1)] }
}

// dieAfter is the boundary in the middle of a download.
type dieAfter struct {
	w     io.Writer
	label string
}

func (d dieAfter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	fault.Die(d.label)
	return n, err
}

// fetchedUpdate begins the trial, or ends the order.
func (g *Guardian) fetchedUpdate(err error) {
	u := &g.update
	if u.step != local.UpdateFetch || g.stopping {
		return // the next start goes on with it
	}
	if err != nil {
		if g.helpers.Err() != nil {
			return
		}
		g.failUpdate(u.state.GiveUp(fetchCode(err), err.Error(), g.now()))
		return
	}
	g.noteUpdate("fetched", "The program of version "+u.version(g)+" is here, and is the one that was signed.")
	byDoor := g.worker.life == nil || g.worker.said.Link.Phase != selfcheck.PhaseVerified
	if byDoor {
		g.noteUpdate("by_door", "No link is verified now: the second door will stand for it in the trial.")
	}
	g.saveUpdate(u.state.Trial(byDoor), "update.trial", g.drainForTrial)
}

// fetchCode names the cause of a download that failed, if it is of the moment. What the
// server or the signature says against the program is not.
func fetchCode(err error) wire.Code {
	_, network := errors.AsType[*oob.DoorError](err)
	_, system := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, oob.ErrNoBuild), errors.Is(err, oob.ErrRejected), errors.Is(err, release.ErrContent):
		return ""
	case network, errors.Is(err, context.DeadlineExceeded):
		return wire.CodeUnreachable
	case system, errors.Is(err, versions.ErrSpace): // of the disk
		return wire.CodeJournal
	}
	return ""
}

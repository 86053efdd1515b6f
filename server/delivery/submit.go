package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// Defaults and bounds of what an operator may ask for.
const (
	defaultTimeout = 10 * time.Minute
	maxTimeout     = 7 * 24 * time.Hour
	defaultExpiry  = 10 * time.Minute
	maxExpiry      = 30 * 24 * time.Hour
	maxOutput      = 16 << 20 // bytes a stream: it is held in memory when read whole
	maxKey         = 200      // bytes of an idempotency key
	// envelopeRoom is kept of wire.MaxMessage for the envelope around a payload.
	envelopeRoom = 1 << 10
)

var shells = []wire.Shell{wire.ShellDefault, wire.ShellSh, wire.ShellBash, wire.ShellPowerShell, wire.ShellCmd, wire.ShellPython}

// Submit stores a command for an agent and wakes delivery. by is the operator
// token's name. A second one with the same idempotency key gets the first one's
// command, or ErrKeyUsed if it asks for something else.
func (s *Service) Submit(ctx context.Context, agentID string, c operator.NewCommand, by string) (operator.Command, error) {
	return s.submit(ctx, agentID, c, by, func(*store.Command) {})
}

// Check refuses what Submit would refuse of any agent.
func (s *Service) Check(c operator.NewCommand) error {
	_, err := s.prepare(wire.NewID(), c, "")
	return err
}

// Place is Submit of a command whose id and expiry were settled before: a second call with
// that id stores nothing, and gives the command that is there.
func (s *Service) Place(ctx context.Context, agentID, id string, expires time.Time, c operator.NewCommand, by string) (operator.Command, error) {
	return s.submit(ctx, agentID, c, by, func(cmd *store.Command) { cmd.ID, cmd.ExpiresAt = id, expires })
}

// submit stores what c asks for, as settled changes it.
func (s *Service) submit(ctx context.Context, agentID string, c operator.NewCommand, by string, settled func(*store.Command)) (operator.Command, error) {
	if s.known(agentID) == nil { // who is not known gets no route
		agent, err := s.st.Agent(ctx, agentID)
		if err == nil && agent.RemovedAt != nil {
			err = ErrRemoved
		}
		if err != nil {
			return operator.Command{}, err
		}
	}
	cmd, err := s.prepare(agentID, c, by)
	if err != nil {
		return operator.Command{}, err
	}
	settled(&cmd)
	err = s.do(ctx, agentID, func() error {
		r := s.route(agentID)
		if r == nil {
			return ErrStopped
		}
		if len(r.jobs) >= maxOwed {
			return ErrBusy
		}
		stored, err := r.create(ctx, cmd)
		if err == nil { // else the order may be tried again
			cmd = stored
		}
		return err
	})
	if errors.Is(err, store.ErrQuarantined) {
		err = ErrQuarantined
	}
	if err != nil { // if only ctx has ended, the task may still be using cmd
		return operator.Command{}, err
	}
	return cmd.Command, nil
}

// create stores an order and gives what is stored, which may be an earlier one. Where a link
// is open its first claim is stored with it, and it goes out at once.
func (r *route) create(ctx context.Context, order store.Command) (store.Command, error) {
	first, stages := order, []store.Stage{{Command: order.ID, TraceEntry: operator.TraceEntry{
		Stage: wire.StageAccepted, At: order.CreatedAt, End: "server",
	}}}
	var out *ticket
	l, _ := r.door()
	if l != nil && r.free(l) && r.now().Before(order.ExpiresAt) {
		out = r.ticket(order, wire.ChannelLink, l.ID(), l.Generation(), leaseOf(l))
	}
	if out != nil {
		first, stages = r.after(order, table[Pending][Claim], told{claim: out.claim}), append(stages, out.stage(order.ID))
	}
	stored, created, err := r.s.st.CreateCommand(ctx, first, stages...)
	if errors.Is(err, store.ErrConflict) { // the id is there
		stored, err = r.s.st.Command(ctx, order.ID)
		if r.s.o.Cluster != nil && errors.Is(err, store.ErrNotFound) { // its key was used at another node, just now
			return stored, errOvertaken
		}
	}
	switch {
	case err != nil:
		if !nothingStored(err) { // it may be on disk all the same
			r.broken("stored", err)
		}
		return stored, err
	case !created && !alike(stored, order):
		return stored, fmt.Errorf("%w, %s", ErrKeyUsed, stored.ID)
	case !created:
		return stored, nil
	}
	j := newJob(stored)
	if len(order.Script) <= shortScript {
		j.script = order.Script
	}
	put(&r.jobs, stored.ID, j)
	if out != nil {
		j.hold(out.claim)
		r.sendOn(j, l, out)
	}
	return stored, nil
}

// nothingStored reports whether err says that nothing was stored.
func nothingStored(err error) bool {
	return slices.ContainsFunc([]error{store.ErrNotFound, store.ErrConflict, store.ErrRemoved, store.ErrQuarantined, store.ErrFull, store.ErrUnavailable, store.ErrInUse, store.ErrClosed, context.Canceled, context.DeadlineExceeded},
		func(known error) bool { return errors.Is(err, known) })
}

// alike reports whether two orders ask for the same: a key stands for one command.
func alike(a, b store.Command) bool {
	return a.Shell == b.Shell && a.Script == b.Script && a.TimeoutMS == b.TimeoutMS && a.MaxOutput == b.MaxOutput
}

// prepare checks c and makes the command that is stored.
func (s *Service) prepare(agent string, c operator.NewCommand, by string) (store.Command, error) {
	invalid := func(format string, args ...any) (store.Command, error) {
		return store.Command{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	timeout, expiry := c.TimeoutMS, c.ExpiresInMS
	if timeout == 0 {
		timeout = defaultTimeout.Milliseconds()
	}
	if expiry == 0 {
		expiry = defaultExpiry.Milliseconds()
	}
	output := c.MaxOutput
	if output == 0 {
		output = wire.DefaultMaxOutput
	}
	switch {
	case strings.TrimSpace(c.Script) == "":
		return invalid("script is empty")
	case len(c.Script) > wire.MaxScript:
		return invalid("script has %d bytes, at most %d are allowed", len(c.Script), wire.MaxScript)
	case !utf8.ValidString(c.Script) || strings.ContainsRune(c.Script, 0):
		return invalid("script is not UTF-8 text without NUL")
	case !slices.Contains(shells, c.Shell):
		return invalid("shell %q is none of sh, bash, powershell, cmd, python", c.Shell)
	case timeout < 1 || timeout > maxTimeout.Milliseconds():
		return invalid("timeout_ms is %d, allowed are 1 to %d", timeout, maxTimeout.Milliseconds())
	case expiry < 1 || expiry > maxExpiry.Milliseconds():
		return invalid("expires_in_ms is %d, allowed are 1 to %d", expiry, maxExpiry.Milliseconds())
	case output < 1 || output > maxOutput:
		return invalid("max_output is %d, allowed are 1 to %d bytes", output, int64(maxOutput))
	case len(c.IdempotencyKey) > maxKey:
		return invalid("idempotency_key has %d bytes, at most %d are allowed", len(c.IdempotencyKey), maxKey)
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	cmd := store.Command{
		Command: operator.Command{
			ID: wire.NewID(), Agent: agent, Shell: c.Shell, Script: c.Script, State: wire.StatePending,
			CreatedAt: now, ExpiresAt: now.Add(time.Duration(expiry) * time.Millisecond), TimeoutMS: timeout, CreatedBy: by,
		},
		MaxOutput: output, IdempotencyKey: c.IdempotencyKey,
	}
	// Escapes can blow a script up sixfold; a command that fits no frame is refused here, not ten attempts later.
	env, err := wire.Seal(wire.TypeCommand, payload(cmd))
	if err != nil {
		return invalid("%v", err)
	}
	if len(env.Payload) > wire.MaxMessage-envelopeRoom {
		return invalid("script needs %d bytes as JSON, at most %d fit a message", len(env.Payload), wire.MaxMessage-envelopeRoom)
	}
	return cmd, nil
}

// Cancel ends a waiting command at once, and asks the agent to end a running
// one: by the link, a poll or both, until it has ended. Of one that has ended
// nothing changes. by is the operator token's name.
func (s *Service) Cancel(ctx context.Context, id, by string) (operator.Command, error) {
	c, err := s.st.Command(ctx, id)
	if err != nil {
		return operator.Command{}, err
	}
	if !c.State.Terminal() {
		err = s.do(ctx, c.Agent, func() error {
			r := s.route(c.Agent)
			if r == nil {
				return ErrStopped
			}
			if err := r.fresh(); err != nil {
				return err
			}
			return r.cancel(id, by)
		})
		if err != nil {
			return operator.Command{}, err
		}
	}
	return s.Command(ctx, id)
}

func (r *route) cancel(id, by string) error {
	j := r.jobs[id]
	switch {
	case j == nil:
		return nil // ended
	case j.phase.waits():
		return r.cancelWaiting(j, by)
	}
	now := r.now()
	_, err := r.move(j, Cancel, told{at: now, by: by}, cancelStage(j, now, "asked for by "+by))
	return err
}

// cancelStage is a cancel's entry in j's trace.
func cancelStage(j *job, at time.Time, note string) store.Stage {
	return store.Stage{TraceEntry: operator.TraceEntry{Stage: StageCancel, At: at, End: "server", Attempt: j.c.Attempts, Note: note}}
}

// cancelWaiting ends a command that no door holds.
func (r *route) cancelWaiting(j *job, by string) error {
	reason := "cancelled before it was offered"
	if j.phase == Returned {
		reason = "cancelled while " + r.untold(j)
	}
	now := r.now()
	at := now
	if j.c.CancelAt != nil { // asked for before
		at = *j.c.CancelAt
	}
	_, err := r.move(j, Cancel, told{at: at, by: by, reason: reason}, cancelStage(j, now, ""))
	return err
}

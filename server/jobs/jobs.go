// Package jobs has one script run by many endpoints, and stops it where too many fail.
//
// Rules that hold here:
//   - whom a job has is settled once, and stored with it in the same write, the id of each
//     one's command too: however often the service is ended, each gets that one command, or
//     a reason why none;
//   - the database is the truth: nothing but a place to go on from is kept in memory;
//   - what became of an endpoint's part is its command's to tell;
//   - commands are given in small chunks, each a write of its own, so that other writes come
//     between them;
//   - all expire with the job, not with their own beginning: who comes back late runs nothing.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"gururmm/operator"
	"gururmm/server/delivery"
	"gururmm/server/store"
)

const (
	// tickEvery is how often open jobs are looked at without a hint: for endpoints that
	// come back, and for time that runs out.
	tickEvery = 5 * time.Second
	// hintsApart: ends of commands that come together are looked at together.
	hintsApart = 250 * time.Millisecond
	// chunk is how many commands of a job are given, or cancelled, before the next job has its turn.
	chunk = 64
	// together is how many of them are under way: they share commits.
	together = 16
	// workTimeout bounds one look at a job.
	workTimeout = 30 * time.Second
)

// Errors to branch on; those of the store and of delivery come through.
var (
	// ErrInvalid: what was asked for is not acceptable; its text says why.
	ErrInvalid = errors.New("invalid")
	// ErrKeyUsed: the idempotency key belongs to another job; the text names it.
	ErrKeyUsed = errors.New("this key was used for another job")
	// ErrOthers: another number of endpoints is chosen than was expected.
	ErrOthers = errors.New("other endpoints than expected")
)

// refusal is of a kind to branch on, and says why in words that stand for themselves.
type refusal struct{ kind, why error }

func (r *refusal) Error() string   { return r.why.Error() }
func (r *refusal) Unwrap() []error { return []error{r.kind, r.why} }

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind, fmt.Errorf(format, args...)}
}

// Commands gives commands to endpoints; see package delivery.
type Commands interface {
	Check(c operator.NewCommand) error
	Place(ctx context.Context, agent, id string, expires time.Time, c operator.NewCommand, by string) (operator.Command, error)
	Cancel(ctx context.Context, id, by string) (operator.Command, error)
}

// Options of a Service. All are needed but Leads and Now.
type Options struct {
	Store    store.Store
	Commands Commands
	// Present tells whether an endpoint is there now. Must not block.
	Present func(agent string) bool
	// Leads tells whether this is the node that gives commands; nil: it is the only one.
	Leads func() bool
	Now   func() time.Time // default time.Now
	Log   *slog.Logger
}

// Service runs jobs. All methods are safe for concurrent use.
type Service struct {
	o    Options
	hint chan struct{}
	// reached is the place up to which a job's members were seen to, by job; of Run alone.
	reached map[string]int
}

// New makes a service; Run does its work.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, hint: make(chan struct{}, 1), reached: map[string]int{}}
}

// Look says that something of a job may have changed: a command has ended. It never blocks.
func (s *Service) Look() {
	select {
	case s.hint <- struct{}{}:
	default: // it looks already
	}
}

// Run takes up the jobs of an earlier process, and works until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		began := s.o.Now()
		for (s.o.Leads == nil || s.o.Leads()) && s.pass(ctx) { // more can be done at once
			began = s.o.Now()
		}
		took := s.o.Now().Sub(began)
		select {
		case <-ctx.Done():
			return nil
		case <-s.hint:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(max(hintsApart, 4*took)): // counting the largest jobs is work
			}
		case <-tick.C:
		}
	}
}

// pass gives each open job a turn; more: one of them has more to do at once.
func (s *Service) pass(ctx context.Context) (more bool) {
	look, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	open, err := s.o.Store.OpenJobs(look)
	if err != nil {
		s.failed(ctx, "", err)
		return false
	}
	for id := range s.reached {
		if !slices.ContainsFunc(open, func(j store.Job) bool { return j.ID == id }) {
			delete(s.reached, id)
		}
	}
	for _, j := range open {
		again, err := s.turn(ctx, j)
		if err != nil {
			s.failed(ctx, j.ID, err)
		}
		more = more || again && err == nil
	}
	return more && ctx.Err() == nil
}

func (s *Service) failed(ctx context.Context, id string, err error) {
	if ctx.Err() == nil {
		s.o.Log.Error("job could not go on; it is tried again", "job", id, "error", err)
	}
}

// turn does a job's next chunk; more: there is another one already.
func (s *Service) turn(ctx context.Context, j store.Job) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	if j.State == operator.JobStopping {
		if more, err := s.stop(ctx, j); more || err != nil {
			return more, err
		}
	}
	counts, err := s.o.Store.CountJob(ctx, j.ID)
	if err != nil {
		return false, err
	}
	failures := counts.Failed + counts.Interrupted // what says nothing of the script does not count
	limit := math.MaxInt
	if j.StopAfterFailures != "" {
		if limit, err = allowed(j.StopAfterFailures, j.Endpoints); err != nil {
			return false, err
		}
	}
	switch {
	case counts.Open() == 0:
		if err := s.o.Store.EndJob(ctx, j.ID, s.now()); err != nil {
			return false, err
		}
		s.o.Log.Info("job ended", "job", j.ID, "endpoints", counts.Total(), "completed", counts.Completed, "failed", failures, "reason", j.Reason)
		return false, nil
	case j.State != operator.JobRunning:
		return false, nil
	case failures >= limit:
		reason := fmt.Sprintf("stopped after %d of %d failed", failures, j.Endpoints)
		changed, err := s.o.Store.StopJob(ctx, j.ID, reason, false)
		if changed && err == nil {
			s.o.Log.Warn("job stopped", "job", j.ID, "reason", reason)
		}
		return err == nil, err
	case counts.Waiting == 0:
		return false, nil
	}
	return s.give(ctx, j, counts.Out())
}

// give places the commands of the next members whose turn it is.
func (s *Service) give(ctx context.Context, j store.Job, out int) (more bool, err error) {
	after, room := s.reached[j.ID], chunk
	if j.AtOnce > 0 { // who was passed over may be there now
		after, room = 0, min(chunk, j.AtOnce-out)
	}
	late := !s.o.Now().Before(j.ExpiresAt)
	if late {
		after, room = 0, chunk
	}
	var turn []store.JobMember
	for len(turn) < room {
		page, err := s.o.Store.WaitingMembers(ctx, j.ID, after, store.MaxList)
		if err != nil || len(page) == 0 {
			if err != nil {
				return false, err
			}
			break
		}
		for _, m := range page {
			if after = m.N; late || j.AtOnce == 0 || s.o.Present(m.Agent) {
				if turn = append(turn, m); len(turn) == room {
					break
				}
			}
		}
	}
	if late {
		for i := range turn {
			turn[i].Reason = "the job expired before its turn came, or it was away"
		}
		return len(turn) == room, s.o.Store.LeaveOut(ctx, j.ID, turn...)
	}
	if err := s.place(ctx, j, turn); err != nil {
		delete(s.reached, j.ID)
		return false, err
	}
	if j.AtOnce == 0 {
		s.reached[j.ID] = after
	}
	return len(turn) > 0 && len(turn) == room, nil
}

// place gives each of the members its command, or a reason why none.
func (s *Service) place(ctx context.Context, j store.Job, turn []store.JobMember) error {
	order := operator.NewCommand{Shell: j.Shell, Script: j.Script, TimeoutMS: j.TimeoutMS, MaxOutput: j.MaxOutput}
	errs := each(turn, func(m store.JobMember) error {
		_, err := s.o.Commands.Place(ctx, m.Agent, m.Command, j.ExpiresAt, order, j.CreatedBy)
		return err
	})
	var out []store.JobMember
	var failed error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if turn[i].Reason = whyNone(err); turn[i].Reason == "" {
			failed = errors.Join(failed, err)
			continue
		}
		out = append(out, turn[i])
	}
	if len(out) > 0 {
		failed = errors.Join(failed, s.o.Store.LeaveOut(ctx, j.ID, out...))
		s.Look()
	}
	return failed
}

// whyNone says why an endpoint gets no command; "": the error is not about the endpoint.
func whyNone(err error) string {
	switch {
	case errors.Is(err, delivery.ErrQuarantined):
		return "it is quarantined"
	case errors.Is(err, delivery.ErrRemoved), errors.Is(err, store.ErrNotFound):
		return "it was removed"
	case errors.Is(err, delivery.ErrBusy):
		return "too much is waiting for it already"
	case errors.Is(err, delivery.ErrKeyUsed), errors.Is(err, delivery.ErrInvalid):
		return err.Error()
	}
	return ""
}

// stop calls off what a job that was stopped has begun: all of it, if it was cancelled;
// else what no endpoint has.
func (s *Service) stop(ctx context.Context, j store.Job) (more bool, err error) {
	open, err := s.o.Store.OpenMembers(ctx, j.ID, !j.Cancelled, chunk)
	if err != nil {
		return false, err
	}
	errs := each(open, func(m store.JobMember) error {
		_, err := s.o.Commands.Cancel(ctx, m.Command, "job "+j.ID)
		return err
	})
	return len(open) == chunk, errors.Join(errs...)
}

// each does something with all, some of them together, and gives the errors in their order.
func each(all []store.JobMember, do func(store.JobMember) error) []error {
	errs := make([]error, len(all))
	slots := make(chan struct{}, together)
	var under sync.WaitGroup
	for i, m := range all {
		slots <- struct{}{}
		under.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(m)
		})
	}
	under.Wait()
	return errs
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Microsecond) }

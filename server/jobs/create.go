package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// maxKey bounds an idempotency key in bytes.
	maxKey = 200
	// previewed is how many names a preview tells.
	previewed = 20

	defaultTimeout = 10 * time.Minute
	defaultExpiry  = 10 * time.Minute
)

// allowed is after how many failures of n a job stops: a number, or a share rounded up.
func allowed(limit string, n int) (int, error) {
	if share, ok := strings.CutSuffix(limit, "%"); ok {
		if v, err := strconv.ParseFloat(share, 64); err == nil && v > 0 && v <= 100 {
			return max(1, int(math.Ceil(v*float64(n)/100-1e-9))), nil
		}
	} else if v, err := strconv.Atoi(limit); err == nil && v > 0 {
		return v, nil
	}
	return 0, fmt.Errorf("stop_after_failures %.20q: want a number from 1 on (3) or a share (5%%)", limit)
}

// Create begins a job, or previews it. n.Agents and n.Except are ids. by is the operator
// token's name.
func (s *Service) Create(ctx context.Context, n operator.NewJob, by string) (operator.Job, error) {
	j, err := s.prepare(n, by)
	if err != nil {
		return operator.Job{}, err
	}
	if j.IdempotencyKey != "" && !n.Preview { // what is chosen by now is nothing to a repeat
		stored, err := s.o.Store.JobOfKey(ctx, j.IdempotencyKey)
		if !errors.Is(err, store.ErrNotFound) {
			return s.same(ctx, stored, j, err)
		}
	}
	agents, err := s.choose(ctx, n.Pick)
	switch {
	case err != nil:
		return operator.Job{}, err
	case n.Preview:
		j.ID, j.Endpoints, j.Counts.Waiting = "", len(agents), len(agents)
		var ids []string
		for _, a := range agents[:min(len(agents), previewed)] {
			j.Names, ids = append(j.Names, a.Name), append(ids, a.ID)
		}
		j.Names = operator.Distinct(j.Names, ids)
		return j.Job, nil
	case n.Expect != nil && *n.Expect != len(agents):
		return operator.Job{}, refuse(ErrOthers, "%d endpoints are chosen now, not %d; nothing was begun", len(agents), *n.Expect)
	}
	members := make([]store.JobMember, len(agents))
	for i, a := range agents {
		members[i] = store.JobMember{N: i + 1, Agent: a.ID, Command: wire.NewID()}
	}
	stored, created, err := s.o.Store.CreateJob(ctx, j, members)
	if err == nil && created {
		s.o.Log.Info("job begun", "job", j.ID, "endpoints", len(members), "at_once", j.AtOnce, "stop_after_failures", j.StopAfterFailures, "by", by)
		s.Look()
	}
	return s.same(ctx, stored, j, err)
}

// same gives the stored job, if it is what was asked for.
func (s *Service) same(ctx context.Context, stored, asked store.Job, err error) (operator.Job, error) {
	if err != nil {
		return operator.Job{}, err
	}
	if stored.Shell != asked.Shell || stored.Script != asked.Script || stored.TimeoutMS != asked.TimeoutMS || stored.MaxOutput != asked.MaxOutput ||
		stored.AtOnce != asked.AtOnce || stored.StopAfterFailures != asked.StopAfterFailures || !reflect.DeepEqual(stored.Pick, asked.Pick) {
		return operator.Job{}, fmt.Errorf("%w, %s", ErrKeyUsed, stored.ID)
	}
	return s.counted(ctx, stored)
}

// prepare checks n and makes the job that is stored.
func (s *Service) prepare(n operator.NewJob, by string) (store.Job, error) {
	bad := func(format string, args ...any) (store.Job, error) {
		return store.Job{}, refuse(ErrInvalid, format, args...)
	}
	order := operator.NewCommand{Shell: n.Shell, Script: n.Script, TimeoutMS: n.TimeoutMS, ExpiresInMS: n.ExpiresInMS, MaxOutput: n.MaxOutput}
	if err := s.o.Commands.Check(order); err != nil {
		return store.Job{}, err
	}
	if err := n.Pick.Check(); err != nil {
		return bad("%w", err)
	}
	if n.StopAfterFailures != "" {
		if _, err := allowed(n.StopAfterFailures, 1); err != nil {
			return bad("%w", err)
		}
	}
	switch {
	case n.AtOnce < 0:
		return bad("at_once is %d, want 1 or more, or none for all", n.AtOnce)
	case len(n.IdempotencyKey) > maxKey:
		return bad("idempotency_key has %d bytes, at most %d are allowed", len(n.IdempotencyKey), maxKey)
	}
	now := s.now()
	expiry := time.Duration(cmp.Or(n.ExpiresInMS, defaultExpiry.Milliseconds())) * time.Millisecond
	pick := operator.Pick{All: n.All, Sites: sorted(n.Sites), Tags: sorted(n.Tags), Agents: sorted(n.Agents), Except: sorted(n.Except)}
	return store.Job{IdempotencyKey: n.IdempotencyKey, Job: operator.Job{
		ID: wire.NewID(), Pick: pick, Shell: n.Shell, Script: n.Script,
		TimeoutMS: cmp.Or(n.TimeoutMS, defaultTimeout.Milliseconds()), MaxOutput: cmp.Or(n.MaxOutput, wire.DefaultMaxOutput),
		AtOnce: n.AtOnce, StopAfterFailures: n.StopAfterFailures, State: operator.JobRunning,
		CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(expiry),
	}}, nil
}

// sorted gives each word once; none is nil, as JSON has it.
func sorted(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(words)))
}

// choose gives the endpoints that fit, by name. A site or tag that none has is a typing
// error: it would quietly leave out those that were meant.
func (s *Service) choose(ctx context.Context, pick operator.Pick) ([]store.Agent, error) {
	agents, err := s.o.Store.Agents(ctx)
	if err != nil {
		return nil, err
	}
	tags, err := s.o.Store.AgentTags(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, site := range pick.Sites {
		if !slices.ContainsFunc(agents, func(a store.Agent) bool { return a.Site == site }) {
			return nil, refuse(ErrInvalid, "no endpoint is of the site %.70q", site)
		}
	}
	for _, tag := range pick.Tags {
		if !slices.ContainsFunc(agents, func(a store.Agent) bool { return slices.Contains(tags[a.ID], tag) }) {
			return nil, refuse(ErrInvalid, "no endpoint has the tag %q", tag)
		}
	}
	agents = slices.DeleteFunc(agents, func(a store.Agent) bool { return !pick.Fits(a.ID, a.Site, tags[a.ID]) })
	switch {
	case len(agents) == 0:
		return nil, refuse(ErrInvalid, "no endpoint fits")
	case len(agents) > operator.MaxJobAgents:
		return nil, refuse(ErrInvalid, "%d endpoints are more than one job may have (%d): take them site by site, or by tags", len(agents), operator.MaxJobAgents)
	}
	return agents, nil
}

// Cancel has a job begin nothing more, and what has begun be stopped. Of one that has ended
// nothing changes. by is the operator token's name.
func (s *Service) Cancel(ctx context.Context, id, by string) (operator.Job, error) {
	changed, err := s.o.Store.StopJob(ctx, id, "cancelled by "+by, true)
	if err != nil {
		return operator.Job{}, err
	}
	if changed {
		s.o.Log.Info("job cancelled", "job", id, "by", by)
		s.Look()
	}
	return s.Job(ctx, id)
}

// Job tells how one stands.
func (s *Service) Job(ctx context.Context, id string) (operator.Job, error) {
	j, err := s.o.Store.Job(ctx, id)
	if err != nil {
		return operator.Job{}, err
	}
	return s.counted(ctx, j)
}

// Jobs lists them, newest first.
func (s *Service) Jobs(ctx context.Context, limit int) ([]operator.Job, error) {
	all, err := s.o.Store.Jobs(ctx, limit)
	if err != nil {
		return nil, err
	}
	out := make([]operator.Job, len(all))
	for i, j := range all {
		if out[i], err = s.counted(ctx, j); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Service) counted(ctx context.Context, j store.Job) (operator.Job, error) {
	var err error
	j.Counts, err = s.o.Store.CountJob(ctx, j.ID)
	return j.Job, err
}

package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"gururmm/operator"
	"gururmm/release"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// tickEvery is how often the facts are looked at while a rollout is open.
	tickEvery = time.Second
	// lateTicks: an endpoint that failed is asked for a late word each so many ticks.
	lateTicks = 15
	// maxAgain bounds how often a change is tried anew that another node came before.
	maxAgain = 5
	// workTimeout bounds one look at a rollout, and one request.
	workTimeout = 30 * time.Second
	// orderLife: until then a download that breaks off is tried again.
	orderLife = fetchWithin + answerWithin
)

// Orders gives endpoints their orders; see package delivery.
type Orders interface {
	Order(ctx context.Context, d wire.Directive, by string) (operator.Directive, error)
	Withdraw(ctx context.Context, agent, id, why string) error
	AskDirective(ctx context.Context, id string) (operator.Directive, error)
}

// Options of a Service. All are needed but Now and Later.
type Options struct {
	Store  store.Store
	Orders Orders
	// Fact tells what is known of an endpoint now, but for its order. Must not block.
	Fact func(agent string) Fact
	// Later reports whether an error of Orders.Order is about this endpoint at this
	// moment alone: then it is put off.
	Later func(error) bool
	// Leads tells whether this is the node that carries rollouts on; the others only change
	// and show what is stored. nil: it is the only one. Must not block.
	Leads func() bool
	Now   func() time.Time // default time.Now
	Log   *slog.Logger
}

// Service runs rollouts. All methods are safe for concurrent use.
type Service struct {
	o    Options
	work chan func(context.Context)
	quit chan struct{} // closed when Run has ended
	open map[string]*roll
	tick int
	// stale: open is not what is stored.
	stale bool
}

// roll is a rollout that is active, or has endpoints that have not ended.
type roll struct {
	store.Rollout
	members []operator.RolloutAgent
}

// New makes a service; Run does its work.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Later == nil {
		o.Later = func(error) bool { return false }
	}
	return &Service{o: o, work: make(chan func(context.Context)), quit: make(chan struct{}), open: map[string]*roll{}}
}

// Run takes up the rollouts of an earlier process, and works until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	defer close(s.quit)
	if err := s.load(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case fn := <-s.work:
			bounded(ctx, fn)
		case <-tick.C:
			s.tick++
			if !s.leads(ctx) {
				continue
			}
			for _, r := range s.open {
				s.step(ctx, r)
			}
		}
	}
}

// leads reports whether it is this node's turn, with what other nodes may have changed taken up.
func (s *Service) leads(ctx context.Context) bool {
	if s.o.Leads == nil {
		return true
	}
	if !s.o.Leads() {
		return false
	}
	if err := s.refresh(ctx); err != nil {
		if ctx.Err() == nil {
			s.o.Log.Error("rollouts can't be read; it is tried again", "error", err)
		}
		return false
	}
	return true
}

// refresh takes up what other nodes have changed.
func (s *Service) refresh(life context.Context) error {
	ctx, cancel := context.WithTimeout(life, workTimeout)
	defer cancel()
	all, err := s.o.Store.OpenRollouts(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, r := range all {
		there[r.ID] = true
		if held := s.open[r.ID]; held == nil || held.Rev != r.Rev {
			if err := s.adopt(ctx, r); err != nil {
				return err
			}
		}
	}
	for id := range s.open {
		if !there[id] {
			delete(s.open, id)
		}
	}
	s.stale = false
	return nil
}

func bounded(ctx context.Context, fn func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	fn(ctx)
}

// do has fn run by the goroutine that owns the rollouts, and gives its error.
func (s *Service) do(ctx context.Context, fn func(context.Context) error) error {
	done := make(chan error, 1)
	turn := func(ctx context.Context) error {
		if s.o.Leads == nil {
			return fn(ctx)
		}
		for again := 0; ; again++ {
			if err := s.refresh(ctx); err != nil {
				return err
			}
			if err := fn(ctx); !s.stale || again == maxAgain {
				return err
			}
		}
	}
	select {
	case s.work <- func(ctx context.Context) { done <- turn(ctx) }:
		return <-done // bounded by workTimeout
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrStopped
	}
}

// load takes up what is stored. A stop in the middle is no error; time that is up is one:
// what was not taken up would stay as it is until the next start.
func (s *Service) load(life context.Context) error {
	ctx, cancel := context.WithTimeout(life, workTimeout)
	defer cancel()
	all, err := s.o.Store.OpenRollouts(ctx)
	for _, r := range all {
		if err != nil {
			break
		}
		err = s.adopt(ctx, r)
	}
	if err != nil && life.Err() == nil {
		return fmt.Errorf("rollouts: %w", err)
	}
	return nil
}

// adopt takes up a stored rollout, if there is something to do for it.
func (s *Service) adopt(ctx context.Context, r store.Rollout) error {
	members, err := s.o.Store.RolloutAgents(ctx, r.ID)
	if err != nil {
		return err
	}
	s.keep(&roll{r, members})
	return nil
}

// keep holds on to a rollout while there is something to do for it.
func (s *Service) keep(r *roll) {
	under := slices.ContainsFunc(r.members, func(m operator.RolloutAgent) bool {
		return m.State == operator.RollOrdered || m.State == operator.RollRunning
	})
	if r.State == operator.RolloutActive || r.State == operator.RolloutStopped && under {
		s.open[r.ID] = r
		return
	}
	delete(s.open, r.ID)
}

// facts puts together what is known of a rollout's endpoints.
func (s *Service) facts(ctx context.Context, r *roll) ([]Member, error) {
	out := make([]Member, len(r.members))
	ask := s.tick%lateTicks == 0 // whether all of them are still there
	for i, a := range r.members {
		out[i] = Member{a, s.o.Fact(a.Agent)}
		under := a.State == operator.RollOrdered || a.State == operator.RollRunning
		late := (a.State == operator.RollFailed || a.State == operator.RollUntried) && s.tick%lateTicks == 0
		if a.Directive == "" || !under && !late {
			continue
		}
		d, err := s.o.Orders.AskDirective(ctx, a.Directive)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			out[i].Order = &d
			ask = ask || under && d.EndedAt != nil && d.State == string(wire.DirectiveFailed) // its removal ends an order, too
		}
	}
	if !ask {
		return out, nil
	}
	agents, err := s.o.Store.Agents(ctx)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, a := range agents {
		there[a.ID] = true
	}
	for i := range out {
		out[i].Removed = !there[out[i].Agent]
	}
	return out, nil
}

// step does what follows from the facts, if anything does.
func (s *Service) step(life context.Context, r *roll) {
	ctx, cancel := context.WithTimeout(life, workTimeout)
	defer cancel()
	members, err := s.facts(ctx, r)
	if err == nil {
		err = s.carryOut(ctx, r, Decide(s.o.Now(), r.Rollout, members))
	}
	if err != nil && life.Err() == nil {
		s.o.Log.Error("rollout could not go on; it is tried again", "rollout", r.ID, "error", err)
	}
}

// carryOut stores a decision, then orders and withdraws.
func (s *Service) carryOut(ctx context.Context, r *roll, d Decision) error {
	changed := d.Changed
	var orders []wire.Directive
	for _, id := range d.Order {
		i := slices.IndexFunc(r.members, func(m operator.RolloutAgent) bool { return m.Agent == id })
		a := r.members[i]
		order, refused, err := s.order(ctx, d.Rollout, id)
		if err != nil {
			return err
		}
		now := s.now()
		if refused != "" {
			a.State, a.EndedAt, a.Detail = operator.RollFailed, &now, refused
		} else {
			a.State, a.Directive, a.OrderedAt, a.NotBefore, a.Detail = operator.RollOrdered, order.ID, &now, nil, ""
			orders = append(orders, order)
		}
		changed = append(changed, a)
	}
	if err := s.save(ctx, r, d.Rollout, changed); err != nil {
		return err
	}
	return errors.Join(s.give(ctx, r, orders), s.withdraw(ctx, r, d.Withdraw))
}

// give hands orders over. One that fails is found missing, and given again; one
// that the endpoint has no room for is put off.
func (s *Service) give(ctx context.Context, r *roll, orders []wire.Directive) error {
	var off []operator.RolloutAgent
	var errs []error
	for _, order := range orders {
		_, err := s.o.Orders.Order(ctx, order, r.CreatedBy)
		switch {
		case err == nil:
		case s.o.Later(err):
			i := slices.IndexFunc(r.members, func(m operator.RolloutAgent) bool { return m.Agent == order.Agent })
			off = append(off, putOff(s.now(), r.members[i], err.Error()))
		default:
			errs = append(errs, fmt.Errorf("order %s: %w", order.Agent, err))
		}
	}
	return errors.Join(append(errs, s.save(ctx, r, r.Rollout, off))...)
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Microsecond) }

// save stores a rollout's next state with the changed parts, and then holds it.
func (s *Service) save(ctx context.Context, r *roll, next store.Rollout, changed []operator.RolloutAgent) error {
	if len(changed) == 0 && same(r.Rollout, next) {
		return nil
	}
	if err := s.o.Store.SaveRollout(ctx, next, changed...); err != nil {
		if errors.Is(err, store.ErrConflict) { // another node changed it: what is held is not the truth
			s.stale = true
		}
		return err
	}
	next.Rev++
	s.tell(r.Rollout, next, changed)
	r.Rollout = next
	for _, a := range changed {
		i := slices.IndexFunc(r.members, func(m operator.RolloutAgent) bool { return m.Agent == a.Agent })
		r.members[i] = a
	}
	s.keep(r)
	return nil
}

// same compares what changes of a rollout; times that did not change are not copied.
func same(a, b store.Rollout) bool {
	return a.State == b.State && a.Reason == b.Reason && a.Ring == b.Ring &&
		a.SoakSince == b.SoakSince && a.ResumedAt == b.ResumedAt && a.EndedAt == b.EndedAt && a.Plan.MaxFailures == b.Plan.MaxFailures
}

// tell logs what an operator would want to find later.
func (s *Service) tell(before, after store.Rollout, changed []operator.RolloutAgent) {
	log := s.o.Log.With("rollout", after.ID, "version", after.Version)
	for _, a := range changed {
		switch a.State {
		case operator.RollFailed:
			log.Warn("update failed", "agent", a.Agent, "name", a.AgentName, "ring", a.Ring+1, "detail", a.Detail)
		case operator.RollUntried:
			log.Warn("update could not be tried", "agent", a.Agent, "name", a.AgentName, "ring", a.Ring+1, "detail", a.Detail)
		case operator.RollWaiting:
			if a.NotBefore != nil {
				log.Info("update is put off", "agent", a.Agent, "name", a.AgentName, "until", *a.NotBefore, "attempts", a.Attempts, "detail", a.Detail)
			}
		case operator.RollDone:
			log.Info("update done", "agent", a.Agent, "name", a.AgentName, "ring", a.Ring+1, "detail", a.Detail)
		}
	}
	if before.Ring != after.Ring {
		log.Info("rollout goes on", "ring", after.Ring+1)
	}
	switch {
	case before.State == after.State:
	case after.State == operator.RolloutStopped:
		log.Warn("rollout stopped", "reason", after.Reason)
	default:
		log.Info("rollout is "+after.State, "reason", after.Reason)
	}
}

// order makes the directive for one endpoint; refused says why there can be none.
func (s *Service) order(ctx context.Context, r store.Rollout, agent string) (d wire.Directive, refused string, err error) {
	a, err := s.o.Store.Agent(ctx, agent)
	if err != nil {
		return d, "", err
	}
	builds, err := s.o.Store.Builds(ctx)
	if err != nil {
		return d, "", err
	}
	i := slices.IndexFunc(builds, func(b operator.Build) bool {
		return b.Version == r.Version && b.OS == a.Platform.OS && b.Arch == a.Platform.Arch
	})
	if i < 0 {
		return d, fmt.Sprintf("no program of %s is published for %s/%s", r.Version, a.Platform.OS, a.Platform.Arch), nil
	}
	b := builds[i].Build
	b.AllowDowngrade, b.GraceMS = r.Plan.AllowDowngrade, r.Plan.GraceMS
	return wire.Directive{
		ID: wire.NewID(), Agent: agent, Kind: wire.DirectiveUpdate, Build: &b,
		Reason: "rollout " + r.ID, ExpiresAt: s.now().Add(orderLife),
	}, "", nil
}

// withdraw takes back orders that were not fetched.
func (s *Service) withdraw(ctx context.Context, r *roll, agents []string) error {
	var changed []operator.RolloutAgent
	for _, id := range agents {
		i := slices.IndexFunc(r.members, func(m operator.RolloutAgent) bool { return m.Agent == id })
		a := r.members[i]
		err := s.o.Orders.Withdraw(ctx, id, a.Directive, "withdrawn by the rollout before it was fetched")
		switch {
		case errors.Is(err, store.ErrConflict): // fetched just now
		case err != nil:
			return errors.Join(err, s.save(ctx, r, r.Rollout, changed))
		case a.State == operator.RollOrdered:
			a.State, a.Directive, a.OrderedAt = operator.RollWaiting, "", nil
			changed = append(changed, a)
		}
	}
	return s.save(ctx, r, r.Rollout, changed)
}

// Create plans a rollout and begins it, or previews it. n.Agents are ids. by is the operator token's name.
func (s *Service) Create(ctx context.Context, n operator.NewRollout, by string) (out operator.Rollout, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		r, missing, err := s.plan(ctx, n, by)
		if err != nil {
			return err
		}
		if n.Preview {
			out, err = s.shown(ctx, r)
			out.ID, out.NoProgram = "", missing
			return err
		}
		if n.Expect != nil {
			seen, err := s.shown(ctx, r)
			if err != nil {
				return err
			}
			if seen.Wanted() != *n.Expect {
				return refuse(ErrOthers, "%d endpoints are chosen now, not %d; nothing was begun", seen.Wanted(), *n.Expect)
			}
		}
		if err := s.o.Store.CreateRollout(ctx, r.Rollout, r.members); err != nil {
			return err
		}
		r.Rev = 1
		s.o.Log.Info("rollout begun", "rollout", r.ID, "version", r.Version, "endpoints", len(r.members), "by", by)
		s.keep(r)
		out, err = s.shown(ctx, r)
		out.NoProgram = missing
		return err
	})
	return out, err
}

// plan makes a rollout of what was asked for, unless it can't be meant.
func (s *Service) plan(ctx context.Context, n operator.NewRollout, by string) (*roll, []string, error) {
	bad := func(format string, args ...any) (*roll, []string, error) {
		return nil, nil, refuse(ErrInvalid, format, args...)
	}
	if err := release.CheckVersion(n.Version); err != nil {
		return bad("%w", err)
	}
	if len(n.Agents) > 0 && n.Site != "" {
		return bad("agents and site exclude each other")
	}
	complete, err := Complete(n.RolloutPlan)
	if err != nil {
		return nil, nil, err
	}
	complete.OfAgents, complete.OfSite = n.Agents, n.Site
	builds, err := s.o.Store.Builds(ctx)
	if err != nil {
		return nil, nil, err
	}
	builds = slices.DeleteFunc(builds, func(b operator.Build) bool { return b.Version != n.Version })
	if len(builds) == 0 {
		return bad("no program of %s is published: gururmm update publish FILE…", n.Version)
	}
	agents, err := s.o.Store.Agents(ctx)
	if err != nil {
		return nil, nil, err
	}
	r := &roll{Rollout: store.Rollout{
		ID: wire.NewID(), Version: n.Version, Plan: complete, State: operator.RolloutActive, CreatedBy: by, CreatedAt: s.now(),
	}}
	var wanted []Member
	var missing []string
	newerNow := 0 // that run a newer version
	for _, a := range agents {
		if len(n.Agents) > 0 && !slices.Contains(n.Agents, a.ID) || n.Site != "" && a.Site != n.Site {
			continue
		}
		if !slices.ContainsFunc(builds, func(b operator.Build) bool { return b.OS == a.Platform.OS && b.Arch == a.Platform.Arch }) {
			missing = append(missing, fmt.Sprintf("%s (%s/%s)", a.Name, a.Platform.OS, a.Platform.Arch))
			continue
		}
		m := Member{operator.RolloutAgent{Agent: a.ID, AgentName: a.Name, State: operator.RollWaiting}, s.o.Fact(a.ID)}
		if v := cmp.Or(m.Version, a.Version); v == n.Version || newer(v, r.Rollout) {
			if v != n.Version {
				newerNow++
			}
			m.State, m.EndedAt, m.Detail, m.Ring = operator.RollSkipped, &r.CreatedAt, "runs "+v, len(complete.Rings)-1
			r.members = append(r.members, m.RolloutAgent)
			continue
		}
		wanted = append(wanted, m)
	}
	switch {
	case len(wanted) == 0 && newerNow > 0:
		return bad("all of these endpoints (%d) run %s or newer; to bring those that are newer (%d) back to it: --allow-downgrade", len(r.members), n.Version, newerNow)
	case len(wanted) == 0 && len(r.members) > 0:
		return bad("all of these endpoints (%d) run %s already", len(r.members), n.Version)
	case len(wanted) == 0 && len(missing) > 0:
		return bad("%s is published for no platform of these endpoints: %s", n.Version, missing[0])
	case len(wanted) == 0:
		return bad("no endpoint fits")
	}
	for _, m := range Assign(r.ID, complete.Rings, wanted) {
		r.members = append(r.members, m.RolloutAgent)
	}
	return r, missing, s.alone(r)
}

// alone refuses a rollout that has endpoints of another one that is active.
func (s *Service) alone(r *roll) error {
	mine := map[string]bool{}
	for _, m := range r.members {
		mine[m.Agent] = true
	}
	for id, other := range s.open {
		if id == r.ID || other.State != operator.RolloutActive {
			continue
		}
		n := 0
		for _, m := range other.members {
			if mine[m.Agent] {
				n++
			}
		}
		if n > 0 {
			return refuse(ErrOverlap, "a rollout of %s is active and has %d of these endpoints; stop it first: gururmm update stop %s", other.Version, n, id)
		}
	}
	return nil
}

// Stop ends what a rollout would still order. What endpoints have taken up already
// goes on, and is told.
func (s *Service) Stop(ctx context.Context, id, by string) (operator.Rollout, error) {
	return s.change(ctx, id, func(r *roll, next *store.Rollout) ([]operator.RolloutAgent, error) {
		if r.State != operator.RolloutActive {
			return nil, refuse(ErrState, "the rollout is %s", r.State)
		}
		now := s.now()
		next.State, next.Reason, next.EndedAt = operator.RolloutStopped, "by "+by, &now
		return nil, nil
	})
}

// Resume lets a stopped rollout go on, if it would not stop at once for the same
// reason: endpoints that failed must be ordered again (how.Retry), or more of them
// be allowed (how.MaxFailures). What is to be retried may be of one that is active.
func (s *Service) Resume(ctx context.Context, id, by string, how operator.ResumeRollout) (operator.Rollout, error) {
	return s.change(ctx, id, func(r *roll, next *store.Rollout) (changed []operator.RolloutAgent, err error) {
		if r.State != operator.RolloutStopped && !(r.State == operator.RolloutActive && how.Retry) {
			return nil, refuse(ErrState, "the rollout is %s", r.State)
		}
		if how.MaxFailures != "" {
			if _, err := allowed(how.MaxFailures, 1); err != nil {
				return nil, refuse(ErrInvalid, "%w", err)
			}
			next.Plan.MaxFailures = how.MaxFailures
		}
		now := s.now()
		next.State, next.Reason, next.EndedAt, next.ResumedAt, next.SoakSince = operator.RolloutActive, "", nil, &now, nil
		members := make([]Member, len(r.members))
		for i, m := range r.members {
			if how.Retry && (m.State == operator.RollFailed || m.State == operator.RollUntried) {
				m.State, m.Directive, m.OrderedAt, m.EndedAt, m.NotBefore, m.Attempts, m.Detail = operator.RollWaiting, "", nil, nil, nil, 0, ""
				changed = append(changed, m)
			}
			members[i] = Member{m, s.o.Fact(m.Agent)}
		}
		if why := tooMany(*next, members); why != "" {
			return nil, refuse(ErrState, "it would stop at once: %s; order them once more (--retry), or allow more failures (--max-failures); "+
				"no ring passes of which nobody runs the version", why)
		}
		s.o.Log.Info("rollout resumed", "rollout", id, "by", by, "retried", len(changed), "max_failures", next.Plan.MaxFailures)
		return changed, s.alone(r)
	})
}

// change has an operator's word change a rollout.
func (s *Service) change(ctx context.Context, id string, how func(r *roll, next *store.Rollout) ([]operator.RolloutAgent, error)) (out operator.Rollout, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		r, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		next := r.Rollout
		changed, err := how(r, &next)
		if err != nil {
			return err
		}
		if err := s.save(ctx, r, next, changed); err != nil {
			return err
		}
		out, err = s.shown(ctx, r)
		return err
	})
	return out, err
}

// find gives a rollout, held or stored.
func (s *Service) find(ctx context.Context, id string) (*roll, error) {
	if r := s.open[id]; r != nil {
		return r, nil
	}
	stored, err := s.o.Store.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	members, err := s.o.Store.RolloutAgents(ctx, id)
	return &roll{stored, members}, err
}

// Rollout tells how one stands.
func (s *Service) Rollout(ctx context.Context, id string) (out operator.Rollout, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		r, err := s.find(ctx, id)
		if err == nil {
			out, err = s.shown(ctx, r)
		}
		return err
	})
	return out, err
}

// Rollouts lists them without rings and failures, newest first.
func (s *Service) Rollouts(ctx context.Context, limit int) (out []operator.Rollout, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		all, err := s.o.Store.Rollouts(ctx, limit)
		for _, stored := range all {
			r, err := s.find(ctx, stored.ID)
			if err != nil {
				return err
			}
			shown, err := s.shown(ctx, r)
			if err != nil {
				return err
			}
			shown.Rings, shown.Failures, shown.Open, shown.OpenMore = nil, nil, nil, 0
			out = append(out, shown)
		}
		return err
	})
	return out, err
}

// Uses names an active rollout that needs the programs of a version; empty: none does.
func (s *Service) Uses(ctx context.Context, version string) (id string, err error) {
	err = s.do(ctx, func(context.Context) error {
		for _, r := range s.open {
			if r.State == operator.RolloutActive && r.Version == version {
				id = r.ID
			}
		}
		return nil
	})
	return id, err
}

// shown is a rollout as operators see it.
func (s *Service) shown(ctx context.Context, r *roll) (operator.Rollout, error) {
	members := make([]Member, len(r.members))
	for i, a := range r.members {
		members[i] = Member{a, s.o.Fact(a.Agent)}
	}
	out := operator.Rollout{
		ID: r.ID, Version: r.Version, Plan: r.Plan, State: r.State, Reason: r.Reason, Ring: r.Ring,
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt, ResumedAt: r.ResumedAt, EndedAt: r.EndedAt, Now: say(s.now(), r.Rollout, members),
	}
	for ring, percent := range r.Plan.Rings {
		c := count(ring, members)
		out.Rings = append(out.Rings, operator.RolloutRing{
			Percent: percent, Wanted: c.wanted, Waiting: c.waiting, Away: c.away, Later: c.later, Ordered: c.ordered,
			Running: c.running, Done: c.done, Failed: c.failed, Untried: c.untried, Skipped: c.skipped,
		})
	}
	for _, m := range members {
		a := m.RolloutAgent
		switch a.Standing = m.Presence.String(); {
		case a.State == operator.RollFailed:
			out.Failures = append(out.Failures, a)
		case a.State == operator.RollDone, a.State == operator.RollSkipped, a.State == operator.RollWaiting && a.Ring > r.Ring:
		case len(out.Open) == operator.MaxRolloutOpen:
			out.OpenMore++
		default:
			out.Open = append(out.Open, a)
		}
	}
	out.Resumable = r.State == operator.RolloutStopped && tooMany(r.Rollout, members) == ""
	return out, ctx.Err()
}

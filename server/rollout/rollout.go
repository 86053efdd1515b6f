// Package rollout brings a version to the fleet, ring by ring, and stops by itself
// when too many endpoints of a ring fail.
//
// Rules that hold here:
//   - what happens next is decided by one pure function of facts, see [Decide];
//   - an endpoint has the version when it says so itself, or holds a verified link
//     with it; that an order was handed over says nothing;
//   - nothing is ordered of an endpoint that is not there: it is ordered when it
//     comes back, and holds up no ring;
//   - only what says something of the version counts against it: an endpoint that is
//     busy or out of reach is ordered again, some times, and then left as untried;
//   - a ring is through only if so many of its endpoints run the version as its plan
//     wants, one at least, or if none of them needs it; a resumed one is no other;
//   - each step is stored before its effect, so that a restart of the server goes on
//     where it was; one goroutine owns all of it.
package rollout

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// Errors to branch on; those of the store come through.
var (
	// ErrInvalid: what was asked for is not acceptable; its text says why.
	ErrInvalid = errors.New("invalid")
	// ErrOverlap: another rollout that is active has some of the same endpoints.
	ErrOverlap = errors.New("another rollout is under way")
	// ErrOthers: another number of endpoints is chosen than was expected.
	ErrOthers = errors.New("other endpoints than expected")
	// ErrState: the rollout is not in a state in which that can be done.
	ErrState = errors.New("not now")
	// ErrStopped: the service has ended.
	ErrStopped = errors.New("rollouts have stopped")
)

// refusal is of a kind to branch on, and says why in words that stand for themselves.
type refusal struct{ kind, why error }

func (r *refusal) Error() string   { return r.why.Error() }
func (r *refusal) Unwrap() []error { return []error{r.kind, r.why} }

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind, fmt.Errorf(format, args...)}
}

const (
	defaultSoak     = 10 * time.Minute
	maxSoak         = 30 * 24 * time.Hour
	defaultParallel = 50
	maxParallel     = 10_000
	maxRings        = 20
)

var defaultRings = []float64{1, 10, 100}

// Complete fills in a plan's defaults and refuses what can't be meant.
func Complete(p operator.RolloutPlan) (operator.RolloutPlan, error) {
	bad := func(format string, args ...any) (operator.RolloutPlan, error) {
		return p, refuse(ErrInvalid, format, args...)
	}
	if len(p.Rings) == 0 {
		p.Rings = slices.Clone(defaultRings)
	}
	if p.MaxFailures == "" {
		p.MaxFailures = "5%"
	}
	if p.SoakMS == 0 {
		p.SoakMS = defaultSoak.Milliseconds()
	}
	if p.Parallel == 0 {
		p.Parallel = defaultParallel
	}
	if len(p.Rings) > maxRings {
		return bad("rings: at most %d", maxRings)
	}
	before := 0.0
	for i, r := range p.Rings {
		switch {
		case !(r > 0 && r <= 100): // NaN is neither
			return bad("ring %d is %g%%: want shares above 0%% and up to 100%%, such as 1%%,10%%,100%%", i+1, r)
		case r <= before:
			return bad("ring %d is %g%%, not more than the %g%% before it: each ring includes those before, such as 1%%,10%%,100%%", i+1, r, before)
		}
		before = r
	}
	if _, err := allowed(p.MaxFailures, 1); err != nil {
		return bad("%w", err)
	}
	switch {
	case p.SoakMS < -1 || p.SoakMS > maxSoak.Milliseconds():
		return bad("soak_ms is %d, allowed are -1 (none) to %d", p.SoakMS, maxSoak.Milliseconds())
	case p.Parallel < 1 || p.Parallel > maxParallel:
		return bad("parallel is %d, allowed are 1 to %d", p.Parallel, maxParallel)
	case p.GraceMS != 0 && (p.GraceMS < wire.MinGrace.Milliseconds() || p.GraceMS > wire.MaxGrace.Milliseconds()):
		return bad("grace_ms is %d, allowed are 0 (the default) and %d to %d", p.GraceMS, wire.MinGrace.Milliseconds(), wire.MaxGrace.Milliseconds())
	}
	return p, nil
}

// allowed is how many of n endpoints may fail: a number, or a share rounded down.
func allowed(limit string, n int) (int, error) {
	if share, ok := strings.CutSuffix(limit, "%"); ok {
		if v, err := strconv.ParseFloat(share, 64); err == nil && v >= 0 && v <= 100 {
			return int(math.Floor(v*float64(n)/100 + 1e-9)), nil
		}
	} else if v, err := strconv.Atoi(limit); err == nil && v >= 0 {
		return v, nil
	}
	return 0, fmt.Errorf("max_failures %.20q: want a number (3) or a share (5%%)", limit)
}

// Assign gives each member its ring: in an order drawn from the rollout's id and the
// endpoint's, so that it is another in each rollout and the same whenever it is
// looked at. Those that are there now come first: a canary that is switched off
// tells nothing. Members beyond the last ring are left out.
func Assign(id string, percents []float64, members []Member) []Member {
	type drawn struct {
		Member
		lot [sha256.Size]byte
	}
	all := make([]drawn, len(members))
	for i, m := range members {
		all[i] = drawn{m, sha256.Sum256([]byte(id + "\n" + m.Agent))}
	}
	slices.SortFunc(all, func(a, b drawn) int {
		return cmp.Or(cmp.Compare(a.Presence.rank(), b.Presence.rank()), slices.Compare(a.lot[:], b.lot[:]))
	})
	var out []Member
	for ring, percent := range percents {
		upTo := int(math.Ceil(percent*float64(len(all))/100 - 1e-9))
		for len(out) < min(upTo, len(all)) {
			m := all[len(out)].Member
			m.Ring = ring
			out = append(out, m)
		}
	}
	return out
}

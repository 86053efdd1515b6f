package fleet

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// Report is what a run came to.
type Report struct {
	Seed    uint64        `json:"seed"`
	Ramp    time.Duration `json:"ramp_ns"`        // from the first dial until all were verified
	PerLink int64         `json:"bytes_per_link"` // of this process's heap and stacks, after a collection
	Kinds   []Row         `json:"kinds"`
	Restart *Return       `json:"restart,omitempty"` // nil: the server was not restarted
	// Wrong says what the server did that it must not, or did not and must; empty: nothing.
	Wrong []string `json:"wrong,omitempty"`
}

// Row is what one kind did, and what the server did about it.
type Row struct {
	Kind   Kind `json:"kind"`
	Agents int  `json:"agents"` // identities
	Links  int  `json:"links"`  // opened
	// Again counts commands that came again and were answered as known, Twice those run more than once.
	Again int `json:"again"`
	Twice int `json:"twice"`
	// By the server's API, at the end: agents ever verified, commands ordered and
	// completed, and how many agents are in each presence.
	Verified  int            `json:"verified"`
	Ordered   int            `json:"ordered"`
	Completed int            `json:"completed"`
	Presence  map[string]int `json:"presence"`
	// Evicted counts links that the server ended: seen at this end, and, of those
	// that stand still, held here and gone from the server's list.
	Evicted int `json:"evicted"`
	// standing: half-open, and the server holds the link yet; phantom: completed,
	// says the server, and none of the fleet ran it.
	standing, phantom int
}

// settle asks the server until all that must come has come, or the time is over.
func (f *fleet) settle(ctx context.Context, orders map[string]*agent) (Report, error) {
	ended := map[string]wire.State{}
	every := 250*time.Millisecond + time.Duration(len(f.agents))*100*time.Microsecond
	var r Report
	began := time.Now()
	err := until(ctx, settleFor+f.dead()+every*4, every, func() (bool, error) {
		if err := f.states(ctx, orders, ended); err != nil {
			return false, err
		}
		listed, err := f.client.Agents(ctx)
		if err != nil {
			return false, err
		}
		r = f.tally(orders, ended, listed)
		return len(r.Wrong) == 0, nil
	})
	if len(r.Wrong) > 0 && ctx.Err() == nil && time.Since(began) > settleFor {
		err = nil // what did not come is the report
	}
	return r, err
}

// dead is the longest dead window of the policies in force.
func (f *fleet) dead() (d time.Duration) {
	for _, a := range f.agents {
		a.mu.Lock()
		d = max(d, a.timing.dead)
		a.mu.Unlock()
	}
	return d
}

// states asks for the commands that had not ended.
func (f *fleet) states(ctx context.Context, orders map[string]*agent, ended map[string]wire.State) error {
	var open []string
	for id := range orders {
		if ended[id] == "" {
			open = append(open, id)
		}
	}
	var mu sync.Mutex
	var failed error
	each(ctx, callsAtOnce, open, func(id string) {
		c, err := f.client.Command(ctx, id)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			failed = fmt.Errorf("ask for command %s: %w", id, err)
		case c.State.Terminal():
			ended[id] = c.State
		}
	})
	return failed
}

// tally counts by kind, and says what is wrong.
func (f *fleet) tally(orders map[string]*agent, ended map[string]wire.State, listed []operator.Agent) Report {
	rows := map[Kind]*Row{}
	row := func(k Kind) *Row {
		if rows[k] == nil {
			rows[k] = &Row{Kind: k, Presence: map[string]int{}}
		}
		return rows[k]
	}
	byID := map[string]operator.Agent{}
	for _, a := range listed {
		byID[a.ID] = a
	}
	for _, a := range f.agents {
		row(a.kind).add(a, byID[a.identity.Agent])
	}
	f.mu.Lock()
	for id, a := range orders {
		r := row(a.kind)
		r.Ordered++
		if ended[id] == wire.StateCompleted {
			r.Completed++
			if f.runs[id] == 0 {
				r.phantom++
			}
		}
		if f.runs[id] > 1 {
			r.Twice++
		}
	}
	f.mu.Unlock()
	var out Report
	for _, k := range Kinds {
		if r := rows[k]; r != nil {
			out.Kinds = append(out.Kinds, *r)
			out.Wrong = append(out.Wrong, r.wrong()...)
		}
	}
	return out
}

// add counts one copy; the server's word is of the identity.
func (r *Row) add(a *agent, seen operator.Agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Links += a.links
	r.Again += a.again
	r.Evicted += a.evicted
	switch {
	case a.kind == HalfOpen && !a.frozen: // not yet
		r.standing++
	case a.frozen && a.link != nil:
		if slices.ContainsFunc(seen.Links, func(l wire.LinkView) bool { return l.Link == a.link.id }) {
			r.standing++
		} else {
			r.Evicted++
		}
	}
	if a.copy {
		return
	}
	r.Agents++
	if seen.VerifiedAt != nil {
		r.Verified++
	}
	if seen.Presence == "" {
		seen.Presence = "not listed"
	}
	r.Presence[seen.Presence]++
}

// wrong says what must not be.
func (r *Row) wrong() (all []string) {
	say := func(n int, what string) {
		if n > 0 {
			all = append(all, fmt.Sprintf("%s: %d %s", r.Kind, n, what))
		}
	}
	say(r.Twice, "commands ran more than once")
	say(r.Agents-r.Verified, "agents were never verified, says the server")
	if r.Kind.Well() {
		say(r.Ordered-r.Completed, "commands were not completed")
	}
	say(r.standing, "links that stand still are held by the server past its dead window")
	say(r.phantom, "commands count as completed that no agent ran")
	return all
}

// Print writes the tables, within 80 columns.
func (r Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%-8s %6s %6s %8s %7s %9s %5s %5s %7s\n",
		"kind", "agents", "links", "verified", "ordered", "completed", "again", "twice", "evicted")
	for _, k := range r.Kinds {
		fmt.Fprintf(w, "%-8s %6d %6d %8d %7d %9d %5d %5d %7d\n",
			k.Kind, k.Agents, k.Links, k.Verified, k.Ordered, k.Completed, k.Again, k.Twice, k.Evicted)
	}
	fmt.Fprintln(w, "\nin the end, says the server:")
	for _, k := range r.Kinds {
		fmt.Fprintln(w, wrap.Behind(fmt.Sprintf("  %-8s  ", k.Kind), k.now()))
	}
	fmt.Fprintf(w, "\nall verified after %.1f s; %.1f kB of this process for each link; seed %d\n",
		r.Ramp.Seconds(), float64(r.PerLink)/1000, r.Seed)
	if r.Restart != nil {
		fmt.Fprintln(w, wrap.Behind("", r.Restart.String()))
	}
	for _, s := range r.Wrong {
		fmt.Fprintln(w, wrap.Behind("WRONG  ", s))
	}
}

// now are the presences, the most frequent one first.
func (r Row) now() string {
	names := make([]string, 0, len(r.Presence))
	for name := range r.Presence {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		if d := r.Presence[y] - r.Presence[x]; d != 0 {
			return d
		}
		return strings.Compare(x, y)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, r.Presence[name])
	}
	return strings.Join(names, ", ")
}

package blind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/lab/harness"
)

// Options of [Run].
type Options struct {
	Bin    harness.Binaries // with the seams for faults
	Dir    string           // short: sockets live below it
	Seed   uint64
	Runs   int      // with a fault, dealt evenly to the mechanisms
	Well   int      // without one
	Only   []string // mechanisms; empty: all
	AtOnce int
	Keep   bool // keep each run's case in Dir
	// Ask is how long after the fault the server is asked, at least; 0: as usual. Less than a
	// command has to be acknowledged says nothing.
	Ask time.Duration
	// Progress is told what is under way; it must not block.
	Progress func(string)
}

// When the server is asked, after the fault: not before what is unacknowledged counts as that.
const (
	strikeWithin = 4 * time.Second
	askLeast     = 18 * time.Second
	askMost      = 28 * time.Second
)

// Result is one run.
type Result struct {
	Run      int    `json:"run"`
	Injected string `json:"injected"` // mechanism
	Fault    string `json:"fault"`
	Named    string `json:"named"` // the ranking's first
	Share    float64
	Word     string   `json:"word"`
	Proven   bool     `json:"proven"` // what is proven leaves the injected mechanism
	Proof    bool     `json:"proof"`  // the ledger can prove it
	After    float64  `json:"after_s"`
	Took     float64  `json:"took_ms"` // asking and answering
	Poor     string   `json:"poor"`    // the first, of what the poorer protocol's server would hold
	PoorWord string   `json:"poor_word"`
	Proofs   []string `json:"proofs,omitempty"`
	Failed   string   `json:"failed,omitempty"` // the run itself
	seen     diagnosis.Case
}

// Right reports whether the mechanism was named.
func (r Result) Right() bool { return r.Named == r.Injected }

// plan deals the runs: each mechanism as often, of one mechanism each fault as often, in an
// order that the seed shuffles.
func plan(o Options) ([]fault, error) {
	by, ids := map[string][]fault{}, []string{}
	for _, f := range faults {
		if len(o.Only) > 0 && !slices.Contains(o.Only, f.mechanism) {
			continue
		}
		if by[f.mechanism] == nil {
			ids = append(ids, f.mechanism)
		}
		by[f.mechanism] = append(by[f.mechanism], f)
	}
	for _, id := range o.Only {
		if by[id] == nil && id != wellID {
			for _, w := range Without {
				if w.Mechanism == id {
					return nil, fmt.Errorf("%w: %s: %s", ErrMechanism, id, w.Why)
				}
			}
			return nil, fmt.Errorf("%w: %s; there are: %s, %s", ErrMechanism, id, strings.Join(Mechanisms(), ", "), wellID)
		}
	}
	var all []fault
	for n := 0; len(ids) > 0 && len(all) < o.Runs; n++ {
		list := by[ids[n%len(ids)]]
		all = append(all, list[n/len(ids)%len(list)])
	}
	for n := range o.Well {
		all = append(all, healthy[n%len(healthy)])
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, nil
}

// firstPlace is the address of the first run's box: those before it are the neighbours'.
const firstPlace = 8

// ErrMechanism says that a mechanism has no fault here.
var ErrMechanism = errors.New("no such mechanism has a fault here")

// Mechanisms that can be put in.
func Mechanisms() (ids []string) {
	for _, f := range faults {
		if !slices.Contains(ids, f.mechanism) {
			ids = append(ids, f.mechanism)
		}
	}
	return ids
}

// Run makes all runs. The error is of what could not run at all.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	all, err := plan(o)
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	stack, err := harness.Start(ctx, harness.Options{Bin: o.Bin, Dir: filepath.Join(o.Dir, "s"), Policy: policy()})
	if err != nil {
		return Report{}, err
	}
	defer stack.Close()
	// One endpoint is well all the time, so that there is a fleet.
	neighbour, err := newSite(ctx, stack, "n", 1, nil)
	if err != nil {
		return Report{}, fmt.Errorf("an endpoint that is well: %w", err)
	}
	defer neighbour.close()

	results := make([]Result, len(all))
	turns := make(chan struct{}, max(1, o.AtOnce))
	var mu sync.Mutex
	done, right := 0, 0
	var workers sync.WaitGroup
	for i, f := range all {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		workers.Go(func() {
			defer func() { <-turns }()
			r := Result{Run: i, Injected: f.mechanism, Fault: f.name, Proof: f.proof}
			rng := rand.New(rand.NewPCG(o.Seed, uint64(i)+2))
			if err := one(ctx, o, stack, f, rng, &r); err != nil {
				r.Failed = err.Error()
			}
			results[i] = r
			mu.Lock()
			defer mu.Unlock()
			done++
			if r.Right() {
				right++
			}
			o.Progress(fmt.Sprintf("%d of %d, %d named: %s (%s): %s", done, len(all), right, r.Injected, r.Fault, cmp.Or(r.Failed, r.Named+", "+r.Word)))
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	return report(o, results, time.Since(began))
}

// one makes one run.
func one(ctx context.Context, o Options, stack *harness.Stack, f fault, rng *rand.Rand, r *Result) (err error) {
	if f.alone {
		if stack, err = harness.Start(ctx, harness.Options{Bin: o.Bin, Dir: filepath.Join(o.Dir, fmt.Sprintf("s%d", r.Run)), Policy: policy()}); err != nil {
			return err
		}
		defer stack.Close()
		for n := range 3 {
			s, err := newSite(ctx, stack, fmt.Sprintf("n%d", n), n+1, nil)
			if err != nil {
				return err
			}
			defer s.close()
		}
	}
	s, err := newSite(ctx, stack, fmt.Sprintf("a%d", r.Run), r.Run+firstPlace, f.before)
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		err = errors.Join(err, s.close())
	}()
	large, load := f.large, rand.New(rand.NewPCG(o.Seed, rng.Uint64()))
	s.work.Go(func() { s.load(working, load, large) })
	if err := harness.Pause(ctx, time.Duration(rng.Int64N(int64(strikeWithin)))); err != nil {
		return err
	}
	if err := f.strike(working, s, rng); err != nil {
		return fmt.Errorf("put the fault in: %w", err)
	}
	struck := time.Now()
	least, most := askLeast, askMost
	if o.Ask > 0 {
		least, most = o.Ask, o.Ask+time.Second
	}
	wait := f.quiet + least + time.Duration(rng.Int64N(int64(most-least)))
	if err := harness.Pause(ctx, wait); err != nil {
		return err
	}
	r.After = time.Since(struck).Seconds()
	asked := time.Now()
	h, err := evidence.Ask(ctx, stack.Client(), s.agent.ID)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	c := evidence.Case(h)
	a := diagnosis.Diagnose(c)
	r.Took = float64(time.Since(asked).Microseconds()) / 1000
	r.answered(a)
	r.seen = c
	if o.Keep {
		return keep(o.Dir, *r, h, c)
	}
	return nil
}

func (r *Result) answered(a diagnosis.Answer) {
	r.Named, r.Share, r.Word = a.Ranking[0].ID, a.Ranking[0].Probability, a.Confidence.Word
	r.Proven = len(a.Proven) > 0
	for _, p := range a.Proven {
		r.Proofs = append(r.Proofs, p.Says)
		r.Proven = r.Proven && slices.Contains(p.Leaves, r.Injected)
	}
}

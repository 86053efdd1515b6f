package task

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"gururmm/wire"
)

// patience bounds the wait for a fact that must come; it is never waited out in a pass.
const patience = 20 * time.Second

// upstream collects what an executor emits.
type upstream struct {
	mu      sync.Mutex
	results map[string][]wire.CommandResult
	output  map[string][]byte // by id/stream, pieces put where they belong
	pieces  map[string]int
	changed chan struct{} // closed at each change
}

func newUpstream() *upstream {
	return &upstream{results: map[string][]wire.CommandResult{}, output: map[string][]byte{}, pieces: map[string]int{}, changed: make(chan struct{})}
}

func (u *upstream) emit(t wire.Type, id string, payload any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch p := payload.(type) {
	case wire.CommandResult:
		u.results[id] = append(u.results[id], p)
	case wire.CommandOutput:
		key := id + "/" + string(p.Stream)
		have := u.output[key]
		if need := int(p.Offset) + len(p.Data); need > len(have) {
			have = append(have, make([]byte, need-len(have))...)
		}
		copy(have[p.Offset:], p.Data)
		u.output[key] = have
		u.pieces[key]++
	default:
		panic(fmt.Sprintf("emitted a %T as %s", payload, t))
	}
	close(u.changed)
	u.changed = make(chan struct{})
}

// until waits until cond, called under the lock, is true.
func (u *upstream) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		u.mu.Lock()
		ok, changed := cond(), u.changed
		u.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// result waits for the first result of id.
func (u *upstream) result(t *testing.T, id string) wire.CommandResult {
	t.Helper()
	return u.nth(t, id, 1)
}

func (u *upstream) nth(t *testing.T, id string, n int) (r wire.CommandResult) {
	t.Helper()
	u.until(t, fmt.Sprintf("result %d of %s", n, id), func() bool {
		if len(u.results[id]) >= n {
			r = u.results[id][n-1]
			return true
		}
		return false
	})
	return r
}

func (u *upstream) text(id string, s wire.Stream) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return string(u.output[id+"/"+string(s)])
}

func (u *upstream) count(id string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.results[id])
}

// eventually polls a fact that nothing announces.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func command(id, script string) wire.Command {
	return wire.Command{
		ID: id, Script: script, TimeoutMS: 60_000,
		IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
}

func openAt(t *testing.T, dir string, change ...func(*Options)) (*Executor, *upstream) {
	t.Helper()
	u := newUpstream()
	// A child of another test, forked and not yet exec'ed, may hold a copy of a lock just given back.
	o := Options{Dir: dir, MaxJobs: 8, Emit: u.emit, LockWait: 5 * time.Second}
	for _, c := range change {
		c(&o)
	}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, e) })
	return e, u
}

func shut(t *testing.T, e *Executor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Close(ctx, 0); err != nil {
		t.Errorf("close: %v", err)
	}
}

// order accepts and starts c.
func order(t *testing.T, e *Executor, c wire.Command) {
	t.Helper()
	if out := e.Accept(c, false, wire.StageTimes{}); out.Refused != "" || out.Known {
		t.Fatalf("accept %s: %+v", c.ID, out)
	}
	e.Start(c.ID)
}

// untilExists is a script that ends once file is there.
func untilExists(file string) string {
	if onWindows {
		return ":again\nif exist \"" + file + "\" exit /b 0\nping -n 2 127.0.0.1 >nul\ngoto again"
	}
	return "until [ -e '" + file + "' ]; do sleep 0.02; done"
}

package guardian_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/pipe"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const agentID = "agent-1"

// child is a worker in a bubble: it reports each second what the test wants it to.
type child struct {
	pid    int
	in     *io.PipeReader
	out    *io.PipeWriter
	gone   chan struct{}
	once   sync.Once
	err    error
	frozen chan struct{} // closed: it neither reads nor reports any more
	silent atomic.Bool   // it does not report for now
	leave  chan struct{} // closed: it is drained

	leaving sync.Once

	mu     sync.Mutex
	jobs   time.Duration // what its jobs take to end, once it is drained
	snap   selfcheck.Snapshot
	orders []pipe.Order
}

var errKilled = errors.New("signal: killed")

func (c *child) exit(err error) {
	c.once.Do(func() { c.err = err; close(c.gone); c.out.Close() }) // nobody may read any more
}

// live reads orders and reports until the child is gone.
func (c *child) live() {
	var wg sync.WaitGroup
	wg.Go(func() {
		lines := pipe.NewReader[pipe.Order](c.in)
		for {
			o, err := lines.Read()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.orders = append(c.orders, o)
			c.mu.Unlock()
			switch {
			case o.Drain != nil:
				c.mu.Lock()
				jobs := c.jobs
				c.mu.Unlock()
				c.leaving.Do(func() { time.AfterFunc(jobs, func() { close(c.leave) }) })
			case (o.Stacks || o.TraceMS > 0) && c.isFrozen():
			case o.Stacks:
				c.say(pipe.Fact{Stacks: "goroutine 1 [running]:\nthe.worker()"})
			case o.TraceMS > 0:
				c.say(pipe.Fact{Trace: []byte("a worker's trace")})
			case o.Frames:
				c.say(pipe.Fact{Frames: &[]selfcheck.FrameHeader{{Class: selfcheck.FrameText, Size: 7}}})
			}
			select {
			case <-c.frozen:
				return
			default:
			}
		}
	})
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	c.report()
	leave := c.leave
	for {
		select {
		case <-c.gone:
			c.in.Close()
			c.out.Close()
			wg.Wait()
			return
		case <-c.frozen:
			<-c.gone
			c.in.Close()
			c.out.Close()
			wg.Wait()
			return
		case <-tick.C:
			c.report()
		case <-leave: // as a worker that was drained: its link first, then itself
			leave = nil
			c.mu.Lock()
			c.snap.Link = selfcheck.LinkFacts{PhaseAge: new(time.Duration(0)), URL: c.snap.Link.URL}
			c.mu.Unlock()
			c.report()
			time.Sleep(parting)
			c.exit(nil)
		}
	}
}

// parting is what a drained child takes from its link's end to its own.
const parting = 500 * time.Millisecond

func (c *child) isFrozen() bool {
	select {
	case <-c.frozen:
		return true
	default:
		return false
	}
}

func (c *child) say(f pipe.Fact) { pipe.Write(c.out, f) }

func (c *child) report() {
	if c.silent.Load() {
		return
	}
	c.mu.Lock()
	s := c.snap
	c.mu.Unlock()
	s.Worker.PID = c.pid
	c.say(pipe.Fact{Snapshot: &s})
}

// got gives the orders so far.
func (c *child) got() []pipe.Order {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.orders)
}

func (c *child) be(s selfcheck.Snapshot) {
	c.mu.Lock()
	c.snap = s
	c.mu.Unlock()
}

// door is a server behind the second door.
type door struct {
	mu      sync.Mutex
	down    error
	offset  *time.Duration
	reports []oob.Report
	polls   []wire.PollRequest // all, uploads too
	up      []wire.Envelope
	next    []wire.Envelope // answered to the next request
	view    *wire.ServerView
}

func (d *door) answer() wire.PollResponse {
	r := wire.PollResponse{Downstream: d.next, View: d.view, ServerTime: time.Now()}
	d.next = nil
	return r
}

func (d *door) Beacon(ctx context.Context, r oob.Report) (wire.PollResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down != nil {
		return wire.PollResponse{}, d.down
	}
	d.reports = append(d.reports, r)
	return d.answer(), nil
}

func (d *door) Poll(ctx context.Context, p wire.PollRequest) (wire.PollResponse, error) {
	d.mu.Lock()
	if d.down != nil {
		defer d.mu.Unlock()
		return wire.PollResponse{}, d.down
	}
	d.polls = append(d.polls, p)
	d.up = append(d.up, p.Upstream...)
	if len(d.next) > 0 || p.WaitMS == 0 {
		defer d.mu.Unlock()
		return d.answer(), nil
	}
	d.mu.Unlock()
	wait := time.NewTimer(time.Duration(p.WaitMS) * time.Millisecond)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return wire.PollResponse{}, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answer(), nil
}

func (d *door) Offset() (time.Duration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.offset == nil {
		return 0, false
	}
	return *d.offset, true
}

func (d *door) Door() string { return "https://door.test" }

func (d *door) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// causes lists the causes of the reports that arrived.
func (d *door) causes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, r := range d.reports {
		out = append(out, r.Cause)
	}
	return out
}

// polled gives all polls so far, uploads too.
func (d *door) polled() []wire.PollRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.polls)
}

func (d *door) last() oob.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reports[len(d.reports)-1]
}

// nacks gives the nacks that were handed in.
func (d *door) nacks(t *testing.T) []wire.Nack {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []wire.Nack
	for _, m := range d.up {
		if m.Type == wire.TypeNack {
			n, err := wire.DecodePayload[wire.Nack](m)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n)
		}
	}
	return out
}

// spool keeps to memory.
type spool struct {
	mu   sync.Mutex
	kept []oob.Report
}

func (s *spool) Put(r oob.Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, r)
	return nil
}

func (s *spool) Next() (string, oob.Report, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) == 0 {
		return "", oob.Report{}, false
	}
	return s.kept[0].ReportID, s.kept[0], true
}

func (s *spool) Done(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.DeleteFunc(s.kept, func(r oob.Report) bool { return r.ReportID == id })
	return nil
}

func (s *spool) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept)
}

func (s *spool) Dropped() int { return 0 }

// bench is a guardian in a bubble with all that surrounds it.
type bench struct {
	t     *testing.T
	cfg   guardian.Config
	door  *door
	spool *spool
	key   ed25519.PrivateKey
	start selfcheck.Snapshot // what a fresh child reports
	dies  func(n int) error  // non-nil: child n exits at once so

	mu       sync.Mutex
	children []*child

	stop context.CancelFunc
	done chan error
}

func newBench(t *testing.T) *bench {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, door: &door{}, spool: &spool{}, key: key, start: well()}
	b.cfg = guardian.Config{
		Agent: agentID, Server: "server-1",
		Presence:  wire.Presence{Instance: wire.NewID(), BootID: "boot", Fingerprint: "fp", Version: "test"},
		Keys:      []ed25519.PublicKey{public},
		Policy:    wire.DefaultPolicy(),
		StateFile: filepath.Join(t.TempDir(), "guardian.json"),
		Spawn:     b.spawn, Door: b.door, Spool: b.spool, WorkerLog: io.Discard,
		Rand: rand.New(rand.NewPCG(1, 2)),
	}
	return b
}

func (b *bench) spawn(context.Context) (guardian.Child, error) { return b.spawnAs(b.start) }

// spawnAs starts a child that reports snap from the first.
func (b *bench) spawnAs(snap selfcheck.Snapshot) (guardian.Child, error) {
	in, orders := io.Pipe()
	facts, out := io.Pipe()
	b.mu.Lock()
	c := &child{pid: 1000 + len(b.children), in: in, out: out, gone: make(chan struct{}), frozen: make(chan struct{}), leave: make(chan struct{}), snap: snap}
	n := len(b.children)
	b.children = append(b.children, c)
	b.mu.Unlock()
	if err := b.dying(n); err != nil {
		c.exit(err)
	}
	var wg sync.WaitGroup
	wg.Go(c.live)
	return guardian.Child{
		PID: c.pid, Stdin: orders, Stdout: facts,
		Wait: func() error { <-c.gone; wg.Wait(); return c.err },
		Kill: func([]selfcheck.JobFact) error { c.exit(errKilled); return nil },
	}, nil
}

// dying says how child n dies at once; nil: it lives.
func (b *bench) dying(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dies == nil {
		return nil
	}
	return b.dies(n)
}

// run starts the guardian; the bubble's end stops it.
func (b *bench) run() {
	b.t.Helper()
	g, err := guardian.New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop, b.done = stop, make(chan error, 1)
	done := b.done
	go func() { done <- g.Run(ctx) }()
	synctest.Wait()
}

// links gives the worker in place link id, verified just now.
func (b *bench) links(id wire.LinkID) {
	s := well()
	s.Link.ID, s.Link.Ledger.Local.Link, s.Link.Ledger.Peer.Link = id, id, id
	s.Link.VerifiedAge, s.Link.PhaseAge = new(100*time.Millisecond), new(100*time.Millisecond)
	b.child().be(s)
}

// end stops the guardian and gives what Run returned.
func (b *bench) end() error {
	b.stop()
	return <-b.done
}

func (b *bench) child() *child {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.children[len(b.children)-1]
}

func (b *bench) spawned() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.children)
}

// directive signs d with the server's key, filling in what every good one has.
func (b *bench) directive(d wire.Directive) wire.Envelope {
	if d.ID == "" {
		d.ID = wire.NewID()
	}
	if d.Agent == "" {
		d.Agent = agentID
	}
	if d.ExpiresAt.IsZero() {
		d.ExpiresAt = time.Now().Add(time.Minute)
	}
	e, err := wire.Sign(b.key, wire.TypeDirective, d)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// send lets the server hand down messages by the next beacon, and waits until they were taken.
func (b *bench) send(messages ...wire.Envelope) {
	b.t.Helper()
	b.door.set(func() { b.door.next = append(b.door.next, messages...) })
	for range 2 * 3600 { // the schedule when well
		time.Sleep(time.Second)
		synctest.Wait()
		taken := false
		b.door.set(func() { taken = len(b.door.next) == 0 })
		if taken {
			time.Sleep(time.Second) // what goes up in answer
			synctest.Wait()
			return
		}
	}
	b.t.Fatal("nobody asked at the door")
}

func (b *bench) stateFile() map[string]json.RawMessage {
	raw, err := os.ReadFile(b.cfg.StateFile)
	if err != nil {
		b.t.Fatal(err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		b.t.Fatal(err)
	}
	return m
}

// well is a worker with a verified link and equal ledgers.
func well() selfcheck.Snapshot {
	link := wire.LinkID(7)
	local := wire.Ledger{Link: link, Written: 5, Read: 6, WrittenBytes: 100}
	peer := wire.Ledger{Link: link, Written: 6, Read: 5}
	return selfcheck.Snapshot{
		Worker: selfcheck.WorkerFacts{Version: "test"},
		Link: selfcheck.LinkFacts{
			Phase: selfcheck.PhaseVerified, PhaseAge: new(time.Minute), VerifiedAge: new(time.Minute), ID: link,
			Ledger: selfcheck.LedgerView{Local: local, Peer: &peer, PeerAge: new(time.Second), PeerVia: selfcheck.ViaPing,
				RTT: new(20 * time.Millisecond), PongAge: new(time.Second)},
			In:  selfcheck.TapView{AnyAge: new(time.Second), TextAge: new(time.Second), PingAge: new(time.Second)},
			Out: selfcheck.TapView{AnyAge: new(time.Second)},
		},
		Loops: map[string]selfcheck.LoopFacts{"reader": {}},
		Jobs:  selfcheck.JobFacts{Limit: 8},
	}
}

// deaf is a worker whose link has lost two texts, as long ago as age.
func deaf(age time.Duration) selfcheck.Snapshot {
	s := well()
	s.Link.Ledger.Peer.Written = 8
	s.Link.Ledger.Down = &selfcheck.Gap{Missing: 2, Age: age}
	s.Link.Alternatives = 0
	return s
}

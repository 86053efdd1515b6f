package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"gururmm/agent/link"
	"gururmm/agent/pipe"
	"gururmm/agent/state"
	"gururmm/agent/task"
	"gururmm/internal/asleep"
	"gururmm/internal/fault"
	"gururmm/session"
	"gururmm/wire"
)

// Labels of the fault seams; see package fault.
const (
	faultDispatcher = "worker.dispatcher"
	faultReader     = "worker.reader"
	faultWriter     = "worker.writer"
	faultMetrics    = "worker.metrics"
	faultOrders     = "worker.orders"
	faultFacts      = "worker.facts"
	faultMonitor    = "worker.monitor"
	faultReporter   = "worker.reporter"
	faultCrash      = "worker.crash"    // it dies once it has opened its journal
	faultDeadlock   = "worker.deadlock" // every loop but those of the executor
)

const (
	// stopGrace is what jobs get when the guardian is gone or the worker is told to
	// stop without a word: it must end before whoever told it loses patience.
	stopGrace = 2 * time.Second
	// killWait bounds, beyond the grace, how long the executor may take to kill what is left.
	killWait = 5 * time.Second
	// flushWait bounds the last writes on the link, and up the pipe.
	flushWait = time.Second
	// orphanWait is how long the journal is waited for: a worker whose guardian was
	// killed has it until it has drained.
	orphanWait = stopGrace + killWait
	// endWait bounds the wait for goroutines at the very end; the process exits anyway.
	endWait = 3 * time.Second
	// maxGrace bounds what a drain order may ask for.
	maxGrace = 10 * time.Minute
)

// ErrGuardianDeaf says that the guardian has not read the pipe for 30 s.
var ErrGuardianDeaf = errors.New("the guardian does not read its pipe")

// Config of a worker. Fields without a default named are required.
type Config struct {
	// StateDir holds the journal, in its folder "jobs".
	StateDir *state.Dir
	Identity state.Identity
	Policy   wire.Policy // as stored; zero fields take their defaults
	Presence wire.Presence
	Version  string
	// LinkURLs, of the local configuration, stand before the policy's and the
	// enrolled ones. Default: none.
	LinkURLs []string
	// Proxy chooses the link's way out, as state.Config.LinkProxy gives it. Default: none.
	Proxy func(*http.Request) (*url.URL, error)

	// Dial and Resolve are the network; default: the real one. With Dial but no
	// Resolve, Dial is given the host's name.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Gate is passed at the top of each timer-driven loop: a test blocks it while
	// its machine is suspended. Default: open.
	Gate func()
	// Asleep tells how long this machine was suspended. Default: as the system says.
	Asleep *asleep.Clock
	// Metrics reads the vital signs. Default: this machine's.
	Metrics func() wire.Metrics
	Log     *slog.Logger // default: discards
}

// worker is one run.
type worker struct {
	cfg      Config
	log      *slog.Logger
	keys     wire.Keyring
	clock    clock
	exec     *task.Executor
	inbox    *inbox
	out      *out
	link     *manager
	counters counters
	beats    beats
	suspend  suspend

	dispatcher, metrics *relay
	executor            ask
	ordering            mark // the loop that obeys the guardian
	ticked              mark // since the monitor last turned
	ran                 mark // since the monitor or the reporter last ran

	inForce atomic.Pointer[policy]
	oob     atomic.Bool            // the link is not trusted
	judged  atomic.Pointer[string] // the guardian's verdict

	changes chan struct{} // something the guardian should know has changed
	rebeat  chan struct{} // phase, policy or path have changed: when is the next heartbeat due?
	stop    chan stopRequest
	pulse   chan struct{}            // the monitor's, for the reporter
	seen    chan struct{}            // its answer: a snapshot is taken
	calm    atomic.Pointer[calmMark] // of the last report; nil: it was not calm

	// life ends when the loops are to end; set before they begin.
	life     context.Context
	children children
}

// stopRequest ends a run.
type stopRequest struct {
	grace  time.Duration
	reason string
	err    error // nil: an orderly end
}

// Run does the worker's work until ctx ends, the guardian orders a drain, or it
// is gone. in brings [pipe.Order] lines, out takes [pipe.Fact] lines; both are
// closed if they can be. The error is nil after an orderly end.
func Run(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	w, err := open(cfg, out)
	if w == nil {
		return err
	}
	if err != nil {
		w.out.send(pipe.Fact{Fatal: err.Error()})
		w.out.finish(flushWait)
		return err
	}
	return w.run(ctx, in, out)
}

// open makes what can fail; with a worker and an error, only its pipe is up.
func open(cfg Config, to io.Writer) (*worker, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate == nil {
		cfg.Gate = func() {}
	}
	if cfg.Asleep == nil {
		cfg.Asleep = new(asleep.System())
	}
	w := &worker{
		cfg: cfg, log: cfg.Log, inbox: newInbox(), clock: clock{asleep: *cfg.Asleep},
		changes: make(chan struct{}, 1), rebeat: make(chan struct{}, 1),
		stop: make(chan stopRequest, 1), pulse: make(chan struct{}, 1), seen: make(chan struct{}, 1),
	}
	w.dispatcher, w.metrics = newRelay(w.dispatch), newRelay(w.measure)
	w.out = newOut(to, cfg.Log, func(err error) {
		w.end(stopRequest{grace: stopGrace, reason: "the guardian's pipe broke: " + err.Error()})
	})
	w.children.Go("facts", w.out.run)
	return w, w.prepare()
}

func (w *worker) prepare() error {
	p, err := newPolicy(wire.ConfigUpdate{Agent: w.cfg.Identity.Agent, Policy: w.cfg.Policy}, nil)
	if err != nil {
		w.log.Error("the stored policy is not usable, defaults are in force", "error", err)
		p, _ = newPolicy(wire.ConfigUpdate{}, nil)
	}
	w.inForce.Store(p)
	if len(w.urls()) == 0 {
		return errors.New("there is no link endpoint: neither enrolled, nor in the policy, nor configured")
	}
	if w.keys, err = w.cfg.Identity.Keyring(); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	tls, err := w.cfg.Identity.TLSConfig(w.clock.Now)
	if err != nil {
		return fmt.Errorf("trust of the link's server: %w", err)
	}
	w.link = newManager(w, tls)
	w.exec, err = task.Open(task.Options{
		Dir: w.cfg.StateDir.Path("jobs"), MaxJobs: p.MaxJobs,
		Now: w.clock.Now, Emit: w.emit, Log: w.log, LockWait: orphanWait,
	})
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	if fault.Active(faultCrash) {
		panic("the fault " + faultCrash + " is switched on")
	}
	return nil
}

// run starts the loops, waits for the end and tears down in order.
func (w *worker) run(ctx context.Context, in io.Reader, out io.Writer) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	linkLife, endLink := context.WithCancel(life)
	defer endLink()
	w.life = life

	linkDone := make(chan struct{})
	w.children.Go("link", func() { defer close(linkDone); w.link.run(linkLife) })
	w.dispatcher.start(life, &w.children, loopDispatcher)
	w.metrics.start(life, &w.children, loopMetrics)
	w.children.Go("reporter", func() { w.report(life) })
	w.children.Go(loopMonitor, func() { w.monitor(life) })
	w.children.Go(loopOrders, func() { w.listen(in) })

	var req stopRequest
	select {
	case <-ctx.Done():
		req = stopRequest{grace: stopGrace, reason: "told to stop"}
	case req = <-w.stop:
	}
	w.shutdown(req, endLink, linkDone)
	cancel()
	w.close(in)
	if !w.out.finish(flushWait) {
		w.log.Warn("the last facts were not taken")
	}
	w.close(out)
	if !w.ended() {
		w.log.Error("a loop hangs and is left behind", "loops", w.children.left())
	}
	return req.err
}

// shutdown ends the jobs, then the link, while the loops still carry their last words.
func (w *worker) shutdown(req stopRequest, endLink func(), linkDone <-chan struct{}) {
	w.log.Info("worker stops", "reason", req.reason, "grace", req.grace, "error", req.err)
	ctx, cancel := context.WithTimeout(context.Background(), req.grace+killWait)
	defer cancel()
	if err := w.exec.Close(ctx, req.grace); err != nil {
		w.log.Error("jobs could not all be ended", "error", err)
	}
	w.flush()
	endLink()
	timer := time.NewTimer(goneWait + flushWait)
	defer timer.Stop()
	select {
	case <-linkDone:
	case <-timer.C:
	}
	w.out.report(w.snapshot())
}

// flush waits, not for long, until the link has taken what is queued.
func (w *worker) flush() {
	s := w.link.session()
	if s == nil {
		return
	}
	started, finished := w.exec.Counters()
	done := make(chan struct{})
	err := s.Conn().Send(wire.Envelope{Type: wire.TypeHeartbeat}, session.SendOptions{
		Compose: func(l wire.Ledger) (wire.Envelope, error) {
			return wire.Seal(wire.TypeHeartbeat, wire.Heartbeat{Ledger: l, Stages: w.counters.stages(l.Read, started, finished)})
		},
		Written: func(uint64, time.Time, error) { close(done) },
	})
	if err != nil {
		return
	}
	timer := time.NewTimer(flushWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// ended waits for all goroutines, but not for ever.
func (w *worker) ended() bool {
	done := make(chan struct{})
	go func() { w.children.Wait(); close(done) }()
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// close closes one end of the pipe, if it can be closed, on a goroutine of its
// own: where the system waits for a read under way, as Windows does, so does Close.
func (w *worker) close(v any) {
	if c, ok := v.(io.Closer); ok {
		w.children.Go("closing of the pipe", func() { c.Close() })
	}
}

// end asks the run to stop; the first request stands.
func (w *worker) end(req stopRequest) {
	select {
	case w.stop <- req:
	default:
	}
}

// change tells that there is something new to report. It never blocks.
func (w *worker) change() {
	select {
	case w.changes <- struct{}{}:
	default:
	}
}

// heard takes note of evidence from the link. Of an endpoint at rest a ping, a pong or
// the answer to a heartbeat says nothing that can't wait for the monitor's next pulse.
func (w *worker) heard(clean bool) {
	if !clean || w.calm.Load() == nil {
		w.change()
	}
}

// beatSoon makes the heartbeat loop look again. It never blocks.
func (w *worker) beatSoon() {
	select {
	case w.rebeat <- struct{}{}:
	default:
	}
}

// count begins the stage counters of a link, before its first text can be handled.
func (w *worker) count(s *link.Session) {
	started, finished := w.exec.Counters()
	w.counters.open(s, started, finished)
}

// receive takes a text from the link's reader.
func (w *worker) receive(s *link.Session, m session.Message) error {
	fault.Stall(faultDeadlock)
	if w.link.abandoned(s) { // its reader hung, and the server has been asked for all of it again
		return errAbandoned
	}
	return w.inbox.put(item{session: s, msg: m, at: m.At})
}

func (w *worker) presence() wire.Presence {
	p := w.cfg.Presence
	if w.cfg.Version != "" {
		p.Version = w.cfg.Version
	}
	return p
}

func (w *worker) verdict() string {
	if v := w.judged.Load(); v != nil {
		return *v
	}
	return ""
}

// trusted is the link that upstream may take; nil: the second door.
func (w *worker) trusted() *link.Session {
	if w.oob.Load() {
		return nil
	}
	if s := w.link.session(); s != nil && !s.Verified().IsZero() {
		return s
	}
	return nil
}

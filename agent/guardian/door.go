package guardian

import (
	"context"
	"errors"
	"net/http"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/pipe"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// requestMargin bounds a request beyond the time that the server may hold it. The
	// client has tighter deadlines of its own, for each door it tries.
	requestMargin = 2 * time.Minute
	// rejectedWait is how long a server that does not know us is left alone (peers
	// polled for ever, every 30 s, with an identity that was withdrawn).
	rejectedWait = 5 * time.Minute
	// doorMin and doorMax bound the wait after a request that failed.
	doorMin, doorMax = time.Second, 30 * time.Second
	// pollGap keeps a server that answers each poll at once from being asked in a busy loop.
	pollGap = 100 * time.Millisecond
	// viewEvery is how often the server's view is asked for, to confirm a suspicion.
	viewEvery = 5 * time.Second
	// maxUpBatch bounds the upstream bytes of one request, maxUp what waits in all;
	// results repeat, so the oldest is what is dropped.
	maxUpBatch = 512 << 10
	maxUp      = 16 << 20
	// maxUpMessages bounds one request's messages: a flood of small ones.
	maxUpMessages = 512
)

// requestKind tells the three uses of the door apart; one of each may be under way.
type requestKind int

const (
	askFlush  requestKind = iota // send what is spooled
	askPoll                      // wait for what is sent down
	askUpload                    // hand in what goes up
	requestKinds
)

// request is one use of the door, and when it may be used so again.
type request struct {
	busy     bool
	cancel   context.CancelFunc
	deliver  bool // of a poll: for commands too
	long     bool // of a poll: the server may hold it
	at       time.Time
	failures int // in a row
}

// doorState is what the loop knows of the second door.
type doorState struct {
	requests [requestKinds]request
	forced   bool      // OOB delivery by directive
	called   bool      // the server asks for a call
	closed   time.Time // rejected (401): not before this
	lastOK   time.Time
	failures int
	failure  *selfcheck.NetworkError
	view     *wire.ServerView
	viewAt   time.Time
	viewAsk  time.Time // last asked for, to confirm a suspicion
	up       []wire.Envelope
	upBytes  int
	upTaken  int  // of up, in the request under way
	upSingly bool // a batch was refused: find out which message it is
}

// answer is what came of one request, or of one report of a flush.
type answer struct {
	kind   requestKind
	last   bool // the request is over
	resp   wire.PollResponse
	err    error // nil and not last: resp holds
	none   bool  // nothing was asked: no answer, no failure
	report *local.BeaconStatus
}

// ask runs one request in a goroutine of its own.
func (g *Guardian) ask(kind requestKind, limit time.Duration, do func(context.Context) answer) {
	ctx, cancel := context.WithTimeout(g.helpers, limit)
	r := &g.door.requests[kind]
	r.busy, r.cancel = true, cancel
	g.wg.Go(func() {
		defer cancel()
		a := do(ctx)
		a.kind, a.last = kind, true
		g.hand(func() { g.answered(a) })
	})
}

// answered takes in what a door said.
func (g *Guardian) answered(a answer) {
	now := time.Now()
	d := &g.door
	r := &d.requests[a.kind]
	if a.last {
		r.busy, r.cancel = false, nil
	}
	if a.report != nil {
		g.beacons.last = a.report
	}
	if a.kind == askFlush {
		g.beacons.waiting = g.cfg.Spool.Len()
	}
	switch {
	case a.none:
		return
	case a.err != nil:
		g.doorFailed(a, now)
		return
	}
	for i := range d.requests { // a door that answers one answers all
		d.requests[i].failures, d.requests[i].at = 0, now
	}
	if a.kind == askPoll {
		r.at = now.Add(pollGap)
	}
	g.noteDoor(true, "The second door answers at "+g.cfg.Door.Door()+".")
	d.lastOK, d.failures, d.failure, d.closed = now, 0, nil, time.Time{}
	if a.kind == askUpload {
		g.uploaded()
	}
	if a.resp.View != nil {
		d.view, d.viewAt = a.resp.View, now
	}
	g.syncOffset()
	g.receive(a.resp.Downstream)
}

// doorFailed plans when the door is tried again.
func (g *Guardian) doorFailed(a answer, now time.Time) {
	d := &g.door
	r := &d.requests[a.kind]
	if errors.Is(a.err, context.Canceled) {
		r.at = now // our own doing
		return
	}
	if a.kind == askUpload && g.uploadRefused(a.err) {
		r.at = now
		return
	}
	wait := max(backoff.Full(g.rng, doorMin, doorMax, r.failures), oob.RetryAfter(a.err))
	r.failures++
	r.at = now.Add(wait)
	d.failures++
	d.failure = oob.NetworkError(a.err)
	g.noteDoor(false, "The second door failed: "+a.err.Error()+".")
	if errors.Is(a.err, oob.ErrRejected) {
		d.closed = now.Add(max(wait, rejectedWait))
	}
	g.log.Warn("second door failed", "error", a.err, "in_a_row", d.failures, "again_in", wait)
}

// ready reports whether a request of this kind may begin now.
func (g *Guardian) ready(kind requestKind, now time.Time) bool {
	r := g.door.requests[kind]
	return g.cfg.Door != nil && !r.busy && !now.Before(r.at) && !now.Before(g.door.closed)
}

// doorDue begins and ends requests as the moment wants it.
func (g *Guardian) doorDue(now time.Time) {
	if g.cfg.Door == nil {
		return
	}
	if g.beacons.waiting > 0 && g.ready(askFlush, now) {
		g.flush()
	}
	if len(g.door.up) > 0 && g.ready(askUpload, now) {
		g.upload()
	}
	wait, deliver, want := g.wantPoll(now)
	poll := &g.door.requests[askPoll]
	if poll.busy && poll.cancel != nil && (g.stopping || poll.long && (!want || poll.deliver != deliver)) {
		// What it might still bring is not what is wanted now; above all no commands
		// may be claimed for a worker that can't take them.
		poll.cancel()
		poll.cancel = nil
	}
	if want && g.ready(askPoll, now) {
		g.poll(wait, deliver)
	}
}

// wantPoll decides whether to ask at the door, for how long, and for commands too.
func (g *Guardian) wantPoll(now time.Time) (wait time.Duration, deliver, want bool) {
	long := time.Duration(g.policy.PollMS) * time.Millisecond
	v := g.judgement.Verdict
	switch {
	case g.stopping:
		return 0, false, false
	case g.delivering() && g.canDeliver():
		return long, true, true
	case g.delivering(), g.workerDown(), v.Code == selfcheck.CodeAgentCrashloop:
		return long, false, true // for directives: the server may know a way out
	case g.door.called:
		return 0, false, true
	case v.Suspected && v.Code == selfcheck.CodeLinkTextSilent && now.Sub(g.door.viewAsk) >= viewEvery:
		return 0, false, true // the server's view confirms it or not
	}
	return 0, false, false
}

// delivering reports whether OOB delivery is on, by the ladder or by directive.
func (g *Guardian) delivering() bool { return g.ladder.Delivering() || g.door.forced }

// canDeliver reports whether a worker is there that reads what it is handed. A
// command claimed for one that does not would be lost until its lease ends.
func (g *Guardian) canDeliver() bool {
	l := g.worker.life
	if l == nil || l.killed != "" || l.reported.IsZero() {
		return false
	}
	p := l.orders.pending(time.Now())
	return p == nil || *p < time.Second
}

// workerDown reports whether there is no worker, or one that never spoke.
func (g *Guardian) workerDown() bool {
	l := g.worker.life
	return g.worker.gen > 1 && (l == nil || l.reported.IsZero())
}

func (g *Guardian) poll(wait time.Duration, deliver bool) {
	r := &g.door.requests[askPoll]
	r.deliver, r.long = deliver, wait > 0
	g.door.called = false
	if !r.long {
		g.door.viewAsk = time.Now()
	}
	req := wire.PollRequest{Instance: g.cfg.Presence.Instance, WaitMS: wait.Milliseconds(), Deliver: deliver}
	g.ask(askPoll, wait+requestMargin, func(ctx context.Context) answer {
		resp, err := g.cfg.Door.Poll(ctx, req)
		return answer{resp: resp, err: err}
	})
}

// send queues messages for the server by the second door.
func (g *Guardian) send(messages ...wire.Envelope) {
	d := &g.door
	if g.cfg.Door == nil {
		return
	}
	for _, m := range messages {
		d.up = append(d.up, m)
		d.upBytes += size(m)
	}
	for d.upBytes > maxUp && len(d.up) > d.upTaken {
		d.upBytes -= size(d.up[d.upTaken])
		d.up = append(d.up[:d.upTaken:d.upTaken], d.up[d.upTaken+1:]...)
	}
}

func size(m wire.Envelope) int { return len(m.Payload) + len(m.Type) + len(m.Sig) + 64 }

// upload hands in the next batch, while a long poll may hang.
func (g *Guardian) upload() {
	d := &g.door
	n, bytes, most := 0, 0, maxUpMessages
	if d.upSingly {
		most = 1
	}
	for n < len(d.up) && n < most && (n == 0 || bytes+size(d.up[n]) <= maxUpBatch) {
		bytes += size(d.up[n])
		n++
	}
	d.upTaken = n
	req := wire.PollRequest{Instance: g.cfg.Presence.Instance, Upstream: d.up[:n:n]}
	g.ask(askUpload, requestMargin, func(ctx context.Context) answer {
		resp, err := g.cfg.Door.Poll(ctx, req)
		return answer{resp: resp, err: err}
	})
}

// uploadRefused deals with a batch that the server will never take as it is:
// its messages go one by one, and the one that is refused is dropped.
func (g *Guardian) uploadRefused(err error) bool {
	d := &g.door
	taken := d.upTaken
	at, ok := errors.AsType[*oob.DoorError](err)
	if !ok || at.Status != http.StatusBadRequest && at.Status != http.StatusRequestEntityTooLarge {
		d.upTaken = 0
		return false
	}
	if taken > 1 {
		d.upTaken, d.upSingly = 0, true
		return true
	}
	g.log.Error("server refuses a message: it is dropped", "type", d.up[0].Type, "error", err)
	g.uploaded()
	return true
}

// uploaded forgets the batch that arrived.
func (g *Guardian) uploaded() {
	d := &g.door
	for _, m := range d.up[:d.upTaken] {
		d.upBytes -= size(m)
	}
	g.told(d.up[:d.upTaken])
	d.up = append([]wire.Envelope(nil), d.up[d.upTaken:]...)
	d.upTaken = 0
	d.upSingly = d.upSingly && len(d.up) > 0
}

// syncDelivery tells the worker which way its messages go, when that has changed.
func (g *Guardian) syncDelivery() {
	on := g.delivering() && g.cfg.Door != nil
	if g.worker.life == nil || g.worker.toldOOB == on {
		return
	}
	if g.order(pipe.Order{OOB: &on}) {
		g.worker.toldOOB = on
		g.log.Info("out-of-band delivery", "on", on)
		if !on { // else the server would take the last poll for the present
			g.beacon(causeVerdict)
		}
	}
}

// syncOffset tells the worker of the server's clock, when what it knows is wrong.
func (g *Guardian) syncOffset() {
	if g.cfg.Door == nil {
		return
	}
	offset, known := g.cfg.Door.Offset()
	if !known || g.worker.life == nil {
		return
	}
	if diff := offset - g.worker.toldOffset; diff.Abs() < offsetStep {
		return
	}
	ns := offset.Nanoseconds()
	if g.order(pipe.Order{OffsetNS: &ns}) {
		g.worker.toldOffset = offset
	}
}

// offsetStep is the least change of the clock offset that is worth telling:
// beyond it a token's times would come near the server's leeway.
const offsetStep = 2 * time.Second

// now is the server's clock, as far as it is known.
func (g *Guardian) now() time.Time {
	now, _ := g.serverNow()
	return now
}

// serverNow gives the server's clock; known is false where it is only this machine's.
func (g *Guardian) serverNow() (now time.Time, known bool) {
	now = fault.Now()
	if g.cfg.Door != nil {
		if offset, known := g.cfg.Door.Offset(); known {
			return now.Add(offset), true
		}
	}
	if off := g.snapshot.Clock.Offset; off != nil {
		return now.Add(*off), true
	}
	return now, false
}

// doorFacts sums the door up for the judge.
func (g *Guardian) doorFacts(now time.Time) selfcheck.OOBFacts {
	d := &g.door
	f := selfcheck.OOBFacts{
		Configured: g.cfg.Door != nil, Failures: d.failures, Failure: d.failure,
		Delivering: g.delivering(), View: d.view,
	}
	if !d.lastOK.IsZero() {
		f.LastOK = new(now.Sub(d.lastOK))
	}
	if d.view != nil {
		f.ViewAge = new(now.Sub(d.viewAt))
	}
	if g.cfg.Spool != nil {
		f.Spooled, f.Dropped = g.beacons.waiting, g.beacons.dropped
	}
	return f
}

// nextDue is when a request may next be made after now; zero: nothing waits for time.
func (d *doorState) nextDue(now time.Time) time.Time {
	next := d.closed
	for i := range d.requests {
		if at := d.requests[i].at; at.After(now) && (!next.After(now) || at.Before(next)) {
			next = at
		}
	}
	return next
}

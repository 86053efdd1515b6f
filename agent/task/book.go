package task

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"gururmm/wire"
)

// What the journal remembers, and for how long. An id must be known as long as a
// repeat of it would be run, that is until the command has expired; a repeat after
// that is refused as expired anyway, and is remembered only so that the better
// answer can be given. So an id is forgotten when its result is stored and its
// expiry is more than expirySlack past, and it is older than keepFor or not among
// the newest keepSome, and never while it is among the newest keepLeast. Ids that
// may not be forgotten are bounded by refusing new commands.
const (
	expirySlack = 24 * time.Hour // for clocks that were set in between
	keepFor     = 7 * 24 * time.Hour
	keepLeast   = 10_000
	keepSome    = 50_000
	keepMost    = 100_000 // about 12 MB of memory: above, commands are refused as busy
	keepProbes  = 1_000   // a repeated probe is harmless: it only asks for its ack again
	// keepOwed and keepOutput bound what the server has not stored: results, and the
	// disk that their output takes.
	keepOwed   = 1_000
	keepOutput = 256 << 20 // bytes
)

// phase of a command that the server has not stored yet.
type phase int

const (
	phaseAccepting phase = iota // its record is on the way to the disk
	phaseAccepted               // journaled; waits for Start and a slot
	phaseRunning                // "started" is journaled, or on the way
	phaseEnding                 // the result is on the way to the disk
	phaseOwed                   // the result waits for the server to store it
)

// entry is a command from its acceptance until its result is stored.
type entry struct {
	cmd     wire.Command // without script once ended
	at      time.Time    // of acceptance, server-corrected
	stages  wire.StageTimes
	phase   phase
	ready   chan struct{} // closed when phaseAccepting is over
	pid     int
	began   time.Time // local clock: of the process, before that of acceptance
	startAt time.Time // local clock: not to be started before
	ctx     context.Context
	cancel  context.CancelCauseFunc

	result *wire.CommandResult // without inline output; once ended
	due    time.Time           // local clock: of the next repeat
	wait   time.Duration       // between repeats
	// acked: the server has said what output it holds.
	acked                  bool
	haveStdout, haveStderr int64
}

// active reports whether en takes one of MaxJobs.
func (en *entry) active() bool { return en.phase < phaseEnding }

// owe makes en's result wait for the server, and be repeated until then.
func (en *entry) owe() {
	en.phase, en.wait, en.due = phaseOwed, 2*repeatFirst, time.Now().Add(repeatFirst)
	en.cancel(nil)
}

// memo is what is left of a stored command.
type memo struct {
	at, expires int64 // ms since 1970
	state       wire.State
	exit        int32
	exited      bool // exit is known
}

// result is what a repeat of a stored command is answered with.
func (m memo) result(id string) *wire.CommandResult {
	r := &wire.CommandResult{ID: id, State: m.state}
	if m.exited {
		code := int(m.exit)
		r.ExitCode = &code
	}
	if m.state != wire.StateCompleted {
		r.Reason = "it ended earlier, and the server stored its result then"
	}
	return r
}

// book is the memory of all commands. The executor's mutex guards it.
type book struct {
	live   map[string]*entry // not stored
	stored map[string]memo
	probes map[string]bool
	recent []string  // of probes, oldest first
	born   time.Time // of the journal
	// horizon: of commands issued before it records may be missing; zero: none are.
	horizon time.Time
	// latest is the newest time seen in the journal, for a horizon that a clock set back can't fool.
	latest time.Time
}

func newBook() *book {
	return &book{live: map[string]*entry{}, stored: map[string]memo{}, probes: map[string]bool{}}
}

func newEntry(c wire.Command, at time.Time, stages wire.StageTimes) *entry {
	if stages == nil {
		stages = wire.StageTimes{}
	}
	en := &entry{cmd: c, at: at, stages: stages, phase: phaseAccepted, ready: make(chan struct{}), began: time.Now()}
	en.ctx, en.cancel = context.WithCancelCause(context.Background())
	return en
}

// take replays one record. Records may repeat, and after damage any may be
// missing: what is known of an id only ever grows.
func (b *book) take(r record) {
	if r.At.After(b.latest) {
		b.latest = r.At
	}
	if r.Command != nil && r.Command.IssuedAt.After(b.latest) {
		b.latest = r.Command.IssuedAt
	}
	switch r.Kind {
	case kindBorn:
		b.born = r.At
		if r.Horizon.After(b.horizon) {
			b.horizon = r.Horizon
		}
		return
	case kindProbe:
		b.addProbe(r.ID)
		return
	}
	if _, stored := b.stored[r.ID]; stored {
		return
	}
	en := b.live[r.ID]
	if en == nil && r.Kind != kindStored && r.Kind != kindKnown {
		en = newEntry(wire.Command{ID: r.ID, ExpiresAt: r.Expires}, r.At, nil)
		close(en.ready)
		b.live[r.ID] = en
	}
	switch r.Kind {
	case kindAccepted:
		// Damage may have left "started" alone before: then it is not to be run.
		if en.phase == phaseAccepted {
			en.cmd, en.at = *r.Command, r.At
			maps.Copy(en.stages, r.Stages)
			en.stages[wire.StageJournaled] = r.At
		}
	case kindStarted:
		if en.phase == phaseAccepted {
			en.phase = phaseRunning
		}
		en.pid = max(en.pid, r.PID)
	case kindEnded:
		en.phase, en.result, en.cmd.Script = phaseOwed, r.Result, ""
	case kindKnown:
		m := memo{at: r.At.UnixMilli(), expires: r.Expires.UnixMilli(), state: intern(r.State)}
		if r.Exit != nil {
			m.exit, m.exited = int32(*r.Exit), true
		}
		b.stored[r.ID] = m
		delete(b.live, r.ID)
	case kindStored:
		if en == nil { // all else is lost; the server has the result
			en = newEntry(wire.Command{ID: r.ID, ExpiresAt: r.Expires}, r.At, nil)
		}
		b.store(r.ID, en)
	}
}

// store turns an entry into a memo.
func (b *book) store(id string, en *entry) {
	m := memo{at: en.at.UnixMilli(), expires: en.cmd.ExpiresAt.UnixMilli(), state: wire.StateInterrupted}
	if en.result != nil {
		m.state = intern(en.result.State)
		if en.result.ExitCode != nil {
			m.exit, m.exited = int32(*en.result.ExitCode), true
		}
	}
	b.stored[id] = m
	delete(b.live, id)
	en.cancel(nil)
}

// intern gives the constant of a state, so that a memo holds no string of its own.
func intern(s wire.State) wire.State {
	for _, known := range []wire.State{wire.StateCompleted, wire.StateFailed, wire.StateCancelled, wire.StateExpired} {
		if s == known {
			return known
		}
	}
	return wire.StateInterrupted
}

func (b *book) addProbe(id string) {
	if b.probes[id] {
		return
	}
	b.probes[id] = true
	if b.recent = append(b.recent, id); len(b.recent) > keepProbes {
		delete(b.probes, b.recent[0])
		b.recent = slices.Delete(b.recent, 0, 1)
	}
}

// count gives commands accepted and not ended, and results owed.
func (b *book) count() (active, owed int) {
	for _, en := range b.live {
		if en.active() {
			active++
		} else {
			owed++
		}
	}
	return active, owed
}

// kept is the output, in bytes, of results owed.
func (b *book) kept() (sum int64) {
	for _, en := range b.live {
		if en.result != nil {
			sum += en.result.StdoutBytes + en.result.StderrBytes
		}
	}
	return sum
}

// prune forgets by the rule above.
func (b *book) prune(now time.Time) {
	if len(b.stored) <= keepLeast {
		return
	}
	ids := b.storedByAge()
	expired, old := now.Add(-expirySlack).UnixMilli(), now.Add(-keepFor).UnixMilli()
	for i, id := range ids[:len(ids)-keepLeast] {
		m, newer := b.stored[id], len(ids)-1-i
		if m.expires < expired && (m.at < old || newer >= keepSome) {
			delete(b.stored, id)
		}
	}
}

// storedByAge lists the stored ids, oldest first.
func (b *book) storedByAge() []string {
	type aged struct {
		id string
		at int64
	}
	all := make([]aged, 0, len(b.stored))
	for id, m := range b.stored {
		all = append(all, aged{id, m.at})
	}
	slices.SortFunc(all, func(x, y aged) int { return cmp.Compare(x.at, y.at) })
	ids := make([]string, len(all))
	for i, a := range all {
		ids[i] = a.id
	}
	return ids
}

// records is the whole book as a journal. They share nothing with it that changes.
func (b *book) records() []record {
	out := make([]record, 0, 1+len(b.stored)+2*len(b.live))
	out = append(out, record{Kind: kindBorn, At: b.born, Horizon: b.horizon})
	for _, id := range b.storedByAge() {
		m := b.stored[id]
		r := record{Kind: kindKnown, ID: id, At: time.UnixMilli(m.at).UTC(), Expires: time.UnixMilli(m.expires).UTC(), State: m.state}
		if m.exited {
			code := int(m.exit)
			r.Exit = &code
		}
		out = append(out, r)
	}
	for _, en := range b.liveByAge() {
		out = append(out, en.records()...)
	}
	return out
}

func (b *book) liveByAge() []*entry {
	all := make([]*entry, 0, len(b.live))
	for _, en := range b.live {
		all = append(all, en)
	}
	slices.SortFunc(all, func(x, y *entry) int { return x.at.Compare(y.at) })
	return all
}

// records are what the journal must hold of en.
func (en *entry) records() []record {
	if en.result != nil {
		return []record{en.ended()}
	}
	out := []record{en.accepted()}
	if en.phase == phaseRunning {
		out = append(out, en.started())
	}
	return out
}

func (en *entry) accepted() record {
	c := en.cmd
	c.Pad = ""
	return record{Kind: kindAccepted, ID: c.ID, At: en.at, Expires: c.ExpiresAt, Command: &c, Stages: maps.Clone(en.stages)}
}

func (en *entry) started() record {
	return record{Kind: kindStarted, ID: en.cmd.ID, At: en.stages[wire.StageStarted], Expires: en.cmd.ExpiresAt, PID: en.pid}
}

func (en *entry) ended() record {
	return record{Kind: kindEnded, ID: en.cmd.ID, At: en.at, Expires: en.cmd.ExpiresAt, Result: en.result}
}

package guardian

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// saveEvery spaces the writing of what changes all the time; a step is written at once.
	saveEvery = 10 * time.Second
	// maxMemory bounds the state file, in bytes, before it is parsed.
	maxMemory = 1 << 20
)

// memoryState is what must outlive this process.
type memoryState struct {
	done     map[string]time.Time          // directives carried out, until they have expired
	untold   map[string]wire.DirectiveKind // directives whose outcome the server may not know
	receipts map[string]receipt            // of untold, where more than the kind is known
	policy   *wire.Policy                  // of a directive; nil: the last config_update holds

	cutOff string // the instance of the last run, if it never said that it ended
	ended  bool   // all is over but the writing

	dirty  bool // something changed
	urgent bool // ... that must not wait
	saved  time.Time
	saveAt time.Time
	lost   []selfcheck.Finding // what of the last run's file could not be used
	broken error               // why the last write failed
}

// memoryFile is the state file.
type memoryFile struct {
	Ladder     json.RawMessage               `json:"ladder"`
	Crashes    *crashes                      `json:"crashes,omitempty"`
	Directives map[string]time.Time          `json:"directives,omitempty"`
	Untold     map[string]wire.DirectiveKind `json:"untold,omitempty"`
	Receipts   map[string]receipt            `json:"receipts,omitempty"` // of Untold
	Policy     *wire.Policy                  `json:"policy,omitempty"`
	ForcedOOB  bool                          `json:"forced_oob,omitempty"`
	Bundles    []bundleMade                  `json:"bundles,omitempty"`
	Running    string                        `json:"running,omitempty"` // the instance that wrote it and had not ended
}

// crashes are the worker's ends that nobody ordered, dated as the ladder's budgets are.
type crashes struct {
	selfcheck.Dated
	Exits   []time.Time `json:"exits,omitempty"`
	Last    string      `json:"last,omitempty"`    // how it ended
	Attempt int         `json:"attempt,omitempty"` // of the back-off
}

// maxExits bounds the exits in the file; the back-off leaves fewer within crashWindow.
const maxExits = 64

// crashes gives what is written down of them at now; nil: there are none.
func (w *workerState) crashes(now time.Time, up selfcheck.Uptime) *crashes {
	if len(w.exits) == 0 && w.attempt == 0 {
		return nil
	}
	c := crashes{Dated: selfcheck.Date(now, up), Last: w.lastExit, Attempt: w.attempt}
	for _, t := range w.exits[max(0, len(w.exits)-maxExits):] {
		c.Exits = append(c.Exits, selfcheck.Wall(t, now))
	}
	return &c
}

// recall takes them up again. The first start is not put off: what was wrong may have
// been mended, and so it is tried.
func (w *workerState) recall(c crashes, now time.Time, up selfcheck.Uptime) {
	for _, t := range c.Exits[max(0, len(c.Exits)-maxExits):] {
		if t = c.Then(t, now, up); t.After(now) {
			t = now
		}
		w.exits = append(w.exits, t)
	}
	slices.SortFunc(w.exits, time.Time.Compare)
	w.lastExit, w.attempt = c.Last, min(max(0, c.Attempt), maxAttempt)
}

// errUnread: the file could not be read, which says nothing of what is in it.
var errUnread = errors.New("could not be read")

// recall takes up what the last run knew. A file that can't be used is set
// aside, and the run begins without it: budgets are worth less than a guardian.
// A part that can't be is only told of: the others hold.
func (g *Guardian) recall() {
	g.memory.done, g.memory.untold = map[string]time.Time{}, map[string]wire.DirectiveKind{}
	g.memory.receipts = map[string]receipt{}
	if g.cfg.StateFile == "" {
		return
	}
	err := g.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errUnread): // out of descriptors, say: nothing shows that the file is bad
		g.log.Warn("state of the last run can't be read", "error", err)
		g.lose(selfcheck.FindJournal, "The guardian's state of the last run: "+err.Error())
	case err != nil:
		kept, qerr := atomicfile.Quarantine(g.cfg.StateFile, time.Now())
		g.log.Warn("state of the last run can't be used", "error", err, "kept_as", kept, "quarantine", qerr)
		sentence := "The guardian's state of the last run could not be used (" + err.Error() + ")"
		if qerr == nil {
			sentence += " and was kept as " + kept
		}
		g.lose(selfcheck.FindQuarantined, sentence)
	}
}

// lose tells, for this whole run, that something of the last one's state is not used.
func (g *Guardian) lose(code selfcheck.Code, sentence string) {
	g.memory.lost = append(g.memory.lost, selfcheck.Finding{Code: code, Sentence: sentence + "."})
}

func (g *Guardian) load() error {
	file, err := atomicfile.Open(g.cfg.StateFile)
	if errors.Is(err, atomicfile.ErrNotFile) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxMemory+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	if len(raw) > maxMemory {
		return errors.New("the file is too large")
	}
	var f memoryFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	for id, until := range f.Directives {
		g.memory.done[id] = until
	}
	for id, kind := range f.Untold {
		g.memory.untold[id] = kind
		if r, ok := f.Receipts[id]; ok {
			g.memory.receipts[id] = r
		}
	}
	if f.Crashes != nil {
		g.worker.recall(*f.Crashes, time.Now(), g.uptime())
	}
	g.memory.cutOff = f.Running
	g.door.forced = f.ForcedOOB
	g.bundle.made = f.Bundles
	if f.Policy != nil {
		p := f.Policy.WithDefaults()
		if err := p.Validate(); err != nil {
			g.log.Warn("policy of a directive can't be used", "error", err)
			g.lose(selfcheck.FindJournal, "The policy that a directive set can't be used ("+err.Error()+"): the one before it holds")
		} else {
			g.policy, g.memory.policy = p, &p
			g.ladder.SetPolicy(p)
		}
	}
	if len(f.Ladder) > 0 {
		if err := g.ladder.Restore(f.Ladder, time.Now(), g.uptime()); err != nil {
			g.log.Warn("budgets of the last run can't be used", "error", err)
			g.lose(selfcheck.FindJournal, "The budgets and back-offs of the last run can't be used ("+err.Error()+"): they begin anew")
		}
	}
	return nil
}

// encode gives the bytes of the state file.
func (g *Guardian) encode() ([]byte, error) {
	now, up := time.Now(), g.uptime()
	ladder, err := g.ladder.State(now, up)
	if err != nil {
		return nil, err
	}
	g.forgetExpired()
	running := g.cfg.Presence.Instance
	if g.memory.ended {
		running = ""
	}
	return json.Marshal(memoryFile{
		Running: running,
		Ladder:  ladder, Crashes: g.worker.crashes(now, up), Directives: g.memory.done, Untold: g.memory.untold, Receipts: g.memory.receipts,
		Policy: g.memory.policy, ForcedOOB: g.door.forced, Bundles: g.bundle.made,
	})
}

// forgetExpired drops the directives that could not be replayed any more. While only
// this machine's clock is known, which may be years ahead after a boot, it drops none
// unless their places are needed: what was forgotten could run again.
func (g *Guardian) forgetExpired() {
	now, known := g.serverNow()
	if !known && len(g.memory.done) < maxDirectives-keptPlaces {
		return
	}
	for id, until := range g.memory.done {
		if now.After(until.Add(directiveSlack)) {
			delete(g.memory.done, id)
		}
	}
}

// rememberDue writes the state file when it is time.
func (g *Guardian) rememberDue(now time.Time) {
	m := &g.memory
	m.saveAt = time.Time{}
	if g.cfg.StateFile == "" || !m.dirty {
		return
	}
	if due := m.saved.Add(saveEvery); !m.urgent && now.Before(due) {
		m.saveAt = due
		return
	}
	raw, err := g.encode()
	m.dirty, m.urgent, m.saved = false, false, now
	if err != nil {
		g.log.Error("state can't be encoded", "error", err)
		g.unsaved()
		return
	}
	if !g.keep(job{what: jobState, do: func() error { return atomicfile.Write(g.cfg.StateFile, raw, 0o600) }}) {
		g.unsaved()
	}
}

// unsaved takes note that the state was not written: it is tried again, saveEvery
// after the last try.
func (g *Guardian) unsaved() {
	g.memory.dirty, g.memory.saveAt = true, g.memory.saved.Add(saveEvery)
}

// rememberNow writes the state file before it returns, at the end.
func (g *Guardian) rememberNow() error {
	if g.cfg.StateFile == "" {
		return nil
	}
	raw, err := g.encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(g.cfg.StateFile, raw, 0o600)
}

// uptime is what budgets and back-offs are dated by, beside the wall clock.
func (g *Guardian) uptime() selfcheck.Uptime {
	up, ok := g.cfg.Uptime()
	if !ok || g.cfg.Presence.BootID == "" {
		return selfcheck.Uptime{}
	}
	return selfcheck.Uptime{Boot: g.cfg.Presence.BootID, Up: up}
}

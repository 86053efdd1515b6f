package replay

import "time"

// onset is when the first link of each agent is cut, and when what begins with the second
// one begins.
const onset = 20 * time.Minute

// mechanism is one row: what it changes of the healthy model.
type mechanism struct {
	id    string // of a mechanism of package diagnosis
	gloss string // the reading, where the case leaves several open

	down, up box

	// The server.
	keepsOlderLink bool
	cleansUpByName bool
	endUnnoticed   bool // the server does not learn of the end of the first link
	unoffered      func(w *world, c *command) bool
	olderRules     func(c *command) bool
	holdsSender    func(w *world, l *link, f frame) bool
	strikesAll     bool

	// The agent.
	writesInReadLoop bool // what goes up is written by the loop that reads
	readerAloneEnds  bool // a write that fails ends no session
	acksToFirst      bool
	holdsWriter      bool
	hangs, away      bool // from the second link on
	livesFor         time.Duration
	beforeAck        func(t *task, w *world, s *session, f frame)
	beforeRun        func(t *task, w *world, s *session, f frame) bool
	executor         func(w *world, s *session, f frame)
	unreadable       func(w *world, s *session, f frame) bool
}

// since makes b begin with the second links; before that all passes.
func since(b box) box {
	return func(l *link, ln *lane, f frame) (*frame, time.Duration) {
		if l.agent.w.now < onset {
			return &f, 0
		}
		return b(l, ln, f)
	}
}

// texts makes a box of what is done to texts.
func texts(what func(l *link, ln *lane, f frame) (*frame, time.Duration)) box {
	return func(l *link, ln *lane, f frame) (*frame, time.Duration) {
		if f.kind != text {
			return &f, 0
		}
		return what(l, ln, f)
	}
}

var (
	swallow = texts(func(*link, *lane, frame) (*frame, time.Duration) { return nil, 0 })
	above   = func(size int) box {
		return texts(func(_ *link, _ *lane, f frame) (*frame, time.Duration) {
			if f.size > size {
				return nil, 0
			}
			return &f, 0
		})
	}
	below = func(size int) box {
		return texts(func(_ *link, _ *lane, f frame) (*frame, time.Duration) {
			if f.size < size {
				return nil, 0
			}
			return &f, 0
		})
	}
	after = func(n int) box {
		return texts(func(_ *link, ln *lane, f frame) (*frame, time.Duration) {
			if ln.texts > n {
				return nil, 0
			}
			return &f, 0
		})
	}
	spoiled = texts(func(_ *link, _ *lane, f frame) (*frame, time.Duration) {
		f.bad = f.what == "command"
		return &f, 0
	})
	nothing = func(_ *link, ln *lane, _ frame) (*frame, time.Duration) {
		ln.dead = true
		return nil, 0
	}
)

const (
	standing = "from the start"
	begun    = "begun between the first link and the second"
)

// mechanisms are the rows. What is not among them is in inexpressible.
func mechanisms() []mechanism {
	var rows []mechanism
	add := func(id, gloss string, m mechanism) {
		m.id, m.gloss = id, gloss
		rows = append(rows, m)
	}
	add("well", "", mechanism{})

	// The path.
	add("path.text.all", standing, mechanism{down: swallow})
	add("path.text.all", begun, mechanism{down: since(swallow)})
	add("path.text.size", "above 1 KiB, "+begun, mechanism{down: since(above(1 << 10))})
	add("path.text.count", "the first three of a link pass", mechanism{down: after(3)})
	add("path.text.count", "the first two of a link pass, "+begun, mechanism{down: since(after(2))})
	add("path.text.first", "the first of a link is lost", mechanism{down: texts(func(_ *link, ln *lane, f frame) (*frame, time.Duration) {
		if ln.texts == 1 {
			return nil, 0
		}
		return &f, 0
	})})
	add("path.text.delayed", "by 5 minutes, "+begun, mechanism{down: since(texts(func(_ *link, _ *lane, f frame) (*frame, time.Duration) { return &f, 5 * time.Minute }))})
	add("path.text.altered", "each command, "+begun, mechanism{down: since(spoiled)})
	add("path.compression", "noise from the second text of a link on, "+begun, mechanism{down: since(texts(func(_ *link, ln *lane, f frame) (*frame, time.Duration) {
		f.bad = ln.texts > 1
		return &f, 0
	}))})
	add("path.fragment", "the first command of a link, "+begun, mechanism{down: since(texts(func(_ *link, ln *lane, f frame) (*frame, time.Duration) {
		ln.mute = ln.mute || f.what == "command"
		if ln.mute {
			return nil, 0
		}
		return &f, 0
	}))})
	add("path.ping.foreign", begun, mechanism{
		down: since(func(_ *link, _ *lane, f frame) (*frame, time.Duration) {
			if f.kind == text {
				return nil, 0
			}
			return &f, 0 // the box's own, as often
		}),
		up: since(func(l *link, ln *lane, f frame) (*frame, time.Duration) {
			if ln.texts > 1 {
				return nil, 0
			}
			return &f, 0
		}),
	})
	add("path.uplink", "all texts, "+begun, mechanism{up: since(swallowBehindAuth)})
	add("path.uplink", "texts of less than 200 bytes, "+begun, mechanism{up: since(below(200))})
	add("path.halfopen", "down, a minute into each link", mechanism{down: since(func(l *link, ln *lane, f frame) (*frame, time.Duration) {
		if f.kind == ping && ln.texts > 1 && len(l.pongs) > 1 {
			return nothing(l, ln, f)
		}
		return &f, 0
	})})
	add("path.halfopen", "down, once", mechanism{down: since(func(l *link, ln *lane, f frame) (*frame, time.Duration) {
		if l.n == 2 && f.what == "command" {
			return nothing(l, ln, f)
		}
		return &f, 0
	})})
	add("path.mtu", "down, above 1400 bytes, "+begun, mechanism{down: since(func(l *link, ln *lane, f frame) (*frame, time.Duration) {
		if f.size > 1400 {
			return nothing(l, ln, f)
		}
		return &f, 0
	})})
	add("path.idle", "each link after five minutes", mechanism{livesFor: 5 * time.Minute})

	// The server.
	add("route.zombie", "", mechanism{keepsOlderLink: true, endUnnoticed: true})
	add("route.cleanup", "", mechanism{cleansUpByName: true, endUnnoticed: true})
	add("server.unwritten", "once, from the first command of the second link on", mechanism{holdsSender: func(_ *world, l *link, f frame) bool {
		return l.agent.ill && l.n == 2 && f.what == "command"
	}})
	add("server.unwritten", "from the first command of each later link on", mechanism{holdsSender: func(_ *world, l *link, f frame) bool {
		return l.agent.ill && l.n > 1 && f.what == "command"
	}})
	add("server.blocked", "for all", mechanism{strikesAll: true, holdsSender: func(w *world, _ *link, f frame) bool { return w.now > onset && f.what == "command" }})
	add("server.state", "a command stays running in the database, by no link", mechanism{unoffered: func(w *world, c *command) bool {
		if w.now > onset && w.agents[c.agent].ill {
			c.state, c.offered = running, forever/2
			return true
		}
		return false
	}})
	add("server.state", "the agent is held for an older one, without acknowledgements", mechanism{olderRules: func(c *command) bool { return c.given > onset && c.agent <= "c" }})
	add("identity.clone", "another takes the link's place each five minutes", mechanism{livesFor: 5 * time.Minute})

	// The agent.
	const own = "heartbeats have a writer of their own"
	add("agent.reader.handler", "waits for what outlives the link; "+own+", whose failure ends the session", mechanism{beforeAck: stuckProcess})
	add("agent.reader.handler", "waits for what outlives the link; "+own+", only the reader ends a session", mechanism{beforeAck: stuckProcess, readerAloneEnds: true})
	add("agent.reader.handler", "waits for what outlives the link; one loop reads and writes", mechanism{beforeAck: stuckProcess, writesInReadLoop: true})
	add("agent.reader.handler", "waits for what the link has; "+own+", whose failure ends the session", mechanism{beforeAck: func(t *task, w *world, s *session, _ frame) {
		if s.l.n == 2 {
			t.until(forever, nil)
		}
	}})
	ofFirst := func(w *world, s *session, f frame) {
		if s.a.first == s { // else it waits where nobody looks any more
			w.spawn(func(t *task) { s.obey(t, f) })
		}
	}
	add("agent.dispatcher", "commands go to a task of the first session", mechanism{executor: ofFirst})
	add("agent.dispatcher", "the same, and the server holds agent-c for one without acknowledgements", mechanism{
		executor: ofFirst, olderRules: func(c *command) bool { return c.agent == "c" },
	})
	add("agent.ack", "to the queue of the first session, after which it runs", mechanism{acksToFirst: true})
	add("agent.decode", standing, mechanism{unreadable: func(_ *world, _ *session, f frame) bool { return f.what == "command" }})
	add("agent.decode", "one end was updated between", mechanism{unreadable: func(w *world, _ *session, f frame) bool { return f.what == "command" && w.now > onset }})
	add("agent.slot", "taken before the acknowledgement, in a task of its own", mechanism{executor: func(w *world, s *session, f frame) {
		w.spawn(func(t *task) {
			if s.a.jobs++; s.a.jobs > 1 { // one place, and it is never given back
				return
			}
			s.obey(t, f)
		})
	}})
	add("agent.slot", "taken after the acknowledgement", mechanism{beforeRun: oneRun})
	add("agent.full", "", mechanism{beforeRun: func(_ *task, w *world, _ *session, _ frame) bool { return w.now < onset }})
	add("agent.writer", begun, mechanism{holdsWriter: true})
	add("agent.hung", begun, mechanism{hangs: true})
	add("agent.away", begun, mechanism{away: true})
	add("agent.crashloop", "each minute", mechanism{livesFor: time.Minute})
	return rows
}

func swallowBehindAuth(_ *link, ln *lane, f frame) (*frame, time.Duration) {
	if f.kind == text && ln.texts > 1 {
		return nil, 0
	}
	return &f, 0
}

// stuckProcess: the first command behind the first session waits for good, and so does each later one.
func stuckProcess(t *task, _ *world, s *session, _ frame) {
	if s.l.n > 1 {
		t.until(forever, nil)
	}
}

func oneRun(_ *task, _ *world, s *session, _ frame) bool {
	s.a.jobs++
	return s.a.jobs <= 1
}

// obey acknowledges and runs, outside of the reader.
func (s *session) obey(t *task, f frame) {
	s.tell(t, frame{kind: text, size: 90, what: "ack", id: f.id})
	s.execute(t, f, s)
}

// inexpressible are the mechanisms that the described system has no room for, and why.
var inexpressible = []struct{ id, why string }{
	{"path.handshake", "links are open in each of the tests"},
	{"path.tls", "by itself it tells that somebody can change the stream, not what is done: those are the rows of path"},
	{"path.tcp.selective", "a byte stream has no room for it: the model has no lane that loses a text and hands on the next"},
	{"identity.instances", "as identity.clone: the protocol does not tell one machine from another"},
	{"operator.quarantined", "the described system has no such state"},
	{"operator.removed", "nor this one"},
	{"agent.rejected", "an agent of the described protocol can't refuse; that the server holds one for older than it is, is a row of server.state"},
	{"agent.journal", "it keeps no journal"},
	{"agent.clock", "its commands have no expiry that an agent would look at"},
	{"oob.blocked", "it has no second door"},
	{"agent.metrics", "nothing waits for them"},
	{"unknown", "what nobody knows can't be run"},
}

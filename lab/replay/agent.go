package replay

import "time"

// agent is the described endpoint: one process, one session after the other.
type agent struct {
	w     *world
	name  string
	ill   bool // the mechanism strikes it
	links []*link
	// first is the process's first session, and last the present one.
	first, last *session
	cut         bool // its present link is to end, as networks do it
	jobs        int  // places taken
}

// session is what the agent has of one link.
type session struct {
	a   *agent
	l   *link
	out []frame // waits for the writer
	// over ends all its tasks.
	over  bool
	tasks []*task
	pings []time.Duration // read
	last  time.Duration   // a text was read
	looks int             // how often the loop looked at its deadline
}

// live dials, serves a link to its end, and dials again.
func (a *agent) live(t *task) {
	w := a.w
	for {
		l := &link{n: len(a.links) + 1, agent: a}
		a.links = append(a.links, l)
		a.cut = false
		s := &session{a: a, l: l}
		a.last = s
		if a.first == nil {
			a.first = s
		}
		w.spawn(func(t *task) { w.serve(t, l) })
		w.put(t, l, &l.up, w.m.up, frame{kind: text, size: 300, what: "auth"})
		start := func(run func(t *task)) { s.tasks = append(s.tasks, w.spawn(run)) }
		if a.ill && w.m.hangs && l.n > 1 {
			t.until(forever, nil)
		}
		start(s.read)
		if !w.m.writesInReadLoop || !a.ill {
			start(s.write)
		}
		start(func(t *task) { s.beat(t, heartbeatEvery, "heartbeat", 300) })
		start(func(t *task) { s.beat(t, metricsEvery, "metrics", 900) })
		lives := forever
		if a.ill && w.m.livesFor > 0 {
			lives = w.now + w.m.livesFor
		}
		t.until(lives, func() bool { return s.over || a.cut })
		for _, t := range s.tasks {
			t.abort()
		}
		away := redial
		switch {
		case a.cut && a.ill && w.m.endUnnoticed: // the server holds it on
			l.up.dead, l.down.dead = true, true
		case !l.up.closed && !l.up.dead:
			l.up.inFlight = append(l.up.inFlight, flying{frame{kind: closing}, max(w.now+latency, lastAt(l.up.inFlight))})
		}
		if a.cut && a.ill && w.m.away {
			return
		}
		if a.cut {
			away = graceFor + 3*time.Second // by the case's events
		}
		l.down.closed = true
		t.sleep(away)
	}
}

// read is the described loop: a frame or the deadline, whichever comes first, and the
// handler awaited in it.
func (s *session) read(t *task) {
	w, ln := s.a.w, &s.l.down
	last := w.now
	for {
		s.looks++
		drain := func() bool { return w.m.writesInReadLoop && s.a.ill && len(s.out) > 0 }
		if !w.await(t, ln, last+silentFor, drain) {
			if !drain() {
				s.over = true
				return
			}
			f := s.out[0]
			s.out = s.out[1:]
			if !w.put(t, s.l, &s.l.up, w.m.up, f) {
				s.over = true
				return
			}
			continue
		}
		f := ln.take()
		last = w.now
		switch f.kind {
		case ping:
			s.pings = append(s.pings, w.now)
			w.put(t, s.l, &s.l.up, w.m.up, frame{kind: pong, size: 2})
		case closing:
			s.over = true
			return
		case text:
			s.last = w.now
			s.handle(t, f)
		}
	}
}

// handle is awaited by the reader.
func (s *session) handle(t *task, f frame) {
	a := s.a
	m := a.w.m
	if f.bad || a.ill && m.unreadable != nil && m.unreadable(a.w, s, f) {
		return // it is logged at the endpoint, where nobody looks
	}
	if f.what != "command" {
		return
	}
	if a.ill && m.executor != nil { // handed to a task of its own
		m.executor(a.w, s, f)
		return
	}
	if a.ill && m.beforeAck != nil {
		m.beforeAck(t, a.w, s, f)
	}
	to := s
	if a.ill && m.acksToFirst {
		to = a.first
	}
	to.tell(t, frame{kind: text, size: 90, what: "ack", id: f.id})
	a.w.spawn(func(t *task) { s.execute(t, f, to) })
}

// execute runs the command, unless all places are taken, and tells its result.
func (s *session) execute(t *task, f frame, to *session) {
	a := s.a
	if a.ill && a.w.m.beforeRun != nil && !a.w.m.beforeRun(t, a.w, s, f) {
		return
	}
	t.sleep(runTakes)
	a.w.commands[f.id-1].ran = true
	to.tell(t, frame{kind: text, size: 110, what: "result", id: f.id})
}

// tell gives a text to the session's writer, and waits while its queue is full.
func (s *session) tell(t *task, f frame) {
	if len(s.out) >= queueHolds {
		t.until(forever, func() bool { return len(s.out) < queueHolds })
	}
	s.out = append(s.out, f)
}

// write empties the session's queue.
func (s *session) write(t *task) {
	w := s.a.w
	for {
		t.until(forever, func() bool { return len(s.out) > 0 })
		f := s.out[0]
		s.out = s.out[1:]
		if s.a.ill && w.m.holdsWriter && w.now > onset {
			t.until(forever, nil)
		}
		if !w.put(t, s.l, &s.l.up, w.m.up, f) {
			if w.m.readerAloneEnds {
				continue // it is logged
			}
			s.over = true
			return
		}
	}
}

// beat says what an agent says by itself.
func (s *session) beat(t *task, every time.Duration, what string, size int) {
	for {
		t.sleep(every)
		s.tell(t, frame{kind: text, size: size, what: what})
	}
}

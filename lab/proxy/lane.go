package proxy

import (
	"bufio"
	"fmt"
	"time"
)

// lane carries the frames of one direction of one link.
type lane struct {
	p    *Proxy
	dir  Direction
	conn int
	src  *bufio.Reader
	out  *outbox
	back *outbox // the other direction's, for pongs the box makes up
	done <-chan struct{}

	set     *setting // as of the last frame
	count   int      // texts since set came into force here
	partial message  // a message being collected
	passing bool     // a fragmented message is passing as it comes
	stuck   bool     // a fragment was left open: no data frame may follow
}

// run reads until the source ends, a frame is cut, or the connection is over.
func (l *lane) run() {
	for {
		f, err := readFrame(l.src)
		if err != nil {
			return
		}
		l.refresh()
		for l.set.has(Freeze) {
			l.p.journal.struck(l.conn, l.dir, Freeze, f.size(), "held back")
			select {
			case <-l.set.over:
				l.refresh()
			case <-l.done:
				return
			}
		}
		for !f.control() && l.set.stalls(f.size()) {
			l.p.journal.struck(l.conn, l.dir, StallAbove, f.size(), "waits, and all behind it")
			select {
			case <-l.set.over:
				l.refresh()
			case <-l.done:
				return
			}
		}
		if f.control() {
			l.controlFrame(f)
		} else if cut := l.dataFrame(f); cut {
			return
		}
	}
}

// refresh takes over the setting now in force; counting begins anew with it.
func (l *lane) refresh() {
	if s := l.p.setting(l.dir); s != l.set {
		l.set, l.count = s, 0
	}
}

func (l *lane) controlFrame(f frame) {
	for _, fault := range l.set.faults {
		switch {
		case fault.Kind == AnswerPings:
			if f.opcode() == opPing {
				l.back.put(piece{raw: newFrame(0x80|opPong, f.payload(), !f.masked).raw})
			}
			l.p.journal.struck(l.conn, l.dir, AnswerPings, f.size(), fmt.Sprintf("control frame %#x", f.opcode()))
			return
		case f.opcode() != opPing && f.opcode() != opPong || f.size() == 0:
			// nothing to strip or rewrite
		case fault.Kind == StripPings:
			l.p.journal.struck(l.conn, l.dir, StripPings, f.size(), "")
			f = f.with(nil, true)
		case fault.Kind == RewritePings:
			l.p.journal.struck(l.conn, l.dir, RewritePings, f.size(), "")
			f = f.with(otherBytes(f.payload()), true)
		}
	}
	l.p.journal.passed(l.dir, true)
	l.out.put(piece{raw: f.raw})
}

// dataFrame collects messages and decides on each. It reports a cut.
func (l *lane) dataFrame(f frame) (cut bool) {
	switch {
	case l.stuck:
		l.p.journal.struck(l.conn, l.dir, StuckFragment, f.size(), "swallowed behind the open fragment")
		return false
	case l.passing, len(l.partial) == 0 && len(l.set.faults) == 0:
		l.passing = !f.fin()
		if f.fin() {
			l.p.journal.passed(l.dir, false)
		}
		l.send(0, f)
		return false
	}
	l.partial = append(l.partial, f)
	if !f.fin() {
		return false
	}
	m := l.partial
	l.partial = nil
	l.count++
	return l.message(m)
}

// message lets m pass, or does to it what the first fault that concerns it says.
func (l *lane) message(m message) (cut bool) {
	for _, fault := range l.set.faults {
		if !l.concerns(fault, m.size()) {
			continue
		}
		l.p.journal.struck(l.conn, l.dir, fault.Kind, m.size(), "")
		switch fault.Kind {
		case DelayText:
			l.send(fault.Delay, m...)
		case AlterText:
			l.send(0, m.merged(true, alter))
		case DuplicateText:
			l.send(0, append(m, m...)...)
		case StuckFragment:
			l.stuck = true
			l.send(0, m.merged(false, half))
		case CutMidFrame:
			raw := m.merged(true, func(b []byte) []byte { return b }).raw
			l.out.put(piece{raw: raw[:(len(raw)+1)/2], last: true})
			return true
		}
		return false
	}
	l.p.journal.passed(l.dir, false)
	l.send(0, m...)
	return false
}

// concerns reports whether fault strikes a message of size bytes that is number l.count.
func (l *lane) concerns(fault Fault, size int) bool {
	switch fault.Kind {
	case DropTextAbove:
		return size > fault.N
	case DropTextBelow:
		return size < fault.N
	case DropTextAfter:
		return l.count > fault.N
	case DropTextEvery:
		return l.count%fault.N == 0
	case DropTextFirst:
		return l.count == 1
	case DropText, DelayText, AnswerPings, AlterText, DuplicateText, StuckFragment, CutMidFrame:
		return true
	}
	return false
}

// send queues data frames after delay, and never before those already held back.
func (l *lane) send(delay time.Duration, frames ...frame) {
	due := l.out.behind()
	if t := time.Now().Add(delay); delay > 0 && t.After(due) {
		due = t
	}
	pieces := make([]piece, len(frames))
	for i, f := range frames {
		pieces[i] = piece{raw: f.raw, due: due}
	}
	l.out.put(pieces...)
}

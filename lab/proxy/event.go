package proxy

import (
	"fmt"
	"sync"
	"time"
)

// maxEvents bounds the event log; the oldest are forgotten, counts never.
const maxEvents = 4096

// Event is one thing the proxy did that an open path would not have done, or a
// change of what it is to do.
type Event struct {
	At   time.Time `json:"at"`
	Conn int       `json:"conn,omitempty"` // number of the connection at its door, from 1
	Dir  Direction `json:"dir"`
	What string    `json:"what"` // set, open, close, or the fault's kind
	// Size of the message or frame it struck, in payload bytes.
	Size   int    `json:"size,omitempty"`
	Detail string `json:"detail,omitempty"`
}

func (e Event) String() string {
	s := fmt.Sprintf("%s %s conn %d %s", e.At.Format("15:04:05.000"), e.Dir, e.Conn, e.What)
	if e.Size > 0 {
		s += fmt.Sprintf(" of %d bytes", e.Size)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Counts of one direction since the proxy started.
type Counts struct {
	Conns int `json:"conns,omitempty"` // of a door
	// Frames by fate; a message struck by a fault counts under the fault's kind.
	Texts    int          `json:"texts"`    // messages that passed whole
	Controls int          `json:"controls"` // pings, pongs and closes that passed
	Struck   map[Kind]int `json:"struck,omitempty"`
}

// Dropped counts what was swallowed by any fault of the dropping kind.
func (c Counts) Dropped() int {
	n := 0
	for _, k := range []Kind{
		DropText, DropTextAbove, DropTextBelow, DropTextAfter, DropTextEvery, DropTextFirst, AnswerPings, StuckFragment,
	} {
		n += c.Struck[k]
	}
	return n
}

// journal keeps events and counts.
type journal struct {
	log func(Event)

	mu     sync.Mutex
	events []Event
	counts map[Direction]*Counts
}

func (j *journal) of(dir Direction) *Counts {
	if j.counts == nil {
		j.counts = map[Direction]*Counts{}
	}
	c := j.counts[dir]
	if c == nil {
		c = &Counts{Struck: map[Kind]int{}}
		j.counts[dir] = c
	}
	return c
}

func (j *journal) note(e Event) {
	e.At = time.Now()
	j.mu.Lock()
	if len(j.events) == maxEvents {
		j.events = append(j.events[:0], j.events[maxEvents/4:]...)
	}
	j.events = append(j.events, e)
	j.mu.Unlock()
	if j.log != nil {
		j.log(e)
	}
}

// struck notes that a fault did something to a message or frame.
func (j *journal) struck(conn int, dir Direction, k Kind, size int, detail string) {
	j.mu.Lock()
	j.of(dir).Struck[k]++
	j.mu.Unlock()
	j.note(Event{Conn: conn, Dir: dir, What: string(k), Size: size, Detail: detail})
}

func (j *journal) passed(dir Direction, control bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if control {
		j.of(dir).Controls++
	} else {
		j.of(dir).Texts++
	}
}

// opened numbers a connection of a door.
func (j *journal) opened(dir Direction) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.of(dir)
	c.Conns++
	return c.Conns
}

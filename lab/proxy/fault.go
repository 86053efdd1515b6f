package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Direction is where a fault acts.
type Direction string

// The directions. Down and Up are the frames of links; Link and OOB are the two
// doors themselves, where connections are accepted.
const (
	Down Direction = "down" // server → agent
	Up   Direction = "up"   // agent → server
	Link Direction = "link"
	OOB  Direction = "oob"
)

// Directions lists all of them.
var Directions = []Direction{Down, Up, Link, OOB}

// Kind names a fault.
type Kind string

// Faults of frames, for Down and Up. A text here is any data message.
const (
	DropText      Kind = "drop-text"
	DropTextAbove Kind = "drop-text-above" // of more than N bytes
	DropTextBelow Kind = "drop-text-below" // of fewer than N bytes
	DropTextAfter Kind = "drop-text-after" // the first N pass
	DropTextEvery Kind = "drop-text-every" // each N-th
	DropTextFirst Kind = "drop-text-first"
	// DelayText holds texts back for Delay, in order; pings overtake them.
	DelayText Kind = "delay-text"
	// AnswerPings: the box answers pings faithfully by itself and swallows them and all else.
	AnswerPings Kind = "answer-pings"
	// StripPings empties the payload of pings and pongs; RewritePings puts other bytes there.
	StripPings   Kind = "strip-pings"
	RewritePings Kind = "rewrite-pings"
	// AlterText changes one letter or digit in the middle: text stays text, and JSON mostly JSON.
	AlterText     Kind = "alter-text"
	DuplicateText Kind = "duplicate-text"
	// StuckFragment passes the first half of the next text as an unfinished
	// fragment and no data frame after it, on that connection for ever; pings pass.
	StuckFragment Kind = "stuck-fragment"
	// StallAbove: a message of more than N bytes, and all that comes behind it, waits until
	// it is cleared, as behind a packet that the network does not carry.
	StallAbove Kind = "stall-above"
	// Freeze lets nothing pass, not even the end of the connection, until it is
	// cleared; then what was held back follows.
	Freeze Kind = "freeze"
	// CutMidFrame passes half of the next text's frame and ends both connections.
	CutMidFrame Kind = "cut-mid-frame"
)

// Faults of a door, for Link and OOB. They strike open connections too, but a
// hanging Link door leaves open links alone: [Freeze] is for those.
const (
	Refuse Kind = "refuse" // nobody listens
	Hang   Kind = "hang"   // accepted, then nothing
	Reset  Kind = "reset"  // RST at the first byte
)

// The parameter that a kind takes.
type param int

const (
	paramNone param = iota
	paramCount
	paramDelay
)

var frameKinds = map[Kind]param{
	DropText: paramNone, DropTextAbove: paramCount, DropTextBelow: paramCount,
	DropTextAfter: paramCount, DropTextEvery: paramCount, DropTextFirst: paramNone,
	DelayText: paramDelay, AnswerPings: paramNone, StripPings: paramNone,
	RewritePings: paramNone, AlterText: paramNone, DuplicateText: paramNone,
	StuckFragment: paramNone, StallAbove: paramCount, Freeze: paramNone, CutMidFrame: paramNone,
}

var doorKinds = map[Kind]param{Refuse: paramNone, Hang: paramNone, Reset: paramNone}

// Fault is one thing that is broken.
type Fault struct {
	Kind  Kind          `json:"kind"`
	N     int           `json:"n,omitempty"`        // bytes or messages, as Kind says
	Delay time.Duration `json:"delay_ns,omitempty"` // of DelayText
}

// ErrFault says that a fault does not exist, lacks its parameter or does not
// belong to the direction.
var ErrFault = errors.New("no such fault")

// String writes f as [ParseFault] reads it.
func (f Fault) String() string {
	switch frameKinds[f.Kind] {
	case paramCount:
		return string(f.Kind) + ":" + strconv.Itoa(f.N)
	case paramDelay:
		return string(f.Kind) + ":" + f.Delay.String()
	}
	return string(f.Kind)
}

// ParseFault reads "drop-text", "drop-text-above:512" or "delay-text:3s". The error is [ErrFault].
func ParseFault(s string) (Fault, error) {
	name, arg, has := strings.Cut(s, ":")
	f := Fault{Kind: Kind(name)}
	p, known := frameKinds[f.Kind]
	if !known {
		p, known = doorKinds[f.Kind]
	}
	var err error
	switch {
	case !known:
		return f, fmt.Errorf("%w: %q; of down and up there are %s; of link and oob %s", ErrFault, name, listed(frameKinds), listed(doorKinds))
	case has != (p != paramNone):
		return f, fmt.Errorf("%w: %q takes %s", ErrFault, s, map[param]string{
			paramNone: "no parameter", paramCount: "a number, as in " + name + ":3", paramDelay: "a time, as in " + name + ":3s"}[p])
	case p == paramCount:
		f.N, err = strconv.Atoi(arg)
	case p == paramDelay:
		f.Delay, err = time.ParseDuration(arg)
	}
	if err != nil {
		return f, fmt.Errorf("%w: %q: %w", ErrFault, s, err)
	}
	return f, nil
}

// listed are kinds of faults as they are written, in one line.
func listed(kinds map[Kind]param) string {
	var words []string
	for k, p := range kinds {
		words = append(words, string(k)+map[param]string{paramCount: ":N", paramDelay: ":TIME"}[p])
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func noDirection(dir Direction) error {
	return fmt.Errorf("%w: direction %q; there are down, up, both, link, oob", ErrFault, dir)
}

// check refuses f where it makes no sense.
func (f Fault) check(dir Direction) error {
	kinds := frameKinds
	if dir == Link || dir == OOB {
		kinds = doorKinds
	}
	p, known := kinds[f.Kind]
	switch {
	case !slices.Contains(Directions, dir):
		return noDirection(dir)
	case !known:
		return fmt.Errorf("%w: %q in direction %s; there are %s", ErrFault, f.Kind, dir, listed(kinds))
	case p == paramCount && f.N < 1:
		return fmt.Errorf("%w: %s needs a number above 0", ErrFault, f)
	case p == paramDelay && f.Delay <= 0:
		return fmt.Errorf("%w: %s needs a time above 0", ErrFault, f)
	}
	return nil
}

// setting is what is in force in one direction. It is replaced, never changed.
type setting struct {
	faults []Fault
	over   chan struct{} // closed when the next setting takes its place
}

func (s *setting) has(k Kind) bool {
	return slices.ContainsFunc(s.faults, func(f Fault) bool { return f.Kind == k })
}

// stalls reports whether a data frame of size bytes gets stuck.
func (s *setting) stalls(size int) bool {
	return slices.ContainsFunc(s.faults, func(f Fault) bool { return f.Kind == StallAbove && size > f.N })
}

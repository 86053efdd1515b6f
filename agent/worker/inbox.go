package worker

import (
	"slices"
	"sync"
	"time"

	"gururmm/agent/link"
	"gururmm/session"
	"gururmm/wire"
)

// maxInbox bounds, in bytes, what may wait for the dispatcher: the reader never
// waits for it, so beyond this the link ends, and says so.
const maxInbox = 16 << 20

// itemOverhead is what an item weighs beside its text, in bytes.
const itemOverhead = 256

// item is one piece of work for the dispatcher: a text of a link, an envelope of
// the second door, or an errand.
type item struct {
	session *link.Session   // the link it came by; nil: another way
	msg     session.Message // of a link
	env     *wire.Envelope  // of the second door
	do      func()          // an errand
	at      time.Time
	by      *token // of the dispatcher that has it in hand
}

// lost tells whether another dispatcher has it in hand by now: this one must do
// nothing more about it.
func (it item) lost() bool { return it.by != nil && it.by.revoked.Load() }

// channel says by which door it came.
func (it item) channel() wire.Channel {
	if it.session != nil {
		return wire.ChannelLink
	}
	return wire.ChannelOOB
}

// inbox hands items to the dispatcher in order. put never blocks.
type inbox struct {
	// ready has a value whenever there may be something to take.
	ready chan struct{}

	mu    sync.Mutex
	items []item
	bytes int
	owner *token // of the dispatcher that may take; nil: whoever comes
	hand  *item  // what it has taken and not done
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// put appends it; the error is link.ErrOverrun.
func (b *inbox) put(it item) error {
	weight := it.weight()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+weight > maxInbox && len(b.items) > 0 {
		return link.ErrOverrun
	}
	b.items = append(b.items, it)
	b.bytes += weight
	b.wake()
	return nil
}

// wake never blocks.
func (b *inbox) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// handOver gives the inbox to another dispatcher, first of all what the one
// before has taken and not done: it may have done half of it, which each message
// bears (the journal knows a command that came twice).
func (b *inbox) handOver(to *token) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owner = to
	if b.hand != nil {
		b.items = slices.Insert(b.items, 0, *b.hand)
		b.bytes += b.hand.weight()
		b.hand = nil
	}
	b.wake()
}

func (it item) weight() int {
	w := itemOverhead + len(it.msg.Text)
	if it.env != nil {
		w += len(it.env.Payload)
	}
	return w
}

// done forgets what the dispatcher by had in hand.
func (b *inbox) done(by *token) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner == nil || b.owner == by {
		b.hand = nil
	}
}

// take gives the oldest item to the dispatcher that owns the inbox.
func (b *inbox) take(by *token) (item, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner != nil && b.owner != by {
		b.wake() // the news was for the other
		return item{}, false
	}
	if len(b.items) == 0 {
		b.items = nil // let a burst's memory go
		return item{}, false
	}
	it := b.items[0]
	b.items[0] = item{}
	b.items = b.items[1:]
	b.bytes -= it.weight()
	b.hand = new(it)
	it.by = by
	return it, true
}

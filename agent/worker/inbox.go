package worker

import (
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
}

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
	select {
	case b.ready <- struct{}{}:
	default:
	}
	return nil
}

func (it item) weight() int {
	w := itemOverhead + len(it.msg.Text)
	if it.env != nil {
		w += len(it.env.Payload)
	}
	return w
}

// take gives the oldest item.
func (b *inbox) take() (item, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.items) == 0 {
		b.items = nil // let a burst's memory go
		return item{}, false
	}
	it := b.items[0]
	b.items[0] = item{}
	b.items = b.items[1:]
	b.bytes -= it.weight()
	return it, true
}

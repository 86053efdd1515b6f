package session

import (
	"time"

	"gururmm/selfcheck"
)

// What a link tells of itself, at any time and once it has ended. Nothing here waits.

// Facts are the account and how busy both directions are.
type Facts struct {
	Ledger selfcheck.LedgerView
	// PeerRead: see [selfcheck.Ledgers.PeerRead].
	PeerRead uint64
	// Inbound is when the last frame of any kind came.
	Inbound time.Time
	// ReaderBusy and WriterBusy: since when the reader's owner has not come back
	// for more, or a write has been under way; zero: not.
	ReaderBusy, WriterBusy time.Time
	// WriterWaits: the write is in a call to the network, which has a deadline.
	WriterWaits bool
	// Queued messages not yet written, with what is in the writer's hands: one, or several that share a write.
	Queued int
	// Unwritten: since when the oldest text that is not yet written is queued; zero: all are.
	Unwritten time.Time
	// Over: nothing is written any more, though the reader may still look for why.
	Over bool
	// Held is for how long this end has kept a text back: it could have been written, and the
	// network is not what holds it up. Once the link has ended it is as of then.
	Held time.Duration
}

// Facts gives the link's facts as of now.
func (c *Conn) Facts(now time.Time) Facts {
	c.mu.Lock()
	defer c.mu.Unlock()
	queued := len(c.queue)
	if !c.waits.IsZero() {
		queued++
	}
	return Facts{
		Ledger: c.ledgers.View(now), PeerRead: c.ledgers.PeerRead(), Inbound: c.inbound.Time(now),
		ReaderBusy: c.reading.Time(now), WriterBusy: c.busy.Time(now), WriterWaits: c.network, Queued: queued, Unwritten: c.unwritten(now),
		Over: c.over(), Held: c.holds(now),
	}
}

// Pulse is the part of [Conn.Facts] that is looked at again and again: when the last frame of any
// kind came, since when the oldest text that is not written is queued (zero: all are), and
// whether the account is calm, see [Evidence], as it is since the last frame.
func (c *Conn) Pulse(now time.Time) (inbound, unwritten time.Time, calm bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inbound.Time(now), c.unwritten(now), c.calm
}

// unwritten is since when the oldest text waits to be written; zero: none does. Call with mu held.
func (c *Conn) unwritten(now time.Time) time.Time {
	if !c.waits.IsZero() {
		return c.waits.Time(now)
	}
	for i := range c.queue {
		if !c.queue[i].ping {
			return c.queue[i].at
		}
	}
	return time.Time{}
}

// holds is what [Facts.Held] says. Call with mu held.
func (c *Conn) holds(now time.Time) time.Duration {
	if c.err != nil {
		return c.held
	}
	since := c.unwritten(now)
	if since.IsZero() || c.network {
		return 0
	}
	if freed := c.freed.Time(now); freed.After(since) {
		since = freed
	}
	return now.Sub(since)
}

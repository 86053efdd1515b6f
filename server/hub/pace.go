package hub

import (
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/quota"
	"gururmm/wire"
)

// What an agent does that is bounded, as a [quota.Book] names it.
const (
	QuotaFrames = "frames" // texts, pings and pongs, and messages by the second door
	QuotaBytes  = "bytes"  // of texts and messages
)

// maxPause bounds how long a link is not read at once. Who owes more sends what can't be
// slowed by not being read, and is left.
const maxPause = 5 * time.Second

// Quotas bound each agent: frames and bytes a second, 0 or less: not at all. At once it
// may send ten seconds' worth of frames and four of bytes.
func Quotas(frames, bytes float64) map[string]quota.Limit {
	return map[string]quota.Limit{
		QuotaFrames: {Rate: frames, Burst: int(10 * frames)},
		QuotaBytes:  {Rate: bytes, Burst: max(int(4*bytes), 2*wire.MaxMessage)},
	}
}

// frame counts one that has come. It must not block.
func (l *link) frame() {
	wait := l.account.Owe(QuotaFrames, 1)
	l.debt.Store(int64(wait))
	if wait > maxPause {
		l.end(websocket.CloseTryAgainLater, "", errFlooded)
	}
}

// pace has a text of so many bytes cost its time: while the link is not read, its agent
// can't send, and no other waits for it.
func (l *link) pace(bytes int) {
	wait := max(time.Duration(l.debt.Swap(0)), l.account.Owe(QuotaBytes, bytes))
	if wait <= 0 {
		return
	}
	pause := time.NewTimer(min(wait, maxPause))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-l.conn.Done():
	}
}

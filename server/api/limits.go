package api

import (
	"crypto/sha256"
	"maps"
	"net/http"
	"sync"
	"time"

	"gururmm/wire"
)

// maxReplays bounds the token ids remembered: 20,000 agents with a dozen
// requests each within the two minutes that a token can live.
const maxReplays = 1 << 18

// maxReplaysEach bounds those of one agent, so that a key gone astray can't use
// up everybody's: 50 requests a second for as long as a token is remembered,
// five times what an agent makes that polls without a pause.
const maxReplaysEach = 1 << 13

// replays remembers the ids of tokens used, until they would be refused by
// their times anyway.
type replays struct {
	mu    sync.Mutex
	used  map[usedToken]struct{}
	order []use            // lives differ by seconds only
	each  map[string]int32 // of order, by agent
}

// usedToken is a digest of agent and id: every agent that comes leaves one for two minutes, when
// a fleet comes back too.
type usedToken [16]byte

type use struct {
	token usedToken
	agent string
	until int64 // Unix seconds
}

func tokenOf(agent, id string) usedToken {
	sum := sha256.Sum256([]byte(agent + "\x00" + id))
	return usedToken(sum[:len(usedToken{})])
}

type replayAnswer uint8

const (
	fresh replayAnswer = iota
	replayed
	replaysFull
	replaysTooMany // of this agent
)

func newReplays() *replays {
	return &replays{used: map[usedToken]struct{}{}, each: map[string]int32{}}
}

// use takes the token id of agent, which is valid until then, unless it was used
// before. When full it refuses: forgetting would let an old token in.
func (c *replays) use(agent, id string, now, until time.Time) replayAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.order) > 0 && now.Unix() > c.order[0].until {
		oldest := c.order[0]
		delete(c.used, oldest.token)
		if c.each[oldest.agent]--; c.each[oldest.agent] == 0 {
			delete(c.each, oldest.agent)
		}
		c.order = c.order[1:]
	}
	token := tokenOf(agent, id)
	switch _, used := c.used[token]; {
	case used:
		return replayed
	case c.each[agent] >= maxReplaysEach:
		return replaysTooMany
	case len(c.order) >= maxReplays:
		return replaysFull
	}
	c.used[token] = struct{}{}
	c.order = append(c.order, use{token, agent, until.Unix()})
	c.each[agent]++
	return fresh
}

const (
	// maxRequests bounds the requests of one agent under way at once, long polls
	// among them: an agent has three, and copies of a machine a few more.
	maxRequests = 32
	// maxBodies bounds the bodies of one agent held at once: each may unpack to
	// megabytes from next to nothing.
	maxBodies = 6
	// maxDownloads bounds the programs one agent fetches at once: it needs one, and
	// may have left another half way.
	maxDownloads = 2
	// maxPartsEach bounds the parts of bundles that one agent sends at once: it sends
	// one after the other, and may not know yet that a connection is gone.
	maxPartsEach = 2
	// maxParts bounds those of all agents: they are held in memory, 32 MiB together.
	maxParts = 64
	// maxLooks bounds the probe links of all agents: each may hold a text of 1 MiB that
	// it reads and answers of 1 MiB that wait, twice that while they are taken apart
	// and put together.
	maxLooks = 128
)

// errTooMany tells one agent that it asks for too much at once; others don't notice.
var errTooMany = problem(http.StatusTooManyRequests, wire.ProblemRateLimited, "too many requests of this agent at once")

// shares count what each agent has under way, so that one can't take it all.
type shares struct {
	mu sync.Mutex
	by map[string]int
}

// take takes one of agent's at most limit shares; release, which may be called
// more than once, gives it back. ok is false if all are taken.
func (s *shares) take(agent string, limit int) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[agent] >= limit {
		return nil, false
	}
	if s.by == nil {
		s.by = map[string]int{}
	}
	s.by[agent]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.by[agent]--; s.by[agent] == 0 {
			delete(s.by, agent)
		}
	}), true
}

const (
	// enrollBurst and enrollEvery bound enrollments from one address: a whole
	// office behind one address enrolls at ten at once, then one in two seconds;
	// guessing a 130-bit token at that rate is hopeless.
	enrollBurst = 10
	enrollEvery = 2 * time.Second
	// maxBuckets bounds the addresses remembered.
	maxBuckets = 4096
)

// limiter is a token bucket for each address.
type limiter struct {
	every  time.Duration
	whole  time.Duration // until a burst is whole again
	opened time.Time

	mu   sync.Mutex
	full map[string]time.Duration // when each bucket's burst is whole again, since it was opened
}

func newLimiter(burst int, every time.Duration) *limiter {
	return &limiter{every: every, whole: time.Duration(burst) * every, opened: time.Now(), full: map[string]time.Duration{}}
}

// allow takes one from the address's bucket, if there is one.
func (l *limiter) allow(addr string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.Sub(l.opened)
	if len(l.full) >= maxBuckets {
		maps.DeleteFunc(l.full, func(_ string, full time.Duration) bool { return full <= at }) // as if never seen
	}
	full, known := l.full[addr]
	switch {
	case known:
		full = max(full, at)
	case len(l.full) >= maxBuckets:
		return false
	default:
		full = at
	}
	full += l.every
	if full > at+l.whole {
		return false
	}
	l.full[addr] = full
	return true
}

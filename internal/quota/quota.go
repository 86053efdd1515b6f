// Package quota bounds how much each of many may do in a second, so that one that floods
// costs the others nothing. What exceeds is told once a minute, and counted.
package quota

import (
	"math"
	"sync"
	"time"
)

const (
	// tellEvery is how often one that exceeds is told of.
	tellEvery = time.Minute
	// idleAfter: who did nothing for so long has all its bursts again, and is forgotten.
	idleAfter = 10 * time.Minute
)

// Limit allows Rate a second, and Burst at once. The zero value is no limit.
type Limit struct {
	Rate  float64
	Burst int
}

// Told is called when somebody exceeds a limit, at most once a minute for each.
type Told func(key, what string)

// Book keeps the accounts of all.
type Book struct {
	limits []limit
	told   Told
	opened time.Time

	mu       sync.Mutex
	by       map[string]*Account
	swept    time.Time
	exceeded map[string]uint64
}

// limit is that of one thing that is done.
type limit struct {
	what  string
	burst int
	each  float64       // nanoseconds until what one takes is there again
	all   time.Duration // until a whole burst is
}

// New makes a book with limits for each thing that is done; told may be nil.
func New(limits map[string]Limit, told Told) *Book {
	b := &Book{told: told, opened: time.Now(), by: map[string]*Account{}, exceeded: map[string]uint64{}}
	for what, l := range limits {
		b.exceeded[what] = 0
		if l.Rate > 0 {
			each := float64(time.Second) / l.Rate
			b.limits = append(b.limits, limit{what, l.Burst, each, time.Duration(each * float64(l.Burst))})
		}
	}
	return b
}

// Of gives the account of one. A nil book knows no limits.
func (b *Book) Of(key string) *Account {
	if b == nil {
		return nil
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now)
	a := b.by[key]
	if a == nil {
		a = &Account{book: b, key: key, full: make([]time.Duration, len(b.limits))}
		b.by[key] = a
	}
	a.used = now.Sub(b.opened)
	return a
}

// sweep forgets the idle. Call with mu held.
func (b *Book) sweep(now time.Time) {
	if now.Sub(b.swept) < idleAfter {
		return
	}
	b.swept = now
	for key, a := range b.by {
		if a.held == 0 && now.Sub(b.opened)-a.used >= idleAfter {
			delete(b.by, key)
		}
	}
}

// Exceeded counts, by what was done, how often it was too much.
func (b *Book) Exceeded() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]uint64, len(b.exceeded))
	for what, n := range b.exceeded {
		out[what] = n
	}
	return out
}

// Account is one's own share. A nil account is unlimited.
type Account struct {
	book *Book
	key  string

	mu sync.Mutex
	// full is when each limit's burst is whole again, as time since the book was opened:
	// all that a bucket needs to know of itself, and there is one of each for each link.
	full []time.Duration

	// Guarded by the book; times as full has them.
	used  time.Duration
	quiet time.Duration // until then it is not told of again
	held  int
}

// Hold keeps the account from being forgotten until it was given back by as many calls of Release.
func (a *Account) Hold() { a.hold(1) }

// Release undoes one Hold.
func (a *Account) Release() { a.hold(-1) }

func (a *Account) hold(n int) {
	if a == nil {
		return
	}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	a.held += n
	a.used = time.Since(a.book.opened)
}

// Try takes n of what is done; it gives how long to wait until there are so many, of
// which none are taken then; 0: they are taken.
func (a *Account) Try(what string, n int) (wait time.Duration) { return a.take(what, n, false) }

// Owe takes n in any case, and gives how long to wait before more is done.
func (a *Account) Owe(what string, n int) (wait time.Duration) { return a.take(what, n, true) }

func (a *Account) take(what string, n int, owe bool) time.Duration {
	if a == nil || n <= 0 {
		return 0
	}
	now := time.Now()
	for i, l := range a.book.limits {
		if l.what == what {
			wait := a.spend(i, l, n, now.Sub(a.book.opened), owe)
			if wait > 0 {
				a.exceeds(what, now)
			}
			return max(0, wait)
		}
	}
	return 0
}

// spend takes n from a bucket, unless it would have to wait and does not owe.
func (a *Account) spend(i int, l limit, n int, now time.Duration, owe bool) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	full := max(a.full[i], now)
	full += time.Duration(l.each * float64(min(n, l.burst))) // what is larger than any burst waits as long as one
	wait = full - now - l.all
	if wait <= 0 || owe {
		a.full[i] = full
	}
	return wait
}

func (a *Account) exceeds(what string, now time.Time) {
	b := a.book
	b.mu.Lock()
	b.exceeded[what]++
	at := now.Sub(b.opened)
	tell := b.told != nil && at >= a.quiet
	if tell {
		a.quiet = at + tellEvery
	}
	b.mu.Unlock()
	if tell {
		b.told(a.key, what)
	}
}

// Seconds rounds a wait up, as Retry-After has it.
func Seconds(wait time.Duration) int { return int(math.Ceil(wait.Seconds())) }

// Package quota bounds how much each of many may do in a second, so that one that floods
// costs the others nothing. What exceeds is told once a minute, and counted.
package quota

import (
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
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
	limits map[string]Limit // by what is done
	told   Told

	mu       sync.Mutex
	by       map[string]*Account
	swept    time.Time
	exceeded map[string]uint64
}

// New makes a book with limits for each thing that is done; told may be nil.
func New(limits map[string]Limit, told Told) *Book {
	b := &Book{limits: limits, told: told, by: map[string]*Account{}, exceeded: map[string]uint64{}}
	for what := range limits {
		b.exceeded[what] = 0
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
		a = &Account{book: b, key: key}
		for what, l := range b.limits {
			if l.Rate > 0 {
				a.buckets = append(a.buckets, bucket{what, rate.NewLimiter(rate.Limit(l.Rate), l.Burst)})
			}
		}
		b.by[key] = a
	}
	a.used = now
	return a
}

// sweep forgets the idle. Call with mu held.
func (b *Book) sweep(now time.Time) {
	if now.Sub(b.swept) < idleAfter {
		return
	}
	b.swept = now
	for key, a := range b.by {
		if a.held == 0 && now.Sub(a.used) >= idleAfter {
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

// bucket is what is left of one thing that is done.
type bucket struct {
	what  string
	limit *rate.Limiter
}

// Account is one's own share. A nil account is unlimited.
type Account struct {
	book    *Book
	key     string
	buckets []bucket // a few: a map would weigh more than they do

	// Guarded by the book.
	used  time.Time
	held  int
	shown time.Time
}

// Hold keeps the account from being forgotten until release.
func (a *Account) Hold() (release func()) {
	if a == nil {
		return func() {}
	}
	a.book.mu.Lock()
	a.held++
	a.book.mu.Unlock()
	return sync.OnceFunc(func() {
		a.book.mu.Lock()
		defer a.book.mu.Unlock()
		a.held--
		a.used = time.Now()
	})
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
	i := slices.IndexFunc(a.buckets, func(b bucket) bool { return b.what == what })
	if i < 0 {
		return 0
	}
	l, now := a.buckets[i].limit, time.Now()
	n = min(n, l.Burst()) // what is larger than any burst waits as long as one
	r := l.ReserveN(now, n)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return 0
	}
	if !owe {
		r.CancelAt(now)
	}
	a.exceeds(what, now)
	return wait
}

func (a *Account) exceeds(what string, now time.Time) {
	b := a.book
	b.mu.Lock()
	b.exceeded[what]++
	tell := b.told != nil && (a.shown.IsZero() || now.Sub(a.shown) >= tellEvery)
	if tell {
		a.shown = now
	}
	b.mu.Unlock()
	if tell {
		b.told(a.key, what)
	}
}

// Seconds rounds a wait up, as Retry-After has it.
func Seconds(wait time.Duration) int { return int(math.Ceil(wait.Seconds())) }

package builds

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

const (
	// maxUploads bounds the programs taken in at once.
	maxUploads = 2
	// minPace is what an upload must come in at, in bytes a second, to keep its place when
	// another one wants it: 20 MB in five minutes. While nobody does, it may take its time.
	minPace = 64 << 10
	// paceWindow is over how long that is measured. A younger upload is not judged.
	paceWindow = 10 * time.Second
)

// ErrGaveWay: another publication took its place.
var ErrGaveWay = fmt.Errorf("%w: this one came in slower than %d KiB/s, and gave way to another; publish it again over a faster line, or when nothing else is published", ErrBusy, minPace>>10)

// Program is what is published, as it comes in.
type Program interface {
	io.Reader
	// Stop ends a Read under way and all later ones soon. It may be called from elsewhere.
	Stop()
}

// uploads are the places for what comes in. Who is slow keeps no third one out.
type uploads struct {
	mu  sync.Mutex // never held across I/O
	all []*upload
}

// upload is one program that comes in.
type upload struct {
	Program
	of *uploads

	// Guarded by of.mu.
	mark    time.Time // begin of the window under way
	bytes   int64     // in it
	pace    int64     // of the last whole window, bytes a second; below 0: there was none
	gaveWay bool
}

// take gives p a place, if need be that of the slowest that is too slow.
func (u *uploads) take(p Program) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	l := &upload{Program: p, of: u, mark: now, pace: -1}
	if len(u.all) < maxUploads {
		u.all = append(u.all, l)
		return l, nil
	}
	slowest, least := -1, int64(minPace)
	for i, o := range u.all {
		if pace := o.paceAt(now); pace >= 0 && pace < least {
			slowest, least = i, pace
		}
	}
	if slowest < 0 {
		return nil, ErrBusy
	}
	out := u.all[slowest]
	out.gaveWay, u.all[slowest] = true, l
	out.Stop() // sets a deadline, and waits for nothing
	return l, nil
}

// paceAt is what it came in at lately, in bytes a second; below 0: not known yet.
// Call with of.mu.
func (l *upload) paceAt(now time.Time) int64 {
	if over := now.Sub(l.mark); over >= paceWindow {
		return int64(float64(l.bytes) / over.Seconds())
	}
	return l.pace
}

// Read reads on, and keeps account of the pace.
func (l *upload) Read(b []byte) (int, error) {
	n, err := l.Program.Read(b)
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.bytes += int64(n)
	if now := time.Now(); now.Sub(l.mark) >= paceWindow {
		l.pace = l.paceAt(now)
		l.mark, l.bytes = now, 0
	}
	if l.gaveWay {
		return n, ErrGaveWay
	}
	return n, err
}

// leave gives the place back, unless another one has it.
func (l *upload) leave() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.of.all = slices.DeleteFunc(l.of.all, func(o *upload) bool { return o == l })
}

package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gururmm/internal/atomicfile"
)

// Names in the state directory.
const (
	File     = "events.jsonl"
	Previous = "events.1.jsonl"
)

const (
	// maxFile is where a file becomes the previous one, in bytes.
	maxFile = 1 << 20
	// stopFile is where no more is written, if it can't become the previous one (a
	// reader on Windows holds it open).
	stopFile = 2 * maxFile

	// burst is how often an event of one kind and code is written in full before
	// its repeats are only counted: an incident that comes twice is no flapping.
	burst = 4
	// quiet ends a series of repeats.
	quiet = 10 * time.Minute
	// countEvery is the longest a growing count is kept from the file.
	countEvery = 10 * time.Minute
)

// ErrFull says that the file can neither grow nor be rotated.
var ErrFull = errors.New("the history is full and can't be rotated")

// Log is the history open for writing. Its methods wait for the disk and are
// safe for concurrent use.
type Log struct {
	dir string

	mu     sync.Mutex
	file   *os.File
	size   int64
	series map[seriesKey]*series
}

type seriesKey struct {
	kind Kind
	code string
}

// series is a run of events of one kind and code.
type series struct {
	written int
	of      string // id of the last one written in full
	count   int    // of it, with the repeats
	told    int    // count as last written
	last    time.Time
	toldAt  time.Time
}

// Open opens the history in dir for appending. A line that a crash tore is ended, so that the
// next one stands by itself.
func Open(dir string) (*Log, error) {
	l := &Log{dir: dir, series: map[seriesKey]*series{}}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return l, nil
}

func (l *Log) path() string { return filepath.Join(l.dir, File) }

func (l *Log) open() (err error) {
	// A link is not followed: what it leads to is not ours to write.
	// Opened for reading too: whether it ends with a whole line must be seen.
	f, err := os.OpenFile(l.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND|atomicfile.NoFollow, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	last := []byte{'\n'}
	if size > 0 {
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
	}
	if last[0] != '\n' {
		if _, err := f.Write([]byte{'\n'}); err != nil {
			return err
		}
		size++
	}
	l.file, l.size = f, size
	return nil
}

// Add writes e, or counts it if it is one of a long series of its kind and code.
// Outcomes are always written. An error says that e is neither kept nor counted.
func (l *Log) Add(e Event) error {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.ID == "" {
		e.ID = NewID()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.endQuiet(e.At); err != nil {
		return err
	}
	if e.Kind == KindOutcome || e.Kind == KindRepeat {
		return l.write(e)
	}
	key := seriesKey{e.Kind, e.Code}
	s := l.series[key]
	if s == nil {
		s = &series{}
	}
	// A step is never only counted: its outcome must find it, and budgets bound it.
	if s.written < burst || e.Kind == KindStep {
		if err := l.write(e); err != nil {
			return err
		}
		s.written++
		s.of, s.count, s.told, s.toldAt, s.last = e.ID, 1, 1, e.At, e.At
		l.series[key] = s
		return nil
	}
	before := *s
	s.count++
	s.last = e.At
	// Powers of two, and a time limit: a few lines an hour, whatever happens.
	if s.count&(s.count-1) == 0 || e.At.Sub(s.toldAt) >= countEvery {
		if err := l.tell(s); err != nil {
			*s = before
			return err
		}
	}
	return nil
}

// endQuiet closes the series that have not gone on for a while.
func (l *Log) endQuiet(now time.Time) error {
	var failed error
	for key, s := range l.series {
		// A clock that was set back ends a series too: its ages mean nothing then.
		if d := now.Sub(s.last); d >= quiet || d < -quiet {
			if err := l.tell(s); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			delete(l.series, key)
		}
	}
	return failed
}

// tell writes how often the last written event of s has happened by now.
func (l *Log) tell(s *series) error {
	if s.count == s.told {
		return nil
	}
	if err := l.write(Event{ID: NewID(), At: s.last, Kind: KindRepeat, Of: s.of, Count: s.count, Last: s.last}); err != nil {
		return err
	}
	s.told, s.toldAt = s.count, s.last
	return nil
}

// write appends one line, in one write.
func (l *Log) write(e Event) error {
	raw, err := json.Marshal(e.bounded())
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	raw = append(raw, '\n')
	if l.file == nil { // closed, or a rotation that failed half way
		if err := l.open(); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	if l.size+int64(len(raw)) > maxFile {
		if err := l.rotate(); err != nil && l.size+int64(len(raw)) > stopFile {
			return fmt.Errorf("history: %w: %w", ErrFull, err)
		}
	}
	n, err := l.file.Write(raw)
	l.size += int64(n)
	if err != nil {
		if n > 0 { // a full disk tore the line: the next one begins on its own
			if _, err := l.file.Write([]byte{'\n'}); err == nil {
				l.size++
			}
		}
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// rotate makes the file the previous one. On an error the file is open and goes on.
func (l *Log) rotate() error {
	l.file.Close() // Windows renames no open file
	l.file = nil
	err := atomicfile.Rename(l.path(), filepath.Join(l.dir, Previous))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody removed it: as good
	}
	return errors.Join(err, l.open())
}

// Close writes the counts not yet written and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed error
	for _, s := range l.series {
		failed = errors.Join(failed, l.tell(s))
	}
	clear(l.series)
	if l.file != nil {
		failed = errors.Join(failed, l.file.Sync(), l.file.Close())
		l.file = nil
	}
	return failed
}

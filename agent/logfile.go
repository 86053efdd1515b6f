package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

const (
	// logFileSize and logFiles bound the endpoint's log to 20 MiB: days of trouble, not a full disk.
	logFileSize = 4 << 20
	logFiles    = 5
	// logFileStop is how often its limit a file may grow to while no new one can be begun
	// (a reader on Windows holds it open); lines beyond that are dropped.
	logFileStop = 2
)

// LogFile is an io.Writer of whole lines that begins a new file when one is full:
// agent.log is the current one, agent.log.1 the one before, up to agent.log.4.
// Safe for concurrent use.
type LogFile struct {
	path   string
	limit  int64
	rename func(from, to string) error

	mu   sync.Mutex
	f    *os.File
	size int64
}

// OpenLogFile opens dir/agent.log, making dir (0700) if need be.
func OpenLogFile(dir string) (*LogFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	// One that fails is tried again at the next line.
	rename := func(from, to string) error { return os.Rename(from, to) }
	l := &LogFile{path: filepath.Join(dir, "agent.log"), limit: logFileSize, rename: rename}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return l, nil
}

func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends p whole to one file.
func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil { // closed, or not opened again by the last write
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	if l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.rotate(); err != nil && (l.f == nil || l.size+int64(len(p)) > logFileStop*l.limit) {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// rotate shifts the files by one; the oldest is overwritten. On an error the file goes on,
// if it can be opened again.
func (l *LogFile) rotate() error {
	l.f.Close() // Windows renames no open file
	l.f = nil
	return errors.Join(l.shift(), l.open())
}

// shift makes room for a new file. It goes no further than to the first name that is
// free: repeated after a failure it must not push out the old ones.
func (l *LogFile) shift() error {
	name := func(i int) string {
		if i == 0 {
			return l.path
		}
		return fmt.Sprintf("%s.%d", l.path, i)
	}
	free := 1
	for free < logFiles-1 && exists(name(free)) {
		free++
	}
	for i := free; i > 0; i-- {
		if err := l.rename(name(i-1), name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the current file.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

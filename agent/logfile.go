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
)

// LogFile is an io.Writer of whole lines that begins a new file when one is full:
// agent.log is the current one, agent.log.1 the one before, up to agent.log.4.
// Safe for concurrent use.
type LogFile struct {
	path  string
	limit int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

// OpenLogFile opens dir/agent.log, making dir (0700) if need be.
func OpenLogFile(dir string) (*LogFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l := &LogFile{path: filepath.Join(dir, "agent.log"), limit: logFileSize}
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
	if l.f == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	if l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// rotate shifts the files by one; the oldest is overwritten.
func (l *LogFile) rotate() error {
	if err := l.f.Close(); err != nil {
		return err
	}
	l.f = nil // reopened by the next write, if what follows fails
	for i := logFiles - 1; i > 0; i-- {
		from := l.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", l.path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", l.path, i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return l.open()
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

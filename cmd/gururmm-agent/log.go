package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"gururmm/agent"
	"gururmm/internal/footprint"
	"gururmm/internal/tty"
)

// An endpoint's memory is not ours: both processes collect early. The limits
// are soft, well above what an idle agent takes.
const (
	gcPercent     = 25
	guardianLimit = 24 << 20 // bytes
	workerLimit   = 64 << 20 // output of jobs passes through
)

// slim sets the bounds of this process's memory and gives back what it
// needs only for a moment. Call the result before the process ends.
func slim(ctx context.Context, limit int64) (stop func()) {
	if os.Getenv("GOMAXPROCS") == "" {
		// One thread of Go code at a time is plenty for what these do; with more, each
		// wake hands work over between threads, and that was a third of an idle agent's CPU.
		runtime.GOMAXPROCS(1)
	}
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(limit)
	ctx, cancel := context.WithCancel(ctx)
	var trimmer sync.WaitGroup
	trimmer.Go(func() { footprint.Trim(ctx) })
	return func() { cancel(); trimmer.Wait() }
}

// logs is where this process and its worker write: for people on a terminal,
// else as JSON lines.
type logs struct {
	log    *slog.Logger
	worker io.Writer // lines of JSON, as the worker writes them
	file   *agent.LogFile
}

func openLogs(s *agent.Setup) (*logs, error) {
	var l logs
	var w io.Writer = os.Stderr
	if tty.Is(os.Stderr) {
		w = &pretty{
			raw:     os.Stderr,
			console: zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: !colorful(os.Stderr)},
		}
	}
	if s.Service {
		f, err := agent.OpenLogFile(filepath.Join(s.Path, "log"))
		if err != nil {
			return nil, err
		}
		l.file = f
		w = tee{w, f}
	}
	w = &lined{w: w}
	l.worker, l.log = w, logger(w, s.Level).With("process", "guardian")
	return &l, nil
}

func (l *logs) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// workerLog writes JSON lines to standard error: the guardian passes them on.
func workerLog(s *agent.Setup) *slog.Logger {
	return logger(os.Stderr, s.Level).With("process", "worker")
}

func logger(w io.Writer, level string) *slog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	lvl, err := zerolog.ParseLevel(level)
	if err != nil {
		lvl = zerolog.InfoLevel
	}
	return slog.New(zerolog.NewSlogHandler(zerolog.New(w).Level(lvl).With().Timestamp().Logger()))
}

// lined lets the guardian's lines and the worker's not tear each other.
type lined struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lined) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// tee writes to both, whatever becomes of either: a log that can't be written is no reason to stop.
type tee [2]io.Writer

func (t tee) Write(p []byte) (int, error) {
	for _, w := range t {
		w.Write(p)
	}
	return len(p), nil
}

// pretty shows JSON lines for people, and anything else (the stacks of a crash) as it is.
type pretty struct {
	raw     io.Writer
	console zerolog.ConsoleWriter
}

func (p *pretty) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("{")) {
		if _, err := p.console.Write(b); err == nil {
			return len(b), nil
		}
	}
	return p.raw.Write(b)
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"gururmm/agent"
	"gururmm/agent/state"
	"gururmm/internal/footprint"
	"gururmm/internal/logsink"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
)

// An endpoint's memory is not ours: both processes collect early. The limits
// are soft, well above what an idle agent takes.
const (
	gcPercent     = 25
	guardianLimit = 24 << 20 // bytes
	workerLimit   = 64 << 20 // output of jobs passes through
	// timerSlack: nothing that these processes wait for needs to be more punctual.
	timerSlack = 5 * time.Millisecond
)

// slim sets the bounds of what this process takes and gives back what it
// needs only for a moment. Call the result before the process ends.
func slim(ctx context.Context, limit int64) (stop func()) {
	if os.Getenv("GOMAXPROCS") == "" {
		// One thread of Go code at a time is plenty for what these do; with more, each
		// wake hands work over between threads, and that was a third of an idle agent's CPU.
		runtime.GOMAXPROCS(1)
	}
	footprint.Slack(timerSlack)
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
	sinks  tee
	held   *logsink.Sink // writes file
}

func openLogs(s *agent.Setup) (*logs, error) {
	var l logs
	// launchd appends standard error to a file that nothing rotates: there it is for
	// crashes, which the Go runtime writes itself.
	if !s.Service || runtime.GOOS != "darwin" {
		var w io.Writer = os.Stderr
		if tty.Is(os.Stderr) {
			w = &pretty{
				raw:     os.Stderr,
				console: zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: !tty.Colorful(os.Stderr)},
			}
		}
		l.sinks = append(l.sinks, logsink.New(w))
	}
	if s.Service {
		f, err := agent.OpenLogFile(filepath.Join(s.Path, state.LogDir))
		if err != nil {
			l.close()
			return nil, err
		}
		l.file, l.held = f, logsink.New(f)
		l.sinks = append(l.sinks, l.held)
	}
	l.worker, l.log = l.sinks, logger(l.sinks, s.Level).With("process", "guardian")
	s.FlushLogs = l.flush
	return &l, nil
}

// flush hands over what is logged so far, to destinations that take it.
func (l *logs) flush() {
	var each sync.WaitGroup
	for _, s := range l.sinks {
		each.Go(func() { s.Flush() })
	}
	each.Wait()
}

// close ends the logs within a second, read or not.
func (l *logs) close() {
	var each sync.WaitGroup
	for _, s := range l.sinks {
		each.Go(func() {
			if err := s.Close(); err == nil && s == l.held {
				l.file.Close() // else a write of its is under way
			}
		})
	}
	each.Wait()
}

// lastWords prints to standard error at the end of the program, which must come though nobody reads.
func lastWords(format string, args ...any) {
	s := logsink.New(os.Stderr)
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		// Folded for a reader at a terminal; a script's log keeps an error on its line.
		if len([]rune(line)) > wrap.Width && tty.Is(os.Stderr) && !strings.HasPrefix(line, "{") { // JSON is one line
			line = wrap.Behind("", line)
		}
		fmt.Fprintln(s, line)
	}
	s.Close()
}

// workerLog writes JSON lines to standard error: the guardian passes them on. Close it at the end.
func workerLog(s *agent.Setup) (*slog.Logger, *logsink.Sink) {
	sink := logsink.New(os.Stderr)
	return logger(sink, s.Level).With("process", "worker"), sink
}

func logger(w io.Writer, level string) *slog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	lvl, err := zerolog.ParseLevel(level)
	if err != nil {
		lvl = zerolog.InfoLevel
	}
	return slog.New(zerolog.NewSlogHandler(zerolog.New(w).Level(lvl).With().Timestamp().Logger()))
}

// tee writes to each, whatever becomes of the others: a log that can't be written is no reason to stop.
type tee []*logsink.Sink

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

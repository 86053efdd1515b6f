package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/state"
	"gururmm/agent/task/tree"
	"gururmm/internal/sdnotify"
	"gururmm/wire"
)

const (
	// errandGrace is what an errand's process gets to end by itself once it must.
	errandGrace = 2 * time.Second
	// maxErrandWords bounds the standard error kept of an errand's process, in bytes.
	maxErrandWords = 4 << 10
)

// errands are what a directive may ask of this endpoint beyond what the guardian
// does itself. Each that could hang is a process of its own, started by process.
func (s *Setup) errands(id state.Identity) map[wire.DirectiveKind]guardian.Errand {
	return map[wire.DirectiveKind]guardian.Errand{
		wire.DirectiveReenroll:  s.renew(id),
		wire.DirectiveRunProbes: s.runProbes,
	}
}

// process runs this program with args and gives its standard output, at most max
// bytes, also when it ended with an error (a doctor that found a fault). When ctx ends, its
// whole process tree is ended. quiet: it takes one processor at most, and gives way to others.
func (s *Setup) process(ctx context.Context, quiet bool, max int, args ...string) ([]byte, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own program: %w", err)
	}
	cmd := exec.Command(program, append(args, "--state-dir", s.Path)...)
	cmd.Env = errandEnv(os.Environ(), quiet)
	out, words := &bounded{max: max}, &bounded{max: maxErrandWords}
	cmd.Stdout, cmd.Stderr = out, words
	cmd.WaitDelay = errandGrace // a stray descendant may hold the pipes
	t, err := tree.Start(cmd, "errand-"+wire.NewID())
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	defer t.Release()
	if quiet {
		_ = giveWay(t.PID()) // it may have ended; at worst it takes its share of one processor
	}
	select {
	case <-t.Done():
	case <-ctx.Done():
		if err := t.Kill(errandGrace); err != nil {
			return nil, fmt.Errorf("%s: %w; its processes could not all be ended: %w", args[0], ctx.Err(), err)
		}
		return nil, fmt.Errorf("%s: %w", args[0], context.Cause(ctx))
	}
	err = t.Wait()
	if out.cut {
		return nil, fmt.Errorf("%s: its output exceeds %d bytes", args[0], max)
	}
	if err != nil {
		if said := strings.TrimSpace(words.String()); said != "" {
			err = errors.New(said)
		}
		return out.Bytes(), fmt.Errorf("%s: %w", args[0], err)
	}
	return out.Bytes(), nil
}

// errandEnv is an errand's environment: it must not speak for us to the service manager.
func errandEnv(ours []string, quiet bool) []string {
	env := sdnotify.Strip(ours)
	if quiet {
		env = append(env, "GOMAXPROCS=1")
	}
	return env
}

// bounded keeps the first max bytes and notes that there were more.
type bounded struct {
	bytes.Buffer
	max int
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := max(0, b.max-b.Len())
	if len(p) > room {
		b.cut = true
		b.Buffer.Write(p[:room])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

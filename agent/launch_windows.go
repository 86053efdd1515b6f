package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"sync"

	"gururmm/agent/guardian"
	"gururmm/agent/task/tree"
	"gururmm/internal/lockfile"
	"gururmm/wire"
)

// become runs the program at path as a child in a job object, since a process
// can't become another here, and waits for it. The service manager goes on talking
// to this process: what it tells is passed on by the child's standard input, a stop by
// closing that. The error is an *errEnded once the child has run.
func (s *Setup) become(ctx context.Context, path string, env []string, lock *lockfile.Lock, log *slog.Logger) error {
	in, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := lock.Release(); err != nil { // the child takes it
		log.Warn("lock", "error", err)
	}
	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, os.Stdout, os.Stderr
	t, err := tree.Start(cmd, "guardian-"+wire.NewID())
	in.Close()
	if err != nil {
		stop.Close()
		again, lerr := lockfile.Take(s.Dir.Path(lockFile))
		if lerr == nil {
			*lock = *again
		}
		return errors.Join(err, lerr)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { passEvents(s.events, stop, t.Done()) }) // the child's end ends a write too
	select {
	case <-t.Done():
		stop.Close()
	case <-ctx.Done():
		stop.Close()
		<-t.Done() // it bounds its own stop; the service manager, ours
		return &errEnded{ctx.Err()}
	}
	err = t.Wait()
	if code, ok := errors.AsType[*exec.ExitError](err); ok && code.ExitCode() == ExitHandover {
		return &errEnded{guardian.ErrHandover}
	}
	if err == nil {
		err = errors.New("without being told to")
	}
	return &errEnded{err}
}

// mayExecute has nothing to ask here but the headers, which were read.
func mayExecute(string) error { return nil }

// handedOver: the launcher starts the next program, once this process has ended.
func handedOver(from inherited) bool { return from.installed != "" }

// obeyParent takes what the launcher says by our standard input: events, and the end of
// ctx when that is closed or the launcher is gone.
func (s *Setup) obeyParent(ctx context.Context, from inherited) (context.Context, func()) {
	if from.installed == "" {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the launcher, or with this process
		hearEvents(os.Stdin, s.events)
		cancel()
	}()
	return ctx, cancel
}

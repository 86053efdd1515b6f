package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"gururmm/agent/task/tree"
	"gururmm/internal/sdnotify"
	"gururmm/internal/tcpinfo"
	"gururmm/selfcheck"
)

// ProcessSpawner starts program with args as the worker, at the root of a
// process tree of its own. marker must be different for each guardian: it is
// how stray descendants are found.
func ProcessSpawner(program string, args, env []string, marker string) func(context.Context) (Child, error) {
	return func(context.Context) (Child, error) {
		in, orders, err := os.Pipe()
		if err != nil {
			return Child{}, fmt.Errorf("start worker: %w", err)
		}
		facts, out, err := os.Pipe()
		if err != nil {
			return Child{}, errors.Join(fmt.Errorf("start worker: %w", err), in.Close(), orders.Close())
		}
		log, errs, err := os.Pipe()
		if err != nil {
			return Child{}, errors.Join(fmt.Errorf("start worker: %w", err), in.Close(), orders.Close(), facts.Close(), out.Close())
		}
		// Not CommandContext: its end is ours to choose, with the stacks first.
		cmd := exec.Command(program, args...)
		cmd.Env = append(sdnotify.Strip(os.Environ()), env...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
		t, err := tree.Start(cmd, marker)
		// The child's ends are the child's: an open copy here would hide its end.
		ends := errors.Join(in.Close(), out.Close(), errs.Close())
		if err != nil {
			return Child{}, errors.Join(fmt.Errorf("start worker: %w", err), ends, orders.Close(), facts.Close(), log.Close())
		}
		root := cmd.Process
		return Child{
			PID: root.Pid, Stdin: orders, Stdout: facts, Stderr: log,
			Wait: t.Wait, // the tree reaps its root
			Kill: func(jobs []selfcheck.JobFact) error {
				err := t.Kill(0)
				// Jobs are trees of their own, by their own marker.
				for _, j := range jobs {
					err = errors.Join(err, tree.KillMarked(j.ID, j.PID))
				}
				return err
			},
			AskStacks: stacksAsker(root),
			Outside:   func() (tcpinfo.Process, error) { return tcpinfo.OfProcess(root.Pid) },
		}, nil
	}
}

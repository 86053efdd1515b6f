// Package tree is one process tree and its end: a process, all that it starts,
// and a kill that reaches every one of them.
//
// Who belongs to a tree:
//   - Unix: the root leads a session of its own (so it has no terminal, and its
//     group is its own). Members are the root's group and session, the root's
//     descendants, and, where the platform lets us read another's environment,
//     every process that has the tree's marker in it: that finds those which left
//     the session and the parent behind (setsid, double fork).
//   - Windows: all processes of a job object, which none of them can leave.
//
// A tree is ended by [Tree.Kill] only. When the root has exited by itself its
// daemonised descendants are left alone: a job may start a service.
package tree

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// Env is the variable that holds a tree's marker in the environment of its processes.
const Env = "GURURMM_JOB"

// killBound is how long a kill is repeated before it is given up: only a process
// stuck in the kernel (a dead network disk), or one that forks faster than it
// is found, outlives the first few milliseconds.
const killBound = 5 * time.Second

// Polls of what is left: quick at first, since most trees end at once, then
// at a pace that costs nothing while a grace runs.
const (
	pollFirst = 5 * time.Millisecond
	pollMax   = 100 * time.Millisecond
)

// ErrAlive says that processes of a tree outlived their kill.
var ErrAlive = errors.New("processes outlived their kill")

// Tree is a started process with its descendants.
type Tree struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the root was reaped
	err  error         // of cmd.Wait; valid once done is closed

	handle // what the platform finds the tree by
}

// Start starts cmd as the root of a tree of its own, with [Env] set to marker in
// its environment. It overwrites cmd.SysProcAttr. The root is reaped by the tree: don't
// call cmd.Wait. cmd's Stdout and Stderr should be files, so that the
// end of the root does not wait for descendants that hold them.
func Start(cmd *exec.Cmd, marker string) (*Tree, error) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(slices.Clip(cmd.Env), Env+"="+marker)
	t := &Tree{cmd: cmd, done: make(chan struct{})}
	if err := t.start(marker); err != nil {
		return nil, err
	}
	go func() { // ends with the root
		t.err = cmd.Wait()
		close(t.done)
	}()
	return t, nil
}

// PID is the root's process id.
func (t *Tree) PID() int { return t.cmd.Process.Pid }

// Done is closed when the root has ended (its descendants may live on).
func (t *Tree) Done() <-chan struct{} { return t.done }

// Wait waits for the root and gives what [exec.Cmd.Wait] gave.
func (t *Tree) Wait() error {
	<-t.done
	return t.err
}

// ProcessState is how the root ended; nil before [Tree.Done].
func (t *Tree) ProcessState() *os.ProcessState {
	select {
	case <-t.done:
		return t.cmd.ProcessState
	default:
		return nil
	}
}

// Kill ends the whole tree. It asks first (SIGTERM; Windows has no such thing),
// and after grace, or as soon as they are gone, it kills and looks again until
// nothing is left. The error is [ErrAlive] after a bounded number of tries.
func (t *Tree) Kill(grace time.Duration) error {
	if grace > 0 && t.ask() && gone(grace, t.left) {
		return nil
	}
	return finish(t.left, t.kill)
}

// gone polls left until it says 0 (twice in a row: a look at a process table is
// not atomic) or d is over.
func gone(d time.Duration, left func() int) bool {
	deadline := time.Now().Add(d)
	poll, empty := pollFirst, 0
	for {
		if left() == 0 {
			if empty++; empty == 2 {
				return true
			}
			continue
		}
		empty = 0
		if !time.Now().Before(deadline) {
			return false
		}
		time.Sleep(min(poll, time.Until(deadline)))
		poll = min(2*poll, pollMax)
	}
}

// finish kills until nothing is left, or killBound is over.
func finish(left func() int, kill func()) error {
	deadline := time.Now().Add(killBound)
	for {
		kill()
		if gone(pollMax, left) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d %w", left(), ErrAlive)
		}
	}
}

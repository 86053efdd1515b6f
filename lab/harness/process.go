package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is one started program. Its output goes to a log file.
type Process struct {
	Name string
	Log  string // path
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed

	kill sync.Once
}

// stopWait is what a process gets to end well before it is killed: more than the server's drain.
const stopWait = 15 * time.Second

// start runs a program in a process group of its own.
// Its standard error goes to stderr; nil: to the file log, too.
func start(name, log string, stderr *os.File, env []string, bin string, args ...string) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own copy
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	if stderr != nil {
		cmd.Stderr = stderr
	}
	OwnGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how it ended: nil for exit code 0. Valid once Done is closed.
func (p *Process) Err() error { return p.err }

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop asks the process to end, waits, and kills what is left of it and of what it started.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(stopWait):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of being asked to", p.Name, stopWait)
	}
	p.Kill()
	return p.err
}

// Kill ends the process and all below it at once, and waits for it.
func (p *Process) Kill() {
	p.kill.Do(func() {
		below := descendants(p.PID())
		p.cmd.Process.Kill() // an error means it has ended
		killAll(p.PID(), below)
	})
	<-p.done
}

// KillAlone ends the process with SIGKILL and leaves what it started, as a crash would.
func (p *Process) KillAlone() {
	p.cmd.Process.Kill()
	<-p.done
}

package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"gururmm/agent/local"
	"gururmm/internal/lockfile"
	"gururmm/internal/moment"
	"gururmm/internal/tcpinfo"
)

// Silence is a guardian that holds the state directory's lock and does not answer: who
// it is, as the kernel says. It unwraps to [local.ErrSilent].
type Silence struct {
	PID int // 0: not known
	// Letter and State are the process's state as the kernel says it (Linux); "": not known.
	Letter, State string
	Asked         time.Time // it has not answered since
}

func (e *Silence) Error() string {
	who := "the guardian"
	if e.PID != 0 {
		who += fmt.Sprintf(" (pid %d)", e.PID)
	}
	s := who + " does not answer since " + moment.Local(e.Asked) + ", when it was asked"
	if e.Letter != "" {
		s += fmt.Sprintf("; state %s (%s)", e.Letter, e.State)
	}
	return s
}

func (e *Silence) Unwrap() error { return local.ErrSilent }

// Do says what a person does about it.
func (e *Silence) Do() string {
	const restart = "start it afresh with gururmm-agent restart (by hand: end the process, then gururmm-agent run)"
	switch {
	case e.PID == 0:
		return "Find its process, and " + restart + "."
	case e.Letter == "T", e.Letter == "t":
		return fmt.Sprintf("Somebody stopped it: let it go on with kill -CONT %d, or %s.", e.PID, restart)
	case e.Letter == "D":
		return "It waits for a disk that hangs: look at the kernel's log and the state directory's disk."
	}
	return "It hangs: " + restart + ". Its stacks go to its log on SIGABRT."
}

// Silent says more of an err that wraps [local.ErrSilent]: it looks at who holds
// the lock of the state directory, which the kernel knows of a process that does
// nothing at all. Asked is when the guardian was. Any other err is given back as it is.
func Silent(o Options, asked time.Time, err error) error {
	if !errors.Is(err, local.ErrSilent) {
		return err
	}
	s := &Silence{Asked: asked}
	if path, perr := StatePath(o); perr == nil {
		if pid, held, lerr := lockfile.Holder(filepath.Join(path, lockFile)); lerr == nil && held {
			s.PID = pid
		}
	}
	if s.PID != 0 {
		s.Letter, s.State = tcpinfo.StateOf(s.PID)
	}
	return s
}

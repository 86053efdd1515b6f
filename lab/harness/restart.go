package harness

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Fixed has endpoints reach the server itself, at ports that are free now and that it
// has again after a restart.
func Fixed() (*Front, error) {
	var addrs [2]string
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		addrs[i] = ln.Addr().String()
	}
	return &Front{
		Main: "https://" + addrs[0], OOB: []string{"https://" + addrs[1]},
		Args: []string{"--listen", addrs[0], "--oob-listen", addrs[1]},
	}, nil
}

// Restarted is the server of a stack, to be ended and started again.
type Restarted struct{ stack *Stack }

// Restarted gives it.
func (s *Stack) Restarted() Restarted { return Restarted{s} }

// Stop ends the server in order.
func (r Restarted) Stop() error {
	p := r.stack.Server()
	if err := p.Stop(); err != nil {
		return fmt.Errorf("%w; its last words:\n%s", err, Tail(p.Log, 10))
	}
	return nil
}

// Start starts it again, and returns once it answers.
func (r Restarted) Start(ctx context.Context) error { return r.stack.StartServer(ctx) }

// CPU is what it has used of all cores since its start.
func (r Restarted) CPU() (time.Duration, error) { return CPU(r.stack.Server().PID()) }

// Peak is the most memory that it has taken since its start, in bytes: VmHWM of
// /proc/PID/status, see proc(5).
func (r Restarted) Peak() (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/status", r.stack.Server().PID()), "VmHWM:")
}

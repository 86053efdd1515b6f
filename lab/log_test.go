//go:build unix

package lab_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"gururmm/lab/harness"
)

// fullPipe is the writing end of a pipe that holds all it can, and that nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	for size := 4096; size > 0; size /= 2 { // to the last byte
		for {
			if err := w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, size)); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// TestAnUnreadLogStopsNothing: not one line of the server's or the agent's log is ever
// taken, and everything goes on; so does a stop.
func TestAnUnreadLogStopsNothing(t *testing.T) {
	s := newScene(t, func(o *harness.Options) {
		o.Stderr = fullPipe(t)
		o.ServerEnv = append(o.ServerEnv, "GURURMM_LOG_LEVEL=debug")
		o.AgentEnv = append(o.AgentEnv, "GURURMM_AGENT_LOG_LEVEL=debug")
	})
	s.completed(s.submit(""))
	pid, err := s.agent.SignalWorker(t.Context(), syscall.SIGKILL) // its end is logged, and the next one's start
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("another worker", func() (bool, error) {
		now, err := s.agent.WorkerPID(t.Context())
		return err == nil && now != pid && now != 0, err
	})
	s.verified()
	s.completed(s.submit(""))
	for _, p := range []*harness.Process{s.agent.Guardian(), s.Server()} {
		began := time.Now()
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			t.Logf("%s ended %v after SIGTERM", p.Name, time.Since(began).Round(time.Millisecond))
		case <-time.After(patience):
			t.Fatalf("%s has not ended %v after SIGTERM", p.Name, patience)
		}
		if err := p.Err(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

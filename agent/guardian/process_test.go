//go:build unix

package guardian_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/pipe"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// envChild makes the test program a worker: "well" reports and obeys, "mute"
// starts and never reports.
const envChild = "GUARDIAN_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(envChild) {
	case "":
		os.Exit(m.Run())
	case "mute":
		os.Stderr.WriteString("here\n")
		select {}
	}
	orders := pipe.NewReader[pipe.Order](os.Stdin)
	s := well()
	if pipe.Write(os.Stdout, pipe.Fact{Snapshot: &s}) != nil {
		os.Exit(3)
	}
	for {
		o, err := orders.Read()
		if err != nil || o.Drain != nil {
			os.Exit(0)
		}
	}
}

// safeBuffer is a log that can be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// spawnChild starts the test program as a worker.
func spawnChild(t *testing.T, mode string) guardian.Child {
	t.Helper()
	spawn := guardian.ProcessSpawner(os.Args[0], nil, []string{envChild + "=" + mode}, "test-"+wire.NewID())
	c, err := spawn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRealWorkerSpeaksAndEndsInOrder(t *testing.T) {
	c := spawnChild(t, "well")
	fact, err := pipe.NewReader[pipe.Fact](c.Stdout).Read()
	if err != nil || fact.Snapshot == nil {
		t.Fatalf("first line: %+v, %v", fact, err)
	}
	if err := pipe.Write(c.Stdin, pipe.Order{Drain: &pipe.DrainOrder{}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("a drained worker ended by %v", err)
	}
	if err := c.Kill(nil); err != nil {
		t.Fatalf("killing what is gone: %v", err)
	}
}

func TestStacksOfAWorkerThatEndsAreInTheLog(t *testing.T) {
	var log, said safeBuffer
	b := newBench(t)
	b.cfg.Log = slog.New(slog.NewJSONHandler(&log, nil))
	b.cfg.Door, b.cfg.Spool = nil, nil
	var mu sync.Mutex
	var pids []int
	b.cfg.Spawn = func(ctx context.Context) (guardian.Child, error) {
		mu.Lock()
		defer mu.Unlock()
		mode := "mute"
		if len(pids) > 0 {
			mode = "well"
		}
		c := spawnChild(t, mode)
		pids = append(pids, c.PID)
		return c, nil
	}
	b.cfg.WorkerLog = &said
	g, err := guardian.New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()

	// Earlier it has no handler for the signal that asks for stacks.
	eventually(t, "a worker", func() bool { return strings.Contains(said.String(), "here") })
	mu.Lock()
	first := pids[0]
	mu.Unlock()
	if err := syscall.Kill(first, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker", func() bool { mu.Lock(); defer mu.Unlock(); return len(pids) == 2 })
	eventually(t, "a verdict of it", func() bool { return strings.Contains(log.String(), `"code":"ok`) })
	for _, want := range []string{"SIGQUIT: quit", "guardian_test.TestMain("} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left behind", pid)
		}
	}
}

func TestAskingAProcessForStacksEndsIt(t *testing.T) {
	c := spawnChild(t, "mute")
	if _, err := c.Stderr.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := c.AskStacks(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Fatal("it ended as if nothing were wrong")
	}
	if err := c.Kill([]selfcheck.JobFact{{ID: "no-such-job", PID: 0}}); err != nil {
		t.Fatalf("killing the tree and a job that is gone: %v", err)
	}
}

// eventually waits for a fact of another process, which no virtual clock knows.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("no sign of %s", what)
		case <-tick.C:
		}
	}
}

package guardian_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/wire"
)

func TestStacksOfBothProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		l := &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
		b.cfg.Status = l
		b.run()
		time.Sleep(3 * time.Second)
		var s local.Stacks
		b.get(l, "/stacks", &s)
		if !strings.Contains(s.Guardian, "guardian.(*Guardian).Run") || !strings.Contains(s.Worker, "the.worker()") || s.WorkerWhy != "" {
			t.Errorf("asked of a worker that turns: %.200q, %q, %q", s.Guardian, s.Worker, s.WorkerWhy)
		}
		close(b.child().frozen)
		asked := time.Now()
		s = local.Stacks{}
		b.get(l, "/stacks", &s)
		if s.Worker != "" || !strings.Contains(s.WorkerWhy, "did not answer") || !strings.Contains(s.Guardian, "Run") {
			t.Errorf("asked of a frozen worker: %q, %q", s.Worker, s.WorkerWhy)
		}
		if took := time.Since(asked); took > 5*time.Second {
			t.Errorf("a frozen worker was waited for %v", took)
		}
		b.end()
	})
}

// Not in a bubble: the runtime's tracer and the socket live outside of one.
func TestTraceAndWhoMayAsk(t *testing.T) {
	b := newBench(t)
	dir, err := os.MkdirTemp("", "gi") // T.TempDir is too long for a unix socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := local.SocketPath(dir, false)
	if b.cfg.Status, err = local.Listen(path, ""); err != nil {
		t.Fatal(err)
	}
	g, err := guardian.New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := local.NewClient(path)
	got, err := c.Traces(ctx, 100*time.Millisecond)
	if err != nil || !bytes.HasPrefix(got.Guardian, []byte("go 1.")) || string(got.Worker) != "a worker's trace" {
		t.Errorf("%v; guardian %d bytes %q, worker %q %q", err, len(got.Guardian), got.GuardianWhy, got.Worker, got.WorkerWhy)
	}
	if s, err := c.Stacks(ctx); err != nil || !strings.Contains(s.Worker, "the.worker()") {
		t.Errorf("stacks by the socket: %v, %q %q", err, s.Worker, s.WorkerWhy)
	}
	var p wire.Problem
	if _, err := c.Traces(ctx, time.Hour); !errors.As(err, &p) || p.Code != wire.ProblemBadRequest {
		t.Errorf("a trace of an hour: %v", err)
	}
	whoMayAsk(t, dir, path)
}

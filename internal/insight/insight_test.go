package insight_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"runtime/trace"
	"strings"
	"testing"
	"time"

	"gururmm/internal/insight"
)

func parkedForTheTest(stop <-chan struct{}, up chan<- struct{}) { close(up); <-stop }

func TestStacksNameEveryGoroutine(t *testing.T) {
	stop, up := make(chan struct{}), make(chan struct{})
	defer close(stop)
	go parkedForTheTest(stop, up)
	<-up
	all := insight.Stacks(1 << 20)
	if !strings.Contains(all, "parkedForTheTest") || !strings.Contains(all, "TestStacksNameEveryGoroutine") {
		t.Errorf("stacks lack a goroutine:\n%s", all)
	}
	if cut := insight.Stacks(200); len(cut) != 200 {
		t.Errorf("bounded by 200 bytes there are %d", len(cut))
	}
}

func TestTraceIsOneAtATime(t *testing.T) {
	if err := trace.Start(io.Discard); err != nil {
		t.Fatal(err)
	}
	raw, err := insight.Trace(t.Context(), time.Second, 8<<20)
	trace.Stop()
	if err == nil || raw != nil {
		t.Errorf("a second trace beside one that runs: %d bytes, %v", len(raw), err)
	}
	raw, err = insight.Trace(t.Context(), 50*time.Millisecond, 8<<20)
	if err != nil || !bytes.HasPrefix(raw, []byte("go 1.")) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestTraceIsBounded(t *testing.T) {
	stop := make(chan struct{})
	for range 4 {
		go func() { // much to tell
			for {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
				}
			}
		}()
	}
	defer close(stop)
	const limit = 64 << 10
	raw, err := insight.Trace(t.Context(), 10*time.Second, limit)
	if !errors.Is(err, insight.ErrCut) || len(raw) > limit || len(raw) < limit/2 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

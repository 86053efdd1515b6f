package pipe

import (
	"strings"
	"testing"
)

const dump = `goroutine 1 [running]:
main.main()
	/src/gururmm/main.go:5 +0x1d

goroutine 27 [sleep, 2 minutes]:
time.Sleep(0x989680)
	/go/src/runtime/time.go:363 +0x165
gururmm/internal/fault.Stall({0x1, 0x2})
	/src/gururmm/internal/fault/on.go:31 +0x9d
gururmm/agent/worker.(*worker).dispatch(0xc000, {0x1, 0x2})
	/src/gururmm/agent/worker/dispatch.go:22 +0x1d
created by gururmm/agent/worker.(*children).Go in goroutine 1
	/src/gururmm/agent/worker/children.go:20 +0x7b

goroutine 28 [select]:
gururmm/agent/worker.(*worker).measure(0xc000)
	/src/gururmm/agent/worker/metrics.go:30 +0x1d
`

func TestLoopStack(t *testing.T) {
	want := "goroutine 27 [sleep, 2 minutes]: time.Sleep time.go:363 < fault.Stall on.go:31 < worker.(*worker).dispatch dispatch.go:22"
	if got := LoopStack(dump, "dispatcher"); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	for _, loop := range []string{"reader", "no such loop", ""} {
		if got := LoopStack(dump, loop); got != "" {
			t.Errorf("of %q: %q", loop, got)
		}
	}
	for _, garbled := range []string{"", "\n\n\n", "goroutine", "x\n" + loopFrames["reader"]} {
		if got := LoopStack(garbled, "reader"); strings.Contains(got, "\n") {
			t.Errorf("of %q: %q", garbled, got)
		}
	}
	many := strings.Repeat(dump+"\n", 50) + "goroutine 9 [select]:\n" + strings.Repeat("a/b.c(1)\n\tf.go:1 +1\n", 5000) + loopFrames["reader"] + "1)\n"
	for _, loop := range []string{"dispatcher", "reader"} {
		if got := LoopStack(many, loop); got == "" || len(got) > maxLoopStacks*(maxLoopStack+20) {
			t.Errorf("of %q: %d bytes", loop, len(got))
		}
	}
}

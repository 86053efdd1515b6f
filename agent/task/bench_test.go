//go:build unix

package task

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"gururmm/wire"
)

// What an ack costs: one record on the disk.
func BenchmarkAcceptProbe(b *testing.B) {
	e, err := Open(Options{Dir: b.TempDir(), MaxJobs: 1, Emit: func(wire.Type, string, any) {}})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close(b.Context(), 0)
	c := command("", "")
	for n := 0; b.Loop(); n++ {
		c.ID = fmt.Sprintf("p%d", n)
		if out := e.Accept(c, true, nil); out.Refused != "" {
			b.Fatal(out)
		}
	}
}

// What a full memory of ids costs: bytes held, and the time to write them all.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	book := newBook()
	for i := range keepLeast {
		book.stored[fmt.Sprintf("%036d", i)] = memo{at: int64(i), expires: int64(i), state: wire.StateCompleted}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		book.prune(time.Now())
		if _, err := appendLines(nil, book.records()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keepLeast, "B/id")
}

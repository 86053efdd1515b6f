package crew_test

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"gururmm/internal/crew"
)

// TestEachJobRunsThoughAllOthersHang gives jobs that wait for one another.
func TestEachJobRunsThoughAllOthersHang(t *testing.T) {
	for name, c := range map[string]*crew.Crew{"a crew": {}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c != nil {
					defer c.Close()
				}
				for range 3 { // with nobody idle, then with some
					var done sync.WaitGroup
					all := make(chan struct{})
					var mu sync.Mutex
					here := 0
					for range 100 {
						done.Add(1)
						c.Go(func() {
							defer done.Done()
							mu.Lock()
							if here++; here == 100 {
								close(all)
							}
							mu.Unlock()
							<-all
						})
					}
					done.Wait()
				}
			})
		})
	}
}

// Few stay; that none does once it is closed, the bubble sees to at its end.
func TestFewStayAndNoneOnceClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew.Crew
		before := runtime.NumGoroutine()
		burst := func() {
			var done sync.WaitGroup
			hold := make(chan struct{})
			for range 100 {
				done.Add(1)
				c.Go(func() { defer done.Done(); <-hold })
			}
			close(hold)
			done.Wait()
			synctest.Wait()
		}
		burst()
		if n := runtime.NumGoroutine() - before; n < 1 || n > 70 {
			t.Errorf("%d stay after a burst of 100", n)
		}
		c.Close()
		burst() // still run, and nobody stays
	})
}

func BenchmarkJob(b *testing.B) {
	var use func(depth int) byte
	use = func(depth int) byte {
		var buf [256]byte
		if depth == 0 {
			return buf[0]
		}
		return use(depth-1) + buf[1]
	}
	var c crew.Crew
	defer c.Close()
	for name, c := range map[string]*crew.Crew{"crew": &c, "fresh": nil} {
		b.Run(name, func(b *testing.B) {
			done := make(chan struct{})
			job := func() { use(16); done <- struct{}{} }
			for b.Loop() {
				c.Go(job)
				<-done
			}
		})
	}
}

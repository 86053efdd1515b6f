package serial_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"gururmm/internal/crew"
	"gururmm/internal/serial"
)

// TestWhatRunsBehindKeepsNobodyWaiting has it hang while more is pushed and handled.
func TestWhatRunsBehindKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew.Crew
		defer c.Close()
		var handled []int
		hang, behind := make(chan struct{}), make(chan int, 10)
		q := serial.New(10, func(n int) { handled = append(handled, n) })
		q.On(&c, func() { behind <- len(handled); <-hang })
		for n := range 3 {
			if err := q.Push(n, 1); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := <-behind; n != 3 || len(behind) > 0 {
			t.Errorf("called behind %d items, and %d times more", n, len(behind))
		}
		if err := q.Push(3, 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(handled, []int{0, 1, 2, 3}) {
			t.Errorf("handled %v while it hangs", handled)
		}
		close(hang)
		q.Close()
		q.Wait()
	})
}

package admission_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/internal/admission"
)

func busy(t *testing.T, err error) time.Duration {
	t.Helper()
	b, ok := errors.AsType[*admission.Busy](err)
	if !ok {
		t.Fatalf("%v, want busy", err)
	}
	return b.After
}

func TestSoManyAreInAndSoManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := admission.New(2, 1, time.Second)
		one, err := g.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		third := make(chan error, 1)
		go func() {
			_, err := g.Enter(t.Context())
			third <- err
		}()
		synctest.Wait()
		began := time.Now()
		_, err = g.Enter(t.Context())
		busy(t, err)
		if waited := time.Since(began); waited != 0 {
			t.Errorf("one for whom there is no room to wait waited %v", waited)
		}
		if s := g.Stats(); s != (admission.Stats{In: 2, Waiting: 1, Refused: 1}) {
			t.Errorf("%+v", s)
		}
		one()
		one() // gives back one place, not two
		if err := <-third; err != nil {
			t.Error(err)
		}
		began = time.Now()
		_, err = g.Enter(t.Context())
		busy(t, err)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v, want a second", waited)
		}
	})
}

func TestWhoGoesTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := admission.New(1, 1, time.Minute)
		leave, err := g.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		leave()
		if leave, err = g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		leave()
		if s := g.Stats(); s != (admission.Stats{}) {
			t.Errorf("%+v", s)
		}
	})
}

// Those sent away come back one behind the other, as fast as places are given back.
func TestTurnsAreSpreadByTheMeasuredRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := admission.New(4, 0, 0)
		for range 200 { // each place is held for 2 s: two are free in a second
			leave, err := g.Enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			leave()
		}
		for range 4 {
			if _, err := g.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		last := time.Duration(0)
		for i := range 100 {
			_, err := g.Enter(t.Context())
			after := busy(t, err)
			if step := after - last; step < 490*time.Millisecond || step > 510*time.Millisecond {
				t.Fatalf("turn %d is %v behind the one before", i, step)
			}
			last = after
		}
		for range 1000 { // more than can be promised
			_, err := g.Enter(t.Context())
			if after := busy(t, err); after < admission.Longest/2 || after > admission.Longest {
				t.Fatalf("asked to wait %v", after)
			}
		}
		time.Sleep(2 * admission.Longest)
		if _, err := g.Enter(t.Context()); busy(t, err) > time.Second {
			t.Errorf("a crowd of long ago counts: %v", err)
		}
	})
}

package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOneHoldsAFileAndTheOtherLearnsWho(t *testing.T) {
	file := filepath.Join(t.TempDir(), "held")
	lock, err := Take(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Take(file)
	held, ok := errors.AsType[*InUseError](err)
	if !ok || held.PID != os.Getpid() || time.Since(held.Since).Abs() > time.Hour || !errors.Is(err, ErrInUse) {
		t.Fatalf("second: %v, want ErrInUse with process %d", err, os.Getpid())
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if lock, err = Take(file); err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
	if _, err := Take(filepath.Join(file, "below")); err == nil || errors.Is(err, ErrInUse) {
		t.Errorf("below a file: %v", err)
	}
}

func TestWhoOnlyLooksTakesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "held")
	if _, _, err := Holder(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file was made")
	}
	lock, err := Take(file)
	if err != nil {
		t.Fatal(err)
	}
	if pid, held, err := Holder(file); err != nil || !held || pid != os.Getpid() {
		t.Errorf("held: process %d, %v, %v", pid, held, err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if _, held, err := Holder(file); err != nil || held {
		t.Errorf("given back: %v, %v", held, err)
	}
	// Somebody looks all the time: the file can be held all the same.
	stop, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-stop:
				return
			default:
				Holder(file)
			}
		}
	}()
	lock, err = Take(file)
	close(stop)
	<-gone
	if err != nil {
		t.Fatalf("while somebody looks: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
}

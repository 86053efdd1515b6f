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
	release, err := Hold(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Hold(file)
	held, ok := errors.AsType[*InUseError](err)
	if !ok || held.PID != os.Getpid() || time.Since(held.Since).Abs() > time.Hour || !errors.Is(err, ErrInUse) {
		t.Fatalf("second: %v, want ErrInUse with process %d", err, os.Getpid())
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if release, err = Hold(file); err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if _, err := Hold(filepath.Join(file, "below")); err == nil || errors.Is(err, ErrInUse) {
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
	release, err := Hold(file)
	if err != nil {
		t.Fatal(err)
	}
	if pid, held, err := Holder(file); err != nil || !held || pid != os.Getpid() {
		t.Errorf("held: process %d, %v, %v", pid, held, err)
	}
	if err := release(); err != nil {
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
	release, err = Hold(file)
	close(stop)
	<-gone
	if err != nil {
		t.Fatalf("while somebody looks: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestOneHoldsAFileAndTheOtherLearnsWho(t *testing.T) {
	file := filepath.Join(t.TempDir(), "held")
	release, err := Hold(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Hold(file)
	held, ok := errors.AsType[*InUseError](err)
	if !ok || held.PID != os.Getpid() || !errors.Is(err, ErrInUse) {
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

package harness_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/lab/harness"
)

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := harness.Poll(t.Context(), time.Minute, func() (bool, error) { return time.Since(began) > time.Second, nil })
		if err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("a fact that came after a second: %v, %v", err, time.Since(began))
		}
		began = time.Now()
		why := errors.New("still dark")
		err = harness.Poll(t.Context(), time.Minute, func() (bool, error) { return false, why })
		if !errors.Is(err, why) || time.Since(began) != time.Minute {
			t.Errorf("a fact that never came: %v, %v", err, time.Since(began))
		}
		began = time.Now()
		err = harness.Poll(t.Context(), time.Minute, func() (bool, error) { return false, harness.Final(why) })
		if !errors.Is(err, why) || time.Since(began) != 0 {
			t.Errorf("an error that no waiting mends: %v, %v", err, time.Since(began))
		}
	})
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := harness.Tail(file, 2); got != "two\nthree" {
		t.Errorf("last two lines: %q", got)
	}
	if got := harness.Tail(file+"x", 2); !strings.Contains(got, "no such file") {
		t.Errorf("of a file that is not there: %q", got)
	}
}

func TestFindNamesWhatIsMissing(t *testing.T) {
	_, err := harness.Find(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("an empty directory: %v", err)
	}
}

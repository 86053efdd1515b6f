//go:build linux || darwin

package asleep

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSleepIsWhatTheStandingClockMissed(t *testing.T) {
	clocks := map[int32]time.Duration{clockStands: time.Hour, clockGoesOn: 9 * time.Hour}
	gettime := func(clock int32, to *unix.Timespec) error {
		at, ok := clocks[clock]
		if !ok {
			return errors.New("no such clock")
		}
		*to = unix.NsecToTimespec(int64(at))
		return nil
	}
	if got := sleep(gettime); got != 8*time.Hour {
		t.Errorf("%v of sleep, want 8 h", got)
	}
	delete(clocks, clockGoesOn)
	if got := sleep(gettime); got != 0 {
		t.Errorf("%v of sleep by a clock that can't be read", got)
	}
}

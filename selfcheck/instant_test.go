package selfcheck

import (
	"testing"
	"time"
)

func TestInstantsKeepOrderDistanceAndNever(t *testing.T) {
	now := time.Now()
	same := func(now time.Time, all ...time.Time) {
		for _, at := range all {
			if i := At(at); i.IsZero() || i < 0 || !i.Time(now).Equal(at) || i.Add(time.Second).Sub(i) != time.Second {
				t.Errorf("%v became %d, that is %v", at, i, i.Time(now))
			}
		}
	}
	same(now, now, now.Add(-time.Nanosecond), now.Add(time.Hour))
	same(now.Round(0), time.Unix(946_684_800, 0), time.Unix(1_800_000_000, 0)) // by the wall clock
	if never := At(time.Time{}); !never.IsZero() || never >= At(now) || !never.Time(now).IsZero() {
		t.Errorf("never became %d", never)
	}
	if At(now) >= At(now.Add(1)) {
		t.Error("the later is not later")
	}
	// A clock that was set since is the one it is told by; what has passed is not changed by it.
	set := now.Add(time.Hour).Round(0)
	if got := At(set.Add(-time.Minute)).Time(set); !got.Equal(set.Add(-time.Minute)) {
		t.Errorf("a minute ago is %v by a clock that shows %v", got, set)
	}
}

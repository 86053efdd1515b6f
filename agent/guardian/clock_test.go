package guardian

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/agent/history"
	"gururmm/internal/asleep"
	"gururmm/internal/clocktest"
	"gururmm/selfcheck"
	"gururmm/wire"
)

type noHistory struct{ History }

func (noHistory) Add(history.Event) error { return nil }

// sleepless is the clock of a machine that never sleeps.
func sleepless() *asleep.Clock { return &asleep.Clock{} }

// A sleep and a step of the wall clock are told apart, whichever of the two the monotonic
// clock shows: it stands still in a sleep on Linux and macOS, on Windows it goes on.
func TestASleepIsNoStepOfTheClock(t *testing.T) {
	for _, goesOn := range []bool{false, true} {
		for _, c := range []struct {
			name        string
			slept, step time.Duration
			want        []string
			set         string // what the step's event says
		}{
			{name: "neither"},
			{name: "a sleep", slept: 8 * time.Hour, want: []string{"suspended"}},
			{name: "set ahead", step: 2 * time.Hour, want: []string{"stepped"}, set: "ahead by 2h"},
			{name: "set back", step: -2 * time.Hour, want: []string{"stepped"}, set: "back by 2h"},
			{name: "a sleep, and set ahead", slept: 8 * time.Hour, step: time.Hour, want: []string{"suspended", "stepped"}, set: "ahead by 1h"},
			{name: "a sleep, and set back by as much", slept: time.Hour, step: -time.Hour, want: []string{"suspended", "stepped"}, set: "back by 1h"},
		} {
			slept := 3 * time.Hour // before
			clock := asleep.New(func() time.Duration { return slept }, goesOn)
			g := &Guardian{cfg: Config{History: noHistory{}, Asleep: &clock}}
			g.history.asked = true // the keeper
			last := time.Now()
			g.noteClock(last)
			slept += c.slept
			now := last.Add(20 * time.Second)
			if goesOn {
				now = clocktest.Set(t, now.Add(c.slept), c.step)
			} else {
				now = clocktest.Set(t, now, c.slept+c.step)
			}
			if got := g.noteClock(now); got != c.slept {
				t.Errorf("%s (goes on: %t): slept for %v, want %v", c.name, goesOn, got, c.slept)
			}
			var got []string
			for _, e := range g.history.pending {
				got = append(got, e.Code)
				if e.Code == "stepped" && !strings.Contains(e.Sentence, c.set) {
					t.Errorf("%s (goes on: %t): %q, want %q", c.name, goesOn, e.Sentence, c.set)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s (goes on: %t): events %q, want %q", c.name, goesOn, got, c.want)
			}
			if found := g.clockFindings(now); (len(found) != 0) != (c.step != 0) {
				t.Errorf("%s (goes on: %t): findings %+v", c.name, goesOn, found)
			}
		}
	}
}

// Where the monotonic clock goes on in a sleep, the gap that it leaves is no pause.
func TestASleepIsNoPauseOfThisProcess(t *testing.T) {
	slept := time.Duration(0)
	clock := asleep.New(func() time.Duration { return slept }, true)
	g := &Guardian{cfg: Config{History: noHistory{}, Asleep: &clock}, log: discard(), ladder: selfcheck.NewLadder(wire.Policy{}.WithDefaults(), nil)}
	g.history.asked = true
	now := time.Now()
	g.noticePause(now)
	slept, now = time.Hour, now.Add(time.Hour+maxIdle)
	g.noticePause(now)
	now = now.Add(time.Hour) // and this was none
	g.noticePause(now)
	var got []string
	for _, e := range g.history.pending {
		got = append(got, e.Code)
	}
	if want := []string{"suspended", "paused"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

package agent

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"gururmm/agent/guardian"
)

// What the launcher is told reaches the guardian behind the pipe, in order, until either ends.
func TestEventsGoThroughThePipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		from, to, done := make(chan guardian.Event, maxPending), make(chan guardian.Event, maxPending), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { passEvents(from, w, done) })
		wg.Go(func() { hearEvents(r, to) })
		for _, e := range knownEvents {
			from <- e
		}
		for _, want := range knownEvents {
			if got := <-to; got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		}
		close(done)
		w.Close()
		wg.Wait()
	})
}

// A guardian that has ended, or whose pipe is closed, ends the passing on.
func TestEventsForNobodyEndThePassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		r.Close()
		from := make(chan guardian.Event, 1)
		from <- guardian.EventSuspend
		passEvents(from, w, nil) // else the bubble stands still for ever
	})
}

func TestEventsAreReadWithTolerance(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []guardian.Event
	}{
		"nothing":                  {"", nil},
		"each":                     {"suspend\nresume\nsession\n", knownEvents},
		"of another platform":      {"suspend\r\n  resume \n", []guardian.Event{guardian.EventSuspend, guardian.EventResume}},
		"of a later version":       {"hibernate\n\nresume now\nresume\n", []guardian.Event{guardian.EventResume}},
		"cut off":                  {"suspend\nresume", []guardian.Event{guardian.EventSuspend}},
		"endless":                  {strings.Repeat("x", 1<<20), nil},
		"too long, with a word":    {strings.Repeat("x", 10*maxWord) + "\nresume\n", []guardian.Event{guardian.EventResume}},
		"too long, ends in a word": {strings.Repeat("x", maxWord) + "resume\nsuspend\n", []guardian.Event{guardian.EventSuspend}},
		"more than anybody takes":  {strings.Repeat("resume\n", 10*maxPending), slices.Repeat([]guardian.Event{guardian.EventResume}, maxPending)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{
				strings.NewReader(tt.text), iotest.OneByteReader(strings.NewReader(tt.text)),
				io.MultiReader(strings.NewReader(tt.text), iotest.ErrReader(errors.New("broken"))),
			} {
				events := make(chan guardian.Event, maxPending)
				hearEvents(r, events)
				close(events)
				if got := slices.Collect(func(yield func(guardian.Event) bool) {
					for e := range events {
						if !yield(e) {
							return
						}
					}
				}); !slices.Equal(got, tt.want) {
					t.Errorf("heard %q, want %q", got, tt.want)
				}
			}
		})
	}
}

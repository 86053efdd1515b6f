package retention

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/server/store"
)

// shelf has so many chunks of old things, and fails at one of them.
type shelf struct {
	t      *testing.T
	chunks int
	failAt int
	calls  []time.Time
	before time.Time
}

func (s *shelf) DeleteOld(ctx context.Context, before time.Time) (store.Deleted, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		s.t.Error("not bounded")
	}
	s.calls, s.before = append(s.calls, time.Now()), before
	if len(s.calls) == s.failAt {
		return store.Deleted{}, errors.New("the disk is full")
	}
	if s.chunks == 0 {
		return store.Deleted{}, nil
	}
	s.chunks--
	return store.Deleted{Commands: 50, Jobs: 1, Directives: 2, More: true}, nil
}

func TestItDeletesInChunksAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &shelf{t: t, chunks: 5, failAt: 3}
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, Options{Store: s, Keep: 24 * time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil))})
		}()
		time.Sleep(2*time.Hour + 2*time.Minute)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		var at []time.Duration
		for _, c := range s.calls {
			at = append(at, c.Sub(began))
		}
		// Two, then the disk is full; an hour later the other three and one that finds nothing; and once more.
		if len(at) != 8 || at[0] != firstAfter || at[1] != firstAfter+rest || at[3] < time.Hour || at[6] > time.Hour+2*time.Minute || at[7] < 2*time.Hour {
			t.Errorf("chunks at %v", at)
		}
		if age := s.calls[7].Sub(s.before); age != 24*time.Hour {
			t.Errorf("deleted what ended %v before", age)
		}
		for _, line := range []string{"commands=100 jobs=2 directives=4", "commands=150 jobs=3 directives=6", "the disk is full"} {
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("log says not %q once:\n%s", line, &log)
			}
		}
	})
}

func TestItEndsInItsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		s := &shelf{t: t, chunks: 1 << 30}
		go func() { ended <- Run(ctx, Options{Store: s, Keep: time.Hour, Log: slog.New(slog.DiscardHandler)}) }()
		time.Sleep(firstAfter + rest/2)
		cancel()
		if err := <-ended; err != nil || len(s.calls) != 1 {
			t.Errorf("%d chunks, %v", len(s.calls), err)
		}
	})
}

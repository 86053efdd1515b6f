package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// pollEvery is how often a fact is asked for: often enough that a step's time
// is known to a frame of film, rarely enough to leave the cores to the programs.
const pollEvery = 25 * time.Millisecond

// finalError ends a Poll at once.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Final marks an error that no waiting can mend.
func Final(err error) error { return finalError{err} }

// Poll asks until ask says true, and gives up after within, when ctx ends, or on a [Final] error.
// The error tells the last one of ask.
func Poll(ctx context.Context, within time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if final := (finalError{}); errors.As(err, &final) {
			return final.error
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = errors.New("it did not come")
			}
			return fmt.Errorf("after %v: %w", within, err)
		}
	}
}

// Pause waits for d, or until ctx ends; then the error is ctx's.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxTail bounds what Tail reads of a file's end, in bytes.
const maxTail = 256 << 10

// Tail gives the last lines of a file, for people.
func Tail(file string, lines int) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	raw = raw[max(0, len(raw)-maxTail):]
	all := strings.Split(string(bytes.TrimSpace(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

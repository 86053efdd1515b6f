package oob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gururmm/internal/fault"
	"gururmm/wire"
)

// BundlePath is where the bundle with this id is put.
func BundlePath(id string) string { return "/v1/oob/bundle/" + id }

// Errors of an upload that trying again soon can't help.
var (
	// ErrBundleRefused: the server will not have this bundle: it knows another one by
	// this id, or what arrives is never what was announced.
	ErrBundleRefused = errors.New("the server does not take this bundle")
	// ErrBundleLater: the server has no room for it now, or does not take bundles yet.
	ErrBundleLater = errors.New("the server does not take this bundle now")
)

const (
	// uploadWaitMin and uploadWaitMax bound the wait after a failure, which doubles.
	uploadWaitMin, uploadWaitMax = 500 * time.Millisecond, time.Minute
	// minPart is the least part sent, in bytes: at 2 kB/s it still arrives in time.
	minPart = 32 << 10
	// maxStale is how many answers in a row may show no progress: a server that
	// says to go on where we are is otherwise asked for ever.
	maxStale = 8
)

// BundleInfo is what the server is told of a bundle.
type BundleInfo struct {
	ID     string    // as of [wire.NewID]
	SHA256 string    // hex
	Size   int64     // in bytes, at most [wire.MaxBundle]
	Reason string    // for people; what a header can't hold is left out
	Made   time.Time // by this machine's clock
}

// upload is how far one upload is; it does no I/O itself.
type upload struct {
	size      int64
	most      int64         // bytes of the largest part
	held      int64         // the server's word; below 0: to be asked
	part      int64         // bytes of the next part
	wait      time.Duration // after the next failure
	stale     int           // answers in a row without progress
	restarted bool
}

// Seams of builds for tests: parts of so many bytes, and a stop behind each of them.
const (
	envPart   = "GURURMM_BUNDLE_PART"
	faultPart = "upload.part"
)

func largestPart() int64 {
	if n, err := strconv.ParseInt(fault.Env(envPart), 10, 64); err == nil && n > 0 && n < wire.BundlePart {
		return n
	}
	return wire.BundlePart
}

func newUpload(size int64) *upload {
	most := largestPart()
	return &upload{size: size, most: most, held: -1, part: most, wait: uploadWaitMin}
}

// next is the part to send, [from, to); none: ask what the server holds.
func (u *upload) next() (from, to int64, ask bool) {
	if u.held < 0 || u.held >= u.size {
		return 0, 0, true
	}
	return u.held, min(u.size, u.held+u.part), false
}

// took takes in the answer to what next said.
func (u *upload) took(s wire.BundleState) (done bool, err error) {
	switch {
	case s.Complete:
		return true, nil
	case s.Held < 0 || s.Held > u.size || s.Total != 0 && s.Total != u.size:
		return false, fmt.Errorf("%w: it says that it holds %d of %d bytes, of %d", ErrBundleRefused, s.Held, s.Total, u.size)
	}
	switch {
	case u.held < 0: // we only asked
	case s.Held > u.held:
		u.stale, u.wait, u.part = 0, uploadWaitMin, min(2*u.part, u.most)
	default:
		if u.stale++; u.stale > maxStale {
			return false, fmt.Errorf("%w: it stays at %d of %d bytes", ErrBundleRefused, s.Held, u.size)
		}
	}
	u.held = s.Held
	return false, nil
}

// failed takes in an error of a request: how long to wait before the next, or
// why there is none.
func (u *upload) failed(err error) (wait time.Duration, final error) {
	if errors.Is(err, ErrRejected) || errors.Is(err, ErrNoDoors) {
		return 0, err
	}
	if d := answered(err); d != nil {
		switch d.Status {
		case http.StatusConflict:
			if d.held != nil && *d.held <= u.size && u.stale < maxStale { // a gap: it says where to go on
				u.held, u.stale = *d.held, u.stale+1
				return 0, nil
			}
			return 0, fmt.Errorf("%w: %w", ErrBundleRefused, err)
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			// What it held was not what was announced, and is dropped: once more, since a
			// broken disk or box on the way may have been at fault.
			if u.restarted {
				return 0, fmt.Errorf("%w: %w", ErrBundleRefused, err)
			}
			u.restarted, u.held = true, -1
			return u.again(0), nil
		case http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage, // a quota, a disk
			http.StatusNotFound, http.StatusMethodNotAllowed: // a server of before bundles
			return 0, fmt.Errorf("%w: %w", ErrBundleLater, err)
		}
	}
	if _, atDoor := errors.AsType[*DoorError](err); !atDoor {
		return 0, err // no token, say
	}
	if slowness(err) {
		u.part = max(u.part/2, min(minPart, u.most))
	}
	u.held = -1 // the part may have arrived all the same
	return u.again(RetryAfter(err)), nil
}

// again is the next wait, at least asked for.
func (u *upload) again(asked time.Duration) time.Duration {
	wait := u.wait
	u.wait = min(2*u.wait, uploadWaitMax)
	return max(asked, wait)
}

// answered is the first door of err at which the server itself answered, by a problem
// document; nil: at none. What some other box on the way says of a bundle counts for nothing.
func answered(err error) *DoorError {
	doors := []error{err}
	if all, ok := errors.AsType[allFailed](err); ok {
		doors = all
	}
	for _, one := range doors {
		d, ok := errors.AsType[*DoorError](one)
		if !ok {
			continue
		}
		if _, ok := errors.AsType[wire.Problem](d.Err); ok {
			return d
		}
	}
	return nil
}

// PutBundle hands a bundle to the server, in parts, from where an earlier call broke
// off, by whichever door works, and returns nil once the server has all of it and its
// hash is right. It goes on until ctx ends; then its error says what failed last.
// [ErrBundleRefused], [ErrBundleLater] and [ErrRejected] end it before, and an error of r.
func (c *Client) PutBundle(ctx context.Context, b BundleInfo, r io.ReaderAt) error {
	if b.Size <= 0 || b.Size > wire.MaxBundle {
		return fmt.Errorf("%w: it has %d bytes, allowed are 1 to %d", ErrBundleRefused, b.Size, wire.MaxBundle)
	}
	u := newUpload(b.Size)
	var last error
	for {
		state, err := c.putPart(ctx, b, u, r)
		if err == nil {
			if u.held >= 0 { // it was a part, not the question
				fault.Stall(faultPart)
			}
			var done bool
			if done, err = u.took(state); done || err != nil {
				return err
			}
			continue
		}
		if broken, ok := errors.AsType[*sourceError](err); ok {
			return broken
		}
		if ctx.Err() != nil {
			return fmt.Errorf("bundle not handed over: %w", errors.Join(context.Cause(ctx), cmp.Or(last, err)))
		}
		last = err
		wait, final := u.failed(err)
		if final != nil {
			return final
		}
		c.log.Debug("upload broke off", "bundle", b.ID, "wait", wait, "error", err)
		if wait > 0 {
			// Spread: a server that comes back must not meet all at once.
			timer := time.NewTimer(wait + rand.N(wait/2))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return fmt.Errorf("bundle not handed over: %w", errors.Join(context.Cause(ctx), last))
			}
		}
	}
}

// sourceError says that the bundle itself can't be read.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read the bundle: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// putPart sends the next part, or the question.
func (c *Client) putPart(ctx context.Context, b BundleInfo, u *upload, r io.ReaderAt) (wire.BundleState, error) {
	from, to, ask := u.next()
	total := strconv.FormatInt(b.Size, 10)
	// Fresh for each request: the transport may still read it after the answer.
	part, span := []byte(nil), "bytes */"+total
	if !ask {
		part, span = make([]byte, to-from), fmt.Sprintf("bytes %d-%d/%s", from, to-1, total)
		if n, err := r.ReadAt(part, from); n < len(part) {
			return wire.BundleState{}, &sourceError{err}
		}
	}
	h := http.Header{}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Range", span)
	h.Set(wire.HeaderBundle, b.SHA256)
	if reason := headerText(b.Reason, wire.MaxBundleReason); reason != "" {
		h.Set(wire.HeaderBundleReason, reason)
	}
	if !b.Made.IsZero() {
		h.Set(wire.HeaderBundleMade, b.Made.UTC().Format(time.RFC3339))
	}
	var state wire.BundleState
	err := c.do(ctx, request{method: http.MethodPut, path: BundlePath(b.ID), body: part, header: h}, &state)
	if err == nil && state.ID != b.ID {
		// Only the server itself knows the id: another box's 200 is no success.
		err = &DoorError{Door: c.Door(), Status: http.StatusOK, Err: errors.New("the answer is not about this bundle")}
	}
	return state, err
}

// headerText is s as a header can hold it: printable ASCII, at most max bytes.
func headerText(s string, max int) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s))
	return strings.TrimSpace(s[:min(len(s), max)])
}

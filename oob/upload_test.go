package oob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/oob"
	"gururmm/wire"
)

// shelf is a server that takes one bundle by the agreed rules; it is safe for use by several doors.
type shelf struct {
	t    *testing.T
	info oob.BundleInfo

	mu    sync.Mutex
	held  []byte
	log   []string                                // ranges asked for
	odd   func(n int, w http.ResponseWriter) bool // before request n is served; true: it has answered
	after func(n int) bool                        // after a part was taken; true: the answer is lost
	done  bool
}

func newShelf(t *testing.T, size int) (*shelf, []byte) {
	data := make([]byte, size)
	rand.Read(data)
	sum := sha256.Sum256(data)
	return &shelf{t: t, info: oob.BundleInfo{
		ID: wire.NewID(), SHA256: hex.EncodeToString(sum[:]), Size: int64(size), Reason: "verdict\nlïnk.deaf_down", Made: time.Unix(1e9, 0),
	}}, data
}

func (s *shelf) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span := r.Header.Get("Content-Range")
	s.log = append(s.log, span)
	n := len(s.log)
	if s.odd != nil && s.odd(n, w) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Method != http.MethodPut || r.URL.Path != "/v1/oob/bundle/"+s.info.ID || r.Header.Get(wire.HeaderBundle) != s.info.SHA256 ||
		r.Header.Get(wire.HeaderBundleReason) != "verdict l?nk.deaf_down" || r.Header.Get(wire.HeaderBundleMade) != "2001-09-09T01:46:40Z" ||
		!strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || len(body) > wire.BundlePart {
		s.t.Errorf("%s %s %v, %d bytes", r.Method, r.URL, r.Header, len(body))
	}
	if span != fmt.Sprintf("bytes */%d", s.info.Size) {
		var from, to, total int64
		if _, err := fmt.Sscanf(span, "bytes %d-%d/%d", &from, &to, &total); err != nil || to-from+1 != int64(len(body)) || total != s.info.Size {
			s.t.Errorf("range %q with %d bytes: %v", span, len(body), err)
			return
		}
		if from > int64(len(s.held)) {
			w.Header().Set(wire.HeaderBundleHeld, strconv.Itoa(len(s.held)))
			problem(w, http.StatusConflict, wire.ProblemConflict)
			return
		}
		if to >= int64(len(s.held)) {
			s.held = append(s.held, body[int64(len(s.held))-from:]...)
		}
		if int64(len(s.held)) == s.info.Size {
			if sum := sha256.Sum256(s.held); hex.EncodeToString(sum[:]) != s.info.SHA256 {
				s.held = nil
				problem(w, http.StatusUnprocessableEntity, wire.ProblemBadRequest)
				return
			}
			s.done = true
		}
		if s.after != nil && s.after(n) {
			panic(http.ErrAbortHandler)
		}
	}
	json.NewEncoder(w).Encode(wire.BundleState{ID: s.info.ID, Held: int64(len(s.held)), Total: s.info.Size, Complete: s.done})
}

func TestABundleGetsThrough(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(s *shelf, data []byte)
		most    int // requests
	}{
		"at once":        {func(*shelf, []byte) {}, 4},
		"after the half": {func(s *shelf, data []byte) { s.held = bytes.Clone(data[:700_001]) }, 3},
		"it was there":   {func(s *shelf, data []byte) { s.held, s.done = data, true }, 1},
		"an answer lost": {func(s *shelf, _ []byte) { s.after = func(n int) bool { return n == 2 } }, 6},
		"the last one":   {func(s *shelf, _ []byte) { s.after = func(n int) bool { return n == 4 } }, 6},
		"forgotten meanwhile": {func(s *shelf, data []byte) {
			s.odd = func(n int, _ http.ResponseWriter) bool {
				if n == 3 {
					s.held = s.held[:1000]
				}
				return false
			}
		}, 6},
		"another byte on the way": {func(s *shelf, data []byte) {
			s.odd = func(n int, _ http.ResponseWriter) bool {
				if n == 3 {
					s.held[5] ^= 1
				}
				return false
			}
		}, 8},
		"a server that restarts": {func(s *shelf, _ []byte) {
			s.odd = func(n int, w http.ResponseWriter) bool {
				if n == 2 || n == 3 {
					problem(w, http.StatusServiceUnavailable, wire.ProblemDraining)
				}
				return n == 2 || n == 3
			}
		}, 8},
		"a login page first": {func(s *shelf, _ []byte) {
			s.odd = func(n int, w http.ResponseWriter) bool {
				if n == 1 {
					io.WriteString(w, "{}")
				}
				return n == 1
			}
		}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, data := newShelf(t, 3*wire.BundlePart-10)
			c.prepare(s, data)
			d := newDoor(t, s.serve)
			if err := newClient(t, nil, d.door()).PutBundle(t.Context(), s.info, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.done || !bytes.Equal(s.held, data) || len(s.log) > c.most || s.log[0] != fmt.Sprintf("bytes */%d", len(data)) {
				t.Errorf("complete %v, %d of %d bytes, requests %v", s.done, len(s.held), len(data), s.log)
			}
		})
	}
}

func TestAnUploadGoesOnByAnotherDoor(t *testing.T) {
	s, data := newShelf(t, 2*wire.BundlePart)
	first := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if s.mu.Lock(); len(s.log) >= 2 { // from now on it is dead
			s.mu.Unlock()
			panic(http.ErrAbortHandler)
		}
		s.mu.Unlock()
		s.serve(w, r)
	})
	c := newClient(t, nil, first.door(), newDoor(t, s.serve).door())
	if err := c.PutBundle(t.Context(), s.info, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if !s.done || len(s.log) != 3 {
		t.Errorf("complete %v, requests %v", s.done, s.log)
	}
}

func TestWhatEndsAnUpload(t *testing.T) {
	always := func(status int, code string) func(*shelf) {
		return func(s *shelf) {
			s.odd = func(_ int, w http.ResponseWriter) bool { problem(w, status, code); return true }
		}
	}
	for name, c := range map[string]struct {
		prepare func(s *shelf)
		want    error
		most    int
	}{
		"another by this id":       {always(409, wire.ProblemConflict), oob.ErrBundleRefused, 1},
		"never what was announced": {func(s *shelf) { s.info.SHA256 = strings.Repeat("0", 64) }, oob.ErrBundleRefused, 8},
		"a quota":                  {always(413, wire.ProblemTooLarge), oob.ErrBundleLater, 1},
		"a full disk":              {always(507, wire.ProblemDiskFull), oob.ErrBundleLater, 1},
		"an old server":            {always(404, wire.ProblemNotFound), oob.ErrBundleLater, 1},
		"not our identity":         {always(401, wire.ProblemUnauthorized), oob.ErrRejected, 1},
		"it never goes on": {func(s *shelf) {
			s.odd = func(_ int, w http.ResponseWriter) bool {
				json.NewEncoder(w).Encode(wire.BundleState{ID: s.info.ID, Held: 7, Total: s.info.Size})
				return true
			}
		}, oob.ErrBundleRefused, 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, data := newShelf(t, wire.BundlePart+1)
			c.prepare(s)
			d := newDoor(t, s.serve)
			err := newClient(t, nil, d.door()).PutBundle(t.Context(), s.info, bytes.NewReader(data))
			if !errors.Is(err, c.want) || int(d.calls.Load()) > c.most {
				t.Errorf("%v after %d requests", err, d.calls.Load())
			}
		})
	}
	s, data := newShelf(t, 1000)
	c := newClient(t, nil, newDoor(t, s.serve).door())
	if err := c.PutBundle(t.Context(), s.info, bytes.NewReader(data[:999])); !errors.Is(err, io.EOF) {
		t.Errorf("a file that is too short: %v", err)
	}
	s.info.Size = wire.MaxBundle + 1
	if err := c.PutBundle(t.Context(), s.info, bytes.NewReader(data)); !errors.Is(err, oob.ErrBundleRefused) {
		t.Errorf("too large: %v", err)
	}
}

func TestAnUploadTriesUntilItMustEnd(t *testing.T) {
	s, data := newShelf(t, 1000)
	d := newDoor(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := newClient(t, nil, d.door()).PutBundle(ctx, s.info, bytes.NewReader(data))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), d.URL) || d.calls.Load() < 2 {
		t.Errorf("after %d requests: %v", d.calls.Load(), err)
	}
}

// A server that is busy is left alone for as long as it asked, and the upload goes on
// where it was; what else goes by the same door does not wait for it.
func TestAnUploadWaitsAsLongAsItWasAsked(t *testing.T) {
	s, data := newShelf(t, wire.BundlePart+1)
	var refused, again time.Time // guarded by s.mu
	s.odd = func(n int, w http.ResponseWriter) bool {
		switch n {
		case 3: // behind the question and the first part
			refused = time.Now()
			w.Header().Set("Retry-After", "2")
			problem(w, http.StatusTooManyRequests, wire.ProblemRateLimited)
			return true
		case 4:
			again = time.Now()
		}
		return false
	}
	var beacons atomic.Int64
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/oob/beacon" {
			beacons.Add(1)
			io.WriteString(w, "{}")
			return
		}
		s.serve(w, r)
	})
	c := newClient(t, nil, d.door())
	done := make(chan error, 1)
	go func() { done <- c.PutBundle(t.Context(), s.info, bytes.NewReader(data)) }()
	for { // until it was refused; the test's own deadline bounds it
		s.mu.Lock()
		n := len(s.log)
		s.mu.Unlock()
		if n >= 3 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := c.Beacon(t.Context(), oob.Report{}); err != nil || beacons.Load() != 1 {
		t.Errorf("a beacon meanwhile: %v, %d arrived", err, beacons.Load())
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if waited := again.Sub(refused); waited < 2*time.Second {
		t.Errorf("it came back after %v, asked were 2s", waited)
	}
	if !s.done || !bytes.Equal(s.held, data) {
		t.Errorf("complete %v, %d of %d bytes", s.done, len(s.held), len(data))
	}
	// After the refusal it asks, and sends only what is not held.
	if want := fmt.Sprintf("bytes %d-%d/%d", wire.BundlePart, wire.BundlePart, len(data)); s.log[len(s.log)-1] != want || len(s.log) != 5 {
		t.Errorf("requests %v, want 5, the last %q", s.log, want)
	}
}

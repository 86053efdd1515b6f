package oob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"gururmm/oob"
	"gururmm/wire"
)

// goods is a program that a server has.
type goods struct {
	bytes []byte
	sum   string
}

func newGoods(size int) goods {
	g := goods{bytes: make([]byte, size)}
	for i := range g.bytes {
		g.bytes[i] = byte(rand.Uint32())
	}
	sum := sha256.Sum256(g.bytes)
	g.sum = hex.EncodeToString(sum[:])
	return g
}

func (g goods) size() int64 { return int64(len(g.bytes)) }

// serve answers as the standard library does it.
func (g goods) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path != oob.BuildPath(g.sum) || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		problem(w, http.StatusBadRequest, wire.ProblemBadRequest)
		return
	}
	w.Header().Set("ETag", `"`+g.sum+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(g.bytes))
}

// torn serves n bytes of what was asked for and breaks off.
func (g goods) torn(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.serve(&tearing{ResponseWriter: w, left: n}, r)
		panic(http.ErrAbortHandler)
	}
}

type tearing struct {
	http.ResponseWriter
	left int
}

func (t *tearing) Write(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, errors.New("torn")
	}
	n := min(len(p), t.left)
	t.left -= n
	return t.ResponseWriter.Write(p[:n])
}

func TestFetchGoesOnWhereItBrokeOff(t *testing.T) {
	g := newGoods(300_000)
	first, second := newDoor(t, g.torn(100_000)), newDoor(t, g.serve)
	c := newClient(t, nil, first.door(), second.door())
	var got bytes.Buffer
	n, err := c.Fetch(t.Context(), g.sum, g.size(), 0, &got)
	if err != nil || n != g.size() || !bytes.Equal(got.Bytes(), g.bytes) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if c.Door() != second.URL {
		t.Errorf("the door that worked is %s", c.Door())
	}
	got.Reset()
	n, err = c.Fetch(t.Context(), g.sum, g.size(), 299_000, &got)
	if err != nil || n != 1000 || !bytes.Equal(got.Bytes(), g.bytes[299_000:]) {
		t.Fatalf("the rest: %d bytes, %v", n, err)
	}
}

func TestFetchTellsHowFarItCame(t *testing.T) {
	g := newGoods(300_000)
	c := newClient(t, nil, newDoor(t, g.torn(50_000)).door(), newDoor(t, g.torn(60_000)).door())
	var got bytes.Buffer
	n, err := c.Fetch(t.Context(), g.sum, g.size(), 10, &got)
	if err == nil || n == 0 || n != int64(got.Len()) || !bytes.Equal(got.Bytes(), g.bytes[10:10+n]) {
		t.Fatalf("%d bytes (%d kept), %v", n, got.Len(), err)
	}
}

func TestFetchTakesAWholeAnswerToo(t *testing.T) {
	g := newGoods(5000)
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		g.serve(w, r)
	})
	var got bytes.Buffer
	n, err := newClient(t, nil, d.door()).Fetch(t.Context(), g.sum, g.size(), 2000, &got)
	if err != nil || n != 3000 || !bytes.Equal(got.Bytes(), g.bytes[2000:]) {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

func TestFetchRefusesWhatIsNotWhatItAskedFor(t *testing.T) {
	g := newGoods(5000)
	for name, handle := range map[string]http.HandlerFunc{
		"another program": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"other"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(g.bytes))
		},
		"another size": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"`+g.sum+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(g.bytes[:4000]))
		},
		"another part": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"`+g.sum+`"`)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", g.size()-1, g.size()))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(g.bytes)
		},
		"a login page": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") },
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			n, err := newClient(t, nil, newDoor(t, handle).door()).Fetch(t.Context(), g.sum, g.size(), 1000, &got)
			if err == nil || n != 0 || got.Len() != 0 {
				t.Fatalf("%d bytes, %v", n, err)
			}
		})
	}
}

func TestFetchErrorsToBranchOn(t *testing.T) {
	g := newGoods(5000)
	none := newDoor(t, func(w http.ResponseWriter, r *http.Request) { problem(w, http.StatusNotFound, wire.ProblemNotFound) })
	other := newDoor(t, g.serve)
	if _, err := newClient(t, nil, none.door(), other.door()).Fetch(t.Context(), g.sum, g.size(), 0, io.Discard); !errors.Is(err, oob.ErrNoBuild) {
		t.Errorf("a program that is not there: %v", err)
	}
	if other.calls.Load() != 0 {
		t.Error("another door of the same server was asked")
	}
	unknown := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusUnauthorized, wire.ProblemUnauthorized)
	})
	if _, err := newClient(t, nil, unknown.door()).Fetch(t.Context(), g.sum, g.size(), 0, io.Discard); !errors.Is(err, oob.ErrRejected) {
		t.Errorf("an identity that is not accepted: %v", err)
	}
	full := errors.New("disk full")
	if n, err := newClient(t, nil, other.door()).Fetch(t.Context(), g.sum, g.size(), 0, broken{full}); !errors.Is(err, full) || n != 0 {
		t.Errorf("a disk that is full: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, nil, other.door()).Fetch(ctx, g.sum, g.size(), 0, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

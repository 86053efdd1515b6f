package logsink

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader takes lines while it is open. Its writes hang meanwhile, as a full pipe's do.
type reader struct {
	mu   sync.Mutex
	got  bytes.Buffer
	open chan struct{} // closed: writes go through
}

func newReader() *reader { return &reader{open: make(chan struct{})} }

func (r *reader) Write(p []byte) (int, error) {
	<-r.open
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(p)
}

func (r *reader) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSuffix(r.got.String(), "\n"), "\n")
}

var note = regexp.MustCompile(`^\{"level":"warn","dropped":(\d+),.*\}$`)

// Virtual time stands still while anything can run: what took none never waited.
func TestAReaderThatStopsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 3 * maxLines
		r := newReader()
		s := New(r)
		began := time.Now()
		for i := range all {
			line := fmt.Appendf(nil, "%d\n", i)
			if n, err := s.Write(line); n != len(line) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			clear(line) // the caller's again
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("writing took %v", took)
		}
		close(r.open)
		synctest.Wait()
		s.Write([]byte("after\n"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got, kept, lost := r.lines(), 0, 0
		for i, line := range got[:len(got)-1] {
			if m := note.FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				lost += n
				continue
			}
			if line != strconv.Itoa(kept+lost) {
				t.Fatalf("line %d is %q, with %d lost before it", i, line, lost)
			}
			kept++
		}
		if kept < maxLines || lost == 0 || kept+lost != all || got[len(got)-1] != "after" {
			t.Errorf("%d kept, %d told as lost, of %d; the last is %q", kept, lost, all, got[len(got)-1])
		}
	})
}

func TestWhatWaitsIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReader()
		s := New(r)
		line := append(bytes.Repeat([]byte("x"), 32<<10), '\n')
		for range 100 {
			s.Write(line)
			s.mu.Lock()
			if s.bytes > maxBytes {
				t.Fatalf("%d bytes wait", s.bytes)
			}
			s.mu.Unlock()
		}
		close(r.open)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := r.lines(); note.FindString(got[len(got)-1]) == "" {
			t.Errorf("the last line is %.80q, want the count", got[len(got)-1])
		}
	})
}

func TestAnEndWaitsForAReaderOnlySoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReader()
		s := New(r)
		s.Write([]byte("a\n"))
		for _, end := range []func() error{s.Flush, s.Close, s.Close, s.Flush} {
			began := time.Now()
			if err := end(); !errors.Is(err, ErrUnread) || time.Since(began) != flushWait {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
		s.Write([]byte("too late\n"))
		close(r.open) // its goroutine ends, or the bubble would not
		<-s.done
		if got := r.lines(); len(got) != 1 || got[0] != "a" {
			t.Errorf("read %q", got)
		}
	})
}

func TestFlushedLinesAreThere(t *testing.T) {
	r := newReader()
	close(r.open)
	s := New(r)
	defer s.Close()
	for i := range 100 {
		s.Write([]byte("line\n"))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := len(r.lines()); got != i+1 {
			t.Fatalf("%d lines, want %d", got, i+1)
		}
	}
}

// A piece whose rest was dropped must not swallow the line behind it.
func TestALineBeginsAtItsBeginning(t *testing.T) {
	r := newReader()
	close(r.open)
	s := New(r)
	for _, p := range []string{"piece", " and rest\n", "torn", "", "{}\n"} {
		s.Write([]byte(p))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.lines(), "|"); got != "piece and rest|torn|{}" {
		t.Errorf("read %q", got)
	}
}

func TestEachDestinationStandsAlone(t *testing.T) {
	stuck, free := newReader(), newReader()
	close(free.open)
	a, b := New(stuck), New(free)
	for range 10 {
		a.Write([]byte("line\n"))
		b.Write([]byte("line\n"))
	}
	if err := b.Close(); err != nil || len(free.lines()) != 10 {
		t.Errorf("%v; %d lines", err, len(free.lines()))
	}
	close(stuck.open)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
